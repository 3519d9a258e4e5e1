"""Pictures as extreme points of what a linear layer's gradient allows."""

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.directions.extreme import PATIENCE, TRIES, Answer, Member, examples_at_ends, relabelled
from attacks.directions.layers import Tail, dtype_of, entry, tail
from attacks.labels.counts import whole_counts
from attacks.labels.last_layer import last_layer, parameters_at
from learning.catalogue import Count, Positive, settings


@settings
class ExtremePoints(Attack):
    """Pictures and labels of those examples of a batch that its update still shows, on trained networks too.

    Needs a linear layer with a bias that sees the pictures, whatever follows it, or one that ReLU feeds and that linear layers
    with ReLU between lead from to the classes (labels only). The batch must be smaller than that layer, and many of its
    inputs exactly zero or white: digits, clothes on black, features after ReLU; not photographs.

    `tries`: linear programs without a new example after which the search gives up. `patience`: after how many of them the
    examples that were found are taken out of the gradient, which makes the space smaller (one local step only). `seconds`:
    after which the search gives up in any case.

    Pictures that were not found are grey and not certified; for their labels see `remaining_labels`. An example of which the
    model is sure leaves nothing in the update but rounding, and no method finds it.
    Clipping by norm is undone after one step, once two examples agree by how much.
    After one step a picture is certified if the known model, given it, answers with a slope that the gradient holds, in the
    right amount, and if all its pixels are multiples of 1/255. After several steps the levels alone decide.
    Raises `NotApplicable` where there is no such layer, or several local steps moved what stands before it.
    """

    tries: Count = TRIES
    patience: Count = PATIENCE
    seconds: Positive = 60.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        end = bounded(observation)
        answer, members = examples_at_ends(observation, end, rng, self.seconds, self.tries, self.patience)
        if observation.steps == 1:
            return reconstruction([answer], members)
        answers = [answer, Answer(observation, end, parameters_at(observation, 1.0))]
        return reconstruction(answers, relabelled(answers, members))


def bounded(observation: Observation) -> Tail:
    """The linear layer whose inputs have bounds, first in the tail. Raises `NotApplicable` where there is none."""
    try:
        end = entry(observation)
    except NotApplicable as no_picture:
        end = tail(observation)
        if len(end.layers) < 2:
            raise NotApplicable(f"{no_picture}; and ReLU feeds no hidden linear layer") from None
        if observation.steps > 1:
            raise NotApplicable("several local steps moved the layers that feed the first linear one") from None
    layer = end.layers[0]
    if layer.gradient.shape[1] == layer.weight.shape[1]:
        raise NotApplicable(f"layer '{layer.name}' has no bias, whose gradient says how large an input is")
    return end


def reconstruction(answers: list[Answer], members: list[Member]) -> Reconstruction:
    """What the examples found amount to. The rest of the pictures is grey."""
    observation, end = answers[0].observation, answers[0].end
    labels = label_rows(torch.tensor([member.label for member in members], dtype=torch.long), observation.classes)
    labels = torch.cat([labels, remaining_labels(answers, members)])
    whole = len(members) == observation.examples
    word = f"{len(members)} of {observation.examples} examples were found as extreme points of what the gradient allows"
    if not whole:
        word += "; the others are below its noise, or have too few black pixels"
    if end.slope is None:
        return Reconstruction(labels=labels, identifiable=whole, verdict=f"{word}; the pictures stand behind other layers")
    certified = torch.zeros(observation.examples, dtype=torch.bool)
    images = torch.full((observation.examples, *observation.image_shape), 0.5, dtype=dtype_of(observation))
    for index, member in enumerate(members):
        certified[index] = member.certified
        images[index] = member.pixels.reshape(observation.image_shape).clamp(0, 1)
    proven = "no picture is certified"
    if certified.any():
        agrees = "the model agrees, and " if observation.steps == 1 else ""
        proven = f"{int(certified.sum())} of the pictures are certified: {agrees}every pixel is one of 256 levels"
    return Reconstruction(
        images=images, labels=labels, certified=certified, identifiable=whole,
        verdict=f"{word}; {proven}",
    )  # fmt: skip


def remaining_labels(answers: list[Answer], members: list[Member]) -> Float[Tensor, "remaining classes"]:
    """The labels of the examples that were not found: what the members leave of the last layer's bias gradient says, or even.

    An example adds (what the model answers - its label) there. If the answers to those not found are even, as an untrained
    model's are, their counts follow. If the model is sure of them, they add nothing: then nothing is known, and even counts
    are right most often.
    """
    observation = answers[0].observation
    missing = observation.examples - len(members)
    rest = torch.zeros(observation.classes, dtype=torch.float64)
    gradient = last_layer(observation).bias_gradient
    if gradient is not None:
        rest = observation.examples * gradient.cpu() / answers[0].size
        for member in members:
            rest -= torch.stack([a.probabilities(member.pixels) for a in answers]).mean(0).cpu()
            rest[member.label] += 1
    counts = whole_counts(missing / observation.classes - rest, missing)
    return label_rows(torch.arange(observation.classes).repeat_interleave(counts), observation.classes)
