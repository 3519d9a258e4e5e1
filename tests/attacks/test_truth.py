"""An attack can reach no truth: not by import, not by argument, not by a seed."""

import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from attacks.workers import InlinePool, Job
from learning.tensors import derived_seed, generator
from studies.attacking import Interrogation, truth
from tests.federations import changed, run

SEED = 1_234_567_891


def test_importing_every_attack_and_the_pool_loads_nothing_that_holds_data():
    """In an attack worker there is no module that could draw a client's batch: no room above, and not `learning.data`."""
    script = (
        "import sys, attacks, attacks.workers\n"
        "held = [m for m in sys.modules if m.split('.')[0] in ('studies', 'clients', 'server', 'curious', 'defenses')]\n"
        "held += [m for m in ('learning.data', 'learning.partitions', 'sklearn.datasets') if m in sys.modules]\n"
        "print(held)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def recorded(tmp_path):
    """A run of one victim with an odd seed, and the jobs that its attack gets, without and with a grant."""

    def jobs(labels: bool) -> tuple[Job, Any]:
        raw = changed(seeds=[SEED], defenses=["none"], attacks=["ilrg"], granted={"labels": labels, "public": 0})
        ledger = run(tmp_path / str(labels), raw)
        interrogation = Interrogation(ledger, InlinePool())
        victim = next(iter(ledger.observations()))
        return interrogation._job(victim, "ilrg"), truth(ledger.plan.cells[0], victim)

    return jobs


def reachable(value: Any, seen: set[int]) -> list[Any]:
    """Every object that can be reached from the value through attributes, containers and modules."""
    if id(value) in seen:
        return []
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, nn.Module):
        inner = [*value.state_dict(keep_vars=True).values(), *value.children(), *value.__dict__.values()]
    elif isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        inner = list(vars(value).values()) if not isinstance(value, type) else []
    return [value, *(found for part in inner for found in reachable(part, seen))]


def test_nothing_that_a_job_holds_is_the_batch_or_the_seed(recorded):
    job, batch = recorded(labels=False)
    held = reachable(job, set())
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    assert len(tensors) > 4  # the walk does reach the model and the update
    picture = batch.images[0]
    for tensor in tensors:
        assert tensor.shape[-2:] != picture.shape[-2:]
        assert not (tensor.dtype == torch.long and tensor.numel() == len(batch.labels))
    numbers = [value for value in held if isinstance(value, int) and not isinstance(value, bool)]
    assert SEED not in numbers
    assert job.seed in numbers


def test_the_bytes_that_travel_to_a_worker_hold_neither_pictures_nor_the_seed(recorded):
    job, batch = recorded(labels=False)
    travels = pickle.dumps(job)
    for image in batch.images:
        assert image.numpy().tobytes() not in travels
        assert (image * 255).round().to(torch.uint8).numpy().tobytes() not in travels
        assert image.flatten()[20:36].numpy().tobytes() not in travels  # nor a few rows
    assert SEED.to_bytes(4, "little") not in travels
    update = next(iter(job.observation.update.parameters.values()))
    assert update.contiguous().numpy().tobytes() in travels  # what is looked for would be found


def test_granted_labels_are_sorted_so_that_their_order_says_nothing(recorded):
    job, batch = recorded(labels=True)
    labels = job.observation.granted.labels
    assert labels is not None
    assert labels.tolist() == sorted(batch.labels.tolist())


def test_an_attacks_seed_does_not_draw_the_clients_batch(recorded):
    job, _ = recorded(labels=False)
    client = job.observation.client
    draw = torch.randperm(100, generator=torch.Generator().manual_seed(job.seed))
    own = torch.randperm(100, generator=generator(SEED, "batch", client, job.observation.round))
    assert not torch.equal(draw, own)
    assert job.seed != derived_seed(SEED, "batch", client, job.observation.round)
