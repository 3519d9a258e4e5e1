"""Matching by an attacker who knows the client's defenses (`Granted.defense`), as Kerckhoffs's principle has it.

Balunovic et al. 2022 (arXiv 2111.04706) show that the best attack is by the likelihood of what was shared given the pictures,
and that defenses fall to attacks which come near it; theirs are made by hand, one for each defense. Here it is put together
of what the defense's own code says, in four parts:

1. What is done to the examples before training is done to the pictures sought, and differentiated through. What was drawn
   there is assumed: of several draws the one is kept whose pictures match best after a short descent.
2. Instead of the guess's gradient, its expectation behind the defense is compared. Where a defense tells how unlikely it is
   that it makes of the guess what was shared, the distance counts by so much: it shows the way from afar, where what is
   unlikely has edges everywhere, and does not count where nothing is left that contradicts.
3. The noise of what is left is measured, by defending gradients of the attacker's own pictures: the more there is, and the
   fewer entries there are for a picture's pixels, the more the prior counts, once the distance has shown the way: from afar a
   smooth picture is a trap. Where a defense tells the likelihood of what it drew, that is then matched in its place.
4. Noise inside of the model (PRECODE) reaches what lies before it only through the slopes of the loss at one place, whose sum
   is shared: so what lies before it is matched given these, and what they differ by among examples is sought, from what it
   would be without noise.

A client of several steps draws anew in every step; here one draw is assumed for all of them, and bottlenecks give their mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad

from attacks.attack import KnownDefense, Observation, Reconstruction
from attacks.matching.distances import Distance
from attacks.matching.victim import GradientOf, Victim
from learning.models import bottlenecks
from learning.tensors import Tensors

DRAWS, TRIES = 8, 40  # different draws that are assumed at most, and how many are drawn to find them
SHORT = 5  # a short descent has one in so many of the iterations
SAMPLES, SCALINGS = 4, 6  # draws that measure the noise, and those before them that find the gradient's size
NONE, TINY = 1e-6, 1e-30  # noise over signal, both squared, that counts as none; what a length is at least, to divide by it
VARIATION = 2.5  # nats that a pixel's share of the total variation weighs; tuned on other pictures than those reported
APART = 0.1  # of the slopes' deviation: what noise is first held to add to them; tuned on other pictures too
SLOPES = "slopes"  # what the slopes behind a bottleneck's noise are called among the variables


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
    `distance`: between it and what was shared. `inside`: what else is sought, one row a restart. Once the distance has shown
    the way: `variation`: the least weight of the total variation beside it. `surprisal`: the negative log-likelihood that
    takes its place, in nats an entry, if the defense has one, and `prior`: the weight of the total variation beside that.
    """

    gradient: Callable[[Tensor, Tensor, Tensors], Tensors]
    distance: Distance
    variation: float = 0.0
    inside: Tensors = field(default_factory=dict)
    surprisal: Distance | None = None
    prior: float = 0.0


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
    shared, size = observation.gradient(), images.shape[1]
    rows = torch.full((size, observation.classes), 1 / observation.classes) if labels is None else labels[0]
    first, rows = images[0], rows.to(images)
    examples = defense.examples(first.shape)
    noisy = next(iter(bottlenecks(victim.model)), None) if observation.steps == 1 else None
    names, inside = list(shared), {}
    if noisy is not None:
        slopes = shared[f"{noisy}.encoder.bias"]
        names = [name for name, found in before_noise(victim, noisy, first, slopes).items() if found.any()]
        if size > 1:
            inside = {SLOPES: torch.randn(len(images), size, len(slopes), generator=rng).to(images)}

    def behind(pictures: Tensor, rows: Tensor, sought: Tensors) -> Tensors:
        pictures, rows = examples(victim.model, pictures, rows)
        if noisy is None:
            return gradient(pictures, rows)
        slopes = shared[f"{noisy}.encoder.bias"]
        if inside:
            unit = APART * slopes.square().mean().sqrt() / size**0.5
            without = slopes_without_noise(victim, noisy, pictures, rows)
            slopes = without + (slopes - without.sum(0)) / size + unit * (sought[SLOPES] - sought[SLOPES].mean(0))
        return before_noise(victim, noisy, pictures, slopes)

    def away(found: Tensors, wanted: Tensors) -> Tensor:
        found, wanted = ({name: one[name] for name in names} for one in (found, wanted))
        unlikely = defense.unlikelihood(found, wanted)
        expected = distance(defense.expected(found, wanted), wanted)
        return expected if unlikely is None else expected * unlikely

    def surprise(found: Tensors, wanted: Tensors) -> Tensor:
        likely = defense.surprisal(*({name: one[name] for name in names} for one in (found, wanted)))
        assert likely is not None
        return likely

    certain = defense.unlikelihood(shared, shared) is not None
    prior = VARIATION * first[0].numel() / sum(shared[name].numel() for name in names)
    variation = 0.0 if certain else prior * noise_share(observation, victim, first, rows, rng)
    has_likelihood = defense.surprisal(shared, shared) is not None
    return Insight(behind, away, variation, inside, surprise if has_likelihood else None, prior)


def before_noise(victim: Victim, bottleneck: str, pictures: Tensor, slopes: Tensor) -> Tensors:
    """The gradient of all that comes before a bottleneck's noise, and zeros for what comes behind it.

    `slopes`: of the loss by what the bottleneck encodes. They hold all that the noise does, and their sum over the examples is
    the gradient of the encoder's bias, which is shared: of a single example they are known.
    """
    module = bottlenecks(victim.model)[bottleneck]

    def loss(weights: Tensors) -> Tensor:
        functional_call(victim.model, weights, (pictures,))
        assert module.encoded is not None
        return (module.encoded * slopes).sum()

    return grad(loss)(victim.weights)


def slopes_without_noise(victim: Victim, bottleneck: str, pictures: Tensor, rows: Tensor) -> Tensor:
    """The slopes of the batch's loss by what the bottleneck encodes, were there no noise: one row an example."""
    name = f"{bottleneck}.encoder.bias"
    biases = victim.weights[name].expand(len(pictures), -1)  # each example's own
    return grad(lambda biases: victim.loss({**victim.weights, name: biases}, pictures, rows))(biases)


@torch.no_grad()
def noise_share(observation: Observation, victim: Victim, images: Tensor, rows: Tensor, rng: torch.Generator) -> float:
    """How much of what was shared is the defense's noise, measured: the share of the squared length, from 0 to 1.

    The gradient is that of the attacker's own pictures, in the length in which the defense makes of it something as long as
    what was shared. What is in the direction of what is expected is no noise.
    """
    defense = observation.granted.defense
    assert defense is not None
    own = victim.gradient(images, rows)
    size, length = 1.0, _length(observation.gradient())
    noise = signal = 0.0
    for attempt in range(SCALINGS + SAMPLES):
        given = {name: size * tensor for name, tensor in own.items()}
        made = defense.shared(given, victim.model, images, rows, observation.scale, rng)
        expected = defense.expected(given, made)
        along = sum(float((made[name] * tensor).sum()) for name, tensor in expected.items()) / max(_length(expected), TINY)
        left = _length(made) ** 2 - along**2  # by Pythagoras
        if attempt == 0 and left <= NONE * along**2:
            return 0.0
        if attempt < SCALINGS:
            size *= length / max(_length(made), TINY)
        else:
            noise, signal = noise + left, signal + along**2
    return noise / (noise + signal)


def _length(gradient: Tensors) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in gradient.values()))
