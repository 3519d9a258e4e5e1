"""Rank-one labels: exact where all examples look alike, and on untrained networks far beyond iLRG."""

import pytest
import torch

from attacks import NotApplicable
from attacks.labels import RankOneLabels
from learning.models import MLP, LeNet
from learning.tensors import generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, counts, observe, random_batch, restored


@pytest.mark.parametrize("refinements", [0, 2])
@pytest.mark.parametrize("activation", ["relu", "silu", "tanh", "leaky-relu", "sigmoid"])
def test_every_label_is_counted_whatever_the_activation(activation, refinements):
    for seed in range(3):
        batch = random_batch(64, seed)
        model = LeNet(activation=activation, initial="default").build(SHAPE, CLASSES, seed)
        found = RankOneLabels(refinements=refinements).reconstruct(observe(model, batch), generator(0))
        assert restored(found.labels) == counts(batch.labels)


def test_equal_pictures_are_counted_exactly_on_any_model():
    """Rank one is then no approximation, however far the weights are from their start."""
    model = MLP().build(SHAPE, CLASSES, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    for seed in range(5):
        batch = random_batch(200, seed)
        batch.images[:] = batch.images[0].clone()
        assert restored(RankOneLabels().reconstruct(observe(model, batch), generator(0)).labels) == counts(batch.labels)


def test_several_local_steps_use_the_model_reached():
    training, right = Training(shared="delta", batch_size=16, epochs=2, learning_rate=0.05), 0
    for seed in range(10):
        batch = random_batch(32, seed)
        model = LeNet(activation="relu", initial="default").build(SHAPE, CLASSES, seed)
        right += restored(RankOneLabels().reconstruct(observe(model, batch, training), generator(0)).labels) == counts(
            batch.labels
        )
    assert right >= 9


def test_a_bias_is_needed():
    with pytest.raises(NotApplicable, match="no bias"):
        RankOneLabels().reconstruct(observe(MLP(bias=False).build(SHAPE, CLASSES, 0), random_batch(2)), generator(0))
