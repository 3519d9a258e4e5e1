"""Minimisation of a matching loss."""

from collections.abc import Callable

import torch
from torch import Tensor


def minimise(loss: Callable[[], Tensor], variables: list[Tensor], iterations: int) -> list[float]:
    """Moves the variables downhill with L-BFGS and a strong-Wolfe line search; returns the loss after every iteration."""
    optimizer = torch.optim.LBFGS(
        variables, max_iter=iterations, max_eval=2 * iterations, history_size=100, line_search_fn="strong_wolfe",
        tolerance_grad=0.0, tolerance_change=0.0,
    )  # fmt: skip

    def closure() -> float:
        value = loss()
        for variable, slope in zip(variables, torch.autograd.grad(value, variables), strict=True):
            variable.grad = slope
        return value.item()

    optimizer.step(closure)
    return [loss().item()]
