"""RLU: labels from the bias update and the moments of a few public pictures (Chen and Vikalo, ICML 2024)."""

import copy
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.labels.counts import rows_of, unknown_counts, whole_counts
from attacks.labels.last_layer import answers, last_layer
from learning.catalogue import Count, settings
from learning.tensors import Batch
from learning.training import local_update

QUANTILE = 1.959964  # of the normal distribution: 95 % lie within so many deviations
SPLITS, BATCHES = 6, 40  # halvings of the public pictures, and batches of each, that try out how many deviations 95 % need
PRIOR_PICTURES = 5.0  # a class's covariance is held to have been seen on so many pictures of all classes beside its own
NO_INTERVAL = "no interval is given after several local steps, where none has been seen to hold 95 % of the counts"
RESAMPLES, ODD = 60, 4.0  # batches drawn to see how large a gradient should be; deviations from there that are too many


@settings
class RLU(Attack):
    """How many examples of each class there are, on trained models and after many local steps, from granted public pictures.

    The batch's summed bias gradient is sum_c n_c m_c, where m_c is the mean of p - y over examples of class c: the public
    pictures' means stand for them. Least squares alone would do worse than guessing where the model is nearly always right
    and the m_c are small, so the counts are drawn towards the public pictures' class frequencies: they are the mean given
    the gradient, both taken as normal, with the within-class covariance of p - y, and with multinomial counts whose spread
    is the multiple (of one, four, sixteen or sixty-four times the variance) under which the gradient is most likely.

    After several local steps the m_c are means along the straight way from the model sent to the model reached (`points`
    models). Then the client's whole round is played `runs` times with public pictures of the estimated counts, what the
    played bias update has more or less than the true one corrects the counts, and so on, `rounds` times. From the second on
    the m_c are corrected, too, by what the changes of the counts did to the played updates: after ten epochs that is a
    fraction of what the straight way says, and corrections by that alone creep. The counts whose played update comes nearest
    are returned: on trained models the corrections wander, and the last is seldom the best.

    Beside the counts of one step stands an interval around the plain least-squares estimate, which no prior draws anywhere:
    its deviation follows from the covariances within the classes and the finite number of public pictures, and how many
    deviations are needed is tried out with batches of one half of the public pictures and moments of the other. Counts are
    whole: an interval that names one number is right or wrong, and on untrained models, where nearly all do, more than 95 %
    are right. After several steps there is none, and the verdict says so: what the straight way between two models leaves
    out is no noise, and intervals that took it for noise held 41 % of the counts of an untrained MLP after ten epochs.

    The interval holds where the public pictures look to the model like the client's. Where the model has memorised the
    client's, they do not: `identifiable` is False and the verdict says so if the weight gradient is smaller or larger than
    batches of public pictures ever give, and likewise if the gradient takes away less than a fifth of the variance that the
    counts of batches drawn by the public frequencies have.

    Assumes a bias, and public pictures with labels. Raises `NotApplicable` otherwise. A class of which there is no public
    picture is held to be like all of them.
    """

    needs = ("public",)

    rounds: Count = 5
    runs: Count = 4
    points: Count = 5

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        public, labels = observation.granted.labelled_pictures("this method takes its moments from them")
        layer, total = last_layer(observation), observation.examples
        if layer.bias_gradient is None:
            raise NotApplicable("the last layer has no bias, and this method reads the bias gradient")
        wanted = total * layer.bias_gradient.cpu().nan_to_num(0.0)
        moments, features, errors = self._moments(observation, public, labels, rng)
        estimate = _Estimate.of(moments, wanted, total)
        one_step = observation.steps == 1
        if one_step:
            counts = whole_counts(estimate.counts, total)
            sizes = _resampled_sizes(features, errors, labels, estimate.counts, rng)
            interval = estimate.interval(total, _quantile(errors, labels, estimate.counts, total, rng))
        else:
            rounds: list[_Round] = []
            for _ in range(self.rounds):
                tried = whole_counts(estimate.counts, total)
                rounds.append(_Round.played(observation, public, labels, tried, self.runs, rng))
                last, effects = rounds[-1], _effects(moments.means, rounds)
                shifted = wanted - last.mean + effects @ tried.double()
                estimate = _Estimate.of(replace(moments, means=effects), shifted, total, last.sums)
            nearest = min(rounds, key=lambda played: float((played.mean - wanted).norm()))
            counts, sizes, interval = nearest.counts, nearest.sizes, None
        fault = estimate.verdict() or _oddness(float(layer.weight_gradient.norm()), sizes)
        return Reconstruction(
            labels=rows_of(counts),
            counts_interval=interval,
            identifiable=not fault,
            verdict=fault or ("" if one_step else NO_INTERVAL),
        )

    def _moments(
        self, observation: Observation, public: Tensor, labels: Tensor, rng: torch.Generator
    ) -> tuple["Moments", Tensor, Tensor]:
        steps = min(observation.steps, self.points)
        shares = [0.0] if steps == 1 else [step / (steps - 1) for step in range(steps)]
        seen = [answers(observation, public, rng, share) for share in shares]
        truth = functional.one_hot(labels, observation.classes).double()
        errors = torch.stack([probabilities.cpu() for _, probabilities in seen]).mean(0) - truth
        return Moments.of(errors, labels, observation.classes), seen[0][0].cpu(), errors


