"""Forecasts follow the laws of counting, and agree with what then happens where the matter is clear."""

import pytest

from attacks.exact import Spear, SpearPlus
from attacks.exact.forecast import forecasts
from learning.models import MLP, LeNet5
from learning.tensors import generator
from tests.attacks.exact.test_spear_plus import SHAPE, seen


def probability(attack: str, width: int, examples: int) -> float:
    return forecasts(MLP(width=width).build(SHAPE, 10, 0), SHAPE, 10, examples)[attack].probability


@pytest.mark.parametrize("attack", ["spear", "spear-plus"])
def test_more_examples_are_never_easier(attack):
    odds = [probability(attack, 100, examples) for examples in (2, 8, 16, 32, 64, 99)]
    assert odds == sorted(odds, reverse=True)
    assert odds[0] > 0.95
    assert odds[-1] < 0.05


def test_a_batch_larger_than_the_layer_is_never_exact():
    assert probability("spear-plus", 16, 16) == 0


def test_convolutions_before_are_said():
    found = forecasts(LeNet5().build((1, 16, 16), 10, 0), (1, 16, 16), 10, 4)
    assert all(forecast.probability == 0 for forecast in found.values())
    assert "Conv2d" in forecasts(LeNet5().build((1, 16, 16), 10, 0), (1, 16, 16), 10, 1)["linear"].sentence


@pytest.mark.parametrize(("attack", "name", "examples"), [(Spear(), "spear", 4), (SpearPlus(), "spear-plus", 8)])
def test_what_is_forecast_as_sure_happens(attack, name, examples):
    observation, _ = seen(examples, 0)
    assert forecasts(observation.model, SHAPE, 10, examples)[name].probability > 0.95
    found = attack.reconstruct(observation, generator(0))
    assert found.certified is not None
    assert found.certified.all()
