"""Distances between two gradients given by parameter name: zero where they agree.

Only the parameters in `wanted` count. All of them are taken as one vector.
"""

import torch
from torch import Tensor

from learning.tensors import Tensors


def squared_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """Sum of squared differences (DLG, equation 3)."""
    return (_vector(found, wanted) - _vector(wanted, wanted)).square().sum()


def cosine_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """One minus the cosine of the angle, in [0, 2] (Inverting Gradients, equation 4). One, and flat, where either is zero."""
    a, b = _vector(found, wanted), _vector(wanted, wanted)
    least = torch.finfo(a.dtype).tiny
    return 1 - (a @ b) / (a.square().sum().clamp_min(least).sqrt() * b.square().sum().clamp_min(least).sqrt())


def _vector(gradient: Tensors, names: Tensors) -> Tensor:
    return torch.cat([gradient[name].flatten() for name in names])
