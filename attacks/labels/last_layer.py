"""The classifier's last layer: label restoration reads its gradient and nothing else."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.attack import NotApplicable, Observation


@dataclass(frozen=True)
class LastLayer:
    """The final linear layer as sent, and its mean gradient, in float64. `bias` and its gradient are None where it has none."""

    weight: Float[Tensor, "classes features"]
    bias: Float[Tensor, " classes"] | None
    weight_gradient: Float[Tensor, "classes features"]
    bias_gradient: Float[Tensor, " classes"] | None


def last_layer(observation: Observation) -> LastLayer:
    """The linear layer whose output is the model's output, found by running the model once.

    Raises `NotApplicable` if the model ends in something else or the update lacks the layer's weight.
    """
    name, layer = _found(observation)
    gradient = observation.gradient()
    if f"{name}.weight" not in gradient:
        raise NotApplicable(f"the update does not hold the gradient of the last layer's weight, '{name}.weight'")
    return LastLayer(
        layer.weight.detach().double(),
        None if layer.bias is None else layer.bias.detach().double(),
        gradient[f"{name}.weight"].double(),
        gradient[f"{name}.bias"].double() if f"{name}.bias" in gradient else None,
    )


def last_layer_with_bias(observation: Observation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias, and the gradients of both, in float64. Raises `NotApplicable` where there is no bias gradient."""
    layer = last_layer(observation)
    if layer.bias is None or layer.bias_gradient is None:
        raise NotApplicable("the last layer has no bias, and this method divides by the bias gradient")
    return layer.weight, layer.bias, layer.weight_gradient, layer.bias_gradient


def _found(observation: Observation) -> tuple[str, nn.Linear]:
    model, outputs = observation.model, {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    mode = model.training
    try:
        with torch.no_grad():
            probe = next(model.parameters())
            scores = model.eval()(torch.zeros(1, *observation.image_shape, dtype=probe.dtype, device=probe.device))
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    names = [name for name, output in outputs.items() if output is scores]
    if not names:
        raise NotApplicable("the model does not end in a linear layer")
    layer = model.get_submodule(names[-1])
    assert isinstance(layer, nn.Linear)
    return names[-1], layer
