"""Pictures as extreme points: a linear layer's gradient spans its inputs, and no pixel is below black or above white.

The layer's gradient is a sum of (slope) times (input), so that every input lies in its row space, whatever the activation
behind the layer, the labels and the state of training; after several local steps too, if the layer sees the pictures
themselves. Within that space, pictures with black or white pixels are extreme points of what the pixels' range allows: more
pixels are at its ends than the space has dimensions. The same holds of features that ReLU made zero. A linear program finds
extreme points; the known model tells those that are inputs from those that are not.
"""

import functools
import itertools
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.directions.layers import Tail, dtype_of, entry, tail, victim
from attacks.directions.low_rank import Split, split
from attacks.labels.counts import whole_counts
from attacks.labels.last_layer import last_layer, parameters_at
from learning.catalogue import Count, Positive, settings

LEVELS = 255  # of a pixel, above black
LEVEL_ERROR, FARTHEST_LEVEL = 0.02, 0.1  # distances of a pixel from its level, in levels, that a true picture may have
TOLERANCES = (1e-6, 1e-5, 1e-4, 1e-3)  # by how much the search may leave a pixel's range, in units of it
FARTHEST = 1e3  # coordinate of a point
DARKNESS = 0.003  # worth of all pixels together against that of the one that is made bright
FITS = 0.02  # relative error up to which an input explains its share of a gradient
SAME = 0.999  # cosine of two examples' pixels above which they are one
AGREE = 0.005  # relative difference of two examples' amounts in an update that was clipped
REFINEMENTS = 12
NOISE_ROWS = 8  # of a gradient, at least, that tell how noisy it is


@dataclass(frozen=True)
class Space:
    """The inputs that a gradient allows: `point @ pixels` for every point with `point @ ones == 1`.

    `strength`: how strongly each direction stands in the gradient; `noise`: standard deviation of a gradient's entry. `white`:
    the greatest value of a pixel, infinite for features; the least is zero.
    """

    pixels: Float[Tensor, "rank pixels"]
    ones: Float[Tensor, " rank"]
    strength: Float[Tensor, " rank"]
    noise: float
    white: float

    @functools.cached_property
    def lit(self) -> Tensor:
        """Indices of the pixels that are not black throughout."""
        largest = self.pixels.abs().amax(0)
        return (largest > 1e-6 * largest.max()).nonzero().flatten()

    def error(self, point: Float[Tensor, " rank"]) -> float:
        """Standard deviation that the noise gives to each of a point's pixels."""
        return self.noise * float((point / self.strength).norm())


@dataclass(frozen=True)
class Member:
    """One example found: its pixels or features, and its class.

    `certified`: the known model gives this example its share of the update, and every pixel is one of 256 levels.
    """

    pixels: Float[Tensor, " pixels"]
    label: int
    certified: bool


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

    tries: Count = 48
    patience: Count = 8
    seconds: Positive = 60.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        end = bounded(observation)
        gradient = end.layers[0].gradient
        parts = here = spanned(gradient, observation.examples)
        inside, answer = space(parts, end), Answer(observation, end)
        members: list[Member] = []
        strangers: list[tuple[Member, float]] = []
        points: list[Tensor] = []
        began, idle = time.monotonic(), 0
        for turn in itertools.count():
            if len(members) == parts.rank or idle == self.tries or time.monotonic() - began > self.seconds:
                break
            idle += 1
            tolerance = TOLERANCES[turn % len(TOLERANCES)]
            point = vertex(inside, objective(inside, points, rng), tolerance)
            if point is not None:
                point = polished(inside, point, tolerance)
                member = judged(parts, answer, given := inputs(here, point), inside)
                if member is None and not members and observation.steps == 1:
                    answer.size = 1.0
                    strangers.append(likeness(parts, answer, given, inside))
                    answer.size = clipped_to(strangers, parts.rank)
                    member = judged(parts, answer, given, inside) if answer.size < 1 else None
                if member is not None and joined(members, member):
                    points.append(point)
                    idle = 0
            if points and idle and idle % self.patience == 0 and observation.steps == 1:
                here, points = without(gradient, parts, answer, members), []
                inside = space(here, end)
        if observation.steps == 1:
            return reconstruction([answer], refined(gradient, parts, answer, members, inside))
        answers = [answer, Answer(observation, end, share=1.0)]
        return reconstruction(answers, relabelled(gradient, answers, members) if members else members)


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


