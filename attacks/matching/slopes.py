"""The slope of a matching loss for a stack of restarts.

A loss is a function of one restart's variables by name (the pictures, and whatever else is sought), to a number. A slope
is a function of stacked variables, to the slopes, stacked alike, and the losses.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn import functional

from attacks.matching.shortcuts import Shortcut
from attacks.matching.tracing import NotTraceable, program_of
from attacks.matching.victim import Victim
from learning.tensors import Tensors

Loss: TypeAlias = Callable[[Tensors], Tensor]
Slope: TypeAlias = Callable[[Tensors], tuple[Tensors, Tensor]]

LARGE = 20_000_000  # multiplications of a forward pass from which arithmetic, not calls, is what a step costs
FILLED = 10_000_000  # such multiplications of all stacked victims from which one more costs as much as alone
CACHED = 500_000  # entries of their gradients and pictures that a cache holds
TRACED_FROM = 20  # iterations that repay what tracing costs
CHECKED = 50  # calls after which a shortcut is held against the exact slopes again


def slope_of(loss: Loss, victim: Victim, variables: Tensors, iterations: int, large: bool) -> Slope:
    """The slopes of all restarts: exact and at once where the work is small, and one after the other where it is large.

    Where it is large, the victim's shortcut is taken as long as the slope of the pictures is seen to point where the exact
    one does: at the first call and at every fiftieth it is held against it.
    """
    if not large:
        return traced(vmap(grad_and_value(loss)), variables, iterations >= TRACED_FROM)
    first, one = {name: tensor[0] for name, tensor in variables.items()}, grad_and_value(loss)
    if victim.shortcut.there and iterations >= TRACED_FROM:
        return _WhileAgreeing(one, first, victim.shortcut)
    return _one_by_one(traced(one, first, iterations >= TRACED_FROM))


class _WhileAgreeing:
    """The slopes by a shortcut, and the exact ones from the first check on that these do not pass."""

    def __init__(self, one: Slope, first: Tensors, shortcut: Shortcut):
        self.one, self.first, self.shortcut = one, first, shortcut
        with shortcut.used():
            self.short = _one_by_one(traced(one, first))
        self.exact: Slope | None = None
        self.calls = 0

    def __call__(self, variables: Tensors) -> tuple[Tensors, Tensor]:
        if self.exact is None:
            with self.shortcut.used():
                found = self.short(variables)
            self.calls += 1
            if self.calls % CHECKED != 1 or self._agrees(found[0], _one_by_one(self.one)(variables)[0]):
                return found
            self.exact = _one_by_one(traced(self.one, self.first))
        return self.exact(variables)

    def _agrees(self, found: Tensors, exact: Tensors) -> bool:
        """Whether the pictures' slopes point the same way: no where either is not finite."""
        left, right = found["images"].flatten(), exact["images"].flatten()
        return functional.cosine_similarity(left, right, dim=0).item() > self.shortcut.agreeing


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
