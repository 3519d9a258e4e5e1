"""Levels, bounds, unbiasedness and variance of what is quantized."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses import GaussianNoise, Quantization, Sign, Ternary
from tests.defenses.behind import changed, shared

VECTORS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30).map(torch.tensor)
BITS = st.integers(2, 16)
ROUNDINGS = st.sampled_from(["stochastic", "nearest"])


def made_of(defense, tensor: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return changed([defense], {"a": tensor}, seed).parameters["a"]


@given(before=VECTORS, bits=BITS, rounding=ROUNDINGS, seed=st.integers(0, 9))
def test_entries_move_by_less_than_a_level_and_keep_their_sign(before, bits, rounding, seed):
    after = made_of(Quantization(bits=bits, rounding=rounding), before, seed)
    level = before.abs().max() / (2 ** (bits - 1) - 1)
    most = level / 2 if rounding == "nearest" else level
    assert ((after - before).abs() <= most * (1 + 1e-2)).all(), "up to float32's rounding of 2^15 levels"
    assert ((after == 0) | (after.signbit() == before.signbit())).all()
    assert after.abs().max() == before.abs().max()


@given(before=VECTORS, bits=BITS, rounding=ROUNDINGS)
def test_what_is_quantized_stands_on_the_levels(before, bits, rounding):
    after, levels = made_of(Quantization(bits=bits, rounding=rounding), before), 2 ** (bits - 1) - 1
    if (largest := float(before.abs().max())) > 0:
        places = after.double() / largest * levels
        assert (places - places.round()).abs().max() < 1e-2
    again = made_of(Quantization(bits=bits, rounding="nearest"), after)
    assert torch.allclose(again, after, rtol=1e-6, atol=0), "nearest leaves what stands on a level"


def test_the_levels_by_hand():
    before = torch.tensor([0.0, 0.4, 0.6, -1.4, -1.6, 3.0])
    assert made_of(Quantization(bits=3, rounding="nearest"), before).tolist() == [0, 0, 1, -1, -2, 3]


SPREAD = torch.linspace(-1, 1, 41, dtype=torch.float64)
DRAWS = 20_000


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_stochastic_rounding_is_unbiased_and_has_its_variance(bits):
    """The rounding of a place p = k + f is k + 1 with probability f: mean p, variance f (1 - f) squared levels."""
    level = 1 / (2 ** (bits - 1) - 1)
    found = made_of(Quantization(bits=bits), SPREAD.repeat(DRAWS, 1))
    fraction = (SPREAD.abs() / level).frac()
    variance = fraction * (1 - fraction) * level**2
    assert ((found.mean(0) - SPREAD).abs() < 5 * (variance / DRAWS).sqrt() + 1e-12).all()
    assert torch.allclose(found.var(0), variance, rtol=0.1, atol=1e-3 * level**2)


def test_nearest_rounding_is_biased():
    """The check above can fail."""
    found = made_of(Quantization(bits=2, rounding="nearest"), SPREAD)
    assert (found - SPREAD).abs().max() > 0.4


@given(before=VECTORS, seed=st.integers(0, 9))
def test_ternary_without_a_clip_is_two_bits(before, seed):
    assert torch.equal(made_of(Ternary(clip=0), before, seed), made_of(Quantization(bits=2), before, seed))


@given(before=VECTORS, clip=st.floats(0.1, 5))
def test_ternary_shares_three_values_and_no_larger_than_the_clip(before, clip):
    after = made_of(Ternary(clip=clip), before)
    magnitudes = after[after != 0].abs().unique()
    assert len(magnitudes) <= 1
    bound = clip * math.sqrt(float(before.double().square().mean()))
    assert float(after.abs().max()) <= bound * (1 + 1e-6)


def test_ternary_is_unbiased_for_what_is_not_cut():
    tensor = SPREAD.repeat(DRAWS, 1)
    found = made_of(Ternary(clip=0), tensor)
    error = (SPREAD.abs() * (1 - SPREAD.abs()) / DRAWS).sqrt()
    assert ((found.mean(0) - SPREAD).abs() < 5 * error + 1e-12).all()
    cut = made_of(Ternary(clip=1), tensor).mean(0)
    bound = float(SPREAD.square().mean().sqrt())
    assert torch.allclose(cut, SPREAD.clamp(-bound, bound), atol=5 * 0.5 / math.sqrt(DRAWS)), "else for what the clip leaves"


@given(before=VECTORS)
def test_signs_keep_the_mean_magnitude_and_descend(before):
    after = made_of(Sign(), before)
    assert torch.equal(after.sign(), before.sign() * (after != 0))
    if (before != 0).all():
        assert float(after.double().abs().sum()) == pytest.approx(float(before.double().abs().sum()), rel=1e-5)
    assert float((after.double() * before.double()).sum()) >= 0
    assert len(after[after != 0].abs().unique()) <= 1


def test_bare_signs():
    assert made_of(Sign(scale="one"), torch.tensor([0.0, -2.0, 0.1])).tolist() == [0, -1, 1]


def test_the_scale_is_each_tensors_own():
    after = changed([Sign()], {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([[10.0]])}).parameters
    assert (after["a"].tolist(), after["b"].tolist()) == ([2, -2], [[10]])


@pytest.mark.parametrize(
    "defense", [Quantization(bits=2), Quantization(bits=8, rounding="nearest"), Ternary(), Sign()], ids=repr
)
def test_zeros_stay_zeros(defense):
    assert made_of(defense, torch.zeros(2, 3)).tolist() == [[0] * 3] * 2
    assert made_of(defense, torch.tensor([0.0, 5.0]))[0] == 0


def test_quantizing_last_hides_the_noise_that_came_before():
    after = shared([GaussianNoise(std=0.1), Quantization(bits=2)])
    assert all(len(tensor.abs().unique()) <= 2 for tensor in after.parameters.values())


@pytest.mark.parametrize(("key", "value"), [("bits", 1), ("bits", 17), ("bits", 2.5), ("rounding", "up")])
def test_what_is_no_quantization_is_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Quantization(**{"bits": 4, key: value})
