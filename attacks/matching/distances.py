"""Distances between two gradients given by parameter name: zero where they agree.

Only the parameters in `wanted` count. All of them are taken as one vector.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from learning.tensors import Tensors

Distance: TypeAlias = Callable[[Tensors, Tensors], Tensor]


def squared_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """Sum of squared differences (DLG, equation 3)."""
    return torch.stack([(found[name] - tensor).square().sum() for name, tensor in wanted.items()]).sum()


def relative_squared_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """The squared distance in units of the wanted gradient's square: one at a vanished gradient, whatever the network."""
    size = squared_distance({name: torch.zeros_like(tensor) for name, tensor in wanted.items()}, wanted)
    return squared_distance(found, wanted) / size.clamp_min(torch.finfo(size.dtype).tiny)


def cosine_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """One minus the cosine of the angle, in [0, 2] (Inverting Gradients, equation 4). One, and flat, where either is zero."""
    product, a, b = _product(found, wanted), _product(found, found, wanted), _product(wanted, wanted)
    least = torch.finfo(a.dtype).tiny
    return 1 - product / (a.clamp_min(least).sqrt() * b.clamp_min(least).sqrt())


def _product(left: Tensors, right: Tensors, names: Tensors | None = None) -> Tensor:
    """The scalar product of two gradients, without a copy of either."""
    return torch.stack([left[name].flatten() @ right[name].flatten() for name in names or right]).sum()
