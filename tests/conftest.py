"""One thread, reproducible draws and property tests, and the pictures that may be missing."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest
import torch

from learning.data import data_folder

torch.set_num_threads(1)
logging.getLogger("flwr").setLevel(logging.CRITICAL)
hypothesis.settings.register_profile("curious", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "curious"))


@pytest.fixture(autouse=True)
def the_same_random_numbers():
    """What a test draws without saying from where does not depend on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def needed():
    """Gives a path inside the folder of pictures, and skips the test where it is missing; nothing is downloaded."""

    def path(inside: str) -> Path:
        wanted = data_folder() / inside
        if not wanted.exists():
            pytest.skip(f"there is no '{wanted}'; put the pictures there, or set CURIOUS_DATA to where they are")
        return wanted

    return path


@pytest.fixture
def untouched_random_state():
    """Fails the test if it moves PyTorch's global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
