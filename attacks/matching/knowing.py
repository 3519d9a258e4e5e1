"""Matching by an attacker who knows the client's defenses (`Granted.defense`), as Kerckhoffs's principle has it.

Balunovic et al. 2022 (arXiv 2111.04706) show that the best attack is by the likelihood of what was shared given the pictures,
and that defenses fall to attacks which come near it; theirs are made by hand, one for each defense. Here it is put together
of what the defense's own code says, in four parts:

1. What is done to the examples before training is done to the pictures sought, and differentiated through. What was drawn
   there is assumed: of several draws the one is kept whose pictures match best after a short descent.
2. Instead of the guess's gradient, its expectation behind the defense is compared; or only that is counted which contradicts
   the update, where a defense tells between which bounds a gradient lies.
3. The noise of what is left is measured, by defending gradients of the attacker's own pictures: the more there is, the more
   the prior counts.
4. The noise inside of a model (PRECODE) is sought together with the pictures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from attacks.attack import KnownDefense, Observation, Reconstruction
from attacks.matching.distances import Distance
from attacks.matching.victim import GradientOf, Victim
from learning.models import bottlenecks
from learning.tensors import Tensors

DRAWS, TRIES = 8, 40  # different draws that are assumed at most, and how many are drawn to find them
SHORT = 5  # a short descent has one in so many of the iterations
SAMPLES, SCALINGS = 4, 6  # draws that measure the noise, and those before them that find the gradient's size
NONE, TINY = 1e-6, 1e-30  # noise over signal, both squared, that counts as none; what a length is at least, to divide by it
VARIATION = 0.2  # weight of the total variation where there is nothing but noise
NORMAL = 1e-3  # weight of the prior of noise inside of the model
NOISE = "noise of "  # what such noise is called among the variables, before the bottleneck's name


@runtime_checkable
class Attacking(Protocol):
    """An attack of some iterations."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def iterations(self) -> int: ...

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        """See `Attack`."""
        ...


