"""Soft labels of one example, whatever made them soft: one equation in one unknown.

The problem, its necessary condition and the unknown are those of Wang et al., ICLR 2024; the solution is not theirs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.labels.last_layer import last_layer
from learning.catalogue import Positive, settings

FEWEST_CLASSES = 5
GRID, ZOOM, ZOOMS = 500, 17, 10  # points of each sign on the grid; points and rounds of every zoom around a minimum
MARGIN = 1e-3  # how far a restored probability may lie outside [0, 1]


@settings
class SoftLabels(Attack):
    """One example's row of class probabilities: hard, smoothed, a mixture of two classes, or both; nobody says which.

    With a bias the answer is immediate: the features are the weight gradient's one factor and the bias gradient is p - y.

    Without one, the weight gradient is (p - y) times the features, and its largest row r is the features up to an unknown
    factor s = 1 / (p_r - y_r). For every s there is a label, y(s) = softmax(s W r) - rho / s with rho the rows in units of r,
    and every y(s) sums to one, so the sum tells nothing (the paper's necessary condition). What tells is the labels' own
    structure: all but two entries of a smoothed, mixed or hard label are equal. The s for which they are is found on a grid
    over both signs, then by zooming. As |s| grows, y(s) tends to a hard label that is no answer but looks like one; the
    answer is the root of least |s|.

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
        if not gradient.isfinite().all() or not gradient.any():
            raise NotApplicable("the last layer's gradient is zero or not finite: it holds no label")
        fault = _necessary_condition(gradient)
        if layer.bias is not None and layer.bias_gradient is not None:
            label = _with_bias(layer.weight, layer.bias, gradient, layer.bias_gradient)
        elif observation.classes < FEWEST_CLASSES:
            raise NotApplicable(
                f"without a bias a soft label needs at least {FEWEST_CLASSES} classes, and there are {observation.classes}"
            )
        else:
            bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
            root = _root(layer.weight, bias, gradient, self.largest, self.tolerance)
            label = torch.from_numpy(root.label).to(gradient)
            if not fault and not root.inequality <= self.tolerance:
                fault = f"no label fits with all but two entries equal (they differ by {root.inequality:.1g} at best)"
        label = label.clamp_min(0)
        rows = (label / label.sum()).float()[None].cpu()
        return Reconstruction(
            labels=rows, identifiable=not fault, verdict=f"labels not identifiable here: {fault}" if fault else ""
        )


def _necessary_condition(gradient: Tensor) -> str:
    """Why the gradient is not that of one example under cross-entropy, or nothing."""
    size = gradient.norm()
    if (away := float(gradient.sum(0).norm() / size)) > 1e-4:
        return f"the rows of the last layer's gradient sum to {away:.1g} of its size and not to zero"
    reference = gradient[gradient.norm(dim=1).argmax()]
    left = gradient - torch.outer(gradient @ reference, reference) / (reference @ reference)
    if (away := float(left.norm() / size)) > 1e-4:
        return f"the last layer's gradient is not of rank one ({away:.1g} of it is left over)"
    return ""


def _with_bias(weight: Tensor, bias: Tensor, gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    features = gradient.T @ bias_gradient / (bias_gradient @ bias_gradient).clamp_min(1e-300)
    return torch.softmax(weight @ features + bias, 0) - bias_gradient


@dataclass(frozen=True)
class _Root:
    """A label, the factor it belongs to, and how unequal its equal entries are (infinite where it is no label at all)."""

    label: np.ndarray
    factor: float
    inequality: float


def _root(weight: Tensor, bias: Tensor, gradient: Tensor, largest: float, tolerance: float) -> _Root:
    """The root of least |s|; where none is exact, the point whose entries are most nearly equal."""
    reference = gradient[gradient.norm(dim=1).argmax()]
    ratios = (gradient @ reference / (reference @ reference)).cpu().numpy()
    scores, offset = (weight @ reference).cpu().numpy(), bias.cpu().numpy()

    def labels(factors: np.ndarray) -> np.ndarray:
        logits = factors[:, None] * scores + offset
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True) - ratios / factors[:, None]

    # |p_r - y_r| <= 1, so |s| >= 1; a little below leaves room for a minimum at 1 itself.
    steps = np.geomspace(0.98, largest, GRID)
    roots: list[_Root] = []
    for signed in (steps, -steps):
        height = _inequality(labels(signed))
        inside = (height[1:-1] <= height[:-2]) & (height[1:-1] <= height[2:])
        lows, highs = signed[:-2][inside], signed[2:][inside]
        for _ in range(ZOOMS):
            if not len(lows):
                break
            points = lows * (highs / lows) ** np.linspace(0, 1, ZOOM)[:, None]
            heights = _inequality(labels(points.ravel())).reshape(points.shape)
            best, column = heights.argmin(0), np.arange(len(lows))
            lows, highs = points[np.maximum(best - 1, 0), column], points[np.minimum(best + 1, ZOOM - 1), column]
        found = np.sqrt(np.abs(lows * highs)) * np.sign(lows)
        for factor, label in zip(found, labels(found) if len(found) else [], strict=True):
            valid = label.min() >= -MARGIN and label.max() <= 1 + MARGIN
            roots.append(_Root(label, float(factor), float(_inequality(label[None])[0]) if valid else np.inf))
    if not roots:
        only = np.array([largest])
        return _Root(labels(only)[0], largest, np.inf)
    exact = [root for root in roots if root.inequality <= tolerance]
    return min(exact, key=lambda root: abs(root.factor)) if exact else min(roots, key=lambda root: root.inequality)


def _inequality(labels: np.ndarray) -> np.ndarray:
    """For every row, the difference between the smallest entry and the greatest of all but two."""
    left, rows = labels.copy(), np.arange(len(labels))
    least = left.min(1)
    for _ in range(2):
        left[rows, left.argmax(1)] = -np.inf
    return left.max(1) - least
