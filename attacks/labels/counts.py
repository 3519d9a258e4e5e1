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


def whole_counts(estimate: Float[Tensor, " classes"], total: int) -> Int[Tensor, " classes"]:
    """Whole numbers, none negative, that sum to `total`, near the estimate.

    The estimate is moved to the nearest point of the simplex of that total (so noise makes no count negative, and a wrong
    sum is shared out evenly), then rounded by largest remainders. NaN counts as zero.
    """
    values = np.nan_to_num(estimate.detach().cpu().double().numpy(), nan=0.0, posinf=1e12, neginf=-1e12)
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - total) / np.arange(1, len(values) + 1)
    shift = excess[np.flatnonzero(falling - excess > 0)[-1]] if total else falling[0]
    shares = np.maximum(values - shift, 0.0)
    counts = np.floor(shares + 1e-9).astype(int)
    lacking = np.argsort(-(shares - counts), kind="stable")[: total - counts.sum()]
    counts[lacking] += 1
    return torch.from_numpy(counts)


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
