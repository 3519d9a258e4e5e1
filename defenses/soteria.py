"""Soteria (Sun et al. 2021, arXiv 2012.06133): the most revealing features of one layer leave no gradient."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, func, nn

from defenses.defense import Compute, Defense, survivors
from learning.catalogue import settings
from learning.tensors import Batch, Tensors, Update, parameters_of

AT_ONCE = 2**24  # numbers in the derivatives of as many features as are taken together: 64 MB in float32


@settings
class Soteria(Defense):
    """Prunes the gradient of `layer`'s weights in the columns of the `prune` fraction of its inputs that reveal most.

    `layer` is a Linear or Conv2d module, by its name in the model ("network.3"; an unknown one is answered with all that there
    are). A feature, which is an entry of the layer's input, reveals its magnitude over the norm of its derivative by the
    picture, summed over the mini-batch (section 4.2, p = 2): to change such a feature's value moves the picture furthest. A
    convolution has the same weights for all pixels of a channel: its columns are the channels, and one reveals what its
    entries do together. The number pruned is rounded down; at 0 the update is unchanged to the last bit. All other gradients
    stay as they are.

    The time goes with the number of the layer's input entries, of which early convolutions have many. Raises `ValueError`
    where the layer is not there, is neither Linear nor Conv2d, is a convolution in groups, or takes more than one vector for
    a picture.
    """

    wraps: ClassVar[Literal["step", "round"]] = "step"

    layer: str
    prune: Annotated[float, Field(ge=0, le=1)]

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        layer = dict(model.named_modules()).get(self.layer)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            able = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
            raise ValueError(
                f"layer = '{self.layer}' is no Linear or Conv2d module of the model; choices: {', '.join(able) or 'none'}"
            )
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            raise ValueError(f"layer = '{self.layer}' is a convolution in {layer.groups} groups, and Soteria needs one of all")
        update = compute(model, batch, rng)
        count = math.floor(round(self.prune * layer.weight.shape[1], 6))
        if not count:
            return update
        pruned = revelation(model, layer, batch.images).topk(count).indices
        name = next(name for name, parameter in model.named_parameters() if parameter is layer.weight)
        masked = update.parameters[name].index_fill(1, pruned, 0)
        return Update({**update.parameters, name: masked}, update.buffers)

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        return survivors(found, shared)


def revelation(
    model: nn.Module, layer: nn.Linear | nn.Conv2d, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " columns"]:
    """What each column of the layer's weight reveals of the pictures: see `Soteria`. A feature that is 0 reveals 0.

    The model, its running statistics included, is left as it was.
    """
    pictures = images.detach().clone().requires_grad_()
    features = _input_of(layer, model, pictures)
    if features.ndim != (2 if isinstance(layer, nn.Linear) else 4):
        raise ValueError(f"{layer} takes inputs of shape {tuple(features.shape)}, and Soteria needs one vector for a picture")
    columns, features = features.shape[1], features.flatten(1)
    norms = torch.cat([_norms(slopes) for slopes in _derivatives(features, pictures)])
    found = features.detach().abs().T / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.where(features.detach().T == 0, 0, found).sum(1).unflatten(0, (columns, -1)).sum(1)


def _input_of(layer: nn.Module, model: nn.Module, pictures: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    state: Tensors = parameters_of(model) | {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.enable_grad():
            func.functional_call(model, state, (pictures,))  # running statistics move in the copies
    finally:
        hook.remove()
    return seen[-1]


def _derivatives(features: Tensor, pictures: Tensor) -> Iterator[Float[Tensor, "some batch channels height width"]]:
    """The derivative of each feature, summed over the batch, by the pictures; so many features at a time."""
    together = max(1, AT_ONCE // pictures.numel())
    for indices in torch.arange(features.shape[1], device=features.device).split(together):
        chosen = torch.nn.functional.one_hot(indices, features.shape[1]).to(features.dtype)
        directions = chosen[:, None, :].expand(-1, len(pictures), -1)
        (slopes,) = torch.autograd.grad(features, pictures, directions, retain_graph=True, is_grads_batched=True)
        yield slopes


def _norms(slopes: Tensor) -> Float[Tensor, "some batch"]:
    return torch.linalg.vector_norm(slopes.flatten(2), dim=2)
