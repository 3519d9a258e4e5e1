"""The last few directions, from the others: completion."""

import time

import torch
from torch import Tensor

from attacks.exact.layers import Rectified
from attacks.exact.low_rank import Split
from attacks.exact.two_values import Found, finished, joined

MOST = 8  # directions that may be missing
DRAWS = 512


def completed(
    found: Found,
    parts: Split,
    layer: Rectified,
    outgoing: Tensor,
    errors: dict[int, Tensor],
    tolerance: float,
    deadline: float,
    rng: torch.Generator,
) -> Found:
    """Adds directions that the search missed, where few are.

    An example's input, seen as a combination of the split's right factor, is orthogonal to the directions of all other
    examples. With all but one found, the missing input is therefore known up to its scale, and the bias column fixes that;
    with k missing it is a point of k dimensions, and points are drawn there. Run through the layer, each tells which units
    would be open, near enough for least squares to finish.

    `errors`: for every class that may be missing, those of a typical example, as the search was given them. `deadline`: by
    the monotonic clock, after which no other class is tried.
    """
    missing = parts.rank - found.directions.shape[1]
    if not 0 < missing <= MOST:
        return found
    complete = torch.linalg.qr(found.directions, mode="complete")[0][:, -missing:]
    points = torch.ones(1, 1) if missing == 1 else torch.randn(DRAWS, missing, generator=rng)
    inputs = points.to(complete) @ complete.T @ parts.right
    columns = layer.weight.shape[1]
    biased = inputs.shape[1] > columns
    inputs = inputs[:, :columns] / inputs[:, columns:] if biased else torch.cat([inputs, -inputs])
    answers = inputs @ layer.weight[parts.live].T
    answers = answers if layer.bias is None else answers + layer.bias[parts.live]
    masks = (answers > 0).unique(dim=0)
    for own, typical in errors.items():
        if found.directions.shape[1] >= parts.rank or time.monotonic() > deadline:
            break
        found = joined(found, finished(parts.left, outgoing, masks, own, typical, tolerance))
    return found
