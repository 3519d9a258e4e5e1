"""Additive noise on the update."""

import torch
from torch import Tensor

from defenses.defense import UpdateDefense
from learning.catalogue import NotNegative, settings
from learning.tensors import Update


@settings
class GaussianNoise(UpdateDefense):
    """Adds independent normal noise of standard deviation `std` to every entry of the shared update.

    `std` is in the update's own units (a gradient's or a delta's entries). At 0 the update is unchanged to the last bit.
    Source: Zhu et al. 2019 (arXiv 1906.08935), section 5.
    """

    std: NotNegative

    def change(self, update: Update, rng: torch.Generator) -> Update:
        return update.map(lambda tensor: tensor + self.std * _like(tensor, rng, torch.randn)) if self.std else update


@settings
class LaplacianNoise(UpdateDefense):
    """Adds independent Laplacian noise of standard deviation `std` (scale `std` over the root of 2) to every entry.

    At 0 the update is unchanged to the last bit. Source: Zhu et al. 2019 (arXiv 1906.08935), section 5.
    """

    std: NotNegative

    def change(self, update: Update, rng: torch.Generator) -> Update:
        return update.map(lambda tensor: tensor + self.std * _laplacian(tensor, rng)) if self.std else update


def _laplacian(tensor: Tensor, rng: torch.Generator) -> Tensor:
    """Unit variance: the difference of two exponentials has variance 2."""
    first, second = (-torch.log1p(-_like(tensor, rng, torch.rand)) for _ in range(2))
    return (first - second) / 2**0.5


def _like(tensor: Tensor, rng: torch.Generator, draw) -> Tensor:
    return draw(tensor.shape, generator=rng, dtype=tensor.dtype).to(tensor.device)
