"""SPEAR (Dimitrov et al., NeurIPS 2024, arXiv 2403.03945): directions by sampling, from the zeros alone."""

import math
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, rows_by
from attacks.exact.assembly import inputs_of, refined
from attacks.exact.certificate import certify
from attacks.exact.layers import Rectified, dtype_of, tail, victim
from attacks.exact.low_rank import Split, split
from attacks.labels.auto import AutoLabels
from learning.catalogue import Count, Positive, settings

SCREEN = 2e-4  # cosine below which an entry counts as zero in float32
REFUSED = (0.05, 1e-5)  # chance that a true direction of the batch has fewer zeros than asked for: at first, and later
ALIKE = 1 - 1e-6
CHOICE = 40  # directions kept for each that is needed, the sparsest
PATIENCE, LENIENT = (
    10,
    0.75,
)  # so many times the expected samples are later; after twice as many this share of the zeros will do


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
    number of samples (`expected_samples`) grows by two with every example.

    `chunk`: samples at once. `samples`: after which it gives up, as it does after `seconds`.

    A picture's label is the one with which the model gives it the slopes that were found. Where not all directions are found
    there are no pictures, and the labels are those of `auto`. Raises `NotApplicable` where no such layer sees the picture, or
    for one example (see `linear`).
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
        labels = rows_by(AutoLabels(), observation, rng)
        expected = f"{found.samples:.2g} samples drawn, {expected_samples(len(parts.live), parts.rank):.2g} expected"
        if found.directions.shape[1] < parts.rank or parts.rank < observation.examples:
            return Reconstruction(
                labels=labels, identifiable=False,
                verdict=f"{found.directions.shape[1]} of {observation.examples} directions were found: {expected}",
            )  # fmt: skip
        known = inputs_of(first, parts, found.directions)
        rows = _fitting_labels(observation, end.pictures(known.inputs, observation.image_shape), known.slopes, first.name)
        pictures = refined(observation, end, known.inputs, rows)
        certificate = certify(observation, end, parts, pictures, rows)
        return Reconstruction(
            images=pictures.nan_to_num(0.5).clamp(0, 1).cpu().to(dtype_of(observation)),
            labels=rows.float().cpu(),
            certified=certificate.certified.cpu(),
            identifiable=bool(certificate.certified.all()),
            verdict=f"{certificate.sentence}; {expected}",
        )


