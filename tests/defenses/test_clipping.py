"""Clipping bounds the norm and keeps the direction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses import NormClipping
from learning.tensors import Update
from tests.defenses.behind import changed, norm, same

NUMBERS = st.floats(-1e6, 1e6, width=32)
VECTORS = st.lists(NUMBERS, min_size=1, max_size=20)


@given(first=VECTORS, second=VECTORS, max_norm=st.floats(1e-6, 1e6))
def test_clipping_bounds_the_norm_and_keeps_the_direction(first, second, max_norm):
    given = {"first": torch.tensor(first), "second": torch.tensor(second)}
    before, after = Update(given), changed([NormClipping(max_norm=max_norm)], given)
    assert norm(after) <= max_norm * (1 + 1e-6), "up to the roundings of float32"
    if norm(before) <= max_norm:
        assert same(after.parameters, given)
    else:
        assert norm(after) == pytest.approx(max_norm, rel=1e-6)
        assert torch.allclose(after.flat().double() / max_norm, before.flat().double() / norm(before), rtol=1e-5, atol=1e-30)


def test_clipping_takes_the_norm_over_all_parameters():
    after = changed([NormClipping(max_norm=1.0)], {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})
    assert torch.allclose(after.flat(), torch.tensor([0.6, 0.8]))


def test_clipping_does_not_overflow_in_half_the_range():
    """The norm of these float32 entries is beyond float32's largest number."""
    after = changed([NormClipping(max_norm=1.0)], {"a": torch.full((4,), 3e38)})
    assert torch.allclose(after.flat(), torch.full((4,), 0.5))


def test_clipping_a_zero_update_leaves_it_zero():
    assert changed([NormClipping(max_norm=1e-9)], {"a": torch.zeros(3)}).flat().tolist() == [0, 0, 0]


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("inf"), float("nan"), True])
def test_a_norm_that_bounds_nothing_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm"):
        NormClipping(max_norm=max_norm)
