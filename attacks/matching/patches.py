"""Small convolutions as products of matrices.

A convolution of few channels costs more in calls than in arithmetic, above all when it is differentiated twice or for a
stack of restarts. As one product of the kernel with the picture's patches it takes half the time and a fifth.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attacks.matching.layers import is_plain, replace_layers

MOST_WEIGHTS = 4096  # of a kernel that is worth it: LeNet's have 3600, the second layer of a ConvNet has 73,728
MOST_ENTRIES = 20_000  # of a picture's patches: LeNet's have 19,200, the first layer of a ConvNet has 27,648, and takes longer


class Patches(nn.Module):
    """The convolution whose parameters it takes over, under the same names."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.kernel, self.stride, self.padding = convolution.kernel_size, convolution.stride, convolution.padding

    def forward(self, images: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        assert not isinstance(self.padding, str)
        pixels = zip(images.shape[2:], self.padding, self.kernel, self.stride, strict=True)
        size = [(pixel + 2 * padding - kernel) // stride + 1 for pixel, padding, kernel, stride in pixels]
        if self.weight[0].numel() * math.prod(size) > MOST_ENTRIES:
            return functional.conv2d(images, self.weight, self.bias, self.stride, self.padding)
        patches = functional.unfold(images, self.kernel, padding=self.padding, stride=self.stride)
        found = torch.matmul(self.weight.flatten(1), patches)
        return (found if self.bias is None else found + self.bias[:, None]).unflatten(-1, size)


def use_patches(model: nn.Module) -> None:
    """Puts `Patches` in the place of the model's small convolutions on the CPU."""
    replace_layers(model, lambda module: Patches(module) if isinstance(module, nn.Conv2d) and _fits(module) else None)


def _fits(convolution: nn.Conv2d) -> bool:
    return is_plain(convolution) and convolution.weight.numel() <= MOST_WEIGHTS
