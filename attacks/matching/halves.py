"""Large convolutions of bfloat16 numbers, where a GPU multiplies these faster.

Their products are summed in float32, so that a result is off by some thousandths of its size. What lies between the
convolutions stays as it is.
"""

from typing import cast

import torch
from torch import Tensor, nn

from attacks.matching.shortcuts import Shortcut

AGREEING = 0.8  # cosine of the slopes: it is 0.88 to 0.97 along descents that come as far in equal time
LEAST_WEIGHTS = 4096  # of a kernel that is worth it: the conversions of a smaller one cost what it saves


class HalfConvolution(nn.Conv2d):
    """The convolution that it was, and where its `halves` are on, with pictures and kernel in bfloat16."""

    halves: Shortcut

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.halves.on:
            return super()._conv_forward(input, weight, bias)
        found = super()._conv_forward(input.bfloat16(), weight.bfloat16(), None).to(input)
        return found if bias is None else found + bias[:, None, None]


def use_halves(model: nn.Module) -> Shortcut:
    """Makes a `HalfConvolution` of each of the model's large convolutions of float32, where the hardware is for it."""
    large = [module for module in model.modules() if type(module) is nn.Conv2d and _is_large(module)]
    halves = Shortcut(bool(large) and _multiplies_halves(large[0].weight.device), AGREEING)
    for module in large if halves.there else []:
        module.__class__ = HalfConvolution
        cast(HalfConvolution, module).halves = halves
    return halves


def _is_large(convolution: nn.Conv2d) -> bool:
    return convolution.weight.dtype == torch.float32 and convolution.weight.numel() > LEAST_WEIGHTS


def _multiplies_halves(device: torch.device) -> bool:
    """Whether the device is a GPU that does so by itself. CPUs that do are as fast by `winograd` and `differences`."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
