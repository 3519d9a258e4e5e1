"""The last few directions, from the others: completion."""

import time

import torch
from torch import Tensor

from attacks.directions.layers import Rectified
from attacks.directions.low_rank import Split
from attacks.directions.two_values import Found, finished, joined

MOST = 8  # directions that may be missing
DRAWS = 512
NEARLY = 1e-6  # relative residual of a direction by the network's own answer, to which the others' errors add up


def completed(
    found: Found,
    parts: Split,
    layer: Rectified,
    last: Rectified,
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

    Of one that is missing, the rest of the network gives the errors as well, whatever its class, and however many there are.

    `last`: the layer that follows. `errors`: for every class that may be missing, those of a typical example, as the search
    was given them. `deadline`: by the monotonic clock, after which no other class is tried.
    """
    missing, outgoing = parts.rank - found.directions.shape[1], last.weight.T[parts.live]
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
    if missing == 1 and biased and (new := _answered(parts.left, outgoing, last, answers[0], tolerance)):
        return joined(found, new)
    masks = (answers > 0).unique(dim=0)
    for own, typical in errors.items():
        if found.directions.shape[1] >= parts.rank or time.monotonic() > deadline:
            break
        found = joined(found, finished(parts.left, outgoing, masks, own, typical, tolerance))
    return found


def _answered(left: Tensor, outgoing: Tensor, last: Rectified, answers: Tensor, tolerance: float) -> Found | None:
    """The direction of the example to which the live units give these answers, with the class that fits; None if none does."""
    opened, offset = answers > 0, 0.0 if last.bias is None else last.bias
    probabilities = torch.softmax(answers.clamp_min(0) @ outgoing + offset, 0)
    errors = probabilities - torch.eye(len(probabilities)).to(probabilities)
    errors = errors / (1 - probabilities).clamp_min(1e-300)[:, None]
    slopes = opened * (errors @ outgoing.T)
    directions = slopes @ left
    left_over = (slopes - directions @ left.T).norm(dim=1) / slopes.norm(dim=1).clamp_min(1e-300)
    own = left_over.argmin()[None]
    if not left_over[own] < max(tolerance, NEARLY):
        return None
    return Found(directions[own].T, own, errors[own], opened[None], left_over[own])
