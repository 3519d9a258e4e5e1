"""OUTPOST's noise is where Fisher's information is, as large as the risk, and really in what is shared."""

import math

import pytest
import torch
from torch import nn

from defenses import Outpost, around
from defenses.outpost import risk
from learning.tensors import Tensors, Update, generator
from tests.defenses.behind import pictures, same


class Weights(nn.Module):
    """Two parameters, of variances 4 and .01."""

    def __init__(self) -> None:
        super().__init__()
        signs = 1.0 - 2.0 * (torch.arange(20_000) % 2)
        self.wide, self.narrow = nn.Parameter(2 * signs), nn.Parameter(0.1 * signs)


GRADIENT = {"wide": torch.linspace(-1, 1, 20_000), "narrow": torch.linspace(-3, 3, 20_000)}


def shared(defense: Outpost, seed: int = 0) -> Tensors:
    compute = around([defense], lambda model, batch, rng: Update(GRADIENT))
    return compute(Weights(), pictures(), generator(seed)).parameters


def test_risk_is_the_variance_and_one_at_most():
    model = Weights()
    assert risk(model.narrow.detach()) == pytest.approx(0.01)
    assert risk(model.wide.detach()) == 1
    assert risk(torch.tensor([3.0])) == 0


def test_noise_is_scaled_by_the_risk_and_lies_where_the_squares_are_largest():
    """In a third of all entries: those of `narrow` above 2 and, of both, none below."""
    added = {name: tensor - GRADIENT[name] for name, tensor in shared(Outpost(noise=0.5, informed=0.25, prune=0)).items()}
    noisy = {name: tensor != 0 for name, tensor in added.items()}
    assert int(noisy["wide"].sum()) == 0, "no entry of it is among the largest quarter"
    assert int(noisy["narrow"].sum()) == pytest.approx(10_000, abs=2)
    assert GRADIENT["narrow"][noisy["narrow"]].abs().min() > GRADIENT["narrow"][~noisy["narrow"]].abs().max() - 1e-3
    deviation = float(added["narrow"][noisy["narrow"]].std())
    assert deviation == pytest.approx(0.5 * 0.01, rel=5 / math.sqrt(2 * 10_000))


def test_all_entries_can_be_noisy():
    added = {name: tensor - GRADIENT[name] for name, tensor in shared(Outpost(noise=0.5, informed=1, prune=0)).items()}
    assert float(added["wide"].std()) == pytest.approx(0.5, rel=5 / math.sqrt(2 * 20_000))
    assert float(added["narrow"].std()) == pytest.approx(0.005, rel=5 / math.sqrt(2 * 20_000))
    for name in added:
        assert abs(float(added[name].mean())) < 5 * float(added[name].std()) / math.sqrt(20_000)


def test_each_layer_s_smallest_entries_are_pruned():
    found = shared(Outpost(noise=0, prune=0.8))
    for name, tensor in found.items():
        assert int((tensor != 0).sum()) == 4000
        assert torch.equal(tensor[tensor != 0], GRADIENT[name][tensor != 0])


def test_what_is_pruned_may_be_noisy():
    """Information is judged by the gradient as it was."""
    found = shared(Outpost(noise=0.5, informed=1, prune=0.9))
    assert int((found["wide"] == 0).sum()) == 0


def test_the_noise_is_in_what_is_shared():
    """A well-known implementation computes it and returns the gradient that it was given."""
    assert not same(shared(Outpost(noise=0.5)), shared(Outpost(noise=0)))
    assert not same(shared(Outpost(noise=0.5)), shared(Outpost(noise=0.5), seed=1))
