"""PyTorch logs what it traces, and pytest would collect that: most of these tests' time."""

import logging

import pytest


@pytest.fixture(autouse=True)
def untold(caplog):
    caplog.set_level(logging.WARNING, "torch.__trace")
