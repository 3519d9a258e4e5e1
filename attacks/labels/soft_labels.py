"""Soft labels of one example, whatever made them soft: one equation in one unknown.

The problem, its necessary condition and the unknown are those of Wang et al., ICLR 2024; the solution is not theirs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.labels.last_layer import common_input, last_layer
from learning.catalogue import Positive, settings

FEWEST_CLASSES = 5
GRID, ZOOM, ZOOMS = 500, 17, 10  # points of each sign on the grid; points and rounds of every zoom around a minimum
PART = 83  # points of the grid are looked at before their minima are tried
WATCHED = 16  # so many entries are compared on the grid, however many classes there are
PATIENCE, FLAT = 3, 1.05  # rounds after which a minimum whose surroundings rise by less than that factor is given up
MARGIN = 1e-3  # how far a restored probability may lie outside [0, 1]


@settings
class SoftLabels(Attack):
    """One example's row of class probabilities: hard, smoothed, a mixture of two classes, or both; nobody says which.

    With a bias the answer is immediate: the features are the weight gradient's one factor and the bias gradient is p - y.

    Without one, the weight gradient is (p - y) times the features, and its largest row r is the features up to an unknown
    factor s = 1 / (p_r - y_r). For every s there is a label, y(s) = softmax(s W r) - rho / s with rho the rows in units of r,
    and every y(s) sums to one, so the sum tells nothing (the paper's necessary condition). What tells is the labels' own
    structure: all but two entries of a smoothed, mixed or hard label are equal. The s for which they are is found on a grid
    over both signs (in float32, comparing a few of the entries), then by zooming (in float64, comparing all). As |s| grows,
    y(s) tends to a hard label that is no answer but looks like one; the answer is the root of least |s|.

    `largest`: of |s| on the grid. `tolerance`: how unequal the equal entries may be at a root, to float32's accuracy.

    The condition that any such restoration needs, a gradient of rank one whose rows sum to zero, is checked; where it fails
    (several examples, noise, pruning, a loss that is not cross-entropy), or no root is exact, `identifiable` is False, the
    verdict says so, and the labels are the nearest there are. Assumes one example, one local step, and without a bias at
    least five classes. Raises `NotApplicable` otherwise.
    """

    largest: Positive = 1e5
    tolerance: Positive = 5e-6

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.examples != 1:
            raise NotApplicable(f"soft labels are restored of one example, and the client used {observation.examples}")
        if observation.steps != 1:
            raise NotApplicable(f"soft labels are restored from one local step, and the client made {observation.steps}")
        layer = last_layer(observation)
        gradient = layer.weight_gradient
        sizes = gradient.norm(dim=1)
        if not sizes.isfinite().all() or not sizes.any():
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
            root = _root(scores, bias.cpu().numpy(), ratios.cpu().numpy(), self.largest, self.tolerance)
            label = torch.from_numpy(root.label).to(gradient)
            if not fault and not root.inequality <= self.tolerance:
                fault = f"no label fits with all but two entries equal (they differ by {root.inequality:.1g} at best)"
        label = label.clamp_min(0)
        rows = (label / label.sum()).float()[None].cpu()
        return Reconstruction(
            labels=rows, identifiable=not fault, verdict=f"labels not identifiable here: {fault}" if fault else ""
        )


def _necessary_condition(gradient: Tensor, sizes: Tensor, reference: Tensor, ratios: Tensor) -> str:
    """Why the gradient is not that of one example under cross-entropy, or nothing.

    `sizes`: of its rows. `ratios`: its rows in units of the `reference` row.
    """
    squared = float(sizes.square().sum())
    if (away := float(gradient.sum(0).norm()) / squared**0.5) > 1e-4:
        return f"the rows of the last layer's gradient sum to {away:.1g} of its size and not to zero"
    left = max(squared - float(ratios.square().sum() * reference.square().sum()), 0.0)  # by Pythagoras
    if (away := (left / squared) ** 0.5) > 1e-4:
        return f"the last layer's gradient is not of rank one ({away:.1g} of it is left over)"
    return ""


def _with_bias(weight: Tensor, bias: Tensor, gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    return torch.softmax(weight @ common_input(gradient, bias_gradient) + bias, 0) - bias_gradient


@dataclass(frozen=True)
class _Root:
    """A label, the factor it belongs to, and how unequal its equal entries are (infinite where it is no label at all)."""

    label: np.ndarray
    factor: float
    inequality: float


def _root(scores: np.ndarray, offset: np.ndarray, ratios: np.ndarray, largest: float, tolerance: float) -> _Root:
    """The root of least |s|; where none is exact, the point whose entries are most nearly equal."""

    def labels(factors: np.ndarray) -> np.ndarray:
        logits = factors[:, None] * scores + offset
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True) - ratios / factors[:, None]

    nearest = _Root(labels(np.array([largest]))[0], largest, np.inf)
    for low, high in _minima(scores, offset, ratios, largest):
        root = _zoomed(labels, low, high)
        if root is None:
            continue
        if root.inequality <= tolerance:
            return root
        nearest = min(nearest, root, key=lambda root: root.inequality)
    return nearest


def _minima(scores: np.ndarray, offset: np.ndarray, ratios: np.ndarray, largest: float) -> Iterator[tuple[float, float]]:
    """Where entries of y(s) are least unequal on a grid: the points beside every minimum, those of least |s| first.

    All but two of any few entries are equal at the answer as well, and few are compared; the sum of exponentials takes all.
    The grid is walked outwards a part at a time: most answers are near its beginning.
    """
    watched = np.unique(np.linspace(0, len(scores) - 1, min(WATCHED, len(scores))).round().astype(int))
    narrow, shift = scores.astype(np.float32), offset.astype(np.float32)
    # |p_r - y_r| <= 1, so |s| >= 1; a little below leaves room for a minimum at 1 itself.
    steps = np.geomspace(0.98, largest, GRID)
    for start in range(0, GRID - 2, PART):
        found: list[tuple[float, float]] = []
        for signed in (steps[start : start + PART + 2], -steps[start : start + PART + 2]):  # parts share two points
            logits = signed.astype(np.float32)[:, None] * narrow + shift
            logits -= logits.max(1, keepdims=True)
            exponentials = np.exp(logits, out=logits)
            answers = exponentials[:, watched] / exponentials.sum(1, keepdims=True)
            height = _inequality(answers - ratios[watched] / signed[:, None])
            inside = (height[1:-1] <= height[:-2]) & (height[1:-1] <= height[2:])
            found += zip(signed[:-2][inside].tolist(), signed[2:][inside].tolist(), strict=True)
        yield from sorted(found, key=lambda ends: abs(ends[0]))


def _zoomed(labels: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> _Root | None:
    """The minimum between two factors; None where it is a hollow that does not reach down to zero.

    Around a root the inequality rises in proportion to the distance, so that of the points beside the least one at least one
    stands well above it, however close they are. Around a minimum above zero they all become equal.
    """
    best = 0
    heights = np.empty(0)
    for turn in range(ZOOMS):
        points = low * (high / low) ** np.linspace(0, 1, ZOOM)
        heights = _inequality(labels(points))
        best = int(heights.argmin())
        below, above = max(best - 1, 0), min(best + 1, ZOOM - 1)
        if turn >= PATIENCE and max(heights[below], heights[above]) < FLAT * heights[best] and heights[best] > 1e-3:
            return None
        low, high = float(points[below]), float(points[above])
    factor = float(np.sqrt(abs(low * high)) * np.sign(low))
    label = labels(np.array([factor]))[0]
    valid = label.min() >= -MARGIN and label.max() <= 1 + MARGIN
    return _Root(label, factor, float(_inequality(label[None])[0]) if valid else np.inf)


def _inequality(labels: np.ndarray) -> np.ndarray:
    """For every row, the difference between the smallest entry and the greatest of all but two."""
    left, rows = labels.copy(), np.arange(len(labels))
    least = left.min(1)
    for _ in range(2):
        left[rows, left.argmax(1)] = -np.inf
    return left.max(1) - least
