"""From estimates of how often each class occurs to whole numbers, and to rows."""

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attacks.attack import label_rows

UNKNOWN = 0.8  # of a blind guess's variance left: from here on the counts are held not to be known


def unknown_counts(left: float) -> str:
    """A verdict where a gradient leaves so large a share of the variance that a blind guess has, and nothing elsewhere."""
    fault = f"labels not identifiable here: the gradient leaves {left:.0%} of the variance of a blind guess"
    return "" if left < UNKNOWN else fault


def whole_counts(
    estimate: Float[Tensor, " classes"], total: int, doubt: Float[Tensor, " classes"] | None = None
) -> Int[Tensor, " classes"]:
    """Whole numbers, none negative, that sum to `total`, near the estimate.

    The estimate is moved to the nearest point of the simplex of that total (so noise makes no count negative, and a wrong
    sum is shared out evenly), then to the nearest whole numbers of that sum (largest remainders). NaN counts as zero.
    `doubt`: the deviations that the entries have, up to a factor; distances are in units of theirs. Left out: all the same.
    """
    values = np.nan_to_num(estimate.detach().cpu().double().numpy(), nan=0.0, posinf=1e12, neginf=-1e12)
    variances = np.ones(len(values)) if doubt is None else _variances(doubt)
    falling = np.argsort(-values / variances, kind="stable")
    reached, excess = (values / variances)[falling], np.cumsum(values[falling]) - total
    shift = excess / np.cumsum(variances[falling])
    shares = np.maximum(values - variances * (shift[np.flatnonzero(reached > shift)[-1]] if total else reached[0]), 0.0)
    counts = np.ceil(shares - 0.5 - 1e-9)
    while (lacking := total - int(counts.sum())) > 0:
        counts[np.argmin((2 * (counts - shares) + 1) / variances)] += 1
    for _ in range(-lacking):
        costs = np.where(counts > 0, (2 * (shares - counts) + 1) / variances, np.inf)
        counts[len(costs) - 1 - np.argmin(costs[::-1])] -= 1
    return torch.from_numpy(counts.astype(int))


def _variances(doubt: Tensor) -> np.ndarray:
    """Squares of the deviations, none so small beside the largest that it would be lost."""
    deviations = np.nan_to_num(doubt.detach().cpu().double().numpy(), nan=0.0, posinf=1e12, neginf=0.0)
    return np.maximum(deviations / max(deviations.max(initial=0.0), 1e-300), 1e-4) ** 2


def rows_of(counts: Int[Tensor, " classes"]) -> Float[Tensor, "batch classes"]:
    """One row of certainty for each counted example, classes in ascending order."""
    return label_rows(torch.repeat_interleave(torch.arange(len(counts)), counts), len(counts))


def counts_by_least_squares(
    system: Float[Tensor, "equations classes"], right: Float[Tensor, " equations"], total: int
) -> Float[Tensor, " classes"]:
    """The n with no negative entry and the sum `total` for which |system n - right| is least.

    The sum is one more equation, weighted so heavily that it holds to about one part in a million.
    """
    values, wanted = system.detach().cpu().double().numpy(), right.detach().cpu().double().numpy()
    scale = max(float(np.abs(values).max(initial=0.0)), 1e-12)
    values, wanted = np.vstack([values, np.full((1, values.shape[1]), 1e3 * scale)]), np.append(wanted, 1e3 * scale * total)
    found, _ = scipy.optimize.nnls(values, wanted, maxiter=30 * values.shape[1])
    return torch.from_numpy(found)
