"""SPEAR (Dimitrov et al., NeurIPS 2024, arXiv 2403.03945): directions by sampling, from the zeros alone."""

import math
import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, rows_by
from attacks.directions.inputs import fault_of, fitting_labels, inputs_of
from attacks.directions.layers import Rectified, tail
from attacks.directions.low_rank import Split, split
from attacks.exact.assembly import completed_labels
from attacks.exact.proof import proof_of
from attacks.helpers import Nobody, helpers
from attacks.labels.auto import AutoLabels
from learning.catalogue import Count, Positive, settings

SCREEN = 2e-4  # cosine below which an entry counts as zero in float32
REFUSED = 1e-5  # chance that a true direction of the batch has fewer zeros than are asked for
ALIKE = 1 - 1e-6
SPARED = 1 - 1e-5  # leverage above which a zero is taken for one that determines a direction alone
FIRM = 10.0  # times that the tolerance of zeros is above what noise turns a row by
FITS = (50.0, 15.0, 5.0, 5.0)  # deviations of the noise below which a product is zero, fit by fit of a direction to its zeros
UNSETTLED = 0.03  # share of an example's activations that noise may leave in doubt
ROUNDED = 1e-7  # share of a row's size below which a product is zero
SLICE = 2048  # directions looked at together
WORK = 2e7  # entries of the systems that are solved at once
SHARED = 4096  # samples at once from which on helpers draw as many
GUESSED, GUESSES = 4, 2048  # directions that are guessed from all others, and points drawn for them
CHOICE = 40  # directions kept for each that is needed, the sparsest
EXHAUSTED = 100  # times the expected samples without a new direction, after which there is none
ENOUGH = 4  # times the expected samples are drawn at once at most: more would find the same directions again and again
PATIENCE, LENIENT = 5, 0.75  # without a choice after so many times the expected samples, and doublings, these zeros will do


@dataclass(frozen=True)
class Sampled:
    """Directions, one a column, the sparsest first, and the number of samples drawn for them."""

    directions: Float[Tensor, "rank found"]
    samples: int


@settings
class Spear(Attack):
    """Pictures of a batch from a linear layer that sees them and is followed by ReLU; nothing is asked of what comes behind.

    Where an example leaves a unit shut, its column of the slopes is zero; as many such rows as the rank less one fix the
    column's direction. Rows are drawn at random, the one vector orthogonal to them is kept if it has more zeros than chance
    gives, and the greedy choice among those kept is the one whose zeros fit the layer's own activations best. The expected
    number of samples (`expected_samples`) doubles with every example. Helpers draw their own.

    Beyond the paper: no row is drawn twice in one sample (in narrow layers most of the paper's samples do, and determine
    nothing); which products are zero follows from the noise of each row, and a direction is fitted to all its zeros again
    and again; mixtures of examples are told by their zeros; and the last few directions are guessed from all others.

    `chunk`: samples at once, at most. `samples`: after which it gives up, as it does after `seconds`.

    A picture's label is the one with which the model gives it the slopes that were found. Where not all directions are found
    there are no pictures, and the labels are those of `auto`. Examples whose share of the update is below its noise have grey
    pictures that are not certified, and labels of `auto` less those that were found. Raises `NotApplicable` where no such
    layer sees the picture, or for one example (see `linear`).
    """

    chunk: Count = 16384
    samples: Count = 50_000_000
    seconds: Positive = 300.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.examples == 1:
            raise NotApplicable("a single example is solved for by linear")
        end = tail(observation)
        first = end.layers[0]
        if end.slope is None or not first.rectified:
            raise NotApplicable("no linear layer that sees the picture is followed by ReLU and a linear layer")
        if first.bias is None:
            raise NotApplicable("the first layer has no bias, and SPEAR's scale comes from the bias gradient")
        parts = split(first.gradient, observation.examples)
        found = sampled(parts, first, self.chunk, self.samples, self.seconds, rng)
        expected = f"{found.samples:.2g} samples drawn, {expected_samples(len(parts.live), parts.rank):.2g} expected"
        if fault := fault_of(found.directions):
            labels = rows_by(AutoLabels(seconds=0.0), observation, rng)
            return Reconstruction(labels=labels, identifiable=False, verdict=f"{fault}; {expected}")
        known = inputs_of(first, parts, found.directions)
        classes = fitting_labels(end, known, observation.examples).argmax(1)
        proof = proof_of(observation, end, parts, known.inputs, classes)
        told = replace(proof, sentence=f"{proof.sentence}; {expected}")
        return told.reconstruction(observation, completed_labels(observation, classes, rng))


