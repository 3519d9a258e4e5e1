"""The search for transformation policies: its scores, and that it finds what they prefer."""

import pytest
import torch
from torch import nn

from defenses.transformation_search import accuracy_score, privacy_score, search
from learning.data import Digits, pictures_of
from learning.models import MLP
from learning.tensors import Batch, generator, parameters_of
from learning.training import Training, local_update


def some(count: int) -> Batch:
    train = pictures_of(Digits()).train
    return train.batch(torch.arange(count))


def model(trained: bool) -> nn.Module:
    built = MLP(width=16).build((1, 8, 8), 10, 0)
    if trained:
        moved = local_update(built, some(200), Training(shared="delta", batch_size=20, epochs=5), generator(0)).parameters
        with torch.no_grad():
            for name, tensor in parameters_of(built).items():
                tensor.add_(moved[name])
    return built


def test_the_same_generator_finds_the_same_policies_and_changes_no_model():
    trained, untrained = model(True), model(False)
    before = [tensor.clone() for tensor in (*parameters_of(trained).values(), *parameters_of(untrained).values())]
    one, again, other = (search(trained, untrained, some(6), generator(seed), candidates=6) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    after = [*parameters_of(trained).values(), *parameters_of(untrained).values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_most_private_comes_first_and_the_least_accurate_are_left_out():
    arguments = (model(True), model(False), some(6))
    every = search(*arguments, generator(0), candidates=8, kept=1.0)
    half = search(*arguments, generator(0), candidates=8, kept=0.5)
    assert len(every) == 8
    assert [found.privacy for found in every] == sorted(found.privacy for found in every)
    best = sorted(every, key=lambda found: -found.accuracy)[:4]
    assert half == sorted(best, key=lambda found: found.privacy)
    assert len({found.privacy for found in every}) > 4, "policies differ in it"


def test_a_picture_that_noise_is_as_good_as_has_the_greatest_privacy_score():
    """A network that does not look at its pictures has the same gradient for all of them."""
    seeing = privacy_score(model(True), some(4), generator(0))
    only = nn.Sequential(nn.Flatten(), _Constant())
    assert privacy_score(only, some(4), generator(0)) == pytest.approx(1.0, abs=1e-6)
    assert 0 < seeing < 0.95


class _Constant(nn.Module):
    """Scores that are the same whatever the picture."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.linspace(0, 1, 10))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(features), 10)


def test_a_network_that_tells_no_two_pictures_apart_has_the_least_accuracy_score():
    network = model(False)
    different = accuracy_score(network, some(5).images)
    alike = accuracy_score(network, some(1).images.expand(5, -1, -1, -1) + 1e-4 * torch.rand(5, 1, 8, 8))
    assert alike < different <= -5
