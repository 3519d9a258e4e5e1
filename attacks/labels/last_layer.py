"""The classifier's last layer: label restoration reads its gradient and nothing else."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.attack import NotApplicable, Observation
from learning.tensors import Tensors, parameters_of, seeded


@dataclass(frozen=True)
class LastLayer:
    """The final linear layer as sent, and its mean gradient, in float64. `bias` and its gradient are None where it has none."""

    name: str
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
        name,
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


def parameters_at(observation: Observation, share: float) -> Tensors:
    """The model's parameters after that share of the way from the model sent (0) to the model that the client reached (1).

    Only a delta says what was reached. Raises `NotApplicable` where a share is asked of a gradient.
    """
    parameters = parameters_of(observation.model)
    if share == 0:
        return parameters
    if observation.training.shared != "delta":
        raise NotApplicable("a shared gradient does not say which model the client reached")
    changes = observation.update.parameters
    return {name: p + share * changes[name].to(p) if name in changes else p for name, p in parameters.items()}


@torch.no_grad()
def answers(
    observation: Observation, images: Float[Tensor, "n channels height width"], rng: torch.Generator, share: float = 0.0
) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n classes"]]:
    """What the last layer is given for the pictures, and the class probabilities that the model answers, in float64.

    The model stands at that share of its way (`parameters_at`) and is in the mode in which the client used it; neither its
    buffers nor the global generators move.
    """
    _, layer = _found(observation)
    probe = layer.weight
    parameters, inputs, scores = parameters_at(observation, share), [], []
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].double()))
    parts = [images] if observation.model.training else images.split(256)  # BatchNorm wants the whole batch
    try:
        with seeded(int(torch.randint(2**62, (1,), generator=rng)), probe.device):  # dropout draws from it
            for part in parts:
                state = parameters | {n: b.clone() for n, b in observation.model.named_buffers()}
                scores.append(torch.func.functional_call(observation.model, state, (part.to(probe),)).double())
    finally:
        hook.remove()
    return torch.cat(inputs), torch.softmax(torch.cat(scores), 1)


def dummy_pictures(observation: Observation, count: int, spread: float, rng: torch.Generator) -> Tensor:
    """Pictures of pure noise around mid-grey, `spread` being their deviation in units of the pixel range."""
    return 0.5 + spread * torch.randn(count, *observation.image_shape, generator=rng)


_NAMES: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()  # a deep model is asked once, not once an update


def _found(observation: Observation) -> tuple[str, nn.Linear]:
    """The last linear layer's name and the layer."""
    model = observation.model
    if model not in _NAMES:
        _NAMES[model] = _last_to_run(model, observation.image_shape)
    layer = model.get_submodule(_NAMES[model])
    assert isinstance(layer, nn.Linear)
    return _NAMES[model], layer


def _last_to_run(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    """The name of the linear layer whose output is the model's output. Raises `NotApplicable` if there is none."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    mode = model.training
    try:
        with torch.no_grad():
            probe = next(model.parameters())
            scores = model.eval()(torch.zeros(1, *image_shape, dtype=probe.dtype, device=probe.device))
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    names = [name for name, output in outputs.items() if output is scores]
    if not names:
        raise NotApplicable("the model does not end in a linear layer")
    return names[-1]