def spanned(gradient: Float[Tensor, "units columns"], examples: int) -> Split:
    """The split for so many examples, or for fewer where a trained network has fewer units that anything activates."""
    live = int(gradient.abs().amax(1).gt(0).sum())
    return split(gradient, max(1, min(examples, live - NOISE_ROWS, gradient.shape[1] - NOISE_ROWS)))


def pixels_of(end: Tail, given: Float[Tensor, "... pixels"]) -> Float[Tensor, "... pixels"]:
    """The picture of which this is the first layer's input; features are left as they are."""
    return given if end.slope is None or end.offset is None else (given - end.offset) / end.slope


def given_by(end: Tail, pixels: Float[Tensor, " pixels"]) -> Float[Tensor, " pixels"]:
    """The first layer's input by that picture."""
    return pixels if end.slope is None or end.offset is None else pixels * end.slope + end.offset


def space(parts: Split, end: Tail) -> Space:
    """The inputs of the tail's first layer that the split of its gradient allows."""
    directions = parts.right / parts.values[:, None]
    pixels, ones = directions[:, :-1], directions[:, -1]
    noise = max(parts.noise, 1e-16 * float(parts.values[0]))
    if end.slope is None or end.offset is None:
        return Space(pixels, ones, parts.values, noise, torch.inf)
    return Space((pixels - ones[:, None] * end.offset) / end.slope, ones, parts.values, noise, 1.0)


def inputs(parts: Split, point: Float[Tensor, " rank"]) -> Float[Tensor, " columns"]:
    """The layer's input that a point stands for, with the one that the bias sees at its end."""
    return (point / parts.values) @ parts.right


def without(gradient: Tensor, parts: Split, answer: "Answer", members: list[Member]) -> Split:
    """The split of what is left of the gradient where the slopes of the examples that were found are projected out.

    The other examples' inputs span its row space, and it is smaller.
    """
    slopes = torch.stack([answer.slopes(member.pixels)[member.label, parts.live] for member in members], 1)
    known = torch.linalg.qr(parts.left @ (parts.left.T @ functional.normalize(slopes, dim=0)))[0]
    left = torch.zeros_like(gradient)
    left[parts.live] = gradient[parts.live] - known @ (known.T @ gradient[parts.live])
    return spanned(left, answer.observation.examples - len(members))


def objective(inside: Space, points: list[Tensor], rng: torch.Generator) -> Float[Tensor, " rank"]:
    """What the search makes small: all pixels a little, less one pixel drawn. The points found do not differ in it."""
    lit = inside.lit
    drawn = lit[torch.randint(len(lit), (1,), generator=rng)]
    aim = DARKNESS * inside.pixels[:, lit].sum(1) - inside.pixels[:, drawn].sum(1)
    if len(points) > 1:
        basis = torch.linalg.qr(torch.stack([point - points[0] for point in points[1:]], 1))[0]
        aim = aim - basis @ (basis.T @ aim)
    return aim


def vertex(inside: Space, aim: Float[Tensor, " rank"], tolerance: float) -> Float[Tensor, " rank"] | None:
    """The point where `aim` is least, pixels within their range up to the tolerance; None where there is none.

    Points that the noise moves by more than the tolerance are left out.
    """
    pixels = inside.pixels[:, inside.lit].T.numpy(force=True)
    farthest = (tolerance / (4 * inside.noise) * inside.strength).clamp_max(FARTHEST).numpy(force=True)
    sides, limits = [-pixels], [np.full(len(pixels), tolerance)]
    if inside.white < torch.inf:
        sides.append(pixels)
        limits.append(np.full(len(pixels), inside.white + tolerance))
    found = linprog(
        aim.numpy(force=True), A_ub=np.concatenate(sides), b_ub=np.concatenate(limits),
        A_eq=inside.ones[None].numpy(force=True), b_eq=[1.0], bounds=np.stack([-farthest, farthest], 1), method="highs-ds",
    )  # fmt: skip
    return torch.as_tensor(found.x).to(inside.ones) if found.status == 0 else None


