"""The slope of a matching loss for a stack of restarts.

A loss is a function of one restart's variables by name (the pictures, and whatever else is sought), to a number. A slope
is a function of stacked variables, to the slopes, stacked alike, and the losses.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from attacks.matching.tracing import NotTraceable, program_of
from learning.tensors import Tensors

Loss: TypeAlias = Callable[[Tensors], Tensor]
Slope: TypeAlias = Callable[[Tensors], tuple[Tensors, Tensor]]

LARGE = 20_000_000  # multiplications of a forward pass from which arithmetic, not calls, is what a step costs
TRACED_FROM = 20  # iterations that repay what tracing costs


def exact(loss: Loss, variables: Tensors, iterations: int, large: bool) -> Slope:
    """The exact slopes of all restarts: at once where the work is small, and one after the other where it is large."""
    if not large:
        return traced(vmap(grad_and_value(loss)), variables, iterations >= TRACED_FROM)
    first = {name: tensor[0] for name, tensor in variables.items()}
    return _one_by_one(traced(grad_and_value(loss), first, iterations >= TRACED_FROM))


def _one_by_one(one: Slope) -> Slope:
    """A stack's slopes by a function of one restart."""

    def slope(variables: Tensors) -> tuple[Tensors, Tensor]:
        restarts = len(next(iter(variables.values())))
        found = [one({name: tensor[i] for name, tensor in variables.items()}) for i in range(restarts)]
        return {name: torch.stack([slopes[name] for slopes, _ in found]) for name in variables}, torch.stack(
            [v for _, v in found]
        )

    return slope


def traced(slope: Slope, variables: Tensors, wanted: bool = True) -> Slope:
    """The same operations on the same numbers, without the Python around them, where they can be told from one call."""
    if not wanted:
        return slope
    try:
        return program_of(slope, variables)
    except NotTraceable:
        return slope
