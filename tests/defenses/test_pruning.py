"""Pruning keeps exactly as many entries as it says, and those that it says."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses import MagnitudePruning, RandomPruning
from learning.tensors import Update
from tests.defenses.behind import changed


def kept_of(keep: float, entries: int) -> int:
    """ceil(keep n) of the decimal fraction as it is written: 0.07 of 100 is 7."""
    return math.ceil(Fraction(str(keep)) * entries)


def check_pruned(before: torch.Tensor, after: torch.Tensor, count: int) -> None:
    """At most `count` entries stay, to the last bit, and they are the largest."""
    stays = after != 0
    zero = int((before == 0).sum())
    assert int(stays.sum()) == min(count, before.numel() - zero)
    assert torch.equal(after[stays], before[stays])
    if 0 < int(stays.sum()) < before.numel():
        assert before[stays].abs().min() >= before[~stays].abs().max()


ARRAYS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60)  # with many ties and zeros


@given(first=ARRAYS, second=ARRAYS, percent=st.integers(1, 100))
def test_pruning_keeps_exactly_the_largest_of_every_layer(first, second, percent):
    given, keep = {"a": torch.tensor(first), "b": torch.tensor(second)}, percent / 100
    after = changed([MagnitudePruning(keep=keep)], given).parameters
    for name, before in given.items():
        check_pruned(before, after[name], kept_of(keep, before.numel()))


@given(first=ARRAYS, second=ARRAYS, percent=st.integers(1, 100))
def test_pruning_the_whole_keeps_exactly_the_largest_of_all(first, second, percent):
    given, keep = {"a": torch.tensor(first), "b": torch.tensor(second)}, percent / 100
    after = changed([MagnitudePruning(keep=keep, scope="whole")], given)
    check_pruned(Update(given).flat(), after.flat(), kept_of(keep, len(first) + len(second)))


@given(percent=st.integers(1, 100), entries=st.integers(1, 1000))
def test_among_equals_exactly_so_many_are_kept(percent, entries):
    after = changed([MagnitudePruning(keep=percent / 100)], {"a": torch.ones(entries)})
    assert int(after.flat().sum()) == kept_of(percent / 100, entries)


def test_pruning_keeps_one_entry_at_least():
    assert changed([MagnitudePruning(keep=1e-12)], {"a": torch.tensor([1.0, -3.0, 2.0])}).flat().tolist() == [0, -3, 0]


def test_the_scope_decides_which_entries_compete():
    given = {"small": torch.tensor([1.0, 2.0]), "large": torch.tensor([[30.0, -40.0]])}
    assert changed([MagnitudePruning(keep=0.5)], given).flat().tolist() == [0, 2, 0, -40]
    assert changed([MagnitudePruning(keep=0.5, scope="whole")], given).flat().tolist() == [0, 0, 30, -40]


def test_pruned_infinities_are_zero():
    given = {"a": torch.tensor([float("inf"), -float("inf"), 1.0])}
    assert sorted(changed([MagnitudePruning(keep=0.3)], given).flat().abs().tolist()) == [0, 0, float("inf")]


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, float("nan"), True])
def test_a_fraction_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="keep"):
        MagnitudePruning(keep=keep)


# Random pruning


@given(first=st.integers(1, 60), second=st.integers(1, 60), percent=st.integers(1, 100), seed=st.integers(0, 9))
def test_random_pruning_keeps_exactly_so_many_to_the_last_bit(first, second, percent, seed):
    given, keep = {"a": torch.arange(1.0, first + 1), "b": -torch.arange(1.0, second + 1)}, percent / 100
    layer = changed([RandomPruning(keep=keep)], given, seed).parameters
    for name, before in given.items():
        stays = layer[name] != 0
        assert int(stays.sum()) == kept_of(keep, before.numel())
        assert torch.equal(layer[name][stays], before[stays])
    whole = changed([RandomPruning(keep=keep, scope="whole")], given, seed).flat()
    assert int((whole != 0).sum()) == kept_of(keep, first + second)


@pytest.mark.parametrize("scope", ["layer", "whole"])
def test_every_entry_is_kept_as_often_and_the_scaled_update_is_unbiased(scope):
    """Over 4,000 generators; the standard error of a kept fraction is below 0.008."""
    given = {"a": torch.tensor([[1.0, -2.0], [3.0, 4.0]]), "b": torch.tensor([5.0, -6.0, 7.0])}
    drawn = [changed([RandomPruning(keep=0.4, scope=scope, unbiased=True)], given, seed).flat() for seed in range(4000)]
    found, true = torch.stack(drawn), Update(given).flat()
    kept = torch.tensor([2 / 4] * 4 + [2 / 3] * 3) if scope == "layer" else torch.full((7,), 3 / 7)
    assert ((found != 0).double().mean(0) - kept).abs().max() < 5 * 0.008
    assert torch.allclose(found.mean(0) / true, torch.ones(7), atol=5 * 0.008 / 0.42)
    variance = true**2 * (1 / kept - 1)
    assert torch.allclose(found.var(0) / variance, torch.ones(7), atol=0.15)


def test_every_round_draws_other_entries():
    given = {"a": torch.ones(1000)}
    one, other = (changed([RandomPruning(keep=0.5)], given, seed).flat() for seed in (0, 1))
    assert 150 < int((one * other).sum()) < 350, "250 in common by chance, with standard deviation 8"


def test_without_scaling_what_is_kept_is_unchanged():
    after = changed([RandomPruning(keep=0.5)], {"a": torch.full((10,), 3.0)}).flat()
    assert sorted(after.tolist()) == [0.0] * 5 + [3.0] * 5
