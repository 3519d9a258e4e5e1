"""The gradient that the client would have shared, had it held these pictures and labels."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from attacks.attack import Observation
from learning.tensors import Tensors

GradientOf: TypeAlias = Callable[[Tensor, Tensor], Tensors]


def gradient_of(observation: Observation, dtype: torch.dtype) -> GradientOf:
    """A differentiable function of pictures in [0, 1] and rows of class probabilities: the mean cross-entropy's gradient.

    The model runs in the mode in which the client trained; its running statistics are copied for every call, so that the
    observation stays as it is.
    """
    model = observation.model
    weights = {
        n: p.detach().to(dtype).requires_grad_() for n, p in model.named_parameters() if n in observation.update.parameters
    }
    state = {n: t.detach().to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}

    def compute(images: Tensor, labels: Tensor) -> Tensors:
        buffers = {name: tensor.clone() for name, tensor in state.items() if name not in weights}
        scores = functional_call(model, (weights, buffers), (images,))
        loss = functional.cross_entropy(scores, labels)
        found = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
        return dict(zip(weights, found, strict=True))

    return compute
