"""Ceilings against attacks that are the best there can be, against each other, and what defenses they hold for."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from attacks import Reconstruction
from defenses import DPSGD, Defense, GaussianNoise, MagnitudePruning, NormClipping
from learning.data import Digits, pictures_of
from learning.tensors import Update, generator
from learning.training import Training
from studies.ceilings import identification_ceiling, matched_identification, noise_ratio, simulated_identification
from studies.scores import score


@pytest.mark.parametrize("candidates", [2, 10, 256, 1000])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 3.5, 5.0])
@pytest.mark.parametrize("rounds", [1, 100])
def test_the_best_attack_stays_below_the_ceiling_and_comes_near_it(candidates: int, ratio: float, rounds: int) -> None:
    each = ratio / math.sqrt(rounds)
    ceiling, best = identification_ceiling(candidates, each, rounds), matched_identification(candidates, each, rounds)
    assert 1 / candidates < best <= ceiling
    if candidates >= 10:
        assert ceiling - best <= 0.10


def test_without_a_signal_the_ceiling_is_chance() -> None:
    assert identification_ceiling(100, 0.0) == pytest.approx(0.01)
    assert matched_identification(100, 0.0) == pytest.approx(0.01)


def test_the_integral_is_what_simulated_attacks_reach() -> None:
    found = simulated_identification(10, 2.0, 1, 1.0, 4000, np.random.default_rng(0))
    interval = stats.binomtest(found, 4000).proportion_ci(0.999)
    assert interval.low <= matched_identification(10, 2.0) <= interval.high


def test_sampling_lowers_the_ceiling_and_no_attack_comes_above_it() -> None:
    ceiling = identification_ceiling(10, 1.0, 20, 0.2)
    assert 0.1 < ceiling < identification_ceiling(10, 1.0, 20)
    found = simulated_identification(10, 1.0, 20, 0.2, 4000, np.random.default_rng(0))
    interval = stats.binomtest(found, 4000).proportion_ci(0.999)
    assert 0.1 < interval.low <= interval.high
    assert interval.low <= ceiling


@pytest.mark.parametrize(
    ("chain", "training", "examples", "ratio"),
    [
        ([], Training(), 8, None),
        ([GaussianNoise(std=1.0)], Training(), 8, None),
        ([GaussianNoise(std=1.0), NormClipping(max_norm=1.0)], Training(), 8, None),
        ([NormClipping(max_norm=3.0), GaussianNoise(std=2.0), MagnitudePruning(keep=0.5)], Training(), 8, 1.5),
        ([NormClipping(max_norm=3.0), GaussianNoise(std=0.0)], Training(), 8, None),
        ([DPSGD(max_norm=7.0, noise_multiplier=0.5)], Training(), 8, 2.0),
        ([DPSGD(max_norm=7.0, noise_multiplier=0.5)], Training(shared="delta", batch_size=4, epochs=9), 8, 6.0),
        ([DPSGD(max_norm=7.0, noise_multiplier=0.5)], Training(shared="delta", batch_size=4, steps=7), 8, 4.0),
        ([DPSGD(max_norm=1.0, noise_multiplier=1.0), NormClipping(max_norm=1.0), GaussianNoise(std=4.0)], Training(), 8, 0.25),
    ],
)  # fmt: skip
def test_the_ratio_is_that_of_the_tightest_noise(
    chain: list[Defense], training: Training, examples: int, ratio: float | None
) -> None:
    assert noise_ratio(chain, training, examples) == (None if ratio is None else pytest.approx(ratio))


def test_pictures_drawn_without_looking_stay_below_the_ceiling_of_their_batch() -> None:
    """The truth matches the pictures of a batch, so that one of many is identified by chance more often than a single one."""
    pictures, size, flags = pictures_of(Digits()), 16, []
    for trial in range(60):
        order = torch.randperm(len(pictures.train), generator=generator("batch", trial))
        true, others = pictures.train.batch(order[:size]), pictures.train.batch(order[size : size + 99])
        drawn = Reconstruction(images=torch.rand(true.images.shape, generator=generator("drawn", trial)))
        flags += score(drawn, true, pictures.classes, others.images).identified or []
    assert len(flags) == 60 * size
    interval = stats.binomtest(int(sum(flags)), len(flags)).proportion_ci(0.999)
    assert interval.low > identification_ceiling(100, 0.0)
    assert interval.high <= identification_ceiling(100, 0.0, guesses=size)


def test_more_guesses_than_candidates_are_bound_by_nothing() -> None:
    assert identification_ceiling(10, 0.0, guesses=10) == identification_ceiling(10, 0.5, 3, guesses=30) == 1.0
    assert identification_ceiling(100, 1.0, guesses=4) == pytest.approx(identification_ceiling(25, 1.0))


def test_an_attack_on_the_defense_itself_stays_below_its_ceiling() -> None:
    """The candidates' updates are known, and one of them is shared through clipping and noise: what the defense really does."""
    candidates, size, defense = 10, 400, [NormClipping(max_norm=2.0), GaussianNoise(std=1.0)]
    rng = generator("ceiling")
    known = torch.nn.functional.normalize(torch.randn(candidates, size, generator=rng))
    right = 0
    for trial in range(1500):
        update = Update({"weight": 5 * known[trial % candidates]})
        for step in defense:
            update = step.change(update, rng)
        right += int((known @ update.parameters["weight"]).argmax() == trial % candidates)
    interval = stats.binomtest(right, 1500).proportion_ci(0.999)
    ratio = noise_ratio(defense, Training(), 1)
    assert ratio is not None
    assert ratio == 2.0
    assert interval.low <= identification_ceiling(candidates, ratio)
    assert interval.low <= matched_identification(candidates, ratio) <= interval.high


@pytest.mark.parametrize(
    "wrong",
    [
        (0, 1.0, 1, 1.0, 1),
        (10, -1.0, 1, 1.0, 1),
        (10, 1.0, 0, 1.0, 1),
        (10, 1.0, 1, 0.0, 1),
        (10, 1.0, 1, 1.5, 1),
        (10, 1.0, 1, 1.0, 0),
    ],
)
def test_settings_that_are_none_are_refused(wrong: tuple[int, float, int, float, int]) -> None:
    with pytest.raises(ValueError, match="candidates, rounds and guesses should be 1 or more"):
        identification_ceiling(*wrong)
