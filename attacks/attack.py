"""What an attack is given, what it gives back, and what it is.

Nothing here or below knows the client's data: see the import contracts in `pyproject.toml`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learning.tensors import Tensors, Update, generator
from learning.training import Training


class NotApplicable(Exception):
    """An assumption of the attack fails on this observation; the message is one sentence that says which."""


@runtime_checkable
class KnownDefense(Protocol):
    """The client's defenses, as far as somebody can compute with them who knows what they are, and not what they drew.

    `draw`: which draw of what is done to the examples is assumed, if one is. What `examples` and `expected` compute can be
    differentiated. Gradients are by parameter name.
    """

    @property
    def draw(self) -> int | None: ...

    def assuming(self, draw: int) -> "KnownDefense":
        """The same defenses with that draw assumed."""
        ...

    def examples(self, shape: torch.Size) -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What is trained on in the place of pictures of that shape and rows of class probabilities, for the draw assumed."""
        ...

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        """What to compare with `shared`, a gradient that left the defenses, instead of `found`, a guess of what entered."""
        ...

    def unlikelihood(self, found: Tensors, shared: Tensors) -> Tensor | None:
        """How unlikely it is that the defenses make `shared` of `found`; None where the distance to `expected` says as much."""
        ...

    def surprisal(self, found: Tensors, shared: Tensors) -> Tensor | None:
        """Its negative log-likelihood, in nats an entry; None where there is none that says more than `expected`."""
        ...

    def shared(
        self, gradient: Tensors, model: nn.Module, images: Tensor, rows: Tensor, scale: float, rng: torch.Generator
    ) -> Tensors:
        """One draw of what leaves the defenses where that gradient, of those pictures, enters: a gradient again.

        `scale`: how often the gradient the update is, in whose units the defenses of the round are set.
        """
        ...


@dataclass(frozen=True)
class Granted:
    """What the study gives away beyond the protocol. Everything here is named in the report.

    `labels`: the true labels, sorted, so that their order says nothing. `public`: pictures of the same kind that are not
    the clients', in [0, 1], with `public_labels`. `defense`: how the client defends itself.
    """

    labels: Int[Tensor, " batch"] | None = None
    public: Float[Tensor, "public channels height width"] | None = None
    public_labels: Int[Tensor, " public"] | None = None
    defense: KnownDefense | None = None

    def labelled_pictures(self, why: str) -> tuple[Float[Tensor, "public channels height width"], Int[Tensor, " public"]]:
        """The public pictures and their labels. Raises `NotApplicable`, which says `why` they are needed, without them."""
        if self.public is None or self.public_labels is None:
            raise NotApplicable(f"no public pictures are granted, and {why}")
        return self.public, self.public_labels


@dataclass(frozen=True)
class Observation:
    """All that the curious server knows of one client's round. The client's data is not here.

    `model`: as sent to the client, in the mode in which the server ordered it to train. `update`: what the client shared,
    by parameter name. `training`: the client's local work as the server ordered it. `examples`: how many the client
    reports to have used. `image_shape`: channels, height, width of the model's input. `earlier`: other rounds' observations of
    the same client with the same batch, where the study says that there are some.
    """

    round: int
    client: int
    model: nn.Module
    update: Update
    training: Training
    examples: int
    image_shape: tuple[int, int, int]
    classes: int
    granted: Granted = field(default_factory=Granted)
    earlier: tuple["Observation", ...] = ()

    @property
    def steps(self) -> int:
        """How many local steps the client made."""
        return self.training.local_steps(self.examples)

    def on(self, device: torch.device) -> "Observation":
        """The same with a copy of the model, and all tensors, on that device."""

        def moved(tensors: Tensors) -> Tensors:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        granted = {name: getattr(self.granted, name) for name in ("labels", "public", "public_labels")}
        return replace(
            self,
            model=copy.deepcopy(self.model).to(device),
            update=replace(self.update, parameters=moved(self.update.parameters), buffers=moved(self.update.buffers)),
            granted=replace(self.granted, **moved({name: tensor for name, tensor in granted.items() if tensor is not None})),
            earlier=tuple(one.on(device) for one in self.earlier),
        )

    def enlarged(self, share: float) -> "Observation":
        """The observation before its update was clipped to that share of its size."""
        return replace(self, update=self.update.map(lambda tensor: tensor / share))

    def gradient(self) -> Tensors:
        """The gradient that the update stands for, by parameter name: its sign and scale are those of a mean gradient.

        A shared gradient is returned as it is. A delta is divided by minus the learning rate and by the number of times
        that SGD with momentum adds a step's gradient to the weights (the number of steps, where there is no momentum).
        That is exact for one step; for several it is their average along the client's path.
        """
        if self.training.shared == "gradient":
            return self.update.parameters
        return {name: tensor / self.scale for name, tensor in self.update.parameters.items()}

    @property
    def scale(self) -> float:
        """What the gradient is multiplied by to be the update."""
        if self.training.shared == "gradient":
            return 1.0
        momentum, weight, total = self.training.momentum, 0.0, 0.0
        for _ in range(self.steps):
            weight = momentum * weight + 1
            total += weight
        return -self.training.learning_rate * total


