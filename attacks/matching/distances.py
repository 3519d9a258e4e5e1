"""Distances between two gradients given by parameter name: zero where they agree."""

import torch
from torch import Tensor

from learning.tensors import Tensors


def squared_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """Sum of squared differences over all parameters (DLG, equation 3)."""
    return torch.stack([(found[name] - wanted[name]).square().sum() for name in wanted]).sum()


def cosine_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """One minus the cosine between the two gradients, all parameters taken as one vector (Inverting Gradients, equation 4)."""
    product = torch.stack([(found[name] * wanted[name]).sum() for name in wanted]).sum()
    found_norm = torch.stack([found[name].square().sum() for name in wanted]).sum().sqrt()
    wanted_norm = torch.stack([wanted[name].square().sum() for name in wanted]).sum().sqrt()
    return 1 - product / (found_norm * wanted_norm).clamp_min(torch.finfo(found_norm.dtype).tiny)
