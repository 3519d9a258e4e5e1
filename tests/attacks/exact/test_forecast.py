"""Forecasts follow the laws of counting, and agree with what then happens where the matter is clear."""

import pytest
import torch
from torch import nn

from attacks.exact import Peeling, Spear, SpearPlus
from attacks.exact.forecast import Forecast, forecasts
from learning.models import MLP, LeNet5
from learning.tensors import generator
from learning.training import Training, local_update
from tests.attacks.exact.test_spear_plus import SHAPE, seen
from tests.attacks.test_labels import random_batch


def forecast(
    model: nn.Module, examples: int, noise: float = 0.0, shape: tuple[int, int, int] = SHAPE, clipped: float = 1.0
) -> dict[str, Forecast]:
    """For random pictures, and updates of which that share is left, and to which noise of that share of their size is added."""
    stand_in = random_batch(examples, 1, shape)

    def share():
        update, rng = local_update(model, stand_in, Training(), generator(0)), generator(1)
        return update.map(lambda t: clipped * t + noise * t.square().mean().sqrt() * torch.randn(t.shape, generator=rng))

    return forecasts(model, 10, stand_in, Training(), share)


def probability(attack: str, width: int, examples: int) -> float:
    return forecast(MLP(width=width).build(SHAPE, 10, 0), examples)[attack].probability


@pytest.mark.parametrize("attack", ["spear", "spear-plus"])
def test_more_examples_are_never_easier(attack):
    odds = [probability(attack, 100, examples) for examples in (2, 8, 16, 32, 64, 99)]
    assert odds == sorted(odds, reverse=True)
    assert odds[0] > 0.95
    assert odds[-1] < 0.05


def test_a_batch_larger_than_the_layer_is_never_exact():
    assert probability("spear-plus", 16, 16) == 0


def test_convolutions_before_are_said():
    model = LeNet5().build((1, 16, 16), 10, 0)
    assert all(found.probability == 0 for found in forecast(model, 4, shape=(1, 16, 16)).values())
    assert "Conv2d" in forecast(model, 1, shape=(1, 16, 16))["linear"].sentence


def test_noise_that_no_attack_could_take_out_is_said():
    model = MLP(width=100).build(SHAPE, 10, 0)
    found = forecast(model, 4, noise=0.5)["spear-plus"]
    assert found.probability == 0
    assert "even from the true pictures" in found.sentence
    assert forecast(model, 4)["spear-plus"].probability > 0.95


def test_a_single_example_is_exact_by_every_attack_that_takes_one():
    model = MLP(width=100).build(SHAPE, 10, 0)
    found = forecast(model, 1)
    assert all(found[name].probability >= 0.99 for name in ("linear", "spear-plus", "peeling"))
    assert found["spear"].probability == 0
    assert "linear" in found["spear"].sentence


@pytest.mark.parametrize("attack", ["spear", "spear-plus", "peeling"])
def test_clipping_changes_no_odds(attack):
    model = MLP(width=100).build(SHAPE, 10, 0)
    assert forecast(model, 4, clipped=0.1)[attack].probability == pytest.approx(
        forecast(model, 4)[attack].probability, abs=0.01
    )


def test_peeling_is_sure_where_units_are_open_for_few_pictures():
    model = MLP(width=100).build(SHAPE, 10, 0)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    assert "0 examples" in forecast(model, 24)["peeling"].sentence
    with torch.no_grad():
        first.bias -= 2 * first.weight.norm(dim=1)
    assert "all 6" in forecast(model, 6)["peeling"].sentence


@pytest.mark.parametrize(
    ("attack", "name", "examples"), [(Spear(), "spear", 4), (SpearPlus(), "spear-plus", 8), (Peeling(), "peeling", 8)]
)
def test_what_is_forecast_as_sure_happens(attack, name, examples):
    observation, batch = seen(examples, 0)
    found = forecasts(observation.model, 10, batch, Training(), lambda: observation.update)
    assert found[name].probability > 0.95
    back = attack.reconstruct(observation, generator(0))
    assert back.certified is not None
    assert back.certified.all()