@dataclass(frozen=True)
class Reconstruction:
    """What an attack restored, for each of the client's examples, in any order.

    `images`: floats in [0, 1]. `labels`: one row of class probabilities per example. Either may be missing.
    `loss`: the matching loss of what is returned, and `history` that loss along the way: never a comparison with the truth.
    `counts_interval`: the least and the greatest number of examples of each class that the method holds possible, at 95 % for
    each class on its own. `identifiable`: whether the update determines the labels, as far as the method can tell, and
    `verdict`: a sentence that says why not, or on what that rests. None and empty where the method cannot tell.
    `certified`: which pictures, or where there are none which labels, the method has proven right without the truth, up to the
    error that the verdict names; None where it proves nothing.
    """

    images: Float[Tensor, "batch channels height width"] | None = None
    labels: Float[Tensor, "batch classes"] | None = None
    loss: float | None = None
    history: tuple[float, ...] = ()
    counts_interval: tuple[Int[Tensor, " classes"], Int[Tensor, " classes"]] | None = None
    identifiable: bool | None = None
    verdict: str = ""
    certified: Bool[Tensor, " batch"] | None = None

    def on_cpu(self) -> "Reconstruction":
        """The same with all tensors in the machine's memory."""
        pair = self.counts_interval
        here = {name: getattr(self, name) for name in ("images", "labels", "certified")}
        return replace(
            self,
            **{name: tensor.cpu() for name, tensor in here.items() if tensor is not None},
            counts_interval=None if pair is None else (pair[0].cpu(), pair[1].cpu()),
        )


class Attack(ABC):
    """A method of attack: a frozen dataclass whose fields are its paper's hyperparameters.

    `needs`: the fields of `Granted` without which it can do nothing. `adapts`: whether it makes use of a known defense.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    adapts: ClassVar[bool] = False

    @abstractmethod
    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        """Restores what it can from the observation, which it leaves untouched.

        All randomness comes from `rng`: the same generator state gives the same reconstruction. Raises `NotApplicable`
        where an assumption of the method fails.
        """

    def at_once(self, observation: Observation) -> int:
        """How many victims like this one, of its round and with as many examples, `reconstruct_all` is to be given.

        One where they are better attacked one after the other.
        """
        return 1

    def reconstruct_all(self, observations: Sequence[Observation], rngs: Sequence[torch.Generator]) -> list[Reconstruction]:
        """What `reconstruct` restores from each, with its own generator: the same but for rounding.

        The observations are of one round and of as many examples each.
        """
        return [self.reconstruct(observation, rng) for observation, rng in zip(observations, rngs, strict=True)]


def found_by(restoration: Attack, observation: Observation, rng: torch.Generator) -> Reconstruction:
    """What a label restoration finds. Raises `NotApplicable` where it does.

    Its draws are its own, by the seed of `rng`: two restorations that find the same labels leave the pictures' search the
    same start, and what they are worth differs by the labels alone.
    """
    return restoration.reconstruct(observation, generator("labels", rng.initial_seed()))


def rows_by(restoration: Attack, observation: Observation, rng: torch.Generator) -> Float[Tensor, "batch classes"]:
    """The rows of class probabilities of `found_by`."""
    return rows_and_proven(restoration, observation, rng)[0]


def rows_and_proven(
    restoration: Attack, observation: Observation, rng: torch.Generator
) -> tuple[Float[Tensor, "batch classes"], Bool[Tensor, " batch"]]:
    """See `rows_by`; and which of the rows the restoration has proven right."""
    found = found_by(restoration, observation, rng)
    assert found.labels is not None, "label restorations restore labels"
    nothing = torch.zeros(len(found.labels), dtype=torch.bool)
    return found.labels, nothing if found.certified is None else found.certified


def label_rows(labels: Int[Tensor, " batch"], classes: int) -> Float[Tensor, "batch classes"]:
    """Class indices as rows of certainty."""
    return torch.nn.functional.one_hot(labels, classes).float()
