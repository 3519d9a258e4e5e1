"""Directions of a layer's error whose every entry is known to be zero or one known number: a search in polynomial time.

Between the last hidden layer and the classes there is one linear layer, W. An example of class c with errors e = p - y
therefore has, at the hidden layer's unit i, the slope 0 where ReLU was shut and (W^T e)_i where it was open. The wanted
column of the split, left q, is thus a vector of a known subspace each of whose entries takes one of two values; e is known up
to a few percent before training (p is nearly the same for all examples), and always up to its classes - 2 free numbers.

And what opens the unit is known, too: the example's input lies in the row space of the same gradient, so that the answers
of the layer's units to it, whose signs say which are open, are a vector of another known subspace.

SPEAR (NeurIPS 2024) uses the zeros alone, and needs a number of samples that is exponential in the batch; here all three are
used, the zeros, the values and the signs:

1.  start: among all directions q, those of class c's examples make the fourth-order sum q^T (left^T diag(v^2) left) q large,
    v = W^T e, because their entries equal v wherever they are not zero. Its leading eigenvectors nearly span them (spectral
    start, as in phase retrieval: an entry t in {0, v} is the same as |t - v/2| = |v|/2).
2.  search: relaxed reflections (RRR; Elser, Rankenburg and Thibault, PNAS 2007), many starts at once, between "slopes and
    answers lie in their subspaces" and "at each unit the answer is positive and the slope v, or neither and the slope 0".
    Inputs of examples not found yet are orthogonal to the directions that were: their subspace becomes smaller with each.
3.  finish: once the open units are right, q and the free part of e follow from linear least squares, exactly; what is left
    over is the proof.

The method is this project's own.
"""

import math
import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from attacks.directions.layers import Rectified
from attacks.directions.low_rank import Split

ANSWERS = 1.2  # worth of the spread of a unit's answers, where that of a slope is one
STEP = 0.5  # of the relaxed reflections
GLANCE = 25  # reflections between two looks at what was found
ALIKE = 0.99  # cosine above which two directions are one
CLOSE = 0.95  # and above which two unfinished ones will be
TURNS, PATIENCE = 30, 8  # of least squares; and those after which only what is near goes on
DONE = 0.02  # distance from the subspace of half of the starts at which all have said what they can
NEAR, PRIOR = 0.5, 0.02  # how far from the subspace a candidate may be; how firmly errors stay as guessed
MOST = 48  # unfinished directions of one search that are worth finishing


@dataclass(frozen=True)
class Found:
    """Directions, one a column, each scaled so that its example's error at its own class is -1.

    `errors`: p - y at that scale. `open`: which live units the example activates. `left_over`: relative residuals.
    """

    directions: Float[Tensor, "rank found"]
    classes: Int[Tensor, " found"]
    errors: Float[Tensor, "found classes"]
    open: Bool[Tensor, "found live"]
    left_over: Float[Tensor, " found"]


def nothing(parts: Split, classes: int) -> Found:
    """No direction yet."""
    left = parts.left
    return Found(
        left.new_zeros(parts.rank, 0), torch.zeros(0, dtype=torch.long, device=left.device), left.new_zeros(0, classes),
        torch.zeros(0, len(left), dtype=torch.bool, device=left.device), left.new_zeros(0),
    )  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """The answers that the live units may give to an example: `origin`, and anything in the span of `basis` beside it.

    `basis` is orthonormal, and orthogonal to `origin`. `worth`: of an answer, in units of one over its typical size.
    """

    origin: Float[Tensor, " live"]
    basis: Float[Tensor, "live free"]
    worth: float


