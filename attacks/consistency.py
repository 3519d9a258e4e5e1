"""Is this update one that this model could have sent, under this training? Said in words, before any attack is blamed.

The laws are those of the mean cross-entropy's gradient at a last linear layer with a bias: each entry is the mean of p - y over
the batch, so that the entries sum to zero, lie in [-1, 1], and their positive part sums to at most one.
"""

import torch
from torch import Tensor

from attacks.attack import NotApplicable, Observation
from attacks.directions.layers import common_input, entry
from attacks.labels.last_layer import LastLayer, last_layer
from learning.tensors import buffers_of, parameters_of

SUM, EXCESS = 1e-3, 1.01  # how far the sum may be from zero, as a share of the entries; how large the positive part may be
LIKE, UNLIKE = 0.05, 0.12  # mean distance of counts from whole numbers: of right ones, of wrong ones (0.25 at random)
AGREEING, ALIKE, OTHER_RATE = 3, 0.05, 1.6  # classes that agree on a learning rate, how closely, how far from the one said
SAME, OUTSIDE = 1e-4, 0.01  # how closely units agree on a pixel that all pictures share; how far it is outside [0, 1]


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
    return _last_layer_misfits(observation) + _buffer_misfits(observation) + _normalisation_misfits(observation)


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
    if times := _times_too_large(layer, gradient, observation.examples):
        found.append(
            f"the update is {times:.2g} times what it would be: the learning rate, the number of steps, the momentum or the "
            f"number of examples is not what was said, or the loss was summed and not averaged"
        )
    elif positive > EXCESS:
        found.append(
            f"the last bias's gradient is {positive:.3g} times larger than a mean cross-entropy's can be: the learning rate, "
            f"the number of steps or the momentum is not what was said, or the loss was summed and not averaged"
        )
    elif _reversed(layer, gradient, observation.examples):
        found.append(
            "the update points uphill: its sign is that of the other kind (a gradient where a delta is said, or a delta)"
        )
    return found


def _times_too_large(layer: LastLayer, gradient: Tensor, examples: int) -> float | None:
    """By how much the gradient is too large, where the classes that the batch lacks agree on it, and it is not nearly one.

    Of a class without examples the entry is the class's mean probability, and no other class has a larger share of its own.
    The counts must be whole with that size, and not as it came.
    """
    seen = _seen(layer, gradient)
    shares = (gradient / seen).sort(descending=True).values[:AGREEING]
    times = float(shares.mean())
    if len(shares) < AGREEING or shares[-1] <= 0 or float(shares[0] / shares[-1]) > 1 + ALIKE:
        return None
    fits = _off_whole(examples * (seen - gradient / times)) < LIKE < _off_whole(examples * (seen - gradient))
    return times if fits and max(times, 1 / times) > OTHER_RATE else None


def _seen(layer: LastLayer, gradient: Tensor) -> Tensor:
    """The probabilities that the model answers to the rank-one embedding, in which the gradient's sign and size cancel.

    So what rests on them speaks of models that answer all pictures nearly alike, and is silent elsewhere.
    """
    bias = torch.zeros_like(gradient) if layer.bias is None else layer.bias
    return torch.softmax(layer.weight @ common_input(layer.weight_gradient, gradient) + bias, 0)


def _off_whole(counts: Tensor) -> float:
    """Mean distance of counts from whole numbers that are not negative."""
    return float(((counts - counts.round()).abs() + (-counts).clamp_min(0)).mean())


def _buffer_misfits(observation: Observation) -> list[str]:
    """Running statistics that moved where the client was to leave them, or stood where they were to move."""
    sent, back = buffers_of(observation.model), observation.update.buffers
    moved = [not torch.equal(back[name], sent[name]) for name in sent if name in back and "running_" in name]
    if moved and not any(moved) and observation.training.batch_norm == "train":
        return ["BatchNorm's running statistics came back as they were: the client normalised by them (batch_norm = 'eval')"]
    if any(moved) and observation.training.batch_norm == "eval":
        return ["BatchNorm's running statistics moved: the client normalised by its batches (batch_norm = 'train')"]
    return []


def _normalisation_misfits(observation: Observation) -> list[str]:
    """A pixel that all pictures share (a black edge) is read off a first linear layer, whose units all agree on it."""
    try:
        first = entry(observation)
    except NotApplicable:
        return []
    (layer,) = first.layers
    assert first.slope is not None
    assert first.offset is not None
    if layer.bias is None:
        return []
    of_bias = layer.gradient[:, -1]
    strong = of_bias.abs() > 0.1 * of_bias.abs().max()
    if int(strong.sum()) < AGREEING:
        return []
    inputs = layer.gradient[strong, :-1] / of_bias[strong, None]
    agreed = inputs.std(0) < SAME * inputs.abs().mean(0)
    pixels = ((inputs.mean(0) - first.offset) / first.slope)[agreed]
    outside = pixels[(pixels < -OUTSIDE) | (pixels > 1 + OUTSIDE)]
    if not len(outside):
        return []
    return [
        f"a pixel that was the same in all pictures had the value {float(outside[0]):.3g}, and pictures lie in [0, 1]: they "
        f"were normalised by other constants than is said"
    ]


def _reversed(layer: LastLayer, gradient: Tensor, examples: int) -> bool:
    """Whether the gradient's opposite gives counts that are whole and not negative, and the gradient itself does not."""
    seen = _seen(layer, gradient)
    return _off_whole(examples * (seen - gradient)) > UNLIKE and _off_whole(examples * (seen + gradient)) < LIKE
