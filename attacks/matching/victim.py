"""The gradient that the client would have shared, had it held these pictures and labels."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from attacks.attack import Observation
from attacks.matching.differences import Differences
from attacks.matching.fixed_statistics import use_fixed_statistics
from attacks.matching.halves import use_halves
from attacks.matching.patches import Patches, use_patches
from attacks.matching.shortcuts import Shortcut
from attacks.matching.winograd import Winograd, use_winograd
from learning.models import divergence, without_noise
from learning.tensors import Tensors

GradientOf: TypeAlias = Callable[[Tensor, Tensor], Tensors]


@dataclass(frozen=True)
class Victim:
    """The client's loss as a function: `weights` are those it was sent, by the names that the update holds.

    `model` is the attack's own copy, in which nothing moves: BatchNorm runs in the mode in which the client trained, and
    tracks nothing; dropout leaves out nothing and a bottleneck gives its mean, since nobody but the client knows what it drew.
    `halves`: whether its convolutions take bfloat16; `differences`: whether its gradient is differentiated by differences.
    """

    model: nn.Module
    weights: Tensors
    halves: Shortcut
    differences: Differences

    @property
    def shortcut(self) -> Shortcut:
        """The cheaper one that the hardware is for. They do not go together: a difference is of the last digits."""
        return self.halves if self.halves.there else self.differences

    def loss(
        self,
        weights: Tensors,
        images: Float[Tensor, "batch channels height width"],
        labels: Float[Tensor, "batch classes"],
    ) -> Tensor:
        """Mean cross-entropy of pictures in [0, 1] and rows of class probabilities."""
        scores = functional_call(self.model, weights, (images,))
        return functional.cross_entropy(scores, labels) + divergence(self.model)

    def gradient(self, images: Tensor, labels: Tensor) -> Tensors:
        """The loss's gradient at the weights sent."""
        return self.gradient_at(self.weights, images, labels)

    def gradient_at(self, weights: Tensors, images: Tensor, labels: Tensor) -> Tensors:
        """The loss's gradient at other weights."""
        if self.differences.on:
            return self.differences.gradient(self.loss, weights, images, labels)
        return grad(self.loss)(weights, images, labels)


def victim_of(observation: Observation, dtype: torch.dtype) -> Victim:
    """The victim of an observation, in that precision; the observation stays as it is."""
    model = without_noise(copy.deepcopy(observation.model)).to(dtype).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            module.running_mean = module.running_var = module.num_batches_tracked = None
        if isinstance(getattr(module, "inplace", None), bool):
            object.__setattr__(module, "inplace", False)
    use_patches(model)
    use_fixed_statistics(model)
    halves, names = use_halves(model), observation.update.parameters.keys()
    if not halves.there:
        use_winograd(model)
    weights = {name: p.detach() for name, p in model.named_parameters() if name in names}
    return Victim(model, weights, halves, Differences(model))


def gradient_of(observation: Observation, dtype: torch.dtype) -> GradientOf:
    """The victim's gradient as a function that can be differentiated once more."""
    return victim_of(observation, dtype).gradient


def layer_inputs(victim: Victim, names: Iterable[str]) -> Callable[[Tensor], Tensors]:
    """A function of pictures, to what each of those layers is given for them. It leaves hooks on the victim's model."""
    inputs: Tensors = {}
    modules = dict(victim.model.named_modules())

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs[name] = given[0]

        return hook

    for name in names:
        modules[name].register_forward_pre_hook(remember(name))

    def seen(images: Tensor) -> Tensors:
        functional_call(victim.model, victim.weights, (images,))
        found = dict(inputs)
        inputs.clear()
        return found

    return seen


@torch.no_grad()
def layers_of(victim: Victim, image_shape: tuple[int, int, int]) -> list[tuple[nn.Module, int]]:
    """The convolutions and linear layers in the order in which they run, each with the entries of its answer to one picture."""
    ran: list[tuple[nn.Module, int]] = []

    def remember(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append((module, output.numel() // 2))

    hooks = [
        m.register_forward_hook(remember)
        for m in victim.model.modules()
        if isinstance(m, nn.Conv2d | nn.Linear | Patches | Winograd)
    ]
    probe = next(iter(victim.weights.values()))
    victim.model(torch.zeros(2, *image_shape, dtype=probe.dtype, device=probe.device))  # BatchNorm wants two
    for hook in hooks:
        hook.remove()
    return ran


def work(victim: Victim, image_shape: tuple[int, int, int]) -> int:
    """Multiplications of the convolutions and linear layers in one picture's forward pass."""
    return sum(entries * module.get_parameter("weight")[0].numel() for module, entries in layers_of(victim, image_shape))
