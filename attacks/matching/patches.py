"""Small convolutions as products of matrices.

A convolution of few channels costs more in calls than in arithmetic, above all when it is differentiated twice or for a
stack of restarts. As one product of the kernel with the picture's patches it takes half the time and a fifth.

In a recorded program channels lie together in memory: a patch is then copied by the row, and patches are put back where they
came from by `embedding_bag`, which sums rows. PyTorch's `unfold` and `fold` take four and nine times as long, but unlike
functions of one's own they cost little to call where nothing is recorded.
"""

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from attacks.matching.layers import is_plain, replace_layers
from attacks.matching.tracing import is_recording

MOST_WEIGHTS = 4096  # of a kernel that is worth it: LeNet's have 3600, the second layer of a ConvNet has 73,728
MOST_ENTRIES = 20_000  # of a picture's patches: LeNet's have 19,200, the first layer of a ConvNet has 27,648, and takes longer

Pair: TypeAlias = tuple[int, ...]  # down and aside
Geometry: TypeAlias = tuple[Pair, Pair, Pair, Pair]  # pixels, kernel, padding, stride


class Patches(nn.Module):
    """The convolution whose parameters it takes over, under the same names."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        assert not isinstance(convolution.padding, str)
        self.kernel, self.stride, self.padding = convolution.kernel_size, convolution.stride, convolution.padding

    def forward(self, images: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        geometry = ((images.shape[2], images.shape[3]), self.kernel, self.padding, self.stride)
        size = _places(geometry)
        if self.weight[0].numel() * math.prod(size) > MOST_ENTRIES:
            return functional.conv2d(images, self.weight, self.bias, self.stride, self.padding)
        if not is_recording():
            patches = functional.unfold(images, self.kernel, padding=self.padding, stride=self.stride)
            found = torch.matmul(self.weight.flatten(1), patches)
            return (found if self.bias is None else found + self.bias[:, None]).unflatten(-1, size)
        patches = _Taken.apply(images.permute(0, 2, 3, 1), geometry)
        found = _Rows.apply(patches, self.weight.permute(0, 2, 3, 1).flatten(1))
        found = found if self.bias is None else found + self.bias
        return found.view(len(images), *size, -1).permute(0, 3, 1, 2)


def use_patches(model: nn.Module) -> None:
    """Puts `Patches` in the place of the model's small convolutions on the CPU."""
    replace_layers(model, lambda module: Patches(module) if isinstance(module, nn.Conv2d) and _fits(module) else None)


def _fits(convolution: nn.Conv2d) -> bool:
    return is_plain(convolution) and convolution.weight.numel() <= MOST_WEIGHTS


