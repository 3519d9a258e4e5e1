"""Clients behind defenses, for tests: what they share, and what a chain makes of a given update."""

import torch
from torch import nn

from defenses import Defense, around, defended_update
from learning.tensors import Batch, Tensors, Update, generator
from learning.training import Training, local_update

WORK = {
    "gradient": Training(batch_norm="train", buffers="sent"),
    "delta": Training(shared="delta", batch_size=2, epochs=2, batch_norm="train", buffers="sent"),
    "gradient in eval mode": Training(buffers="sent"),
    "delta in eval mode": Training(shared="delta", batch_size=2, epochs=2, buffers="sent"),
}


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))


def pictures() -> Batch:
    rng = generator("pictures")
    return Batch(torch.rand(5, 1, 8, 8, generator=rng), torch.randint(10, (5,), generator=rng))


def honest(work: str):
    return lambda model, batch, rng: local_update(model, batch, WORK[work], rng)


def shared(chain: list[Defense], work: str = "gradient", seed: int = 0) -> Update:
    """What a client behind the chain shares."""
    return defended_update(chain, WORK[work])(network(), pictures(), generator(seed))


def changed(chain: list[Defense], parameters: Tensors, seed: int = 0, buffers: Tensors | None = None) -> Update:
    """What the chain makes of a given update."""
    given = Update(parameters, buffers or {})
    return around(chain, lambda model, batch, rng: given)(network().eval(), pictures(), generator(seed))


def same(one: Tensors, other: Tensors) -> bool:
    """Equal to the last bit, the sign of zero included."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and torch.equal(tensor.signbit(), other[name].signbit())
        and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def kinds(tensors: Tensors) -> dict:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def norm(update: Update) -> float:
    return float(update.flat().double().norm())