@dataclass(frozen=True)
class Moments:
    """What p - y is like in each class.

    `means`: one column a class. `covariances`: one matrix a class. `seen`: how many pictures of each class.
    """

    means: Tensor
    covariances: Tensor
    seen: Tensor

    @classmethod
    def of(cls, errors: Tensor, labels: Tensor, classes: int) -> "Moments":
        """The moments of the pictures whose errors p - y are the rows."""
        member = functional.one_hot(labels, classes).double()
        seen = member.sum(0)
        answered = errors + member  # a class without a picture is answered as all are, and its own entry is one less
        means = torch.where(seen > 0, answered.T @ member / seen.clamp_min(1), answered.mean(0)[:, None]) - torch.eye(classes)
        centred = errors - means.T[labels]
        pooled = centred.T @ centred / max(len(labels) - int((seen > 0).sum()), 1)
        covariances = torch.stack([centred[labels == c].T @ centred[labels == c] for c in range(classes)])
        weight = (seen - 1).clamp_min(0) + PRIOR_PICTURES
        return cls(means, (covariances + PRIOR_PICTURES * pooled) / weight[:, None, None], seen)


@dataclass(frozen=True)
class _Estimate:
    """`counts`: the mean given the gradient. `free`: by least squares alone, and the latter's `covariance`.

    `rank`: how many equations are independent. `unknown`: the share of a blind guess's variance that the gradient leaves.
    """

    counts: Tensor
    free: Tensor
    covariance: Tensor
    rank: int
    unknown: float

    @classmethod
    def of(cls, moments: Moments, wanted: Tensor, total: int, played: Tensor | None = None) -> "_Estimate":
        """The estimate from summed errors; `played`: those of rounds that were played with the same counts, one a row."""
        rank, inverse = _inverse(moments)
        free = inverse @ _with_total(wanted, total)
        share = (moments.seen + 1) / (moments.seen + 1).sum()
        prior = total * share
        spread = total * (torch.diag(share) - torch.outer(share, share))
        counts, noise = prior, spread
        for _ in range(3):  # the covariance depends on the counts, and the counts, a little, on the covariance
            noise = _noise(moments, counts.clamp_min(0))
            if played is not None and len(played) > 1:
                one = float(torch.einsum("k,kii->", counts.clamp_min(0), moments.covariances))
                noise = noise * max(1.0, float(played.var(0).sum()) / max(one, 1e-12)) * (1 + 1 / len(played))
            counts = _given(moments.means, wanted, prior, spread, noise)
        left = inverse[:, : len(wanted)]
        moved = spread @ moments.means.T
        known = moved @ torch.linalg.pinv(moments.means @ moved + noise, rtol=1e-9, hermitian=True) @ moved.T
        return cls(counts, free, left @ noise @ left.T, rank, 1 - float(known.trace() / spread.trace().clamp_min(1e-300)))

    def interval(self, total: int, quantile: float) -> tuple[Tensor, Tensor]:
        """The whole numbers within so many deviations; where there is none, the nearest."""
        reach = quantile * self.covariance.diagonal().clamp_min(0).sqrt()
        low, high = (self.free - reach).clamp(-1, total + 1), (self.free + reach).clamp(-1, total + 1)
        low, high = low.ceil().clamp(0, total).long(), high.floor().clamp(0, total).long()
        nearest = self.free.round().clamp(0, total).long()
        return torch.where(low <= high, low, nearest), torch.where(low <= high, high, nearest)

    def verdict(self) -> str:
        """Why the counts are not to be known, or nothing."""
        classes = len(self.counts)
        if self.rank < classes - 1:
            return f"labels not identifiable here: only {self.rank} of {classes - 1} equations are independent"
        return unknown_counts(self.unknown)


