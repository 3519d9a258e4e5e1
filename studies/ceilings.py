"""How well any attack can possibly identify a picture behind clipping and noise: ceilings of reconstruction robustness.

Sources: Balle, Cherubin and Hayes 2022 (arXiv 2201.04845), reconstruction robustness; Hayes, Mahloujifar and Balle 2023 (arXiv
2302.07225), its bound by the mechanism's blow-up function; Dong, Roth and Su 2019 (arXiv 1905.02383), Gaussian privacy.

Behind them all: an attack names one of n equally likely pictures. Had the picture not been used at all, the update would say
nothing of it, and any rule is right with probability 1 / n. That update and the one which was sent are told apart by no test
better than the mechanism's trade-off function allows, and the rule is such a test.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import integrate, special

from defenses import DPSGD, Defense, GaussianNoise, NormClipping
from learning.training import Training

DELTAS = np.logspace(-7, -0.5, 14)  # at which the composition of sampled rounds is worked out; any of them gives a bound
BLOCK = 2**22  # numbers that are drawn at once


def identification_ceiling(
    candidates: int, ratio: float, rounds: int = 1, sampling_rate: float = 1.0, guesses: int = 1
) -> float:
    """The probability with which an attack can at most tell the true picture among equally likely candidates.

    `ratio`: how far the picture moves what is shared, at most, in standard deviations of the noise on it. `rounds`: shared
    updates in which the picture may be. `sampling_rate`: the probability with which it is in each, drawn anew each round.
    `guesses`: how many pictures the attack restores, where it counts as right if any of them tells the true one: those of a
    batch, which the truth puts in order. Each is right by chance with probability 1 / n, and so one of m at most with m / n.

    With the rate 1 the bound is Phi(Phi^-1(m / n) + ratio * sqrt(rounds)). Below, it is the least of exp(epsilon) m / n + delta
    over pairs of Opacus's numerical composition, an upper bound too; that takes some seconds.
    Raises `ValueError` for fewer than one candidate, round or guess, a negative ratio, or a rate that is none.
    """
    if min(candidates, rounds, guesses) < 1 or ratio < 0 or not 0 < sampling_rate <= 1:
        raise ValueError(
            f"candidates = {candidates}, rounds = {rounds}, guesses = {guesses}, ratio = {ratio}, sampling_rate = "
            f"{sampling_rate}: candidates, rounds and guesses should be 1 or more, ratio 0 or more, and sampling_rate above 0 "
            f"and at most 1"
        )
    chance = min(1.0, guesses / candidates)
    always = float(special.ndtr(special.ndtri(chance) + ratio * math.sqrt(rounds)))
    if sampling_rate == 1 or ratio == 0:
        return always
    noise = DPSGD(max_norm=1.0, noise_multiplier=1 / ratio)
    pairs = ((noise.epsilon(rounds, sampling_rate, float(delta)), float(delta)) for delta in DELTAS)
    return min([always, *(chance * math.exp(min(epsilon, 700)) + delta for epsilon, delta in pairs)])


def matched_identification(candidates: int, ratio: float, rounds: int = 1) -> float:
    """How often the best attack is right where the candidates' contributions are orthogonal and all of the largest norm.

    It names the candidate that correlates most with the sum of the updates; the probability that the true one's correlation
    is the largest is the mean of Phi(z + ratio * sqrt(rounds))^(n - 1) over a standard normal z.
    """
    moved = ratio * math.sqrt(rounds)

    def right(z: float) -> float:
        return math.exp(-z * z / 2 + (candidates - 1) * float(special.log_ndtr(z + moved))) / math.sqrt(2 * math.pi)

    return float(integrate.quad(right, -12, 12, epsabs=1e-10, limit=200)[0])


def simulated_identification(
    candidates: int, ratio: float, rounds: int, sampling_rate: float, trials: int, rng: np.random.Generator
) -> int:
    """How many of so many simulated attacks are right where a picture is in each round with the probability given.

    The attack knows ratio and rate: it names the candidate whose likelihood over all rounds is the largest. Where the picture
    is in every round, that is the one with the largest sum over the rounds, which is normal and is drawn as such.
    """
    right, at_once = 0, max(1, BLOCK // candidates)
    if sampling_rate == 1:
        for done in range(0, trials, at_once):
            sums = rng.standard_normal((min(at_once, trials - done), candidates), dtype=np.float32)
            sums[:, 0] += ratio * math.sqrt(rounds)
            right += int((sums.argmax(1) == 0).sum())
        return right
    for _ in range(trials):
        seen = rng.standard_normal((rounds, candidates), dtype=np.float32)
        seen[:, 0] += ratio * (rng.random(rounds) < sampling_rate)
        evidence = np.log1p(sampling_rate * np.expm1(ratio * seen - ratio**2 / 2))
        right += int(evidence.sum(0).argmax() == 0)
    return right


def noise_ratio(chain: Sequence[Defense], training: Training, examples: int) -> float | None:
    """How far one picture moves a client's update, at most, in deviations of the defense's noise. None where nothing bounds it.

    DP-SGD bounds each example's part of every step by its clipping norm, and an example is in one step of every epoch. Clipping
    of the whole update directly before normal noise bounds the whole update, and so whatever one picture does to it.
    What comes after the noise changes nothing. `examples`: how many the client uses.
    """
    ratios = []
    steps_an_epoch = 1 if training.shared == "gradient" else math.ceil(examples / training.batch_size)
    uses = math.ceil(training.local_steps(examples) / steps_an_epoch)
    for defense in chain:
        if isinstance(defense, DPSGD) and defense.noise_multiplier:
            ratios.append(math.sqrt(uses) / defense.noise_multiplier)
    for before, defense in itertools.pairwise(chain):
        if isinstance(before, NormClipping) and isinstance(defense, GaussianNoise) and defense.std:
            ratios.append(before.max_norm / defense.std)
    return min(ratios, default=None)
