"""What a defense is: it stands between a client's batch and the update that the client shares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import nn

from learning.tensors import Batch, Update

Compute: TypeAlias = Callable[[nn.Module, Batch, torch.Generator], Update]


class Defense(ABC):
    """A technique of defense: a frozen dataclass whose fields are its strength.

    `share` gets the computation that it wraps, as Flower's mods get `call_next`: it may change the batch before, the update
    after, or compute in its own way.
    """

    @abstractmethod
    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        """The update that leaves the client. All randomness comes from `rng`."""


def defended(chain: Sequence[Defense], compute: Compute) -> Compute:
    """The computation behind a chain of defenses; the first is closest to the data, the last acts last on the update."""
    for defense in chain:
        compute = _behind(defense, compute)
    return compute


def _behind(defense: Defense, compute: Compute) -> Compute:
    return lambda model, batch, rng: defense.share(compute, model, batch, rng)
