"""Is this update one that this model could have sent, under this training? Said in words, before any attack is blamed.

The laws are those of the mean cross-entropy's gradient at a last linear layer with a bias: each entry is the mean of p - y over
the batch, so that the entries sum to zero, lie in [-1, 1], and their positive part sums to at most one.
"""

import torch
from torch import Tensor

from attacks.attack import NotApplicable, Observation
from attacks.labels.last_layer import LastLayer, common_input, last_layer
from learning.tensors import parameters_of

SUM, EXCESS = 1e-3, 1.01  # how far the sum may be from zero, as a share of the entries; how large the positive part may be
LIKE, UNLIKE = 0.05, 0.12  # mean distance of counts from whole numbers: of right ones, of wrong ones (0.25 at random)


def foreign(observation: Observation) -> list[str]:
    """Which names and shapes of the update are not the model's: with any of these no attack makes sense."""
    own, shared = parameters_of(observation.model), observation.update.parameters
    found = [f"the update lacks the model's parameter '{name}'" for name in own if name not in shared]
    found += [f"the update holds '{name}', which is no parameter of the model" for name in shared if name not in own]
    return found + [
        f"'{name}' has shape {tuple(shared[name].shape)} in the update, and {tuple(own[name].shape)} in the model"
        for name in own
        if name in shared and own[name].shape != shared[name].shape
    ]


def misfits(observation: Observation) -> list[str]:
    """What does not fit in an update whose names and shapes do, one sentence each.

    Empty where nothing was found, which is no proof that all fits.
    """
    shared = observation.update.parameters
    if broken := [name for name, tensor in shared.items() if not tensor.isfinite().all()]:
        return [f"'{broken[0]}' holds numbers that are not finite"]
    if not any(tensor.any() for tensor in shared.values()):
        return ["the update is zero throughout: nothing was learned, or nothing is shared"]
    return _last_layer_misfits(observation)


def _last_layer_misfits(observation: Observation) -> list[str]:
    try:
        layer = last_layer(observation)
    except NotApplicable as reason:
        return [f"{reason}, so that the loss's laws cannot be checked"]
    gradient = layer.bias_gradient
    if gradient is None or not gradient.any():
        return []
    found = []
    total, size = float(gradient.sum()), float(gradient.abs().sum())
    if abs(total) > SUM * size:
        found.append(
            f"the last bias's gradient sums to {total / size:.1g} of its size and not to zero: the loss is not the mean "
            f"cross-entropy, weight decay was on, or a defense changed the update"
        )
    positive = float(gradient.clamp_min(0).sum())
    if positive > EXCESS:
        found.append(
            f"the last bias's gradient is {positive:.3g} times larger than a mean cross-entropy's can be: the learning rate, "
            f"the number of steps or the momentum is not what was said, or the loss was summed and not averaged"
        )
    elif _reversed(layer, gradient, observation.examples):
        found.append(
            "the update points uphill: its sign is that of the other kind (a gradient where a delta is said, or a delta)"
        )
    return found


def _reversed(layer: LastLayer, gradient: Tensor, examples: int) -> bool:
    """Whether the gradient's opposite gives counts that are whole and not negative, and the gradient itself does not.

    The probabilities are those of the rank-one embedding, in which the sign cancels: so this speaks of models that answer all
    pictures nearly alike, and is silent elsewhere.
    """
    bias = torch.zeros_like(gradient) if layer.bias is None else layer.bias
    seen = torch.softmax(layer.weight @ common_input(layer.weight_gradient, gradient) + bias, 0)
    counts = [examples * (seen - sign * gradient) for sign in (1, -1)]
    here, opposite = (float(((n - n.round()).abs() + (-n).clamp_min(0)).mean()) for n in counts)
    return here > UNLIKE and opposite < LIKE
