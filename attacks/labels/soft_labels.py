"""Soft labels of one example, whatever made them soft: one equation in one unknown.

The problem, its necessary condition and the unknown are those of Wang et al., ICLR 2024; the solution is not theirs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.directions.layers import common_input
from attacks.labels.last_layer import last_layer
from learning.catalogue import Positive, settings

FEWEST_CLASSES = 5
GRID, ZOOM, ZOOMS = 500, 17, 10  # points of each sign on the grid; points and rounds of every zoom around a minimum
STEPS = 12  # of Gauss-Newton around a minimum
SHARES = np.linspace(0, 1, ZOOM)
PART = 40  # points of the grid are looked at before their minima are tried
WATCHED = 16  # so many entries are compared on the grid, however many classes there are
PATIENCE, FLAT = 3, 1.05  # rounds after which a minimum whose surroundings rise by less than that factor is given up
HARD = 5e-11  # how far from one the cosine of errors and those of a hard label may be: an angle of 1e-5
MARGIN = 1e-3  # how far a restored probability may lie outside [0, 1]


@settings
class SoftLabels(Attack):
    """One example's row of class probabilities: hard, smoothed, a mixture of two classes, or both; nobody says which.

    With a bias the answer is immediate: the features are the weight gradient's one factor and the bias gradient is p - y.
    Where that has the direction of a hard label's errors, and another length, the label is hard: clipping by norm makes errors
    smaller, which are then those of a soft label that no client would choose.

    Without one, the weight gradient is (p - y) times the features, and its largest row r is the features up to an unknown
    factor s = 1 / (p_r - y_r). For every s there is a label, y(s) = softmax(s W r) - rho / s with rho the rows in units of r,
    and every y(s) sums to one, so the sum tells nothing (the paper's necessary condition). What tells is the labels' own
    structure: all but two entries of a smoothed, mixed or hard label are equal. The s for which they are is found on a grid
    over both signs (in float32, comparing a few of the entries), then by Gauss-Newton steps (in float64, all entries, each
    weighed by what the client's float32 leaves of it), and by zooming where these do not arrive. Where all entries but one
    are equal as well, s is fitted to that: in a smoothed label the second entry may be the one that depends most on s. As
    |s| grows, y(s) tends to a hard label that is no answer but looks like one; the answer is the root of least |s|.

    `largest`: of |s| on the grid. `tolerance`: how unequal the equal entries may be at a root, to float32's accuracy.

    The condition that any such restoration needs, a gradient of rank one whose rows sum to zero, is checked; where it fails
    (several examples, noise, pruning, a loss that is not cross-entropy), or no root is exact, `identifiable` is False, the
    verdict says so, and the labels are the nearest there are. Assumes one example, one local step, and without a bias at
    least five classes. Raises `NotApplicable` otherwise.
    """

    largest: Positive = 1e5
    tolerance: Positive = 5e-6

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        row, fault = self.restored(observation)
        return Reconstruction(
            labels=row.float(),
            identifiable=not fault,
            verdict=f"labels not identifiable here: {fault}" if fault else "",
            certified=torch.tensor([not fault]),
        )

    def restored(self, observation: Observation) -> tuple[Float[Tensor, "1 classes"], str]:
        """The label, in the update's precision, and why it is not identifiable, or nothing."""
        if observation.examples != 1:
            raise NotApplicable(f"soft labels are restored of one example, and the client used {observation.examples}")
        if observation.steps != 1:
            raise NotApplicable(f"soft labels are restored from one local step, and the client made {observation.steps}")
        layer = last_layer(observation)
        gradient = layer.weight_gradient
        sizes = torch.linalg.vector_norm(gradient, dim=1)
        if not 0 < float(sizes.sum()) < math.inf:
            raise NotApplicable("the last layer's gradient is zero or not finite: it holds no label")
        reference = gradient[sizes.argmax()]
        ratios = gradient @ reference / (reference @ reference)
        fault = _necessary_condition(gradient, sizes, reference, ratios)
        if layer.bias is not None and layer.bias_gradient is not None:
            label = _with_bias(layer.weight, layer.bias, gradient, layer.bias_gradient)
        elif observation.classes < FEWEST_CLASSES:
            raise NotApplicable(
                f"without a bias a soft label needs at least {FEWEST_CLASSES} classes, and there are {observation.classes}"
            )
        else:
            bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
            scores = (layer.weight @ reference).cpu().numpy()
            problem = _Problem(scores, bias.cpu().numpy(), ratios.cpu().numpy())
            root = _root(problem, self.largest, self.tolerance)
            label = torch.from_numpy(root.label).to(gradient)
            if not fault and not root.inequality <= self.tolerance:
                fault = f"no label fits with all but two entries equal (they differ by {root.inequality:.1g} at best)"
        label = label.clamp_min(0)
        return (label / label.sum())[None].cpu(), fault


def _necessary_condition(gradient: Tensor, sizes: Tensor, reference: Tensor, ratios: Tensor) -> str:
    """Why the gradient is not that of one example under cross-entropy, or nothing.

    `sizes`: of its rows. `ratios`: its rows in units of the `reference` row.
    """
    squared = float(sizes.square().sum())
    if (away := float((gradient.T @ torch.ones_like(sizes)).norm()) / squared**0.5) > 1e-4:
        return f"the rows of the last layer's gradient sum to {away:.1g} of its size and not to zero"
    left = max(squared - float(ratios.square().sum() * reference.square().sum()), 0.0)  # by Pythagoras
    if (away := (left / squared) ** 0.5) > 1e-4:
        return f"the last layer's gradient is not of rank one ({away:.1g} of it is left over)"
    return ""


def _with_bias(weight: Tensor, bias: Tensor, gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    answer = torch.softmax(weight @ common_input(gradient, bias_gradient) + bias, 0)
    hard = hard_label(answer[None], bias_gradient)
    return answer - bias_gradient if hard is None else hard


def hard_label(answers: Float[Tensor, "n classes"], errors: Float[Tensor, " classes"]) -> Float[Tensor, " classes"] | None:
    """The row of the one class of which one of the answers is wrong in the direction of the errors, if it is that."""
    label = functional.one_hot(errors.argmin(), len(errors)).to(errors)  # only the class's own error is negative
    alike = functional.cosine_similarity(answers - label, errors[None])
    return label if alike.max() > 1 - HARD else None


@dataclass(frozen=True)
class _Root:
    """A label, the factor it belongs to, and how unequal its equal entries are (infinite where it is no label at all)."""

    label: np.ndarray
    factor: float
    inequality: float


@dataclass(frozen=True)
class _Problem:
    """y(s) = softmax(s scores + offset) - ratios / s, one entry a class."""

    scores: np.ndarray
    offset: np.ndarray
    ratios: np.ndarray

    def labels(self, factors: np.ndarray) -> np.ndarray:
        """y of every factor, one a row."""
        logits = factors[:, None] * self.scores + self.offset
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True) - self.ratios / factors[:, None]

    def root(self, factor: float, unequal: int = 2) -> _Root:
        """That root of least |s|'s surroundings: `unequal` greatest entries apart, how far the other entries are from equal."""
        label = self.labels(np.array([factor]))[0]
        valid = label.min() >= -MARGIN and label.max() <= 1 + MARGIN
        return _Root(label, factor, float(_inequality(label[None], unequal)[0]) if valid else np.inf)

    def polished(self, factor: float, low: float, high: float, unequal: int) -> _Root | None:
        """The least-squares factor for which all but the `unequal` greatest entries are equal; None if it is not in between.

        Float32 leaves about ten units in the last place of a probability (the logits are sums) and one of the gradient.
        """
        for _ in range(STEPS):
            answer = np.exp((logits := factor * self.scores + self.offset) - logits.max())
            answer /= answer.sum()
            own = self.ratios / factor
            kept = (answer - own).argpartition(-unequal)[:-unequal]
            slope = (answer * (self.scores - answer @ self.scores) + own / factor)[kept]
            weights = 1 / (10 * answer + np.abs(own) + 1e-12)[kept] ** 2
            weights /= weights.sum()
            left = (answer - own)[kept]
            left, slope = left - weights @ left, slope - weights @ slope
            step = (weights * slope) @ left / max((weights * slope) @ slope, 1e-300)
            factor -= step
            if not min(low, high) <= factor <= max(low, high):
                return None
            if abs(step) <= 1e-11 * abs(factor):
                break
        return self.root(factor, unequal)


def _root(problem: _Problem, largest: float, tolerance: float) -> _Root:
    """The root of least |s|; where none is exact, the point whose entries are most nearly equal."""
    nearest = _Root(problem.labels(np.array([largest]))[0], largest, np.inf)
    for low, high in _minima(problem, largest):
        root = _zoomed(problem, low, high, tolerance)
        if root is None:
            continue
        if root.inequality <= tolerance:
            simpler = problem.polished(root.factor, low, high, 1)
            return simpler if simpler is not None and simpler.inequality <= tolerance else root
        nearest = min(nearest, root, key=lambda root: root.inequality)
    return nearest


def _minima(problem: _Problem, largest: float) -> Iterator[tuple[float, float]]:
    """Where entries of y(s) are least unequal on a grid: the points beside every minimum, those of least |s| first.

    All but two of any few entries are equal at the answer as well, and few are compared, half of them those with the largest
    ratios: where all others have next to no probability, only these tell one s from another. The sum of exponentials takes all.
    The grid is walked outwards a part at a time: most answers are near its beginning.
    """
    classes = len(problem.scores)
    spread = np.linspace(WATCHED // 2, classes - 1, WATCHED // 2).round().astype(int)
    order = np.abs(problem.ratios).argsort()[::-1]
    watched = order if classes <= WATCHED else order[np.append(np.arange(WATCHED // 2), spread)]
    narrow, shift = problem.scores.astype(np.float32), problem.offset.astype(np.float32)
    # |p_r - y_r| <= 1, so |s| >= 1; a little below leaves room for a minimum at 1 itself.
    steps = np.geomspace(0.98, largest, GRID)
    for start in range(0, GRID - 2, PART):
        found: list[tuple[float, float]] = []
        for signed in (steps[start : start + PART + 2], -steps[start : start + PART + 2]):  # parts share two points
            logits = signed.astype(np.float32)[:, None] * narrow + shift
            logits -= logits.max(1, keepdims=True)
            exponentials = np.exp(logits, out=logits)
            answers = exponentials[:, watched] / exponentials.sum(1, keepdims=True)
            height = _inequality(answers - problem.ratios[watched] / signed[:, None])
            inside = (height[1:-1] <= height[:-2]) & (height[1:-1] <= height[2:])
            found += zip(signed[:-2][inside].tolist(), signed[2:][inside].tolist(), strict=True)
        yield from sorted(found, key=lambda ends: abs(ends[0]))


def _zoomed(problem: _Problem, low: float, high: float, tolerance: float) -> _Root | None:
    """The minimum between two factors; None where it is a hollow that does not reach down to zero.

    Around a root the inequality rises in proportion to the distance, so that of the points beside the least one at least one
    stands well above it, however close they are. Around a minimum above zero they all become equal.
    """
    middle = math.copysign(math.sqrt(low * high), low)
    if (root := problem.polished(middle, low, high, 2)) and root.inequality <= tolerance:
        return root
    for turn in range(ZOOMS):
        points = low * (high / low) ** SHARES
        heights = _inequality(problem.labels(points))
        best = int(heights.argmin())
        below, above = max(best - 1, 0), min(best + 1, ZOOM - 1)
        if turn >= PATIENCE and max(heights[below], heights[above]) < FLAT * heights[best] and heights[best] > 1e-3:
            return None
        low, high = float(points[below]), float(points[above])
        if turn == 0 and (root := problem.polished(float(points[best]), low, high, 2)) and root.inequality <= tolerance:
            return root
    return problem.root(float(np.sqrt(abs(low * high)) * np.sign(low)))


def _inequality(labels: np.ndarray, unequal: int = 2) -> np.ndarray:
    """For every row, the difference between the smallest entry and the greatest of all but so many."""
    ordered = np.partition(labels, (0, labels.shape[1] - 1 - unequal), axis=1)
    return ordered[:, -1 - unequal] - ordered[:, 0]