def reach(parts: Split, layer: Rectified, directions: Float[Tensor, "rank found"]) -> Reach:
    """The answers to an example that is none of those found: combinations of the split's right factor give its input.

    They are orthogonal to the others' directions, and the bias column is one. Without a bias column nothing fixes an
    input's size: its answers count for nothing.
    """
    columns, weight = layer.weight.shape[1], layer.weight[parts.live]
    if layer.bias is None:
        return Reach(weight.new_zeros(len(weight)), weight.new_zeros(len(weight), 0), 0.0)
    tied = torch.cat([functional.normalize(directions, dim=0), parts.right[:, columns:]], 1)
    fixed = torch.zeros(tied.shape[1]).to(tied)
    fixed[-1] = 1
    answers = torch.cat([weight, layer.bias[parts.live, None]], 1) @ parts.right.T
    free = torch.linalg.qr(tied, mode="complete")[0][:, tied.shape[1] :]
    basis = torch.linalg.qr(answers @ free)[0]
    origin = answers @ torch.linalg.lstsq(tied.T, fixed[:, None]).solution[:, 0]
    # how answers differ from one example to another: what one input that all shared would leave of the gradient
    bias = parts.right[:, columns]
    left = answers - torch.outer(answers @ bias, bias) / bias.square().sum()
    typical = float(left.norm() / bias.norm()) / len(weight) ** 0.5
    return Reach(origin - basis @ (basis.T @ origin), basis, ANSWERS / typical)


@dataclass(frozen=True)
class Search:
    """What to search for: directions of class `own` that are not among those `found`.

    `typical`: errors of an example of that class, roughly. `expected`: how many of its examples are still to be found,
    roughly. `seed`: of the starts. `seconds`: after which reflections end.
    """

    own: int
    typical: Float[Tensor, " classes"]
    found: Found
    expected: int
    reflections: int
    seed: int
    seconds: float = math.inf


def searched(
    parts: Split, layer: Rectified, outgoing: Float[Tensor, "live classes"], starts: int, tolerance: float, search: Search
) -> Found:
    """`search.found`, and the directions that so many starts lead to.

    `outgoing`: the next layer's weights at the live units. `tolerance`: of a direction's relative residual.
    """
    answers = reach(parts, layer, search.found.directions)
    candidates = _reflected(parts, answers, outgoing, starts, search)
    if not len(candidates):
        return search.found
    return joined(search.found, finished(parts.left, outgoing, candidates, search.own, search.typical, tolerance))


def typical_errors(answer: Float[Tensor, " classes"], own: int) -> Float[Tensor, " classes"]:
    """Errors of an example of class `own` that is answered these probabilities, at the scale of `Found`."""
    shares = answer.clone()
    shares[own] = 0
    shares = shares / shares.sum().clamp_min(1e-300)
    shares[own] = -1
    return shares


def _reflected(parts: Split, answers: Reach, outgoing: Tensor, starts: int, search: Search) -> Bool[Tensor, "candidates live"]:
    """Sets of open units that relaxed reflections came near to."""
    left, own, errors, known = parts.left, search.own, search.typical, search.found.directions
    value, rng = outgoing @ errors, torch.Generator().manual_seed(search.seed)
    until = time.monotonic() + search.seconds
    basis = torch.linalg.qr(known)[0]
    weighted = left * value[:, None]
    form = weighted.T @ weighted
    free = torch.eye(parts.rank, dtype=left.dtype, device=left.device) - basis @ basis.T
    axes = torch.linalg.eigh(free @ form @ free)[1][:, -min(search.expected, parts.rank - known.shape[1]) :]
    space, target = left.float(), value.float()[:, None].expand(-1, starts)
    base, moves = _free(outgoing, errors, own)
    base, moves, state = base.float(), moves.float(), _begun(left, axes, value, starts, rng)
    worth = answers.worth * float(value.square().mean().sqrt())
    origin, basis = worth * answers.origin.float()[:, None], answers.basis.float()
    heights = _onto(origin, basis, ANSWERS * (2 * state * target.sign() - target.abs()))
    masks: list[Tensor] = []
    directions: list[Tensor] = []
    distances: list[Tensor] = []
    for step in range(1, search.reflections + 1):
        opened = (state - target).square() + heights.clamp_max(0).square() < state.square() + heights.clamp_min(0).square()
        wanted = torch.where(opened, target, 0.0)
        allowed = torch.where(opened, heights.clamp_min(0), heights.clamp_max(0))
        inside = space.T @ wanted
        state = state + STEP * (space @ (2 * inside - space.T @ state) - wanted)
        heights = heights + STEP * (_onto(origin, basis, 2 * allowed - heights) - allowed)
        if step % GLANCE == 0:
            sizes = wanted.norm(dim=0)
            far = (1 - (inside.norm(dim=0) / sizes.clamp_min(1e-30)) ** 2).clamp_min(0).sqrt()
            near = (far < NEAR) & (sizes > 0)
            # all shut is a solution too, of no example: its starts begin again (and would end in slow denormal numbers)
            fallen = (sizes == 0).nonzero().flatten()
            state[:, fallen] = _begun(left, axes, value, len(fallen), rng)
            masks.append((wanted[:, near] != 0).T)
            directions.append(inside[:, near].T)
            distances.append(far[near])
            if float(far.median()) < DONE or time.monotonic() > until:
                break
            if moves.shape[1] and step >= 2 * GLANCE:
                shift = _shift(space, base, moves, (wanted != 0).T, PRIOR)
                target = (base + _allowed(shift, errors, own) @ moves.T).T
    order = torch.cat(distances).argsort()
    return torch.cat(masks)[order][_distinct(torch.cat(directions)[order], known)]