def polished(inside: Space, point: Float[Tensor, " rank"], tolerance: float) -> Float[Tensor, " rank"]:
    """The point nearby at which most pixels that are nearly black or white are so exactly.

    Least absolute errors by reweighted least squares, so that pixels which only seem so do not count; the noise pulls weak
    directions to zero.
    """
    within, least = 10 * tolerance, 0.0
    pull, ones = inside.noise * torch.eye(len(point)).to(point), inside.ones * inside.strength
    while within > least:
        values = point @ inside.pixels
        target = (values > 0.5).to(values) * (inside.white if inside.white < torch.inf else 0.0)
        far = (values - target).abs()
        tied = far < 10 * within
        weight = (within / far[tied].clamp_min(within)).sqrt()
        design = (inside.pixels[:, tied] * inside.strength[:, None]).T * weight[:, None]
        heavy = 1e4 * design.norm()
        design = torch.cat([design, pull * weight.norm(), heavy * ones[None]])
        wanted = torch.cat([target[tied] * weight, weight.new_zeros(len(point)), heavy.reshape(1)])
        point = torch.linalg.lstsq(design, wanted[:, None]).solution[:, 0] * inside.strength
        least = max(1e-8, 4 * inside.error(point))
        within = within / 3
    return point


class Answer:
    """What the known model answers to one input of the layer, and how its logits depend on the layer's output.

    `share`: of the way from the model sent (0) to the one that the client reached (1). `size`: of the update, as clipping by
    norm left it, in units of what it was.
    """

    def __init__(self, observation: Observation, end: Tail, share: float = 0.0):
        self.observation, self.end, self.size = observation, end, 1.0
        self.model = victim(observation)
        for name, reached in parameters_at(observation, share).items() if share else ():
            self.model.get_parameter(name).data = reached.double()

    def slopes(self, pixels: Float[Tensor, " pixels"]) -> Float[Tensor, "classes units"]:
        """The share in the layer's slope that an example with these pixels has, for each class that it may be of."""
        output = self._output(pixels).detach().requires_grad_()
        logits = self._logits(output, pixels)
        rows = torch.stack([torch.autograd.grad(logit, output, retain_graph=True)[0] for logit in logits])
        errors = torch.softmax(logits.detach(), 0) - torch.eye(len(logits)).to(logits)
        return self.size * errors @ rows / self.observation.examples

    def probabilities(self, pixels: Float[Tensor, " pixels"]) -> Float[Tensor, " classes"]:
        """Of the classes, as the model has them for an example with these pixels."""
        with torch.no_grad():
            return torch.softmax(self._logits(self._output(pixels), pixels), 0)

    def _output(self, pixels: Tensor) -> Tensor:
        return self.model.get_submodule(self.end.layers[0].name)(given_by(self.end, pixels))

    def _logits(self, output: Tensor, pixels: Tensor) -> Tensor:
        if self.end.slope is None:
            for layer in self.end.layers[1:]:
                assert layer.bias is not None
                output = functional.relu(output) @ layer.weight.T + layer.bias
            return output
        module = self.model.get_submodule(self.end.layers[0].name)
        hook = module.register_forward_hook(lambda _, __, ___: output[None])
        try:
            return self.model(pixels.reshape(1, *self.observation.image_shape))[0]
        finally:
            hook.remove()


def judged(parts: Split, answer: Answer, given: Float[Tensor, " columns"], inside: Space) -> Member | None:
    """The example whose input that is, or None where the model knows of none."""
    member, amount = likeness(parts, answer, given, inside)
    # after several local steps the slope is a sum along the way, and lies in the column space only nearly
    fits = abs(amount - 1) < FITS if answer.observation.steps == 1 else member.certified
    return member if fits else None


