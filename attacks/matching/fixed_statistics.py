"""Normalisation by statistics that stand still, as one multiplication and one addition.

PyTorch's own BatchNorm in eval mode computes the same, but the derivative of its derivative is some twenty operations.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.matching.layers import replace_layers


class FixedStatistics(nn.Module):
    """The BatchNorm in eval mode whose parameters and running statistics it takes over, under the same names."""

    running_mean: Tensor
    unit: Tensor

    def __init__(self, layer: _BatchNorm):
        super().__init__()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("running_mean", layer.running_mean)
        self.register_buffer("unit", (layer.running_var + layer.eps).rsqrt())

    def forward(self, values: Float[Tensor, "batch channels *pixels"]) -> Float[Tensor, "batch channels *pixels"]:
        scale, shift = self.unit, -self.running_mean * self.unit
        if self.weight is not None:
            scale = scale * self.weight
            shift = shift * self.weight + self.bias
        over = [-1, *[1] * (values.ndim - 2)]
        return torch.addcmul(shift.view(over), values, scale.view(over))


def use_fixed_statistics(model: nn.Module) -> None:
    """Puts `FixedStatistics` in the place of the model's BatchNorm layers that are in eval mode and have statistics."""
    replace_layers(model, lambda module: FixedStatistics(module) if isinstance(module, _BatchNorm) and _fixed(module) else None)


def _fixed(layer: _BatchNorm) -> bool:
    return not layer.training and layer.running_mean is not None
