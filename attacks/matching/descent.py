"""Minimisation of a matching loss by a method of second order."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.matching.slopes import Slope
from learning.tensors import Tensors

REMEMBERED_STEPS = 100  # pairs that L-BFGS keeps: with 20 of them the loss falls far slower
SEARCH = 25  # evaluations that a line search may cost
SCALE = 1e6  # of the loss at the start, as PyTorch's L-BFGS sees it: it leaves out pairs whose product is under 1e-10
PATIENCE, LEAST_FALL = 100, 0.01  # the loss stands still if so many iterations take off less than this share


def stands_still(history: list[float]) -> bool:
    """Whether the last hundred iterations took off less than 1 % of the loss."""
    return len(history) > PATIENCE and min(history) > (1 - LEAST_FALL) * min(history[:-PATIENCE])


def minimise(
    slope: Slope,
    variables: Tensors,
    iterations: int,
    tolerance: float = 0.0,
    given_up: Callable[[list[float]], bool] = stands_still,
) -> list[float]:
    """Moves the variables downhill with L-BFGS and a strong-Wolfe line search, in place.

    `variables`: by name, leaves, all on one device. `slope`: their slopes and the loss.

    Returns the loss at the start and after every iteration (infinite where it is not a number). When it returns, the
    variables are those of the least loss: `min` of what it returns. An iteration costs one evaluation of the loss and its
    slope, rarely a few more, and memory for 200 copies of the variables.

    It ends before the given number of iterations when the loss is `tolerance` times the one at the start, when the losses so
    far say that it is `given_up`, or when no way down is found. Where the loss is not finite or does not
    fall it goes back to the best point and forgets the curvature it had learned; if that does not help, it ends.
    """
    descent = _Descent(slope, variables)
    tensors = list(variables.values())
    optimizer = _lbfgs(tensors)
    history = [descent.closure()]
    if 0 < history[0] < math.inf:
        descent.unit = SCALE / history[0]
    best, least, fresh = _copy(tensors), history[0], True
    while len(history) <= iterations and least > tolerance * history[0] and math.isfinite(least):
        optimizer.step(descent.closure)
        history.append(descent.closure() / descent.unit)
        if history[-1] < least:
            best, least, fresh = _copy(tensors), history[-1], False
        elif fresh:
            break
        else:
            _restore(tensors, best)
            optimizer, fresh = _lbfgs(tensors), True
        if given_up(history):
            break
    _restore(tensors, best)
    return history


@dataclass
class _Descent:
    """The loss and its slope for PyTorch's optimizer, which asks again for points that its line search has just seen."""

    slope: Slope
    variables: Tensors
    unit: float = 1.0
    seen: list[tuple[list[Tensor], float, Tensors]] = field(default_factory=list)

    def closure(self) -> float:
        """The loss at the variables' present values, infinite where it is not a number; leaves its slope in their `grad`."""
        known = next((one for one in reversed(self.seen) if all(map(torch.equal, one[0], self.variables.values()))), None)
        if known is None:
            slopes, value = self.slope(self.variables)
            known = (_copy(list(self.variables.values())), value.item(), slopes)
            self.seen.append(known)
        else:
            self.seen = [known]
        for name, variable in self.variables.items():
            variable.grad = (known[2][name] * self.unit).contiguous()  # which L-BFGS takes for granted
        return self.unit * known[1] if math.isfinite(known[1]) else math.inf


def _lbfgs(variables: list[Tensor]) -> torch.optim.LBFGS:
    """PyTorch's L-BFGS, one iteration a step, without thresholds of its own."""
    return torch.optim.LBFGS(
        variables,
        max_iter=1,
        max_eval=1 + SEARCH,
        history_size=REMEMBERED_STEPS,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )


def _copy(variables: list[Tensor]) -> list[Tensor]:
    return [variable.detach().clone() for variable in variables]


@torch.no_grad()
def _restore(variables: list[Tensor], values: list[Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.copy_(value)
