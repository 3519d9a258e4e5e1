"""How a loss's gradient depends on the pictures, by one difference of plain gradients.

Whoever matches gradients needs, for directions v that the distance asks for, the slope of <v, dL/dw> by the pictures. It is
how dL/dx changes along v in the weights, (dL/dx(w + e v) - dL/dx(w)) / e: a forward and a backward pass more, where the exact
derivative takes twice as many. Differences of a ReLU network count the edges that lie between w and w + e v, which the exact
derivative does not see. Here what was switched on at w stays on at w + e v, and what was the largest is taken as the largest:
between the two points the network is then smooth, and the difference is the derivative to some thousandths or less.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional

from attacks.matching.shortcuts import Shortcut
from learning.tensors import Tensors

AGREEING = 0.99  # cosine of the slopes: where nothing but rounding makes them differ it is nearer to one than that
STEP = 0.75  # exponent of the numbers' precision: how far the weights are moved, in units of their length
TINY = 1e-30  # what a direction's length is at least, to divide by it

LossAt: TypeAlias = Callable[[Tensors, Tensor, Tensor], Tensor]


class Switches:
    """What a network's kinked layers did at one point, in their order: kept while `recording`, and then to be taken again."""

    def __init__(self) -> None:
        self.recording, self.kept, self.taken = False, list[Tensor](), list[Tensor]()

    @property
    def idle(self) -> bool:
        return not (self.recording or self.taken)


class _Switched(nn.Module):
    """The layer that it was, whose switches can be kept and taken again."""

    switches: Switches

    def forward(self, input: Tensor) -> Tensor:
        if self.switches.idle:
            return super().forward(input)
        if not self.switches.recording:
            return self.switched(input, self.switches.taken.pop(0))
        self.switches.kept.append(self.switch(input))
        return self.switched(input, self.switches.kept[-1])

    def switch(self, input: Tensor) -> Tensor:
        raise NotImplementedError

    def switched(self, input: Tensor, switch: Tensor) -> Tensor:
        return input * switch


class SwitchedReLU(_Switched, nn.ReLU):
    """Its switches are what each number is multiplied by."""

    def switch(self, input: Tensor) -> Tensor:
        return (input > 0).to(input)


class SwitchedLeakyReLU(_Switched, nn.LeakyReLU):
    """Its switches are what each number is multiplied by."""

    def switch(self, input: Tensor) -> Tensor:
        return torch.where(input > 0, torch.ones_like(input), self.negative_slope)


class SwitchedMaxPool2d(_Switched, nn.MaxPool2d):
    """Its switches are the places of the largest numbers."""

    def switch(self, input: Tensor) -> Tensor:
        how = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return functional.max_pool2d(input, *how, return_indices=True)[1]

    def switched(self, input: Tensor, switch: Tensor) -> Tensor:
        return input.flatten(2).gather(2, switch.flatten(2)).view(switch.shape)


SWITCHED = {nn.ReLU: SwitchedReLU, nn.LeakyReLU: SwitchedLeakyReLU, nn.MaxPool2d: SwitchedMaxPool2d}


class Differences(Shortcut):
    """A victim's gradient, differentiated by differences where it is `on`. The kinked layers of its model keep `switches`."""

    def __init__(self, model: nn.Module):
        super().__init__(all(parameter.dtype in (torch.float32, torch.float64) for parameter in model.parameters()), AGREEING)
        self.switches = Switches()
        for module in model.modules():
            if type(module) in SWITCHED:
                module.__class__ = SWITCHED[type(module)]
                cast(_Switched, module).switches = self.switches

    def gradient(self, loss: LossAt, weights: Tensors, images: Tensor, labels: Tensor) -> Tensors:
        """The loss's gradient by the weights, to be differentiated once more: by weights, pictures and labels.

        `loss`: of weights by name, pictures and rows of class probabilities, and of nothing else that is differentiated.
        """
        names = list(weights)
        parts = _Gradient.apply(self.switches, loss, names, images, labels, *weights.values())
        return dict(zip(names, cast(tuple[Tensor, ...], parts), strict=False))


class _Gradient(torch.autograd.Function):
    """Of weights, pictures and labels, to the slopes of the loss by the weights, by pictures and labels, and the switches."""

    @staticmethod
    def forward(switches: Switches, loss: LossAt, names: list[str], images: Tensor, labels: Tensor, *weights: Tensor) -> Any:
        def kept(*at: Any) -> tuple[Tensor, list[Tensor]]:
            switches.recording = True
            try:
                return loss(*at), switches.kept
            finally:
                switches.recording, switches.kept = False, []

        (slopes, *others), switched = grad(kept, argnums=(0, 1, 2), has_aux=True)(
            dict(zip(names, weights, strict=True)), images, labels
        )
        return *slopes.values(), *others, *switched

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.switches, ctx.loss, ctx.names, *tensors = inputs
        ctx.mark_non_differentiable(*output[len(ctx.names) :])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> Any:
        many = len(ctx.names)
        images, labels, *kept = ctx.saved_tensors
        weights, slopes, others, switched = (
            kept[:many],
            kept[many : 2 * many],
            kept[2 * many : 2 * many + 2],
            kept[2 * many + 2 :],
        )
        moved_by = _length(weights) * torch.finfo(images.dtype).eps ** STEP / _length(directions[:many]).clamp_min(TINY)
        moved = {
            name: torch.addcmul(weight, direction, moved_by)
            for name, weight, direction in zip(ctx.names, weights, directions, strict=False)
        }
        by_weights = any(ctx.needs_input_grad[5:])

        def again(*at: Any) -> Tensor:
            ctx.switches.taken = list(switched)
            try:
                return ctx.loss(*at)
            finally:
                ctx.switches.taken = []

        found = grad(again, argnums=(1, 2, 0) if by_weights else (1, 2))(moved, images, labels)
        differences = [(there - here) / moved_by for there, here in zip(found[:2], others, strict=True)]
        if by_weights:
            differences += [(found[2][name] - here) / moved_by for name, here in zip(ctx.names, slopes, strict=True)]
        return None, None, None, *differences, *([] if by_weights else [None] * many)


def _length(tensors: Any) -> Tensor:
    """Of all of them as one vector."""
    return torch.stack([tensor.flatten() @ tensor.flatten() for tensor in tensors]).sum().sqrt()
