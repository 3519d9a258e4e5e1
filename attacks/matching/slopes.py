"""The slope of a matching loss for a stack of restarts, in the cheapest way that is as good.

A loss is a function of one restart's variables by name (the pictures, and whatever else is sought), to a number. A slope
is a function of stacked variables, to the slopes, stacked alike, and the losses.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from attacks.matching.distances import Distance
from attacks.matching.tracing import NotTraceable, program_of
from attacks.matching.victim import Victim
from learning.tensors import Tensors

Loss: TypeAlias = Callable[[Tensors], Tensor]
Slope: TypeAlias = Callable[[Tensors], tuple[Tensors, Tensor]]

LARGE = 20_000_000  # multiplications of a forward pass from which arithmetic, not calls, is what a step costs
TRACED_FROM = 20  # iterations that repay what tracing costs
STEPS = (3e-2, 1e-3)  # of finite differences, as shares of the weights' norm, to be tried in that order
GOOD = 0.98  # cosine with the exact slope from which a finite difference counts as good


def exact(loss: Loss, variables: Tensors, iterations: int, large: bool) -> Slope:
    """The exact slopes of all restarts: at once where the work is small, and one after the other where it is large."""
    if not large:
        return traced(vmap(grad_and_value(loss)), variables, iterations >= TRACED_FROM)
    first = {name: tensor[0] for name, tensor in variables.items()}
    return one_by_one(traced(grad_and_value(loss), first, iterations >= TRACED_FROM))


def one_by_one(one: Slope) -> Slope:
    """A stack's slopes by a function of one restart."""

    def slope(variables: Tensors) -> tuple[Tensors, Tensor]:
        restarts = len(next(iter(variables.values())))
        found = [one({name: tensor[i] for name, tensor in variables.items()}) for i in range(restarts)]
        return {name: torch.stack([slopes[name] for slopes, _ in found]) for name in variables}, torch.stack(
            [v for _, v in found]
        )

    return slope


def difference(victim: Victim, wanted: Tensors, distance: Distance, prior: Loss, step: float) -> Slope:
    """The slope of distance plus prior for one restart's `images` and `labels`, by a finite difference in the weights.

    The distance's slope is the Jacobian of the gradient, times the distance's own slope v with respect to the gradient. The
    Jacobian is symmetric: that product is the derivative along v, in the weights, of the loss's slope with respect to the
    pictures (Pearlmutter 1994). Nothing is differentiated twice: five sevenths of the arithmetic, and less memory. `step` is
    the length of the step along v as a share of the weights' norm; the loss itself is exact.
    """
    norm = torch.stack([tensor.square().sum() for tensor in victim.weights.values()]).sum().sqrt()

    def slope(variables: Tensors) -> tuple[Tensors, Tensor]:
        images, labels = variables["images"], variables["labels"]
        found, here = grad(victim.loss, argnums=(0, 1))(victim.weights, images, labels)
        way, value = grad_and_value(lambda gradient: distance(gradient, wanted))(found)
        length = torch.stack([tensor.square().sum() for tensor in way.values()]).sum().sqrt()
        size = step * norm / length.clamp_min(torch.finfo(length.dtype).tiny)
        there = grad(victim.loss, argnums=1)({n: w + size * way[n] for n, w in victim.weights.items()}, images, labels)
        slopes, regular = grad_and_value(prior)(variables)
        return {**slopes, "images": (there - here) / size + slopes["images"]}, value + regular

    return slope


def good_step(slope: Slope, differences: dict[float, Slope], variables: Tensors) -> float | None:
    """The first step whose finite difference is near the exact slope there; None where none is.

    ReLU networks want a large one: on a short way a few units switch or none do, and the difference is mostly that. Smooth
    networks want a small step.
    """
    true = slope(variables)[0]["images"].flatten()
    for step, one in differences.items():
        if torch.cosine_similarity(true, one(variables)[0]["images"].flatten(), 0) >= GOOD:
            return step
    return None


def traced(slope: Slope, variables: Tensors, wanted: bool = True) -> Slope:
    """The same operations on the same numbers, without the Python around them, where they can be told from one call."""
    if not wanted:
        return slope
    try:
        return program_of(slope, variables)
    except NotTraceable:
        return slope
