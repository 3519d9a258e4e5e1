"""Peeling: examples that some unit sees alone, taken off one after another; and the search of `spear-plus` for the rest.

A unit of the first layer that ReLU leaves open for a single example has, as its row of the gradient, that example's input
times a number, and the bias gradient is the number: their ratio is the input (Geiping et al., NeurIPS 2020, proposition 3.1).
Its share of the whole gradient is then known and is subtracted, which leaves other units with a single example; and so on
until no unit has one. That needs units that are open for few pictures, as there are where pictures are between 0 and 1:
normalised to mean zero, pictures leave every unit open for about half of them.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.exact.assembly import refined
from attacks.exact.certificate import certify, slopes_at_first
from attacks.exact.layers import Tail, dtype_of, tail, victim
from attacks.exact.low_rank import Split, split
from attacks.exact.spear_plus import SpearPlus, completed_labels
from learning.catalogue import Positive, settings
from learning.tensors import Update

TOLERANCE, UNSURE = 1e-6, 20.0  # relative, of all that an input must reproduce; times the gradient's own uncertainty
OUTSIDE = 1e-3  # of their range, by which pixels may miss it
FAINT = 1e-9  # bias gradient, relative to the greatest, below which a row says nothing
ALIKE = 1 - 1e-9  # cosine above which two slopes are one
SETTLINGS = 2


@settings
class Peeling(Attack):
    """The pictures and labels of a batch from a network with one hidden layer of ReLU, peeled off unit by unit.

    What a unit says of an example is believed if the known model, given it, answers with a slope that the gradient holds, in
    the right amount (see `believed`). What no unit sees alone is left to `spear-plus`, as an update of fewer examples.

    `finish`: whether it is; without it this is peeling alone. `seconds`: after which `spear-plus` gives up.

    Where all examples are found, the certificate is that of the whole batch; else peeled pictures are certified one by one.
    Pictures not found are grey and not certified, and their labels are what `auto` restores.
    Raises `NotApplicable` for several local steps, for another network, and where the batch is as large as the layer.
    """

    finish: bool = True
    seconds: Positive = 300.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.steps != 1:
            raise NotApplicable(f"units are peeled off one local step's gradient, and the client made {observation.steps}")
        end = tail(observation)
        if len(end.layers) != 2 or end.slope is None:
            raise NotApplicable("the network is not one hidden layer of ReLU that sees the picture; see spear-plus")
        if end.layers[0].bias is None:
            raise NotApplicable(f"layer '{end.layers[0].name}' has no bias, whose gradient says how large an input is")
        parts = split(end.layers[0].gradient, observation.examples)
        alone = peeled(end, parts, observation.examples)
        rest = _finished(observation, end, alone, self.seconds, rng) if self.finish and len(alone) < parts.rank else None
        found = alone if rest is None else alone.joined_by(rest)
        labels = completed_labels(observation, found.classes, rng)
        pictures = end.pictures(found.inputs, observation.image_shape)
        if len(found) == parts.rank:
            rows = labels[: len(found)].to(pictures)
            pictures = refined(observation, end, found.inputs, rows)
            certificate = certify(observation, end, parts, pictures, rows)
            certified, word = certificate.certified, certificate.sentence
        else:
            certified = torch.ones(len(found), dtype=torch.bool)
            word = f"{len(found)} of {observation.examples} pictures were peeled off, and the model agrees with each"
        missing = observation.examples - len(found)
        grey = pictures.new_full((missing, *observation.image_shape), 0.5)
        return Reconstruction(
            images=torch.cat([pictures.nan_to_num(0.5).clamp(0, 1), grey]).cpu().to(dtype_of(observation)),
            labels=labels,
            certified=torch.cat([certified.cpu(), torch.zeros(missing, dtype=torch.bool)]),
            identifiable=bool(certified.any()),
            verdict=f"{word}; {len(alone)} examples were peeled off",
        )


@dataclass(frozen=True)
class Peeled:
    """Examples found: their inputs to the first layer and their classes."""

    inputs: Float[Tensor, "found inputs"]
    classes: Int[Tensor, " found"]

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, chosen: Tensor) -> "Peeled":
        """Those at these indices, or where the mask is true."""
        return Peeled(self.inputs[chosen], self.classes[chosen])

    def joined_by(self, others: "Peeled") -> "Peeled":
        """These, and the others after them."""
        return Peeled(torch.cat([self.inputs, others.inputs]), torch.cat([self.classes, others.classes]))


def peeled(end: Tail, parts: Split, examples: int) -> Peeled:
    """All examples that peeling finds in the gradient of a mean over so many, of which `parts` is the split."""
    gradient = examples * end.layers[0].gradient
    tolerance = max(TOLERANCE, UNSURE * parts.unsure)
    found = Peeled(gradient[:0, :-1], parts.live[:0])
    while len(found) < parts.rank:
        left = gradient - slopes_of(end, found).T @ with_one(found.inputs)
        new = _seen_alone(end, left, tolerance)
        new = new.at(believed(end, parts, new, examples, tolerance))
        new = new.at(_others(slopes_of(end, found), slopes_of(end, new)))
        if not len(new):
            break
        found = _settled(end, gradient, found.joined_by(new))
    return found.at(believed(end, parts, found, examples, tolerance))


def slopes_of(end: Tail, found: Peeled) -> Float[Tensor, "found units"]:
    """Every example's slope of its own loss at the first layer's output."""
    answers = end.layers[0].answers(found.inputs)
    errors = _probabilities(end, answers) - functional.one_hot(found.classes, len(end.layers[1].weight))
    return (answers > 0) * (errors @ end.layers[1].weight)


def with_one(inputs: Float[Tensor, "some inputs"]) -> Float[Tensor, "some columns"]:
    """Inputs with the one beside them that the bias sees."""
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)


def _probabilities(end: Tail, answers: Tensor) -> Float[Tensor, "some classes"]:
    return torch.softmax(end.layers[1].answers(answers.clamp_min(0)), 1)


def _seen_alone(end: Tail, left: Float[Tensor, "units columns"], tolerance: float) -> Peeled:
    """What units say that may be left with a single example, the clearest first; an example may come several times.

    A unit's row over its bias gradient is the input if it is alone. If so, pixels lie within their range, and the model gives
    one class the slope that is that bias gradient.
    """
    bias = left[:, -1]
    units = (bias.abs() > FAINT * bias.abs().max()).nonzero().flatten()
    units = units[bias[units].abs().argsort(descending=True)]
    inputs = left[units, :-1] / bias[units, None]
    pixels = end.pictures(inputs, (1, 1, inputs.shape[1])).flatten(1)
    inside = ((pixels > -OUTSIDE) & (pixels < 1 + OUTSIDE)).all(1)
    units, inputs = units[inside], inputs[inside]
    answers = end.layers[0].answers(inputs)
    outgoing = end.layers[1].weight[:, units].T
    slopes = (_probabilities(end, answers) * outgoing).sum(1, keepdim=True) - outgoing
    distances = (slopes / bias[units, None] - 1).abs()
    fits = (answers.gather(1, units[:, None])[:, 0] > 0) & (distances.amin(1) < tolerance)
    return Peeled(inputs[fits], distances.argmin(1)[fits])


def believed(end: Tail, parts: Split, found: Peeled, examples: int, tolerance: float) -> Bool[Tensor, " found"]:
    """Which of these the gradient holds, by two things that a single unit does not show.

    The gradient is a sum of slopes times inputs. An example's slope d therefore lies in its column space, and with its input x
    and the gradient G of the sum, d G+ x is 1 (Wedderburn's rank reduction).
    """
    slopes = slopes_of(end, found)[:, parts.live]
    seen = slopes @ parts.left
    outside = (slopes - seen @ parts.left.T).norm(dim=1) / slopes.norm(dim=1).clamp_min(1e-300)
    weights = with_one(found.inputs) @ (parts.right / parts.values[:, None].square()).T
    amount = (seen * weights).sum(1) / examples
    return (outside < tolerance) & ((amount - 1).abs() < tolerance)


def _others(known: Float[Tensor, "known units"], slopes: Float[Tensor, "new units"]) -> Int[Tensor, " others"]:
    """Indices of slopes that are neither among those known nor alike."""
    known, slopes = functional.normalize(known, dim=1), functional.normalize(slopes, dim=1)
    kept: list[int] = []
    for index in range(len(slopes)):
        if not bool((torch.cat([known, slopes[kept]]) @ slopes[index] > ALIKE).any()):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=slopes.device)


def _settled(end: Tail, gradient: Float[Tensor, "units columns"], found: Peeled) -> Peeled:
    """The examples with inputs by least squares over all units that see no others, so that errors do not add up."""
    for _ in range(SETTLINGS):
        slopes = slopes_of(end, found)
        explained = slopes.T @ with_one(found.inputs)
        left = gradient - explained
        whole = left.norm(dim=1) < TOLERANCE * explained.norm(dim=1)
        change = torch.linalg.lstsq(slopes[:, whole].T, left[whole, :-1], rcond=1e-9, driver="gelsd").solution
        found = replace(found, inputs=found.inputs + change)
    return found


def _finished(observation: Observation, end: Tail, known: Peeled, seconds: float, rng: torch.Generator) -> Peeled | None:
    """The other examples, by `spear-plus` from what those known leave of the update; None where it does not find them."""
    rest = observation.examples - len(known)
    rows = label_rows(known.classes, observation.classes).to(known.inputs)
    pictures = end.pictures(known.inputs, observation.image_shape)
    gradient = observation.gradient()
    if len(known):
        _, explained = slopes_at_first(victim(observation), end, pictures, rows, observation)
        gradient = {name: tensor.double() - explained[name] for name, tensor in gradient.items()}
    scale = observation.examples / rest
    update = Update({name: scale * tensor for name, tensor in gradient.items()})
    smaller = replace(observation, update=update, examples=rest, training=replace(observation.training, shared="gradient"))
    found = SpearPlus(seconds=seconds).reconstruct(smaller, rng)
    if found.images is None or found.labels is None or found.certified is None or not found.certified.all():
        return None
    return Peeled(end.inputs(found.images.to(known.inputs)), found.labels.argmax(1).to(known.classes))
