"""Examples as extreme points: a linear layer's gradient spans its inputs, and no pixel is below black or above white.

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

from attacks.attack import Observation
from attacks.directions.layers import Rectified, Tail, victim
from attacks.directions.low_rank import Split, split
from learning.tensors import Tensors

LEVELS = 255  # of a pixel, above black
LEVEL_ERROR, FARTHEST_LEVEL = 0.02, 0.1  # distances of a pixel from its level, in levels, that a true picture may have
TOLERANCES = (1e-6, 1e-5, 1e-4, 1e-3)  # by how much the search may leave a pixel's range, in units of it
FARTHEST = 1e3  # coordinate of a point
DARKNESS = 0.003  # worth of all pixels together against that of the one that is made bright
FITS = 0.02  # relative error up to which an input explains its share of a gradient
SAME = 0.999  # cosine of two examples' pixels above which they are one
AGREE = 0.005  # relative difference of two examples' amounts in an update that was clipped
REFINEMENTS = 12
TRIES, PATIENCE = 48, 8  # linear programs in vain before the search gives up, and takes out what it found
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


def examples_at_ends(
    observation: Observation, end: Tail, rng: torch.Generator, seconds: float, tries: int = TRIES, patience: int = PATIENCE
) -> tuple["Answer", list[Member]]:
    """The examples whose inputs to the first of those layers a search finds, and what the model sent answers to such inputs.

    `tries`: linear programs without a new example after which it gives up. `patience`: after how many of them the examples
    that were found are taken out of the gradient, which makes the space smaller (one local step only). `seconds`: after
    which it gives up in any case.
    """
    gradient = end.layers[0].gradient
    parts = here = spanned(gradient, observation.examples)
    inside, answer = space(parts, end), Answer(observation, end)
    members: list[Member] = []
    strangers: list[tuple[Member, float]] = []
    points: list[Tensor] = []
    began, idle = time.monotonic(), 0
    for turn in itertools.count():
        if len(members) == parts.rank or idle == tries or time.monotonic() - began > seconds:
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
        if points and idle and idle % patience == 0 and observation.steps == 1:
            here, points = without(gradient, parts, answer, members), []
            inside = space(here, end)
    return answer, refined(gradient, parts, answer, members, inside) if observation.steps == 1 else members


def spanned(gradient: Float[Tensor, "units columns"], examples: int) -> Split:
    """The split for so many examples, or for fewer where a trained network has fewer units that anything activates."""
    live = int(gradient.abs().amax(1).gt(0).sum())
    return split(gradient, max(1, min(examples, live - NOISE_ROWS, gradient.shape[1] - NOISE_ROWS)))


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

    `parameters`: other ones than the model was sent with. `size`: of the update, as clipping by norm left it, in units of
    what it was.
    """

    def __init__(self, observation: Observation, end: Tail, parameters: Tensors | None = None):
        self.observation, self.end, self.size = observation, end, 1.0
        self.model = victim(observation)
        for name, reached in (parameters or {}).items():
            self.model.get_parameter(name).data = reached.double()

    def slopes(self, pixels: Float[Tensor, " pixels"]) -> Float[Tensor, "classes units"]:
        """The share in the layer's slope that an example with these pixels has, for each class that it may be of."""
        output = self._output(pixels).detach().requires_grad_()
        logits = self._logits(output, pixels)
        rows = torch.autograd.grad(logits, output, torch.eye(len(logits)).to(logits), is_grads_batched=True)[0]
        errors = torch.softmax(logits.detach(), 0) - torch.eye(len(logits)).to(logits)
        return self.size * errors @ rows / self.observation.examples

    def probabilities(self, pixels: Float[Tensor, " pixels"]) -> Float[Tensor, " classes"]:
        """Of the classes, as the model has them for an example with these pixels."""
        with torch.no_grad():
            return torch.softmax(self._logits(self._output(pixels), pixels), 0)

    def last_input(self, pixels: Float[Tensor, " pixels"]) -> Float[Tensor, " features"]:
        """What the last layer is given for an example with these pixels, where the layers go on to the classes."""
        with torch.no_grad():
            return functional.relu(self._through(self._output(pixels), self.end.layers[1:-1]))

    def _output(self, pixels: Tensor) -> Tensor:
        return self.model.get_submodule(self.end.layers[0].name)(self.end.given(pixels))

    def _logits(self, output: Tensor, pixels: Tensor) -> Tensor:
        following = self.end.layers[1:]
        if following:
            return self._through(output, following)
        module = self.model.get_submodule(self.end.layers[0].name)
        hook = module.register_forward_hook(lambda _, __, ___: output[None])
        try:
            return self.model(pixels.reshape(1, *self.observation.image_shape))[0]
        finally:
            hook.remove()

    def _through(self, output: Tensor, layers: tuple[Rectified, ...]) -> Tensor:
        for layer in layers:
            output = self.model.get_submodule(layer.name)(functional.relu(output))
        return output


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
    pixels = end.pixels(given[:-1])
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


def relabelled(answers: list[Answer], members: list[Member]) -> list[Member]:
    """The members with the classes that fit the slopes which the gradient of several local steps holds for them.

    Those slopes are sums along the client's path: least squares over all members has them, and the means of what the models
    at its two ends say for each class are nearest to that of the true one.
    """
    if not members:
        return []
    given = answers[0].end.given(torch.stack([member.pixels for member in members]))
    given = torch.cat([given, given.new_ones(len(given), 1)], 1)
    slopes = torch.linalg.lstsq(given.T, answers[0].end.layers[0].gradient.T).solution
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
