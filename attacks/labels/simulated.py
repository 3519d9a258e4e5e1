"""Labels by a regression learnt from batches of public pictures: what counts gradients of such a look have."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.labels.counts import rows_of, unknown_counts, whole_counts
from attacks.labels.last_layer import answers, last_layer
from learning.catalogue import Count, settings

CONCENTRATIONS = (0.1, 0.3, 1.0, 3.0, *[math.inf] * 4)  # of the Dirichlet distributions that class shares come from
HELD = 10  # for each so many batches that are learnt from, one says how much is learnt
COARSE = 4  # entries that are not zero for each of their values, and more: rounded
PRUNED = 0.05  # of them zero, and more: pruned
ODD = 3.0  # deviations from the simulated ones' length that only a defense explains
HOLDS, NEAREST = 0.95, 500  # of intervals: the share of errors, and how many are looked at
SURE = 2.0  # deviations of the noise below zero that show that a class is there
RIDGE, HIDDEN, MINIBATCH, RATE, REACH = 10.0, 64, 512, 3e-3, 5.0  # of the regression, and how many deviations it looks


@settings
class SimulatedLabels(Attack):
    """How many examples of each class there are, from granted public pictures, whatever a defense did to one gradient.

    Read are, class by class, the bias gradient and the weight gradient along the public pictures' mean features. Both are
    sums over the examples, so that any number of batches can be put together from what public pictures would add to them:
    what counts are to be expected, given what is read, a small network learns from `batches` of them in `steps` (as in neural
    posterior estimation, Papamakarios and Murray, NeurIPS 2016), beside a straight line. That accounts for the heavy tails of
    errors behind a trained model, where few examples make the gradient, and for clients of few classes: a batch's class shares
    are the public pictures' in every second batch, and drawn around these with `CONCENTRATIONS` in the others. Directions are
    looked at, and lengths, too, unless the gradient's is `ODD` deviations from the simulated ones: then it was clipped.

    What the gradient itself shows of a defense is done to the simulated ones, too. Entries of zero are taken for pruned, few
    different values for rounded ones; else the sum over all classes, which is zero in a gradient, measures noise.

    Only examples of a class make its entries negative, where features are not. Each that is, by `SURE` deviations of that
    noise, is counted at least once, the lowest first. A second network learns from one half of the public pictures, in half
    as many steps, and how wrong it is on batches of the other half tells how wrong the first may be. A count's interval is
    what the shortest interval with 95 % of the errors leaves, of the `NEAREST` that were made where about as many examples of
    a class were expected; one number at least. `identifiable` is False where these errors keep `counts.UNKNOWN` of the
    counts' variance.

    Raises `NotApplicable` without public pictures, and of several local steps, whose updates are no sums over examples.
    """

    needs = ("public",)

    batches: Count = 10_000
    steps: Count = 300

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        public, labels = observation.granted.labelled_pictures("this method learns from them")
        if observation.steps > 1:
            raise NotApplicable(f"{observation.steps} local steps: their update is no sum over the examples")
        total, labels = observation.examples, labels.cpu()
        view = _View.of(observation, public, labels, rng)

        def simulated(kept: Tensor, many: int) -> tuple[Tensor, Tensor]:
            chosen, counts = _batches(labels[kept], observation.classes, total, many, rng)
            seen = chosen @ view.each[kept] / total
            return seen + view.noise * torch.randn(seen.shape, generator=rng, dtype=seen.dtype), counts

        seen, counts = simulated(torch.arange(len(labels)), self.batches)
        features = view.features if _odd(seen.norm(dim=1), view.wanted.norm()) else view.features_and_lengths
        expected = _learnt(features(seen), counts, self.steps, rng)(features(view.wanted[None]))[0]
        learnt_from, others = _halves(labels)
        seen, counts = simulated(learnt_from, -(-self.batches // 2))
        answered = _learnt(features(seen), counts, -(-self.steps // 2), rng)
        seen, truth = simulated(others, -(-self.batches // HELD))
        tried = answered(features(seen))
        blind = (truth - counts.mean(0)).square().mean()
        unknown = float((tried - truth).square().mean() / blind.clamp_min(1e-30))
        low, high = _bounds(expected, tried.flatten(), truth.flatten())
        present = view.present(total)
        left = total - int(present.sum())
        counts = present + (whole_counts((expected - present).clamp_min(0), left) if left else 0)
        fault = unknown_counts(unknown)
        interval = torch.minimum(torch.maximum(low, present), counts), torch.maximum(high, counts)
        return Reconstruction(labels=rows_of(counts), counts_interval=interval, identifiable=not fault, verdict=fault)


@dataclass(frozen=True)
class _View:
    """What is read of the last layer: for each class, one or two numbers, one kind after the other.

    `wanted`: of the client's gradient. `each`: what each public picture would add to it, one row a picture. `noise`: the
    deviation of what a defense added. `negative`: for each kind, whether only examples of a class make its number negative.
    """

    wanted: Float[Tensor, " kinds_times_classes"]
    each: Float[Tensor, "pictures kinds_times_classes"]
    noise: float
    negative: tuple[bool, ...]
    classes: int

    @classmethod
    def of(cls, observation: Observation, public: Tensor, labels: Tensor, rng: torch.Generator) -> "_View":
        layer = last_layer(observation)
        features, probabilities = (part.cpu() for part in answers(observation, public, rng))
        errors = probabilities - functional.one_hot(labels, observation.classes)
        gradient = layer.weight_gradient.cpu().nan_to_num(0.0)
        along = functional.normalize(features.mean(0), dim=0, eps=1e-300)
        shown, noise = _defended(gradient[:, features.abs().amax(0) > 0], gradient)
        wanted, each = [gradient @ along], [errors * ((features * along) @ shown.T)]
        if layer.bias_gradient is not None:
            bias = layer.bias_gradient.cpu().nan_to_num(0.0)
            wanted.append(bias)
            each.append(errors * (bias != 0) if not shown.all() else errors)
        others = functional.one_hot(labels, observation.classes) == 0
        negative = tuple(bool((kind[others] >= 0).all()) for kind in each)
        return cls(torch.cat(wanted), torch.cat(each, 1), noise, negative, observation.classes)

    def present(self, total: int) -> Tensor:
        """One for each class that is surely there, and for no more of them than there are examples."""
        kinds = [kind for kind, sure in zip(self.wanted.split(self.classes), self.negative, strict=True) if sure]
        if not kinds:
            return torch.zeros(self.classes, dtype=torch.long)
        lowest = torch.stack(kinds).amin(0)
        there = torch.nonzero(lowest < -SURE * self.noise).flatten()
        there = there[kinds[0][there].argsort(stable=True)][:total]
        return torch.bincount(there, minlength=self.classes)

    def features_and_lengths(self, seen: Float[Tensor, "batches kinds_times_classes"]) -> Float[Tensor, "batches features"]:
        return torch.cat([self.features(seen), seen], 1)

    def features(self, seen: Float[Tensor, "batches kinds_times_classes"]) -> Float[Tensor, "batches features"]:
        """What the regression is given: of each kind the direction, what is negative in it, and how many classes are."""
        parts = []
        for kind in seen.split(self.classes, 1):
            unit = functional.normalize(kind, dim=1, eps=1e-300)
            negative, signs = (-unit).clamp_min(0), (unit < 0).double()
            parts += [unit, negative, negative.sqrt(), signs, signs.sum(1, keepdim=True)]
        return torch.cat(parts, 1)


def _defended(live: Tensor, gradient: Tensor) -> tuple[Tensor, float]:
    """Which entries are shown, as ones, and the deviation of noise. `live`: those of features that are not always zero."""
    shown, values = torch.ones_like(gradient), live.unique()
    if COARSE * len(values) <= torch.count_nonzero(live):
        return shown, float(values.diff().min()) / 12**0.5 if len(values) > 1 else 0.0
    if float((live == 0).double().mean()) > PRUNED:
        return (gradient != 0).to(gradient), 0.0
    return shown, float((live.sum(0).square().mean() / len(live)).sqrt()) if live.numel() else 0.0


def _batches(labels: Tensor, classes: int, total: int, many: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """How often each public picture is in each batch, and how often each class."""
    numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    there = torch.bincount(labels, minlength=classes).double().numpy()
    share = there / there.sum()
    chosen = []
    for part, concentration in enumerate(CONCENTRATIONS):
        size = many * (part + 1) // len(CONCENTRATIONS) - many * part // len(CONCENTRATIONS)
        shares = np.tile(share, (size, 1))
        if math.isfinite(concentration):
            shares[:, there > 0] = numbers.dirichlet(concentration * classes * share[there > 0], size)
        chances = (shares / np.maximum(there, 1))[:, labels.numpy()]
        chosen.append(numbers.multinomial(total, chances / chances.sum(1, keepdims=True)))
    pictures = torch.from_numpy(np.concatenate(chosen)).double()
    return pictures, pictures @ functional.one_hot(labels, classes).double()


def _halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which public pictures are in one half and which in the other: of each class about as many; its only one is in both."""
    order = labels.argsort(stable=True)
    there = torch.bincount(labels)
    place = torch.arange(len(labels)) - (there.cumsum(0) - there)[labels[order]]
    only = there[labels[order]] == 1
    return order[(place % 2 == 0) | only], order[(place % 2 == 1) | only]


