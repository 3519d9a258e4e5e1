"""Labels of a batch that is taken apart at a hidden layer, one example after the other."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from attacks.attack import NotApplicable, Observation, label_rows
from attacks.directions.extreme import NOISE_ROWS, Answer, Member, examples_at_ends, relabelled
from attacks.directions.inputs import fault_of, inputs_of, unexplained
from attacks.directions.layers import Tail, tail
from attacks.directions.low_rank import split
from attacks.directions.search import Effort, searched_through
from attacks.labels.last_layer import last_layer, parameters_at
from learning.tensors import Update

UNITS = 4  # of the hidden layer for every example: with fewer the search finds hardly any batch
NOISY = 1e-3  # sine of the angle by which noise may turn the batch's directions: by more, and the search finds none
SEARCHABLE = 4_000_000  # entries of a layer whose inputs are searched for: MNIST's 784 to 1,024 units have a fifth of that
EXPLAINED = 0.01  # share of a layer's gradient that what was found may leave over


def classes_apart(observation: Observation, seconds: float, rng: torch.Generator) -> Tensor | None:
    """The class of every example, as far as the search of `spear-plus` finds all of them in that time; None where it does not.

    They are right if what was found, run through the last two layers, gives the gradients of both, and are not returned
    otherwise. It takes one local step, and a hidden linear layer with a bias that feeds the last one through ReLU.
    """
    try:
        end = tail(observation)
        hidden, last = end.layers[-2:]
        if observation.steps > 1 or hidden.bias is None or len(hidden.weight) < UNITS * observation.examples:
            return None
        parts = split(hidden.gradient, observation.examples)
    except (NotApplicable, ValueError):  # no such layers
        return None
    if parts.rank < observation.examples or parts.unsure > NOISY:
        return None
    found = searched_through(observation, parts, hidden, last, Effort(time.monotonic() + seconds), rng)
    if fault_of(found.directions):
        return None
    known = inputs_of(hidden, parts, found.directions)
    rows = label_rows(found.classes.cpu(), observation.classes).to(known.inputs)
    left = unexplained(Tail((hidden, last), None, None), known.inputs, rows, observation.examples)
    return found.classes.cpu() if left < EXPLAINED else None


def examples_apart(observation: Observation, seconds: float, rng: torch.Generator) -> tuple[Tensor, Observation | None]:
    """Classes of those examples that are found as extreme points, and what the others, if there are any, gave the last layer.

    A class is right if the known model, given the input found, answers with the slope that the gradient holds for it. Of the
    layers that can be searched the one counts that shows most. The observation of the others holds their mean gradient of
    the last layer, and is for label restorations. It takes one local step and ReLU behind a linear layer with a bias, which
    must have more units than the batch has examples.
    """
    answer, members, until = None, [], time.monotonic() + seconds
    try:
        layer, ends = last_layer(observation), _searchable(observation) if observation.steps == 1 else []
    except NotApplicable:  # the model does not end in linear layers with ReLU between them
        return _classes([]), observation
    for index, end in enumerate(ends):
        share = (until - time.monotonic()) / (len(ends) - index)
        try:
            found = examples_at_ends(observation, end, rng, max(share, 0.0))
        except NotApplicable:  # its gradient holds fewer directions than the batch has examples
            continue
        answer, members = max((answer, members), found, key=lambda one: len(one[1]))
        if len(members) == observation.examples:
            return _classes(members), None
    if answer is None or layer.bias_gradient is None or not members:
        return _classes([]), observation
    weight, bias = (observation.examples * g / answer.size for g in (layer.weight_gradient, layer.bias_gradient))
    for member in members:
        error = answer.probabilities(member.pixels)
        error[member.label] -= 1
        weight, bias = weight - torch.outer(error, answer.last_input(member.pixels)), bias - error
    missing = observation.examples - len(members)
    left = {f"{layer.name}.weight": weight / missing, f"{layer.name}.bias": bias / missing}
    training = replace(observation.training, shared="gradient")
    return _classes(members), replace(observation, update=Update(left), training=training, examples=missing)


def pictures_apart(observation: Observation, seconds: float, rng: torch.Generator) -> Tensor:
    """Classes of those examples whose pictures are found as extreme points of what several local steps shared.

    A picture counts if all its pixels are of 256 levels. Its class is the one by which the models at the two ends of the
    client's path answer most like what the update holds of it, and may be wrong. It takes a first layer that sees pictures.
    """
    try:
        ends = [end for end in _searchable(observation) if end.slope is not None]
        if not ends:
            return _classes([])
        answer, members = examples_at_ends(observation, ends[0], rng, seconds)
    except NotApplicable:  # the model does not end in linear layers with ReLU between them, or the gradient has few directions
        return _classes([])
    return _classes(relabelled([answer, Answer(observation, ends[0], parameters_at(observation, 1.0))], members))


def _classes(members: list[Member]) -> Tensor:
    return torch.tensor([member.label for member in members], dtype=torch.long)


def _searchable(observation: Observation) -> list[Tail]:
    """The tails from each layer on whose gradient is small enough to be split, and whose units outnumber the examples.

    The last, which is mostly the smallest and the soonest searched, comes first.
    """
    end = tail(observation)
    return [
        Tail(end.layers[index:], None, None) if index else end
        for index, layer in reversed(list(enumerate(end.layers[:-1])))
        if layer.bias is not None
        and layer.weight.numel() <= SEARCHABLE
        and min(layer.weight.shape) >= observation.examples + NOISE_ROWS
    ]