def assuming(attack: Attacking, observation: Observation, rng: torch.Generator) -> Observation:
    """The observation, with the draw assumed for which the attack's loss is least after a short descent.

    As it was where nothing is known, or a draw is assumed already.
    """
    granted = observation.granted
    if granted.defense is None or granted.defense.draw is not None:
        return observation
    own = torch.Generator()
    own.set_state(rng.get_state())  # so that the start is that of an attacker who knows nothing
    known = _different(granted.defense, observation, own)
    assumed = [replace(observation, granted=replace(granted, defense=defense)) for defense in known]
    if len(assumed) == 1:
        return assumed[0]
    pilot = replace(attack, iterations=max(1, attack.iterations // SHORT))
    seed = int(torch.randint(2**62, (1,), generator=own))
    found = [pilot.reconstruct(one, torch.Generator().manual_seed(seed)).loss for one in assumed]
    losses = [math.inf if loss is None or math.isnan(loss) else loss for loss in found]
    return assumed[losses.index(min(losses))]


def _different(defense: KnownDefense, observation: Observation, rng: torch.Generator) -> list[KnownDefense]:
    """The defense with one draw assumed or another, each of which does something else to a batch."""
    images = torch.rand(observation.examples, *observation.image_shape, generator=rng)
    rows = torch.eye(observation.classes)[torch.arange(observation.examples) % observation.classes]
    found: list[KnownDefense] = []
    seen: list[tuple[Tensor, Tensor]] = []
    for _ in range(TRIES):
        assumed = defense.assuming(int(torch.randint(2**62, (1,), generator=rng)))
        made = assumed.examples(images.shape)(observation.model, images, rows)
        if not any(torch.equal(made[0], other[0]) and torch.equal(made[1], other[1]) for other in seen):
            found.append(assumed)
            seen.append(made)
        if len(found) == DRAWS:
            break
    return found


@dataclass(frozen=True)
class Insight:
    """What is matched, and how, by an attacker who knows or who does not.

    `gradient`: of pictures and rows, and of all that is sought, by name: what enters the defenses of the update.
    `distance`: between it and what was shared. `variation`: the least weight of the total variation. `inside`: what else
    is sought, one row a restart.
    """

    gradient: Callable[[Tensor, Tensor, Tensors], Tensors]
    distance: Distance
    variation: float = 0.0
    inside: Tensors = field(default_factory=dict)

    def prior(self, sought: Tensors) -> Tensor | float:
        """Of the noise inside of the model: normal."""
        return NORMAL * sum((sought[name].square().mean() for name in self.inside), 0.0)


def insight(
    observation: Observation,
    victim: Victim,
    gradient: GradientOf,
    distance: Distance,
    images: Float[Tensor, "restarts batch channels height width"],
    labels: Float[Tensor, "restarts batch classes"] | None,
    rng: torch.Generator,
) -> Insight:
    """What to match, from what would be matched by somebody who knows of no defense.

    `images`: the restarts' first pictures; `labels`: their rows, if they are not sought too. Where nothing is known, it is
    what was given.
    """
    defense = observation.granted.defense
    if defense is None:
        return Insight(lambda pictures, rows, _: gradient(pictures, rows), distance)
    shared = observation.gradient()
    restarts, size = images.shape[:2]
    inside = {
        NOISE + name: torch.randn(restarts, size, module.decoder.in_features, generator=rng).to(images)
        for name, module in bottlenecks(victim.model).items()
        if observation.steps == 1
    }
    examples = defense.examples(images.shape[1:])

    def behind(pictures: Tensor, rows: Tensor, sought: Tensors) -> Tensors:
        pictures, rows = examples(victim.model, pictures, rows)
        if not inside:
            return gradient(pictures, rows)
        noise = {f"{name.removeprefix(NOISE)}.noise": sought[name] for name in inside}
        return grad(lambda weights: victim.loss({**weights, **noise}, pictures, rows))(victim.weights)

    if (bounds := defense.bounds(shared)) is not None:
        return Insight(behind, contradiction(*bounds), inside=inside)
    rows = torch.full((size, observation.classes), 1 / observation.classes) if labels is None else labels[0]
    noise = noise_share(defense, victim, images[0], rows.to(images), shared, rng)

    def expected_distance(found: Tensors, wanted: Tensors) -> Tensor:
        return distance(defense.expected(found, wanted), wanted)

    return Insight(behind, expected_distance, VARIATION * noise, inside)


def contradiction(low: Tensors, high: Tensors) -> Distance:
    """How far a gradient is outside of bounds: absolute differences, in units of each parameter's own mean, over all entries.

    In units of its own mean a gradient comes no nearer to signs by shrinking.
    """

    def distance(found: Tensors, wanted: Tensors) -> Tensor:
        away = [
            (found[name] - found[name].clamp(low[name], high[name])).abs().sum()
            / found[name].abs().mean().clamp_min(torch.finfo(tensor.dtype).tiny)
            for name, tensor in wanted.items()
        ]
        return torch.stack(away).sum() / sum(tensor.numel() for tensor in wanted.values())

    return distance


@torch.no_grad()
def noise_share(
    defense: KnownDefense, victim: Victim, images: Tensor, rows: Tensor, shared: Tensors, rng: torch.Generator
) -> float:
    """How much of what was shared is the defense's noise, measured: the share of the squared length, from 0 to 1.

    The gradient is that of the attacker's own pictures, in the length in which the defense makes of it something as long as
    what was shared. What is in the direction of what is expected is no noise.
    """
    own = victim.gradient(images, rows)
    scale, length = 1.0, _length(shared)
    noise = signal = 0.0
    for attempt in range(SCALINGS + SAMPLES):
        given = {name: scale * tensor for name, tensor in own.items()}
        made = defense.shared(given, victim.model, images, rows, rng)
        expected = defense.expected(given, made)
        along = sum(float((made[name] * tensor).sum()) for name, tensor in expected.items()) / max(_length(expected), TINY)
        left = _length(made) ** 2 - along**2  # by Pythagoras
        if attempt == 0 and left <= NONE * along**2:
            return 0.0
        if attempt < SCALINGS:
            scale *= length / max(_length(made), TINY)
        else:
            noise, signal = noise + left, signal + along**2
    return noise / (noise + signal)


def _length(gradient: Tensors) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in gradient.values()))
