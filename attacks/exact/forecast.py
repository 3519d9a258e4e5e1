"""Will the update give the batch away exactly? From the model and the batch size alone, before any attack."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.attack import NotApplicable, Observation
from attacks.exact.layers import Rectified, entry, tail
from attacks.exact.spear import expected_samples
from learning.tensors import Update
from learning.training import Training

SAMPLES = 5e7  # that SPEAR may draw
MARGIN = 1.15  # of equations over unknowns from which the search of spear-plus finds every direction as a rule
SPREAD = 0.12  # of that margin's logarithm: how gradually the odds turn there


@dataclass(frozen=True)
class Forecast:
    """How probable it is that an attack restores the whole batch exactly, in [0, 1], and a sentence that says why."""

    probability: float
    sentence: str


def forecasts(
    model: nn.Module, image_shape: tuple[int, int, int], classes: int, examples: int, public: Tensor | None = None
) -> dict[str, Forecast]:
    """A forecast for every exact attack, by its name in the catalogue, for one local step without a defense.

    `public`: pictures of the kind that clients hold, in [0, 1]; noise stands in for them where there are none. They tell how
    many units of a layer are open for a picture, and how many for none of a batch: what counts are units that tell examples
    apart. The odds of `spear-plus` follow a rule of counting whose constants are guesses from a handful of batches, not yet
    calibrated; those of SPEAR are its own theory's. Precision, noise and several local steps are not taken into account.
    """
    rng = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    if public is None:
        public = torch.rand(max(64, examples), *image_shape, generator=rng)
    chosen = public[torch.randint(len(public), (examples,), generator=rng)].to(dtype)
    stand_in = Observation(
        round=0, client=0, model=model, update=Update({n: torch.ones_like(p) for n, p in model.named_parameters()}),
        training=Training(), examples=examples, image_shape=image_shape, classes=classes,
    )  # fmt: skip
    return {
        "linear": _guarded(lambda: _linear(stand_in)),
        "spear": _guarded(lambda: _spear(stand_in, chosen.double())),
        "spear-plus": _guarded(lambda: _spear_plus(stand_in, chosen.double())),
    }


def _guarded(forecast: Callable[[], Forecast]) -> Forecast:
    try:
        return forecast()
    except NotApplicable as reason:
        return Forecast(0.0, f"not applicable: {reason}")


def _linear(observation: Observation) -> Forecast:
    if observation.examples != 1:
        raise NotApplicable(f"one example can be solved for, and there are {observation.examples}")
    entry(observation)
    return Forecast(1.0, "a linear layer sees the only picture: it is read off the gradient")


def _spear(observation: Observation, pictures: Tensor) -> Forecast:
    end, examples = tail(observation), observation.examples
    if examples == 1:
        raise NotApplicable("a single example is solved for by linear")
    if end.slope is None or end.offset is None or not end.layers[0].rectified or end.layers[0].bias is None:
        raise NotApplicable("no linear layer with a bias sees the picture and is followed by ReLU and a linear layer")
    opened = _opened(end.layers[0], end.slope * pictures.flatten(1) + end.offset)
    live = opened[:, opened.any(0)]
    units, inputs = live.shape[1], end.layers[0].weight.shape[1]
    if examples >= min(units, inputs):
        return Forecast(0.0, f"{examples} examples are not told apart by {units} live units and {inputs} inputs")
    shut = 1 - float(live.double().mean())
    samples = expected_samples(units, examples) * (0.5 / max(shut, 1e-3)) ** (examples - 1)
    odds = 1 - math.exp(-min(50.0, SAMPLES / samples)) if math.isfinite(samples) else 0.0
    return Forecast(odds, f"SPEAR needs about {samples:.1g} samples: {units} live units, {shut:.0%} of them shut for a picture")


def _spear_plus(observation: Observation, pictures: Tensor) -> Forecast:
    end, examples = tail(observation), observation.examples
    if len(end.layers) < 2:
        raise NotApplicable("no linear layer feeds the last one through ReLU")
    if end.slope is None or end.offset is None:
        raise NotApplicable("the linear layers see no picture: labels at most are restored")
    given, live = end.slope * pictures.flatten(1) + end.offset, 0
    for layer in end.layers[:-1]:
        opened = _opened(layer, given)
        live = int(opened.any(0).sum())
        if examples >= min(live, layer.weight.shape[1]):
            return Forecast(0.0, f"{examples} examples are not told apart by the {live} live units of '{layer.name}'")
        given = _answers(layer, given).clamp_min(0)
    unknown = 1.7 * examples + observation.classes
    odds = 1 / (1 + math.exp(-(math.log(live / unknown) - math.log(MARGIN)) / SPREAD))
    return Forecast(
        odds, f"{live} live units of the last hidden layer for {examples} examples and {observation.classes} classes: "
        f"{'enough' if odds > 0.5 else 'too few'} to take them apart",
    )  # fmt: skip


def _answers(layer: Rectified, given: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch units"]:
    answers = given @ layer.weight.T
    return answers if layer.bias is None else answers + layer.bias


def _opened(layer: Rectified, given: Tensor) -> Tensor:
    """Which units are open for which picture."""
    return _answers(layer, given) > 0
