"""Large convolutions of 3x3 kernels with a quarter of the multiplications.

Winograd's algorithm F(4x4, 3x3) (Lavin and Gray, CVPR 2016): what a kernel makes of a tile of 6x6 numbers is, behind linear
transforms of both, a product number by number, of 36 for the 16 x 9 of a plain convolution. PyTorch's own convolutions on the
CPU do not use it. All is of products of matrices, so it can be differentiated as often as one likes.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attacks.matching.layers import is_plain, replace_layers

LEAST_CHANNELS = 64  # of input and output: with fewer, or with fewer tiles, the transforms cost what the products save
LEAST_TILES = 36
TILE, KERNEL, REACH = 4, 3, 6
OF_PICTURE = [
    [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
    [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
    [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
    [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
    [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
    [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
]
OF_KERNEL = [
    [1 / 4, 0.0, 0.0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0.0, 0.0, 1.0],
]
OF_RESULT = [
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
    [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
    [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
]


class Winograd(nn.Module):
    """The convolution whose parameters it takes over, under the same names."""

    of_picture: Tensor
    of_kernel: Tensor
    of_result: Tensor

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        assert not isinstance(convolution.padding, str)
        self.padding = convolution.padding
        for name, rows in {"of_picture": OF_PICTURE, "of_kernel": OF_KERNEL, "of_result": OF_RESULT}.items():
            one = torch.tensor(rows, dtype=self.weight.dtype)
            self.register_buffer(name, torch.kron(one, one), persistent=False)  # rows and columns at once

    def forward(self, images: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        batch, inputs = images.shape[:2]
        rows, columns = (n + 2 * p - KERNEL + 1 for n, p in zip(images.shape[2:], self.padding, strict=True))
        down, aside = -(-rows // TILE), -(-columns // TILE)
        if down * aside < LEAST_TILES:
            return functional.conv2d(images, self.weight, self.bias, padding=self.padding)
        missing = [0, TILE * aside - columns, 0, TILE * down - rows]
        padded = functional.pad(images, missing) if any(missing) else images
        tiles = functional.unfold(padded, REACH, padding=self.padding, stride=TILE).view(batch, inputs, REACH**2, -1)
        seen = torch.matmul(self.of_picture, tiles).permute(2, 1, 0, 3).flatten(2)
        kernel = self.weight.flatten(2).permute(2, 0, 1).contiguous().flatten(1)
        outputs = torch.bmm(torch.mm(self.of_kernel, kernel).view(REACH**2, -1, inputs), seen)
        made = torch.mm(self.of_result, outputs.flatten(1)).view(TILE, TILE, -1, batch, down, aside)
        found = made.permute(3, 2, 4, 0, 5, 1).reshape(batch, -1, TILE * down, TILE * aside)[:, :, :rows, :columns]
        return found if self.bias is None else found + self.bias[:, None, None]


def use_winograd(model: nn.Module) -> None:
    """Puts `Winograd` in the place of the model's large convolutions of 3x3 kernels on the CPU."""
    replace_layers(model, lambda module: Winograd(module) if isinstance(module, nn.Conv2d) and _fits(module) else None)


def _fits(convolution: nn.Conv2d) -> bool:
    dense = convolution.kernel_size == (KERNEL, KERNEL) and convolution.stride == (1, 1)
    large = min(convolution.in_channels, convolution.out_channels) >= LEAST_CHANNELS
    return is_plain(convolution) and dense and large