def _onto(origin: Tensor, basis: Tensor, heights: Tensor) -> Float[Tensor, "live starts"]:
    """The nearest of the answers that are within reach."""
    return origin + basis @ (basis.T @ heights)


def _begun(left: Tensor, axes: Tensor, value: Tensor, starts: int, rng: torch.Generator) -> Float[Tensor, "live starts"]:
    """Random vectors of those axes, as long as a direction of an example that opens half of the units."""
    drawn = axes @ torch.randn(axes.shape[1], starts, generator=rng, dtype=left.dtype).to(left.device)
    return (left @ functional.normalize(drawn, dim=0) * value.norm() / 2**0.5).float()


def _free(outgoing: Tensor, errors: Tensor, own: int) -> tuple[Float[Tensor, " live"], Float[Tensor, "live moves"]]:
    """Values for these errors, and how they change as the other classes' errors move and go on to sum to one."""
    others = [k for k in range(outgoing.shape[1]) if k != own]
    return outgoing @ errors, outgoing[:, others[1:]] - outgoing[:, others[:1]]


def _allowed(shift: Tensor, errors: Tensor, own: int) -> Tensor:
    """The shifts that leave no error of another class negative."""
    others = [k for k in range(len(errors)) if k != own]
    full = errors[others].to(shift).repeat(len(shift), 1)
    full[:, 1:] += shift
    full[:, 0] -= shift.sum(1)
    full = full.clamp_min(0)
    return (full / full.sum(1, keepdim=True).clamp_min(1e-30))[:, 1:] - errors[others[1:]].to(shift)


def _shift(space: Tensor, base: Tensor, moves: Tensor, mask: Tensor, prior: float) -> Float[Tensor, "sets moves"]:
    """For every set of open units, the move of the errors that brings the values nearest to the subspace.

    `prior`: weight of staying, as a share of the moves' mean size.
    """
    weights = mask.to(space)
    columns = torch.cat([base[:, None], moves], 1)
    products = (columns[:, :, None] * columns[:, None, :]).flatten(1)
    whole = (weights @ products).unflatten(1, (columns.shape[1], -1))
    inside = torch.stack([(weights * column) @ space for column in columns.T], 1)
    gram = whole - inside @ inside.mT
    system, right = gram[:, 1:, 1:], gram[:, 1:, :1]
    size = whole[:, 1:, 1:].diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-30)
    return -torch.linalg.solve(system + prior * size * torch.eye(system.shape[1]).to(system), right)[:, :, 0]


def _distinct(directions: Tensor, known: Tensor) -> Tensor:
    """Indices of candidates, best first, that are neither alike nor among the directions that are known."""
    directions = functional.normalize(directions, dim=1)
    fresh = torch.ones(len(directions), dtype=torch.bool, device=directions.device)
    if known.shape[1]:
        fresh = (directions @ functional.normalize(known.float(), dim=0)).abs().amax(1) < CLOSE
    alike = directions @ directions.T > CLOSE
    kept: list[int] = []
    for index in fresh.nonzero().flatten().tolist():
        if len(kept) == MOST:
            break
        if not bool(alike[index, kept].any()):
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=directions.device)


