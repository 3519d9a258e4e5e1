"""The finish of an exact attack: clipping undone, pictures brought to the precision of the update, missing labels filled in."""

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import NotApplicable, Observation, label_rows
from attacks.directions.layers import Tail, tail, victim
from attacks.directions.low_rank import Split, split
from attacks.exact.certificate import slopes_at_first
from attacks.labels.auto import AutoLabels
from attacks.labels.counts import whole_counts

REFINEMENTS = 20
UNCHANGED, EXPLAINED = 1e-3, 0.1  # clipping that is none; share of what is left over that it may leave


def unclipped(
    observation: Observation,
    end: Tail,
    first: Split,
    inputs: Float[Tensor, "batch inputs"],
    labels: Float[Tensor, "batch classes"],
) -> tuple[Observation, Tail, Split]:
    """Observation, tail and the first layer's split at the size that the examples give the update, where that explains it."""
    share = clipped_share(observation, end, end.pictures(inputs, observation.image_shape), labels)
    return grown(observation, share) if share < 1 else (observation, end, first)


def clipped_share(
    observation: Observation, end: Tail, pictures: Float[Tensor, "batch _ _ _"], labels: Float[Tensor, "batch classes"]
) -> float:
    """What is left of the update that these examples make, where they explain it at a smaller size; one where they do not.

    Clipping by norm makes the whole update smaller, by a number that is not known, and leaves inputs as they are.
    """
    if observation.steps > 1:
        return 1.0
    _, found = slopes_at_first(victim(observation), end, pictures, labels, observation)
    gradient = observation.gradient()
    shared, whole = (
        torch.cat([some[name].double().flatten() for name in found if name in gradient]) for some in (gradient, found)
    )
    share = float(shared @ whole / whole.square().sum())
    explained = (shared - share * whole).norm() < EXPLAINED * (shared - whole).norm()
    return share if 0 < share < 1 - UNCHANGED and explained else 1.0


def grown(observation: Observation, share: float) -> tuple[Observation, Tail, Split]:
    """Observation, tail and the first layer's split at the size of which clipping left that share."""
    observation = observation.enlarged(share)
    end = tail(observation)
    return observation, end, split(end.layers[0].gradient, observation.examples)


def refined(
    observation: Observation, end: Tail, inputs: Float[Tensor, "batch pixels"], labels: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch channels height width"]:
    """Pictures near the truth brought to where the update's noise leaves them.

    Run through the known model, pictures give the open units and errors, and with them the slopes; the slopes give the
    pictures by least squares. Errors of the pictures move the slopes little, so that a few rounds suffice.
    """
    model, first = victim(observation), end.layers[0]
    columns = first.weight.shape[1]
    pictures = end.pictures(inputs, observation.image_shape)
    least, best = torch.inf, pictures
    for _ in range(REFINEMENTS):
        slopes, _ = slopes_at_first(model, end, pictures.clamp(0, 1), labels, observation)
        solution = torch.linalg.lstsq(slopes, first.gradient).solution
        change = float((end.pictures(solution[:, :columns], observation.image_shape) - pictures).abs().max())
        rest = float((first.gradient - slopes @ solution).norm())
        pictures = end.pictures(solution[:, :columns], observation.image_shape)
        if not torch.isfinite(pictures).all():
            break
        if rest < least:
            least, best = rest, pictures
        if change < 1e-12:
            break
    return best


def completed_labels(observation: Observation, classes: Tensor, rng: torch.Generator) -> Tensor:
    """The found labels first, then as many more as there are examples, from what `auto` restores less what was found."""
    rows = label_rows(classes.cpu(), observation.classes)
    missing = observation.examples - len(rows)
    if missing <= 0:
        return rows[: observation.examples]
    try:
        guessed = AutoLabels(seconds=0.0).reconstruct(observation, rng).labels
    except NotApplicable:
        guessed = None
    left = torch.ones(observation.classes) if guessed is None else (guessed.sum(0) - rows.sum(0)).clamp_min(0)
    left = left if left.sum() > 0 else torch.ones(observation.classes)
    counts = whole_counts(left / left.sum() * missing, missing)
    return torch.cat([rows, label_rows(torch.arange(observation.classes).repeat_interleave(counts), observation.classes)])
