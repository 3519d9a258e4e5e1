"""Will updates give batches away exactly? From the model, the batch size and a stand-in batch, before any attack."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from scipy.stats import binom
from torch import Tensor, nn

from attacks.attack import NotApplicable, Observation, label_rows
from attacks.directions.layers import Rectified, Tail, entry, tail
from attacks.directions.low_rank import split
from attacks.exact.assembly import refined, unclipped
from attacks.exact.isolation import SPARE
from attacks.exact.spear import expected_samples
from learning.tensors import Batch, Update
from learning.training import Training

SAMPLES = 5e7  # that SPEAR may draw
CERTAIN = 0.99  # odds of what should not fail
WORTH = 1.9  # odds of spear-plus for every unit that there is of an example beyond the one that makes it independent
NOISELESS, DECADE = 1e-10, 0.72  # error from the true pictures that does no harm; what ten times of it take off the log odds
FORECAST = ("linear", "spear", "spear-plus", "peeling")  # the attacks of the catalogue that it speaks of
EXACT = 1e-6  # mean squared error of an exact picture


@dataclass(frozen=True)
class Forecast:
    """How probable it is that an attack restores the whole batch exactly, in [0, 1], and a sentence that says why."""

    probability: float
    sentence: str


def forecasts(
    model: nn.Module, classes: int, stand_in: Batch, training: Training, share: Callable[[], Update]
) -> dict[str, Forecast]:
    """A forecast for every exact attack but `extreme-points`, by its name in the catalogue.

    `stand_in`: as many examples as a client uses, of the kind that clients hold, in the model's precision. They tell how many
    units of a layer are open for a picture and tell examples apart. `share`: gives what a client would share of them, with
    its local steps, precision and defense, or raises `NotApplicable`; it is asked only where an attack applies. If it does not
    have the stand-in's pictures to `EXACT` even from those pictures themselves, precision is what forbids.

    The odds of `spear-plus` follow a rule of counting whose constants are fitted (`bench/exact_forecast.py`), as is what noise
    takes off all odds; those of SPEAR are its own theory's, and that every example shuts a few units more than SPEAR draws;
    those of peeling follow from the open units alone.
    """
    placeholder = Update({name: torch.ones_like(parameter) for name, parameter in model.named_parameters()})
    seen = Observation(
        round=0, client=0, model=model, update=placeholder, training=training, examples=len(stand_in),
        image_shape=_shape(stand_in), classes=classes,
    )  # fmt: skip
    ways = dict(zip(FORECAST, (_linear, _spear, _spear_plus, _peeling), strict=True))
    found: dict[str, Forecast] = {}
    for name, way in ways.items():
        try:
            found[name] = way(seen, stand_in.images.double())
        except NotApplicable as reason:
            found[name] = Forecast(0.0, f"not applicable: {reason}")
    if all(forecast.probability < 0.01 for forecast in found.values()):
        return found
    try:
        error = _least_error(replace(seen, update=share()), stand_in)
    except NotApplicable as reason:  # nothing is shared, or what is no attack can use
        return {name: Forecast(0.0, f"not applicable: {reason}") for name in found}
    if error < EXACT:
        harm = DECADE * max(0.0, math.log10(max(error, NOISELESS) / NOISELESS))
        return {name: Forecast(_less(forecast.probability, harm), forecast.sentence) for name, forecast in found.items()}
    word = f"even from the true pictures, the update gives them with a mean squared error of {error:.1g}"
    return {n: Forecast(0.0, word) if forecast.probability > 0 else forecast for n, forecast in found.items()}


def _less(probability: float, harm: float) -> float:
    """The probability of log odds that are less by so much."""
    return probability / (probability + (1 - probability) * math.exp(harm))


def _shape(batch: Batch) -> tuple[int, int, int]:
    channels, height, width = batch.images.shape[1:]
    return channels, height, width


def _least_error(shared: Observation, stand_in: Batch) -> float:
    """Mean squared error of the worst picture that the update gives where everything else is known."""
    try:
        end, whole = tail(shared), True
    except NotApplicable:
        end, whole = entry(shared), False
    if end.slope is None:
        return 0.0
    pictures = stand_in.images.double()
    inputs = end.inputs(pictures)
    rows = label_rows(stand_in.labels, shared.classes).to(inputs)
    if whole:
        shared, end, _ = unclipped(shared, end, split(end.layers[0].gradient, shared.examples), inputs, rows)
    again = refined(shared, end, inputs, rows)
    return float((again - pictures).square().flatten(1).mean(1).max())


def _linear(observation: Observation, pictures: Tensor) -> Forecast:
    if observation.examples != 1:
        raise NotApplicable(f"one example can be solved for, and there are {observation.examples}")
    entry(observation)
    return Forecast(1.0, "a linear layer sees the only picture: it is read off the gradient")


def _first(observation: Observation) -> Tail:
    """The tail, where its first layer sees the picture, has a bias, and ReLU and a linear layer follow."""
    end = tail(observation)
    if end.slope is None or not end.layers[0].rectified or end.layers[0].bias is None:
        raise NotApplicable("no linear layer with a bias sees the picture and is followed by ReLU and a linear layer")
    return end


def _spear(observation: Observation, pictures: Tensor) -> Forecast:
    if observation.examples == 1:
        raise NotApplicable("a single example is solved for by linear")
    end, examples = _first(observation), observation.examples
    opened = end.layers[0].answers(end.inputs(pictures)) > 0
    live = opened[:, opened.any(0)]
    _told_apart(examples, live.shape[1], end.layers[0])
    shut = 1 - live.double().mean(1).numpy()
    samples = expected_samples(live.shape[1], examples) * (0.5 / max(shut.mean(), 1e-3)) ** (examples - 1)
    odds = 1 - math.exp(-min(50.0, SAMPLES / samples)) if math.isfinite(samples) else 0.0
    odds *= float(binom.sf(examples + 1, live.shape[1], shut).prod())  # zeros enough to tell each from a mixture
    word = f"SPEAR needs about {samples:.1g} samples: {live.shape[1]} live units, {shut.mean():.0%} of them shut for a picture"
    return Forecast(min(CERTAIN, odds), word)


def _spear_plus(observation: Observation, pictures: Tensor) -> Forecast:
    end, examples = tail(observation), observation.examples
    if len(end.layers) < 2:
        raise NotApplicable("no linear layer feeds the last one through ReLU")
    if end.slope is None:
        raise NotApplicable("the linear layers see no picture: labels at most are restored")
    given, opened = end.inputs(pictures), torch.zeros(0)
    for layer in end.layers[:-1]:
        opened = layer.answers(given) > 0
        _told_apart(examples, int(opened.any(0).sum()), layer)
        given = layer.answers(given).clamp_min(0)
    return _searched(opened)


def _peeling(observation: Observation, pictures: Tensor) -> Forecast:
    end = _first(observation)
    if len(end.layers) != 2:
        raise NotApplicable("the network is not one hidden layer of ReLU that sees the picture")
    opened = end.layers[0].answers(end.inputs(pictures)) > 0
    _told_apart(observation.examples, int(opened.any(0).sum()), end.layers[0])
    left, needed = opened, len(end.layers[1].weight) + SPARE
    while len(left):
        open_for = left.sum(0)
        alone = left[:, open_for == 1].any(1)
        if int((open_for == len(left)).sum()) >= needed:
            alone |= ~left[:, open_for == len(left) - 1].all(1)
        if not alone.any():
            break
        left = left[~alone]
    count = observation.examples - len(left)
    if not len(left):
        who = "the example is" if count == 1 else f"all {count} examples come to be"
        return Forecast(CERTAIN, f"{who} the only one that some unit is open for, or shut for")
    rest = _searched(left)
    return Forecast(
        rest.probability,
        f"{count} examples come to be the only one that some unit is open or shut for; {rest.sentence} the others",
    )


def _told_apart(examples: int, live: int, layer: Rectified) -> None:
    if examples >= min(live, layer.weight.shape[1]):
        raise NotApplicable(f"{examples} examples are not told apart by the {live} live units of '{layer.name}'")


def _searched(opened: Bool[Tensor, "batch units"]) -> Forecast:
    """Odds of the search of `spear-plus`. A unit counts for as much as it tells examples apart: a half open one is one."""
    if len(opened) == 1:
        return Forecast(CERTAIN, "a single example is left")
    share = opened.double().mean(0)
    pairs = len(opened) / (len(opened) - 1)  # of different examples, as the share says it of pairs with themselves, too
    telling = float((4 * pairs * share * (1 - share)).sum())
    odds = WORTH * max(0.0, telling / len(opened) - 1)
    return Forecast(
        odds / (1 + odds), f"{telling:.0f} units' worth of open and shut for {len(opened)} examples: "
        f"{'enough' if odds > 1 else 'too few'} to take apart",
    )  # fmt: skip