def finished(
    left: Float[Tensor, "live rank"],
    outgoing: Float[Tensor, "live classes"],
    candidates: Bool[Tensor, "candidates live"],
    own: int,
    errors: Float[Tensor, " classes"],
    tolerance: float,
) -> Found:
    """Least squares in turn for direction and errors, and for the open units, in float64; what does not fit is dropped."""
    others = [k for k in range(outgoing.shape[1]) if k != own]
    base, moves = _free(outgoing, errors, own)
    single = (left.float(), base.float(), moves.float())
    kept: list[Found] = []
    for part in candidates.split(64):
        for turn in range(TURNS):  # roughly first, in float32
            values = single[1] + (_shift(*single, part, 1e-4) @ single[2].T if moves.shape[1] else 0)
            direction = (part * values) @ single[0]
            entries = direction @ single[0].T
            refit = (entries - values).abs() < entries.abs()
            if refit.equal(part):
                break
            if turn == PATIENCE:
                worth = ((refit * values) @ single[0]).norm(dim=1) > 0.97 * (refit * values).norm(dim=1)
                refit = refit[worth]
            part = refit
        shift, values, direction, residual = _fit(left, base, moves, part)
        for _ in range(3):
            entries = direction @ left.T
            refit = (entries - values).abs() < entries.abs()
            if refit.equal(part):
                break
            part = refit
            shift, values, direction, residual = _fit(left, base, moves, part)
        good = residual < tolerance
        full = errors.repeat(len(part), 1)
        full[:, others[1:]] += shift
        full[:, others[0]] -= shift.sum(1)
        good &= (full[:, others] > -1e-3 - 10 * tolerance).all(1) & part.any(1)
        classes = torch.full((int(good.sum()),), own, device=left.device)
        kept.append(Found(direction[good].T, classes, full[good], part[good], residual[good]))
    return Found(
        torch.cat([k.directions for k in kept], 1), torch.cat([k.classes for k in kept]),
        torch.cat([k.errors for k in kept]), torch.cat([k.open for k in kept]), torch.cat([k.left_over for k in kept]),
    )  # fmt: skip


def _fit(left: Tensor, base: Tensor, moves: Tensor, open_units: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The errors' moves, the values, the direction and the relative residual, for every set of open units."""
    mask = open_units.to(left)
    masked = torch.cat([(mask * base)[:, :, None], mask[:, :, None] * moves], 2)  # set, unit, 1 + moves
    outside = masked - left @ (left.T @ masked)
    target, design = outside[:, :, 0], outside[:, :, 1:]
    if moves.shape[1]:
        gram = design.mT @ design
        ridge = 1e-13 * gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-300
        gram = gram + ridge * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        shift = -torch.linalg.solve(gram, (design.mT @ target[:, :, None]))[:, :, 0]
    else:
        shift = left.new_zeros(len(mask), 0)
    values = base + shift @ moves.T
    wanted = mask * values
    direction = wanted @ left
    residual = (wanted - direction @ left.T).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-300)
    return shift, values, direction, residual


def joined(found: Found, new: Found) -> Found:
    """The directions found so far and those of the new ones that are none of them, best first."""
    directions, order = found.directions, []
    for index in new.left_over.argsort().tolist():
        candidate = new.directions[:, index]
        if directions.shape[1]:
            cosine = (candidate @ directions).abs() / directions.norm(dim=0) / candidate.norm()
            if bool((cosine > ALIKE).any()):
                continue
        directions = torch.cat([directions, candidate[:, None]], 1)
        order.append(index)
    return Found(
        directions, torch.cat([found.classes, new.classes[order]]), torch.cat([found.errors, new.errors[order]]),
        torch.cat([found.open, new.open[order]]), torch.cat([found.left_over, new.left_over[order]]),
    )  # fmt: skip