def likeness(parts: Split, answer: Answer, given: Float[Tensor, " columns"], inside: Space) -> tuple[Member, float]:
    """What that input would be as an example, and how often the gradient holds it; nought where it does not.

    An example with input x and slope d is a summand `d x` of the gradient G. That it is one shows by two things that the
    search does not see: d lies in the column space of G, and `d G+ x` is 1 (Wedderburn's rank reduction).
    """
    end = answer.end
    weights = given @ parts.right.T / parts.values.square()  # how the input is combined of what the directions hold
    pixels = pixels_of(end, given[:-1])
    slopes = answer.slopes(pixels)
    seen = slopes[:, parts.live] @ parts.left
    outside = (1 - (seen.norm(dim=1) / slopes.norm(dim=1).clamp_min(1e-300)).square()).clamp_min(0).sqrt()
    label = int(outside.argmin())
    error = inside.noise * float(weights.norm())
    levels = pixels * LEVELS
    away = float((levels - levels.round()).abs().max())
    exact = end.slope is not None and away < min(LEVEL_ERROR + 3 * LEVELS * error, FARTHEST_LEVEL)
    amount = float(seen[label] @ weights) if float(outside[label]) < FITS else 0.0
    return Member(levels.round() / LEVELS if exact else pixels, label, exact), amount


def clipped_to(strangers: list[tuple[Member, float]], rank: int) -> float:
    """What clipping by norm left of the update, by what it holds too often to be its examples; one where no two agree.

    An update that was made smaller holds every example more than once by the model's slopes, and each as often.
    """
    often = [(member, amount) for member, amount in strangers if amount > 1 + FITS]
    if rank == 1 and often:
        return 1 / often[0][1]
    for (one, amount), (other, again) in itertools.combinations(often, 2):
        if abs(amount / again - 1) < AGREE and not _same(one, other):
            return 2 / (amount + again)
    return 1.0


def _same(one: Member, other: Member) -> bool:
    return float(functional.cosine_similarity(one.pixels, other.pixels, dim=0)) > SAME


def refined(gradient: Tensor, parts: Split, answer: Answer, members: list[Member], inside: Space) -> list[Member]:
    """The members, those that are not certified as least squares of the gradient over all members' slopes has them.

    That is exact up to what the examples not found left in the gradient.
    """
    for _ in range(REFINEMENTS):
        if all(member.certified for member in members):
            break
        slopes = torch.stack([answer.slopes(member.pixels)[member.label] for member in members], 1)
        rows = torch.linalg.lstsq(slopes, gradient).solution
        again = [judged(parts, answer, row / row[-1], inside) for row in rows]
        members = [old if old.certified or new is None else new for old, new in zip(members, again, strict=True)]
    return members


def relabelled(gradient: Tensor, answers: list[Answer], members: list[Member]) -> list[Member]:
    """The members with the classes that fit the slopes which the gradient of several local steps holds for them.

    Those slopes are sums along the client's path: least squares over all members has them, and the means of what the models
    at its two ends say for each class are nearest to that of the true one.
    """
    given = torch.stack([given_by(answers[0].end, member.pixels) for member in members])
    given = torch.cat([given, given.new_ones(len(given), 1)], 1)
    slopes = torch.linalg.lstsq(given.T, gradient.T).solution
    fit = [
        functional.cosine_similarity(torch.stack([a.slopes(member.pixels) for a in answers]).mean(0), slope[None])
        for member, slope in zip(members, slopes, strict=True)
    ]
    return [replace(member, label=int(row.argmax())) for member, row in zip(members, fit, strict=True)]


def joined(members: list[Member], new: Member) -> bool:
    """Adds an example that is not there yet, or puts a certified one in the place of one that is nearly it."""
    for index, member in enumerate(members):
        if _same(member, new):
            better = new.certified and not member.certified
            if better:
                members[index] = new
            return better
    members.append(new)
    return True


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