def _odd(others: Tensor, length: Tensor) -> bool:
    """Whether a length is far from the others."""
    logs = others.clamp_min(1e-300).log()
    return bool((length.clamp_min(1e-300).log() - logs.mean()).abs() > ODD * logs.std())


def _learnt(features: Tensor, counts: Tensor, steps: int, rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """What says which counts are expected of batches with such features."""
    centre, size = features.mean(0), features.std(0).clamp_min(1e-12)

    def given(asked: Tensor) -> Tensor:
        return ((asked - centre) / size).clamp(-REACH, REACH).float()

    learnt_from, learnt, total = given(features), counts.float(), float(counts[0].sum())
    straight = torch.cat([learnt_from, torch.ones(len(learnt), 1)], 1)
    system = straight.T @ straight + RIDGE * torch.eye(straight.shape[1])
    line = torch.linalg.solve(system, straight.T @ learnt)
    network = [
        torch.randn(learnt_from.shape[1], HIDDEN, generator=rng) / learnt_from.shape[1] ** 0.5,
        torch.zeros(HIDDEN),
        torch.zeros(HIDDEN, learnt.shape[1]),
        torch.zeros(learnt.shape[1]),
    ]
    for weights in network:
        weights.requires_grad_()

    def answered(one: Tensor) -> Tensor:
        first, shift, second, offset = network
        bent = (one @ first + shift).relu() @ second + offset
        return one @ line[:-1] + line[-1] + total * bent

    optimizer = torch.optim.Adam(network, RATE)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        drawn = torch.randint(len(learnt), (MINIBATCH,), generator=rng)
        optimizer.zero_grad()
        ((answered(learnt_from[drawn]) - learnt[drawn]) / total).square().sum(1).mean().backward()
        optimizer.step()
        falling.step()
    return lambda asked: answered(given(asked)).detach().double()


def _bounds(expected: Tensor, tried: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The whole numbers in the shortest interval of 95 % of the errors made where about as much was expected; one at least."""
    order = tried.argsort()
    tried, errors = tried[order], (truth - tried)[order]
    size = min(NEAREST, len(tried))
    first = (torch.searchsorted(tried, expected) - size // 2).clamp(0, len(tried) - size)
    near = errors[first[:, None] + torch.arange(size)].sort(1).values
    held = math.ceil(HOLDS * size)
    least = (near[:, held - 1 :] - near[:, : size - held + 1]).argmin(1, keepdim=True)
    low = (expected + near.gather(1, least).flatten()).ceil().long()
    high = (expected + near.gather(1, least + held - 1).flatten()).floor().long()
    empty, nearest = low > high, expected.round().long()
    return torch.where(empty, nearest, low), torch.where(empty, nearest, high)