def expected_samples(units: int, rank: int) -> float:
    """Samples that SPEAR needs on average (its lemma 5.2), if every example opens half of the units."""
    hit = math.comb(units // 2, rank - 1) / math.comb(units, rank - 1)
    return math.inf if hit == 0 else sum(1 / (rank - k) for k in range(rank)) / hit


def fewest_zeros(units: int, rank: int) -> int:
    """Zeros that a direction must have: that all true ones have as many fails with probability `REFUSED` at most.

    A unit is shut for half of the examples, but among the units that are open for any it is shut for fewer of a small batch.
    """
    total, nobody = 0.0, 2.0**-rank
    shut = (0.5 - nobody) / (1 - nobody)
    for zeros in range(units + 1):
        total += math.comb(units, zeros) * shut**zeros * (1 - shut) ** (units - zeros)
        if total > REFUSED / rank:
            return max(zeros, rank + 2)
    return units


class _Pool:
    """Directions that may be an example's, one a column, with their numbers of zeros; none of them twice."""

    def __init__(self, left: Tensor):
        self.left, self.rank = left, left.shape[1]
        self.directions, self.zeros = left.new_zeros(self.rank, 0), left.new_zeros(0)

    def add(self, shut: Tensor) -> bool:
        """Takes in the direction of those zeros, if it is new, or in place of ones like it that have fewer."""
        direction = torch.linalg.svd(self.left[shut], full_matrices=False)[2][-1]
        alike = (direction @ self.directions).abs() > ALIKE
        if bool((self.zeros[alike] >= shut.sum()).any()):
            return False
        self.directions = torch.cat([self.directions[:, ~alike], direction[:, None]], 1)
        self.zeros = torch.cat([self.zeros[~alike], shut.sum()[None].to(self.zeros)])
        return True

    def cut(self, size: int) -> None:
        """Keeps so many, the sparsest."""
        if len(self.zeros) > size:
            best = self.zeros.argsort(descending=True)[:size]
            self.directions, self.zeros = self.directions[:, best], self.zeros[best]

    def independent(self) -> list[int]:
        """The sparsest that are independent, as many as the rank where there are so many."""
        chosen: list[int] = []
        for index in self.zeros.argsort(descending=True).tolist():
            if torch.linalg.matrix_rank(self.directions[:, [*chosen, index]], rtol=1e-6) == len(chosen) + 1:
                chosen.append(index)
            if len(chosen) == self.rank:
                break
        return chosen


def sampled(parts: Split, layer: Rectified, chunk: int, samples: int, seconds: float, rng: torch.Generator) -> Sampled:
    """Directions by sampling rows; stops at a choice whose zeros fit the activations, or when nothing new is to be had."""
    rank, tolerance = parts.rank, max(1e-7, 30 * parts.unsure * math.sqrt(len(parts.live) / parts.rank))
    parts = _firm(parts, tolerance)
    if len(parts.live) <= rank:
        return Sampled(parts.left.new_zeros(rank, 0), 0)
    units = len(parts.live)
    expected = expected_samples(units, rank)
    chunk = min(chunk, max(64, round(min(chunk, ENOUGH * expected, WORK / rank**2))))
    usual = needed = fewest_zeros(units, rank)
    pool, drawn, newest, score, deadline = _Pool(parts.left), 0, 0, 0.0, time.monotonic() + seconds

    def asked() -> tuple[int, Tensor, int, float]:
        return needed, pool.directions, int(torch.randint(2**62, (1,), generator=rng)), deadline - time.monotonic()

    for found in (helpers() if chunk >= SHARED else Nobody()).turns(_drawn, (parts, chunk, tolerance), asked):
        drawn += len(found) * chunk
        fresh = False
        for shut in torch.cat(found):
            if time.monotonic() > deadline:
                break
            fresh |= pool.add(shut)
        pool.cut(CHOICE * rank)  # narrow layers let many mixtures of examples through
        if fresh:
            newest = drawn
            while sum(pool.add(shut) for shut in _guessed(parts, layer, pool, tolerance, needed, rng)):
                if time.monotonic() > deadline:  # with every one that is found, there is less to guess
                    break
            chosen, score = _greedy(parts, layer, pool, deadline)
            if score > 1 - UNSETTLED / rank:
                return Sampled(pool.directions[:, chosen], drawn)
        exhausted = score > 0 and drawn - newest > EXHAUSTED * expected
        if exhausted or drawn >= samples or time.monotonic() > deadline:
            break
        if score == 0 and drawn > PATIENCE * expected:
            doublings = math.floor(math.log2(drawn / (PATIENCE * expected)))
            needed = max(round(LENIENT ** (1 + doublings) * usual), rank + 2)
    return Sampled(pool.directions[:, _greedy(parts, layer, pool, deadline)[0]], drawn)


def _drawn(
    parts: Split, chunk: int, tolerance: float, asked: tuple[int, Float[Tensor, "rank found"], int, float]
) -> Bool[Tensor, "kept live"]:
    """Which rows are shut, for the examples' directions that so many samples find.

    `asked`: how many zeros they must have, the directions that are known, the samples' seed, and seconds after which what was
    drawn is looked at no more.
    """
    needed, known, seed, seconds = asked
    deadline = time.monotonic() + seconds
    rows, units, screen = _unit_rows(parts), len(parts.live), max(SCREEN, tolerance)
    single = rows.float()
    picks = _subsets(units, parts.rank - 1, chunk, torch.Generator().manual_seed(seed)).to(rows.device)
    vectors = _orthogonal(single[picks])
    early = (vectors @ single[: units // 2].T).abs().lt(screen).sum(1)  # two stages: half of the units first
    some = (early >= max(0, needed // 2 - 8)).nonzero().flatten()
    count = (vectors[some] @ single.T).abs().lt(screen).sum(1)
    hits = some[count >= needed]
    if known.shape[1]:
        hits = hits[(vectors[hits].to(known) @ known).abs().amax(1) <= 1 - 1e-5]
    return _of_one_example(parts, _orthogonal(rows[picks[hits]]), tolerance, needed, deadline)


def _unit_rows(parts: Split) -> Float[Tensor, "live rank"]:
    return parts.left / parts.left.norm(dim=1, keepdim=True)


def _firm(parts: Split, tolerance: float) -> Split:
    """Those rows that noise turns by much less than the tolerance: units that are open for no one have gradients of noise."""
    turned = parts.unsure * math.sqrt(parts.rank / len(parts.live)) / parts.left.norm(dim=1)
    firm = turned * FIRM < tolerance
    return replace(parts, live=parts.live[firm], left=parts.left[firm], noises=parts.noises[firm])


def _subsets(units: int, size: int, count: int, rng: torch.Generator) -> Int[Tensor, "count size"]:
    """Random subsets of the rows, none of them twice in one, which would leave a direction undetermined (Floyd's sampling)."""
    picks = torch.empty(size, count, dtype=torch.long)
    for place, last in enumerate(range(units - size, units)):
        drawn = torch.randint(last + 1, (count,), generator=rng)
        taken = (picks[:place] == drawn).any(0)
        picks[place] = torch.where(taken, last, drawn)
    return picks.T


def _orthogonal(rows: Float[Tensor, "count less rank"]) -> Float[Tensor, "count rank"]:
    """For every system of one row less than the rank the vector that is orthogonal to all of them."""
    solved, _ = torch.linalg.solve_ex(rows[:, :, :-1], -rows[:, :, -1:])  # its last coordinate one
    return torch.nn.functional.normalize(torch.cat([solved[:, :, 0], solved.new_ones(len(rows), 1)], 1), dim=1)


def _of_one_example(
    parts: Split, directions: Float[Tensor, "found rank"], tolerance: float, needed: int, deadline: float = math.inf
) -> Bool[Tensor, "kept live"]:
    """Which rows are shut, for those directions that are one example's, as far as their zeros can tell, and each once.

    After the deadline no more than the first `SLICE` directions are looked at.

    Directions are drawn from few rows and the noise of these, so their zeros are first those within a wide tolerance, and
    then, ever narrower (`FITS`), those that noise explains for the direction which fits the last ones best.

    A mixture of examples is zero where all of them are shut, which leaves it undetermined, and besides only in as many rows
    as it takes to determine it: without any of these it is no longer determined. An example's zeros can spare each row. A row
    that cannot be spared has leverage one among the zeros.
    """
    rows = _unit_rows(parts)
    squares, rank, found = (rows[:, :, None] * rows[:, None, :]).flatten(1), parts.rank, []
    for some in directions.split(SLICE):
        if found and time.monotonic() > deadline:
            break
        shut, best = (some @ rows.T).abs() < tolerance, some
        for deviations in FITS:
            shut = shut[shut.sum(1) >= needed]
            best = torch.linalg.eigh((shut.to(rows) @ squares).view(-1, rank, rank)).eigenvectors[:, :, 0]
            shut = _shut(parts, best, deviations)
        enough = shut.sum(1) >= needed
        shut, best = shut[enough], best[enough]
        gram = (shut.to(rows) @ squares).view(-1, rank, rank)
        inverse, _ = torch.linalg.inv_ex(gram + best[:, :, None] * best[:, None, :])
        leverages = ((rows @ inverse) * rows).sum(2)
        found.append(shut[(leverages * shut).amax(1) < SPARED])
    return torch.cat(found).unique(dim=0)


def _shut(parts: Split, directions: Float[Tensor, "found rank"], deviations: float = FITS[-1]) -> Bool[Tensor, "found live"]:
    """Where noise or rounding explains the row's product with the direction."""
    noise = parts.noises * (directions / parts.values).norm(dim=1, keepdim=True)
    return (directions @ parts.left.T).abs() < deviations * noise + ROUNDED * parts.left.norm(dim=1)


def _guessed(
    parts: Split, layer: Rectified, pool: _Pool, tolerance: float, needed: int, rng: torch.Generator
) -> Bool[Tensor, "kept live"]:
    """Which rows the last few examples may shut, given the directions of all others; none where more are missing.

    An example's input, as a combination of the split's right factor, is orthogonal to the others' directions, and the bias
    column scales it. With one missing that is the input, and all that it shuts gives the direction, however little that is;
    with more, points are drawn where it must lie, and the units that each shuts most firmly give one.
    """
    rows, others = _unit_rows(parts), pool.directions[:, pool.independent()]
    missing = parts.rank - others.shape[1]
    if not 0 < missing <= GUESSED:
        return torch.zeros(0, len(rows), dtype=torch.bool, device=rows.device)
    complement = torch.linalg.qr(others, mode="complete")[0][:, -missing:]
    points = torch.ones(1, 1) if missing == 1 else torch.randn(GUESSES, missing, generator=rng)
    inputs = points.to(rows) @ complement.T @ parts.right
    assert layer.bias is not None
    answers = inputs[:, :-1] / inputs[:, -1:] @ layer.weight[parts.live].T + layer.bias[parts.live]
    taken = max(int((answers < 0).sum()), parts.rank) if missing == 1 else needed
    shut = rows[answers.topk(taken, dim=1, largest=False).indices]
    directions = torch.linalg.eigh(shut.mT @ shut).eigenvectors[:, :, 0]
    return _of_one_example(parts, directions, tolerance, parts.rank if missing == 1 else needed)


def _greedy(parts: Split, layer: Rectified, pool: _Pool, deadline: float) -> tuple[list[int], float]:
    """The sparsest independent directions, then swaps as long as one raises the score, and time is left; and the score.

    Fewer than the rank, scored zero, where the pool has no more that are independent.
    """
    chosen = pool.independent()
    if len(chosen) < parts.rank:
        return chosen, 0.0
    score = _matching(parts, layer, pool.directions[:, chosen])
    for other in range(len(pool.zeros)):
        for place in range(parts.rank):
            if score >= 1 or other in chosen or time.monotonic() > deadline:
                break
            swapped = [*chosen[:place], other, *chosen[place + 1 :]]
            if (better := _matching(parts, layer, pool.directions[:, swapped])) > score:
                chosen, score = swapped, better
    return chosen, score


def _matching(parts: Split, layer: Rectified, directions: Tensor) -> float:
    """SPEAR's sparsity matching coefficient: the share of entries that are zero just where the activation is shut."""
    scaled = torch.linalg.lstsq(directions, parts.right).solution
    inputs = scaled[:, :-1] / scaled[:, -1:]
    assert layer.bias is not None
    opened = inputs @ layer.weight[parts.live].T + layer.bias[parts.live] > 0
    return float((opened != _shut(parts, directions.T)).double().mean())
