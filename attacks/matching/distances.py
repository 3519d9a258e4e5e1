"""Distances between two gradients given by parameter name: zero where they agree.

Only the parameters in `wanted` count. All of them are taken as one vector.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from learning.tensors import Tensors

SMALL = 200_000  # entries of a gradient of which a copy costs less than the calls that it saves

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
    left, right = _flat(found, wanted), _flat(wanted, wanted)
    fixed = [vector.detach() for vector in left]
    product, b, size = (_product(*pair) for pair in ((left, right), (right, right), (fixed, fixed)))
    a = 2 * _product(left, fixed) - size  # the square of `left`: its derivative twice as cheap as that of left by left
    least = torch.finfo(a.dtype).tiny
    return 1 - product / (a.clamp_min(least).sqrt() * b.clamp_min(least).sqrt())


def absolute_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """Sum of absolute differences, in units of the wanted gradient's own: one at a vanished gradient."""
    size = torch.stack([tensor.abs().sum() for tensor in wanted.values()]).sum()
    away = torch.stack([(found[name] - tensor).abs().sum() for name, tensor in wanted.items()]).sum()
    return away / size.clamp_min(torch.finfo(size.dtype).tiny)


def masked_cosine_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """The cosine distance over the entries that were shared: what is exactly zero in `wanted` was left out, by pruning say."""
    return cosine_distance({name: found[name] * (tensor != 0) for name, tensor in wanted.items()}, wanted)


def layered_cosine_distance(found: Tensors, wanted: Tensors) -> Tensor:
    """The mean of every parameter's own cosine distance: no layer counts more for being larger."""
    return torch.stack([cosine_distance({name: found[name]}, {name: tensor}) for name, tensor in wanted.items()]).mean()


def _product(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """The scalar product of two gradients. `@` of a stack of short vectors takes fifteen times as long as summing products."""
    parts = [(a * b).sum() if len(a) <= SMALL else a @ b for a, b in zip(left, right, strict=True)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def _flat(gradient: Tensors, names: Tensors) -> list[Tensor]:
    """A gradient's tensors as vectors: one by one, without a copy, or where they are small all in one, in fewer operations."""
    vectors = [gradient[name].flatten() for name in names]
    return [torch.cat(vectors)] if sum(map(len, vectors)) <= SMALL else vectors


DISTANCES: dict[str, Distance] = {
    "cosine": cosine_distance,
    "masked-cosine": masked_cosine_distance,
    "layered-cosine": layered_cosine_distance,
    "squared": relative_squared_distance,
    "absolute": absolute_distance,
}
