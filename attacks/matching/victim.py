"""The gradient that the client would have shared, had it held these pictures and labels."""

import copy
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.attack import Observation
from learning.tensors import Tensors

GradientOf: TypeAlias = Callable[[Tensor, Tensor], Tensors]


def gradient_of(observation: Observation, dtype: torch.dtype) -> GradientOf:
    """A differentiable function of pictures in [0, 1] and rows of class probabilities: the mean cross-entropy's gradient.

    It holds a copy of the observation's model, in that precision, so that the observation stays as it is. BatchNorm runs in
    the mode in which the client trained. Dropout does not: nobody but the client knows which units it left out, so the
    attack leaves out none.
    """
    model = copy.deepcopy(observation.model).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    weights = {name: p.requires_grad_() for name, p in model.named_parameters() if name in observation.update.parameters}

    def compute(images: Tensor, labels: Tensor) -> Tensors:
        loss = functional.cross_entropy(model(images), labels)
        found = torch.autograd.grad(loss, list(weights.values()), create_graph=True, materialize_grads=True)
        return dict(zip(weights, found, strict=True))

    return compute
