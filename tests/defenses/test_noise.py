"""Noise has its distribution, and is independent wherever it should be."""

import math

import pytest
import torch

from defenses import Defense, GaussianNoise, LaplacianNoise
from tests.defenses.behind import changed

ENTRIES = 200_000


def noise(defense: Defense, seed: int = 0) -> torch.Tensor:
    """What is added to zeros, in two tensors of a hundred thousand entries."""
    zeros = {"a": torch.zeros(100, ENTRIES // 200, dtype=torch.float64), "b": torch.zeros(ENTRIES // 2, dtype=torch.float64)}
    return changed([defense], zeros, seed).flat()


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


@pytest.mark.parametrize("std", [1e-4, 0.5, 30])
@pytest.mark.parametrize(
    ("defense", "kurtosis", "error"),
    [
        (GaussianNoise, 3.0, math.sqrt(24 / ENTRIES)),
        (LaplacianNoise, 6.0, math.sqrt(1188 / ENTRIES)),  # mu8 - 4 mu4 mu6 + 4 mu4^3 - mu4^2, with moments 6, 90, 2520
    ],
)
def test_noise_has_its_mean_deviation_and_kurtosis(defense, kurtosis, error, std):
    """Within five standard errors."""
    drawn = noise(defense(std=std)) / std
    assert abs(float(drawn.mean())) < 5 / math.sqrt(ENTRIES)
    assert abs(float(drawn.std()) - 1) < 5 * math.sqrt((kurtosis - 1) / (4 * ENTRIES))
    assert abs(float((drawn**4).mean() / (drawn**2).mean() ** 2) - kurtosis) < 5 * error
    assert abs(float((drawn**3).mean())) < 5 * math.sqrt((15 if kurtosis == 3 else 90) / ENTRIES), "symmetric"


@pytest.mark.parametrize("defense", [GaussianNoise(std=2), LaplacianNoise(std=2)], ids=repr)
def test_noise_is_independent_across_entries_parameters_and_rounds(defense):
    drawn, other = noise(defense), noise(defense, seed=1)
    bound = 5 / math.sqrt(ENTRIES // 2)
    first, second = drawn.chunk(2)
    assert abs(correlation(first, second)) < bound, "two parameters"
    assert abs(correlation(drawn[:-1], drawn[1:])) < bound, "neighbours"
    assert abs(correlation(drawn, other)) < bound, "two generators"
    assert abs(correlation(drawn[:-1].abs(), drawn[1:].abs())) < bound, "their sizes"
    assert len(torch.unique(drawn)) == ENTRIES


@pytest.mark.parametrize("defense", [GaussianNoise, LaplacianNoise])
def test_noise_is_added_to_the_update_whatever_it_is(defense):
    zeros, values = {"a": torch.zeros(50)}, {"a": torch.linspace(-3, 3, 50)}
    assert torch.allclose(
        changed([defense(std=0.5)], values).flat() - values["a"], changed([defense(std=0.5)], zeros).flat(), atol=1e-6
    )


@pytest.mark.parametrize("defense", [GaussianNoise, LaplacianNoise])
def test_twice_the_deviation_is_twice_the_noise(defense):
    assert torch.allclose(noise(defense(std=2.0)), 2 * noise(defense(std=1.0)))


@pytest.mark.parametrize("defense", [GaussianNoise, LaplacianNoise])
@pytest.mark.parametrize("std", [-0.1, float("inf"), float("nan"), "0.1", True])
def test_a_deviation_that_is_none_is_refused(defense, std):
    with pytest.raises(ValueError, match="std"):
        defense(std=std)


def test_two_equal_noises_in_a_chain_are_independent():
    alone, twice = noise(GaussianNoise(std=1)), changed([GaussianNoise(std=1)] * 2, {"a": torch.zeros(ENTRIES)}).flat()
    assert float(twice.var()) == pytest.approx(2 * float(alone.var()), rel=0.02)
