"""The fully connected end of a network: linear layers with ReLU between them, found by running the model once."""

import copy
import itertools
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attacks.attack import NotApplicable, Observation


@dataclass(frozen=True)
class Rectified:
    """A linear layer as sent, with its share of the update, in float64. `rectified`: whether ReLU and a linear layer follow.

    `gradient`: of the weight, and beside it, as one more column, that of the bias where the layer has one.
    """

    name: str
    weight: Float[Tensor, "units inputs"]
    bias: Float[Tensor, " units"] | None
    gradient: Float[Tensor, "units columns"]
    rectified: bool

    def answers(self, given: Float[Tensor, "some inputs"]) -> Float[Tensor, "some units"]:
        """The layer's output, before ReLU."""
        answers = given @ self.weight.T
        return answers if self.bias is None else answers + self.bias


@dataclass(frozen=True)
class Tail:
    """The linear layers at the model's end, in the order in which they run: ReLU stands between each and the next.

    `slope`, `offset`: the first of them is given `slope * picture + offset`, flattened; None where it sees no picture.
    """

    layers: tuple[Rectified, ...]
    slope: Float[Tensor, " pixels"] | None
    offset: Float[Tensor, " pixels"] | None

    def pixels(self, given: Float[Tensor, "... inputs"]) -> Float[Tensor, "... inputs"]:
        """The flattened pictures of which these are the first layer's inputs; the inputs themselves where it sees none."""
        return given if self.slope is None or self.offset is None else (given - self.offset) / self.slope

    def given(self, pixels: Float[Tensor, "... inputs"]) -> Float[Tensor, "... inputs"]:
        """The first layer's inputs for these flattened pictures; the other way of `pixels`."""
        return pixels if self.slope is None or self.offset is None else self.slope * pixels + self.offset

    def pictures(
        self, inputs: Float[Tensor, "batch pixels"], image_shape: tuple[int, int, int]
    ) -> Float[Tensor, "batch channels height width"]:
        """The pictures of which these are the first layer's inputs."""
        return self.pixels(inputs).reshape(-1, *image_shape)

    def inputs(self, pictures: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch pixels"]:
        """The first layer's inputs for these pictures."""
        return self.given(pictures.flatten(1))


def victim(observation: Observation) -> nn.Module:
    """A copy of the model in float64, in the mode in which the client used it, without dropout."""
    model = copy.deepcopy(observation.model).double()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return model


@dataclass(frozen=True)
class _Run:
    """What every linear layer was given and answered, in the order in which they ran, for some pictures."""

    model: nn.Module
    pictures: Tensor
    scores: Tensor
    seen: dict[str, tuple[Tensor, Tensor]]


def _run(observation: Observation) -> _Run:
    model = victim(observation)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in model.modules()):
        raise NotApplicable("BatchNorm in train mode mixes the batch's examples, and exact attacks take them apart one by one")
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def remember(name: str) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if given[0].ndim == 2:
                seen[name] = (given[0], output)

        model.get_submodule(name).register_forward_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            remember(name)
    rng = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, *observation.image_shape, generator=rng, dtype=torch.float64).to(next(model.parameters()).device)
    pictures[0], pictures[1] = 0, 1
    with torch.no_grad():
        return _Run(model, pictures, model(pictures), seen)


def dtype_of(observation: Observation) -> torch.dtype:
    """The precision in which the client computes, and in which restored pictures are returned."""
    return next(observation.model.parameters()).dtype


def tail(observation: Observation) -> Tail:
    """The model's fully connected end. Raises `NotApplicable` where it has none, or BatchNorm mixes the examples."""
    run = _run(observation)
    order, seen = list(run.seen), run.seen
    if not order or seen[order[-1]][1] is not run.scores:
        raise NotApplicable("the model does not end in a linear layer")
    follows = {a for a, b in itertools.pairwise(order) if _equal(functional.relu(seen[a][1]), seen[b][0])}
    chain = [order[-1]]
    for name in reversed(order[:-1]):
        if name not in follows:
            break
        chain.insert(0, name)
    gradient = observation.gradient()
    layers = tuple(_layer(cast(nn.Linear, run.model.get_submodule(n)), n, gradient, n in follows) for n in chain)
    return Tail(layers, *_affine(run.pictures.flatten(1), seen[chain[0]][0]))


def entry(observation: Observation) -> Tail:
    """The linear layer that sees the picture itself, alone, whatever follows. Raises `NotApplicable` where none does."""
    run = _run(observation)
    for name, (given, _) in run.seen.items():
        slope, offset = _affine(run.pictures.flatten(1), given)
        if slope is not None:
            layer = _layer(cast(nn.Linear, run.model.get_submodule(name)), name, observation.gradient(), False)
            return Tail((layer,), slope, offset)
    first = next((type(m).__name__ for m in run.model.modules() if not list(m.children()) and list(m.parameters())), "nothing")
    raise NotApplicable(f"the first layer is {first}, and pictures are read off a linear layer that sees them")


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(first.equal(second))


def _affine(pictures: Tensor, given: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Slope and offset of every pixel's way into the layer, where that is all that happens to it."""
    if given.shape != pictures.shape:
        return None, None
    offset, slope = given[0], given[1] - given[0]
    if slope.abs().min() < 1e-9 or not torch.allclose(offset + slope * pictures, given, rtol=1e-9, atol=1e-9):
        return None, None
    return slope, offset


def _layer(module: nn.Linear, name: str, gradient: dict[str, Tensor], rectified: bool) -> Rectified:
    if f"{name}.weight" not in gradient:
        raise NotApplicable(f"the update does not hold the gradient of '{name}.weight'")
    columns = [gradient[f"{name}.weight"].double()]
    if module.bias is not None and f"{name}.bias" in gradient:
        columns.append(gradient[f"{name}.bias"].double()[:, None])
    shared = torch.cat(columns, 1)
    if not shared.isfinite().all() or not shared.any():
        raise NotApplicable(f"the gradient of layer '{name}' is zero or not finite")
    bias = None if len(columns) == 1 or module.bias is None else module.bias.detach()
    return Rectified(name, module.weight.detach(), bias, shared, rectified)


def common_input(
    weight_gradient: Float[Tensor, "units inputs"],
    bias_gradient: Float[Tensor, " units"],
    along: Float[Tensor, " units"] | None = None,
) -> Float[Tensor, " inputs"]:
    """A linear layer's input, if all examples had the same: the weight gradient is then the bias gradient times the input.

    It is read off the rows added up with the weights `along`; without these, by least squares over the rows.
    """
    along = bias_gradient if along is None else along
    return weight_gradient.T @ along / (bias_gradient @ along).clamp_min(1e-300)