def _inverse(moments: Moments) -> tuple[int, Tensor]:
    """How many of the equations are independent, and the pseudo-inverse of the means with the total as one more row."""
    classes = len(moments.means)
    values = torch.linalg.svdvals(moments.means)
    system = torch.cat([moments.means, torch.ones(1, classes, dtype=torch.float64)])
    return int((values > 1e-7 * values[0].clamp_min(1e-300)).sum()), torch.linalg.pinv(system, rtol=1e-9)


def _with_total(sums: Tensor, total: int) -> Tensor:
    return torch.cat([sums, torch.full((*sums.shape[:-1], 1), float(total), dtype=torch.float64)], dim=-1)


def _noise(moments: Moments, counts: Tensor) -> Tensor:
    """Covariance of the summed errors around their expectation by the public means, which are themselves estimates."""
    variances = counts + counts.square() / moments.seen.clamp_min(1)
    return torch.einsum("k,kij->ij", variances, moments.covariances)


def _given(means: Tensor, wanted: Tensor, prior: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
    """The counts' mean given the summed errors, for the multiple of the prior's variance under which these are most likely."""
    best, likeliest = prior, -math.inf
    away = wanted - means @ prior
    for multiple in (1.0, 4.0, 16.0, 64.0):
        moved = multiple * spread @ means.T
        levels, axes = torch.linalg.eigh(means @ moved + noise)
        used = levels > 1e-10 * levels[-1].clamp_min(1e-300)  # the errors sum to zero: one direction has no variance
        along, levels = axes[:, used].T @ away, levels[used]
        likelihood = -float((along.square() / levels + levels.log()).sum())
        if likelihood > likeliest:
            best, likeliest = prior + moved @ axes[:, used] @ (along / levels), likelihood
    return best


def _quantile(errors: Tensor, labels: Tensor, counts: Tensor, total: int, rng: torch.Generator) -> float:
    """Of how many deviations intervals hold 95 % of the counts, tried on halves of the public pictures."""
    truth, zero = whole_counts(counts, total), torch.zeros(BATCHES, len(counts), dtype=torch.float64)
    missed = []
    for _ in range(SPLITS):
        order = torch.randperm(len(labels), generator=rng)
        known, left = order[: len(order) // 2], order[len(order) // 2 :]
        moments = Moments.of(errors[known], labels[known], len(truth))
        inverse = _inverse(moments)[1]
        own = inverse[:, : len(truth)]
        deviations = (own @ _noise(moments, counts.clamp_min(0)) @ own.T).diagonal().clamp_min(1e-12).sqrt()
        pools = [left[labels[left] == index] for index in range(len(truth))]
        if any(count and not len(pool) for count, pool in zip(truth.tolist(), pools, strict=True)):
            return QUANTILE
        sums = sum((_drawn_sums(errors, pool, count, rng) for pool, count in zip(pools, truth.tolist(), strict=True)), zero)
        missed.append(_missed(_with_total(sums, total) @ inverse.T, truth, total) / deviations)
    return max(float(torch.quantile(torch.cat(missed).flatten(), 0.95)), 0.5)


def _missed(found: Tensor, truth: Tensor, total: int) -> Tensor:
    """How far an interval must reach around what was found to hold the truth: nowhere if it does without reaching.

    It does where the truth is the nearest whole number, or the end of what is possible and what was found lies beyond.
    """
    away = (found - truth).abs()
    beyond = ((truth == 0) & (found < 0)) | ((truth == total) & (found > total))
    return torch.where(beyond | (away < 0.5), 0, away)


def _drawn_sums(errors: Tensor, pool: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Summed errors of so many pictures of the pool, for every batch; a picture is used twice only where there are too few."""
    if count <= len(pool):
        drawn = torch.rand(BATCHES, len(pool), generator=rng).argsort(1)[:, :count]
    else:
        drawn = torch.randint(len(pool), (BATCHES, count), generator=rng)
    return errors[pool[drawn]].sum(1)


def _resampled_sizes(features: Tensor, errors: Tensor, labels: Tensor, counts: Tensor, rng: torch.Generator) -> Tensor:
    """How large the last layer's weight gradient is for batches of public pictures with those counts, one step."""
    total = round(float(counts.sum()))
    chances = (counts.clamp_min(0) / torch.bincount(labels, minlength=len(counts)).clamp_min(1))[labels]
    if not chances.sum() > 0:
        return torch.empty(0)
    drawn = [torch.multinomial(chances, total, replacement=True, generator=rng) for _ in range(RESAMPLES)]
    return torch.stack([(errors[batch].T @ features[batch]).norm() / total for batch in drawn])


def _oddness(size: float, expected: Tensor) -> str:
    """A verdict where the gradient's size is not one that public pictures give."""
    if len(expected) < 2:
        return ""
    logs = expected.clamp_min(1e-300).log()
    away = (math.log(max(size, 1e-300)) - float(logs.mean())) / max(float(logs.std()), 0.02)
    if abs(away) <= ODD:
        return ""
    kind = "smaller" if away < 0 else "larger"
    return (
        f"labels not identifiable here: the gradient is {kind} than public pictures give ({size:.2g} and not "
        f"{math.exp(float(logs.mean())):.2g}), so that their moments are not the client's"
    )


@dataclass(frozen=True)
class _Round:
    """A client's round, played several times with public pictures of some counts.

    `sums`: the summed bias gradients, one row a play. `sizes`: of the weight gradients.
    """

    counts: Tensor
    sums: Tensor
    sizes: Tensor

    @property
    def mean(self) -> Tensor:
        return self.sums.mean(0).double()

    @classmethod
    def played(
        cls, observation: Observation, public: Tensor, labels: Tensor, counts: Tensor, runs: int, rng: torch.Generator
    ) -> "_Round":
        plays = [_play(observation, public, labels, counts, rng) for _ in range(runs)]
        sums = torch.stack([observation.examples * bias for bias, _ in plays])
        return cls(counts, sums, torch.tensor([size for _, size in plays]))


def _effects(means: Tensor, rounds: list[_Round]) -> Tensor:
    """What one more example of each class adds to the summed bias gradient, one column a class.

    The straight way's `means`, drawn to what the changes from one played round to the next say: the mean of matrices whose
    entries are normal around `means`, with its entries' mean square for variance, given the changes and the plays' noise. One
    play a round does not say how large that is, and changes nothing.
    """
    if len(rounds) < 2 or len(rounds[0].sums) < 2:
        return means
    pairs = list(pairwise(rounds))
    moved = torch.stack([after.counts - before.counts for before, after in pairs]).double()
    surplus = torch.stack([after.mean - before.mean for before, after in pairs]) - moved @ means.T
    noise = 2 * torch.stack([one.sums.double().var(0).mean() / len(one.sums) for one in rounds]).mean()
    ridge = noise / means.square().mean().clamp_min(1e-300)
    system = moved @ moved.T + ridge.clamp_min(1e-9) * torch.eye(len(pairs))
    return means + (moved.T @ torch.linalg.solve(system, surplus)).T


def _play(
    observation: Observation, public: Tensor, labels: Tensor, counts: Tensor, rng: torch.Generator
) -> tuple[Tensor, float]:
    """A client's round on public pictures of those counts: the mean bias gradient, and the size of the weight gradient."""
    members = []
    for index, count in enumerate(counts.tolist()):
        own = torch.nonzero(labels == index).flatten()
        own = own if len(own) else torch.arange(len(labels))
        order = [own[torch.randperm(len(own), generator=rng)] for _ in range(-(-count // len(own)))]
        members.append(torch.cat([*order, own[:0]])[:count])
    truth = torch.repeat_interleave(torch.arange(len(counts)), counts)
    model = copy.deepcopy(observation.model)
    probe = next(model.parameters())
    batch = Batch(public[torch.cat(members)].to(probe), truth.to(probe.device))
    update = local_update(model, batch, observation.training, rng)
    layer = last_layer(replace(observation, update=update))
    assert layer.bias_gradient is not None
    return layer.bias_gradient.cpu(), float(layer.weight_gradient.norm())