def _places(geometry: Geometry) -> Pair:
    """Rows and columns of patches."""
    return tuple((pixel + 2 * p - kernel) // s + 1 for pixel, kernel, p, s in zip(*geometry, strict=True))


class _Moved(Function):
    """What takes numbers to other places, or sums them there: its own derivative is the way back."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.geometry = inputs[1]


class _Taken(_Moved):
    """Patches of pictures: one row for each place, of all its pixels' channels."""

    @staticmethod
    def forward(images: Float[Tensor, "batch height width inputs"], geometry: Geometry) -> Float[Tensor, "places entries"]:
        _, (high, wide), (above, beside), (down, aside) = geometry
        padded = functional.pad(images.contiguous(), [0, 0, beside, beside, above, above])
        batch, row, column, channel = padded.stride()
        shape = (len(images), *_places(geometry), high, wide, images.shape[3])
        seen = padded.as_strided(shape, (batch, down * row, aside * column, row, column, channel))
        return seen.reshape(-1, high * wide * images.shape[3])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return _PutBack.apply(*slopes, ctx.geometry), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _one_after_the_other(_Taken, in_dims, *args), 0


class _PutBack(_Moved):
    """Patches added up where they came from: the derivative of `_Taken`, and its derivative is `_Taken`."""

    @staticmethod
    def forward(patches: Float[Tensor, "places entries"], geometry: Geometry) -> Float[Tensor, "batch height width inputs"]:
        pixels, kernel, *_ = geometry
        batch = len(patches) // math.prod(_places(geometry))
        rows, first = _rows_of_pixels(batch, geometry)
        found = functional.embedding_bag(rows, patches.reshape(len(patches) * math.prod(kernel), -1), first, mode="sum")
        return found.view(batch, *pixels, -1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return _Taken.apply(*slopes, ctx.geometry), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        return _one_after_the_other(_PutBack, in_dims, *args), 0


def _one_after_the_other(move: type[_Moved], in_dims: Any, tensor: Tensor, geometry: Geometry) -> Tensor:
    """What is moved of every restart: their pictures are one batch."""
    stacked = tensor.movedim(in_dims[0], 0)
    return move.apply(stacked.flatten(0, 1), geometry).unflatten(0, (len(stacked), -1))


@lru_cache(maxsize=64)
def _rows_of_pixels(batch: int, geometry: Geometry) -> tuple[Int[Tensor, " rows"], Int[Tensor, " pixels"]]:
    """Which pixels of patches belong to the first picture's first pixel, to its next, ..., and where each one's begin."""
    pixels, kernel, padding, stride = geometry
    count = math.prod(pixels)
    numbers = np.pad(np.arange(count).reshape(pixels), [(p, p) for p in padding], constant_values=-1)
    owners = np.lib.stride_tricks.sliding_window_view(numbers, kernel)[:: stride[0], :: stride[1]].ravel()
    rows = owners.argsort(kind="stable")[(owners < 0).sum() :]
    first = np.searchsorted(owners[rows], np.arange(count))
    shifts = np.arange(batch)[:, None]
    return torch.from_numpy((rows + shifts * len(owners)).ravel()), torch.from_numpy((first + shifts * len(rows)).ravel())


class _Product(Function):
    """One of three products, each of which has the two others for derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)


class _Rows(_Product):
    """Every patch by the kernel: `patches @ kernel.T`, transposed in memory, which takes half the time."""

    @staticmethod
    def forward(
        patches: Float[Tensor, "*restarts places entries"], kernel: Float[Tensor, "*restarts outputs entries"]
    ) -> Tensor:
        return (kernel @ patches.mT).mT

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        patches, kernel = ctx.saved_tensors
        return _Spread.apply(*slopes, kernel), _Outer.apply(*slopes, patches)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:
        return _Rows.forward(*_stacks(info, in_dims, args)), 0


class _Spread(_Product):
    """What outputs make of patches: `outputs @ kernel`."""

    @staticmethod
    def forward(
        outputs: Float[Tensor, "*restarts places outputs"], kernel: Float[Tensor, "*restarts outputs entries"]
    ) -> Tensor:
        return outputs @ kernel

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        outputs, kernel = ctx.saved_tensors
        return _Rows.apply(*slopes, kernel), _Outer.apply(outputs, *slopes)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:
        return _Spread.forward(*_stacks(info, in_dims, args)), 0


class _Outer(_Product):
    """A kernel's slope: `outputs.T @ patches`."""

    @staticmethod
    def forward(
        outputs: Float[Tensor, "*restarts places outputs"], patches: Float[Tensor, "*restarts places entries"]
    ) -> Tensor:
        return outputs.mT @ patches

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        outputs, patches = ctx.saved_tensors
        return _Rows.apply(patches, *slopes), _Spread.apply(outputs, *slopes)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:
        return _Outer.forward(*_stacks(info, in_dims, args)), 0


def _stacks(info: Any, in_dims: Any, matrices: tuple[Tensor, ...]) -> list[Tensor]:
    """One matrix for every restart."""
    return [
        matrix[None].expand(info.batch_size, -1, -1) if dim is None else matrix.movedim(dim, 0)
        for matrix, dim in zip(matrices, in_dims, strict=True)
    ]
