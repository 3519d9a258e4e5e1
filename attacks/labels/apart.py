"""Labels of a batch that is taken apart at the last hidden layer, one example after the other."""

import time

import torch
from torch import Tensor

from attacks.attack import NotApplicable, Observation, label_rows
from attacks.directions.inputs import fault_of, inputs_of, unexplained
from attacks.directions.layers import Tail, tail
from attacks.directions.low_rank import split
from attacks.directions.search import Effort, searched_through

UNITS = 4  # of the hidden layer for every example: with fewer the search finds hardly any batch
NOISY = 1e-3  # sine of the angle by which noise may turn the batch's directions: by more, and the search finds none
EXPLAINED = 0.01  # share of a layer's gradient that what was found may leave over


def classes_apart(observation: Observation, seconds: float, rng: torch.Generator) -> Tensor | None:
    """The class of every example, as far as the search of `spear-plus` finds all of them in that time; None where it does not.

    They are right if what was found, run through the last two layers, gives the gradients of both, and are not returned
    otherwise. It takes one local step, and a hidden linear layer with a bias that feeds the last one through ReLU.
    """
    try:
        end = tail(observation)
        hidden, last = end.layers[-2:]
        if observation.steps > 1 or hidden.bias is None or len(hidden.weight) < UNITS * observation.examples:
            return None
        parts = split(hidden.gradient, observation.examples)
    except (NotApplicable, ValueError):  # no such layers
        return None
    if parts.rank < observation.examples or parts.unsure > NOISY:
        return None
    found = searched_through(observation, parts, hidden, last, Effort(time.monotonic() + seconds), rng)
    if fault_of(found.directions):
        return None
    known = inputs_of(hidden, parts, found.directions)
    rows = label_rows(found.classes.cpu(), observation.classes).to(known.inputs)
    left = unexplained(Tail((hidden, last), None, None), known.inputs, rows, observation.examples)
    return found.classes.cpu() if left < EXPLAINED else None
