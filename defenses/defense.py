"""What a defense is: it stands between a client's batch and the update that the client shares."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from learning.models import Architecture
from learning.tensors import Batch, Tensors, Update
from learning.training import Step, Training, local_update, plain_step

Compute: TypeAlias = Step
Change: TypeAlias = Callable[[nn.Module, Batch], Batch]


class Defense(ABC):
    """A technique of defense: a frozen dataclass whose fields are its strength.

    `share` gets the computation that it wraps, as Flower's mods get `call_next`: it may change the batch before, the update
    after, or compute in its own way.

    `wraps`: what it is put around. "round" is all that a client does in a round; "step" is the gradient of every local
    step's mini-batch. The two are one where a gradient is shared. `computes`: whether it computes on its own, and never
    calls what it gets; no other step's defense can then stand before it.
    """

    wraps: ClassVar[Literal["step", "round"]] = "round"
    computes: ClassVar[bool] = False

    @abstractmethod
    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        """The update that leaves the client. All randomness comes from `rng`."""

    def architecture(self, model: Architecture) -> Architecture:
        """What is trained in the place of the study's model: that model, unless the defense is a part of it."""
        return model

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        """What an attacker who knows the defense compares with `shared`, a gradient that left it, instead of `found`, a guess.

        The mean of what would have been shared had `found` been computed, as far as `shared` does not tell what was drawn;
        with a slope everywhere where `shared` says something. `found` itself by default, which is right for all that leaves
        the gradient's mean, or only changes its length.
        """
        return found

    def unlikelihood(self, found: Tensors, shared: Tensors) -> Tensor | None:
        """How unlikely it is that of `found` it makes `shared`, where the distance to what is expected tells much less.

        Zero or more, least where `found` is what entered, and finite with a slope wherever it is not.
        """
        return None

    def surprisal(self, found: Tensors, shared: Tensors) -> Tensor | None:
        """The negative log-likelihood of `shared` where `found` entered: nats, a mean over all entries.

        None where the distance to what is expected says as much, or the defense draws nothing that has a likelihood. Where
        `found` cannot have become `shared` it is large, but finite, and falls towards where it can.
        """
        return None


class BatchDefense(Defense):
    """A defense that changes the examples that a step trains on, and nothing else."""

    wraps: ClassVar[Literal["step", "round"]] = "step"

    @abstractmethod
    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Change:
        """Draws what is random for pictures of that shape: what is trained on in a batch's place, a function of the batch.

        It can be differentiated by the pictures and leaves its batch as it was.
        """

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        return compute(model, self.drawn(batch.images.shape, rng)(model, batch), rng)


def unchanged(model: nn.Module, batch: Batch) -> Batch:
    """The batch as it is."""
    return batch


class UpdateDefense(Defense):
    """A defense that needs nothing but the update: it serves as a Flower mod too (`defenses.mod`)."""

    @abstractmethod
    def change(self, update: Update, rng: torch.Generator) -> Update:
        """What is shared in the update's place; the one that is given is left as it was."""

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        return self.change(compute(model, batch, rng), rng)


def around(chain: Sequence[Defense], compute: Compute) -> Compute:
    """One computation behind a chain of defenses, whatever they wrap; the first is closest to `compute`."""
    for defense in chain:
        compute = _behind(defense, compute)
    return compute


def defended(chain: Sequence[Defense], compute: Compute) -> Compute:
    """A client's round behind a chain of defenses; the first is closest to the data, the last acts last on the update.

    Raises `ValueError` for a defense of single steps, which `compute` has no place for: `defended_update` has.
    """
    for defense in chain:
        if defense.wraps == "step":
            raise ValueError(f"{defense} acts inside of every local step: use defended_update(chain, training)")
    return around(chain, compute)


def defended_update(chain: Sequence[Defense], training: Training, step: Step = plain_step) -> Compute:
    """What a client shares for its batch, if it trains as ordered and defends itself by the chain.

    `step`: the undefended gradient of a local step's mini-batch, which gets what the chain makes of the mini-batch.

    Defenses of the step act on the gradient of every local step, those of the round on its result; among each the first is
    closest to the data, the last acts last. Raises `ValueError` if a defense that computes on its own follows another of
    the step.
    """
    steps = [defense for defense in chain if defense.wraps == "step"]
    for before, defense in itertools.pairwise(steps):
        if defense.computes:
            raise ValueError(f"{defense} computes gradients on its own, and would skip {before}: put it first in the chain")
    step = around(steps, step)
    rounds = [defense for defense in chain if defense.wraps == "round"]
    return around(rounds, lambda model, batch, rng: local_update(model, batch, training, rng, step))


def _behind(defense: Defense, compute: Compute) -> Compute:
    return lambda model, batch, rng: defense.share(compute, model, batch, rng)


def survivors(found: Tensors, shared: Tensors) -> Tensors:
    """The entries of `found` that are not zero in `shared`, and zeros elsewhere."""
    return {name: tensor.where(shared[name] != 0, 0) for name, tensor in found.items()}
