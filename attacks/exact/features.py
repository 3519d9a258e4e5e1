"""What a network's convolutions make of every picture: the inputs of its first linear layer, from that layer's gradient."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import NotApplicable, Observation
from attacks.directions.inputs import Inputs, fault_of, fitting_labels, inputs_of, unexplained, walked_back
from attacks.directions.layers import Tail, tail
from attacks.directions.low_rank import split
from attacks.directions.search import searched_through
from attacks.exact.spear import Spear, sampled
from attacks.exact.spear_plus import SpearPlus

EXPLAINED, EXPLAINED_ON_AVERAGE = 0.01, 0.35  # remainder of a layer's gradient, after one local step and after several


@dataclass(frozen=True)
class Features:
    """`inputs` of the linear layer `name`, one example a row, with the examples' `labels` as rows of class probabilities.

    `remainder`: the share of a linear layer's gradient that they leave unexplained, of the worst layer.
    """

    name: str
    inputs: Float[Tensor, "batch features"]
    labels: Float[Tensor, "batch classes"]
    remainder: float


def features_of(observation: Observation, seconds: float, rng: torch.Generator) -> Features:
    """The features of all examples: by SPEAR's sampling at the first linear layer, or back from the search of `spear-plus`.

    A single example's are least squares. They are held against the gradient of every linear layer, without the truth.
    Raises `NotApplicable` where the first linear layer sees the picture itself, has no bias or no ReLU behind it, where it
    tells fewer examples apart than there are, and where none of the ways finds features that explain the gradients in
    `seconds` each.
    """
    end = tail(observation)
    first = end.layers[0]
    if end.slope is not None:
        raise NotApplicable(f"the linear layer '{first.name}' sees the picture itself: linear, spear and spear-plus return it")
    if first.bias is None:
        raise NotApplicable(f"the linear layer '{first.name}' has no bias, and the features' scale comes from its gradient")
    if observation.examples > 1 and not first.rectified:
        raise NotApplicable(f"no ReLU and linear layer follow '{first.name}', and they tell several examples apart")
    least = torch.inf
    for way in (_searched, _sampled) if observation.examples > 1 else (_alone,):
        known = way(observation, end, seconds, rng)
        if known is None or not known.inputs.isfinite().all():
            continue
        labels = fitting_labels(end, known, observation.examples)
        remainder = unexplained(end, known.inputs, labels, observation.examples)
        least = min(least, remainder)
        if remainder < (EXPLAINED if observation.steps == 1 else EXPLAINED_ON_AVERAGE):
            return Features(first.name, known.inputs, labels, remainder)
    if least < torch.inf:
        raise NotApplicable(f"the features that were found leave {least:.2g} of a linear layer's gradient unexplained")
    raise NotApplicable(f"the gradient of '{first.name}' was not taken apart into {observation.examples} examples")


def _alone(observation: Observation, end: Tail, seconds: float, rng: torch.Generator) -> Inputs | None:
    return inputs_of(end.layers[0], parts := split(end.layers[0].gradient, 1), parts.left.new_ones(1, 1))


def _sampled(observation: Observation, end: Tail, seconds: float, rng: torch.Generator) -> Inputs | None:
    parts, asked = split(end.layers[0].gradient, observation.examples), Spear()
    if parts.rank < observation.examples:
        return None
    found = sampled(parts, end.layers[0], asked.chunk, asked.samples, seconds, rng).directions
    return None if fault_of(found) else inputs_of(end.layers[0], parts, found)


def _searched(observation: Observation, end: Tail, seconds: float, rng: torch.Generator) -> Inputs | None:
    hidden, last = end.layers[-2:]
    parts = split(hidden.gradient, observation.examples)
    found = searched_through(observation, parts, hidden, last, SpearPlus(seconds=seconds).effort(), rng).directions
    if parts.rank < observation.examples or fault_of(found):
        return None
    return walked_back(end, len(end.layers) - 2, inputs_of(hidden, parts, found))