def expected_samples(units: int, rank: int) -> float:
    """Samples that SPEAR needs on average (its lemma 5.2), if every example opens half of the units."""
    hit = math.comb(units // 2, rank - 1) / math.comb(units, rank - 1)
    return math.inf if hit == 0 else sum(1 / (rank - k) for k in range(rank)) / hit


def fewest_zeros(units: int, rank: int, refused: float) -> int:
    """Zeros that a direction must have: that all true ones have as many fails with probability `refused` at most.

    A unit is shut for half of the examples, but among the units that are open for any it is shut for fewer of a small batch.
    """
    total, nobody = 0.0, 2.0**-rank
    shut = (0.5 - nobody) / (1 - nobody)
    for zeros in range(units + 1):
        total += math.comb(units, zeros) * shut**zeros * (1 - shut) ** (units - zeros)
        if total > refused / rank:
            return max(zeros, rank + 2)
    return units


def sampled(parts: Split, layer: Rectified, chunk: int, samples: int, seconds: float, rng: torch.Generator) -> Sampled:
    """Directions by sampling rows; stops at a choice whose zeros fit the activations, or when there are no more samples."""
    rank, units = parts.rank, len(parts.live)
    rows = parts.left / parts.left.norm(dim=1, keepdim=True)
    single, expected = rows.float(), expected_samples(units, rank)
    needed, later = (fewest_zeros(units, rank, refused) for refused in REFUSED)
    tolerance = max(1e-7, 30 * parts.unsure * math.sqrt(units / rank))
    pool = rows.new_zeros(rank, 0)
    zeros = torch.zeros(0, device=rows.device)
    drawn, deadline = 0, time.monotonic() + seconds
    while drawn < samples and time.monotonic() < deadline:
        if drawn > PATIENCE * expected:
            needed = later if drawn < 2 * PATIENCE * expected else max(round(LENIENT * later), rank + 2)
        picks = torch.randint(units, (chunk, rank - 1), generator=rng).to(rows.device)
        drawn += chunk
        system = single[picks]  # the vector orthogonal to the rows, its last coordinate one
        solved, _ = torch.linalg.solve_ex(system[:, :, :-1], -system[:, :, -1:])
        vectors = torch.cat([solved[:, :, 0], solved.new_ones(chunk, 1)], 1)
        vectors = torch.nn.functional.normalize(vectors, dim=1)
        early = (vectors @ single[: units // 2].T).abs().lt(SCREEN).sum(1)  # two stages: half of the units first
        some = (early >= max(0, needed // 2 - 8)).nonzero().flatten()
        count = (vectors[some] @ single.T).abs().lt(SCREEN).sum(1)
        hits = some[count >= needed]
        fresh = False
        for index in hits.tolist():
            if time.monotonic() > deadline:
                break
            if pool.shape[1] and float((vectors[index].double() @ pool).abs().max()) > 1 - 1e-5:
                continue
            exact = torch.linalg.svd(rows[picks[index]], full_matrices=True)[2][-1]
            shut = (rows @ exact).abs() < max(tolerance, 1e-9)
            if int(shut.sum()) < needed:
                continue
            exact = torch.linalg.svd(rows[shut], full_matrices=False)[2][-1]
            if pool.shape[1] and float((exact @ pool).abs().max()) > ALIKE:
                continue
            pool = torch.cat([pool, exact[:, None]], 1)
            zeros = torch.cat([zeros, shut.sum()[None].to(zeros)])
            fresh = True
        if pool.shape[1] > CHOICE * rank:  # narrow layers let many mixtures of examples through
            best = zeros.argsort(descending=True)[: CHOICE * rank]
            pool, zeros = pool[:, best], zeros[best]
        if fresh and pool.shape[1] >= rank:
            chosen = _greedy(parts, layer, pool, zeros, tolerance, deadline)
            if chosen is not None and _matching(parts, layer, pool[:, chosen], tolerance) > 0.999:
                return Sampled(pool[:, chosen], drawn)
    chosen = _greedy(parts, layer, pool, zeros, tolerance, deadline) if pool.shape[1] >= rank else None
    return Sampled(pool[:, : rank - 1] if chosen is None else pool[:, chosen], drawn)


def _greedy(parts: Split, layer: Rectified, pool: Tensor, zeros: Tensor, tolerance: float, deadline: float) -> Tensor | None:
    """The sparsest independent directions, then swaps as long as one raises the score, and time is left."""
    chosen: list[int] = []
    for index in zeros.argsort(descending=True).tolist():
        if torch.linalg.matrix_rank(pool[:, [*chosen, index]], rtol=1e-6) == len(chosen) + 1:
            chosen.append(index)
        if len(chosen) == parts.rank:
            break
    if len(chosen) < parts.rank:
        return None
    score = _matching(parts, layer, pool[:, chosen], tolerance)
    for other in range(pool.shape[1]):
        for place in range(parts.rank):
            if score >= 1 or other in chosen or time.monotonic() > deadline:
                break
            swapped = [*chosen[:place], other, *chosen[place + 1 :]]
            if (better := _matching(parts, layer, pool[:, swapped], tolerance)) > score:
                chosen, score = swapped, better
    return torch.tensor(chosen, device=pool.device)


def _matching(parts: Split, layer: Rectified, directions: Tensor, tolerance: float) -> float:
    """SPEAR's sparsity matching coefficient: the share of entries that are zero just where the activation is shut."""
    scaled = torch.linalg.lstsq(directions, parts.right).solution
    inputs = scaled[:, :-1] / scaled[:, -1:]
    assert layer.bias is not None
    opened = inputs @ layer.weight[parts.live].T + layer.bias[parts.live] > 0
    rows = parts.left / parts.left.norm(dim=1, keepdim=True)
    slopes = (rows @ (directions / directions.norm(dim=0))).abs() > tolerance
    return float((opened == slopes.T).double().mean())


def _fitting_labels(observation: Observation, pictures: Tensor, slopes: Tensor, name: str) -> Float[Tensor, "batch classes"]:
    """For every picture the label with which the model gives it those slopes best."""
    model, classes = victim(observation), observation.classes
    outputs: list[Tensor] = []

    def remember(_: torch.nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    hook = model.get_submodule(name).register_forward_hook(remember)
    try:
        distances = []
        for own in range(classes):
            outputs.clear()
            target = torch.full((len(pictures),), own, device=pictures.device)
            loss = torch.nn.functional.cross_entropy(model(pictures), target, reduction="sum") / observation.examples
            (slope,) = torch.autograd.grad(loss, outputs[0])
            distances.append((slope.T - slopes).norm(dim=0))
    finally:
        hook.remove()
    return torch.nn.functional.one_hot(torch.stack(distances).argmin(0), classes).to(pictures)
