"""Labels of batches that are taken apart: all of them right, or none returned."""

from dataclasses import replace

import pytest
import torch

from attacks.labels import AutoLabels, RankOneLabels
from attacks.labels.apart import classes_apart
from learning.models import MLP, LeNet
from learning.tensors import generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, DELTA, SHAPE, counts, observe, random_batch, restored

WIDE = MLP(width=300, depth=2)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("training", [Training(), DELTA], ids=["gradient", "one step"])
def test_every_label_of_sixty_four_is_right(depth, training):
    for seed in range(3):
        batch = random_batch(64, seed)
        observation = observe(MLP(width=300, depth=depth).build(SHAPE, CLASSES, seed), batch, training)
        classes = classes_apart(observation, 60.0, generator(0))
        assert classes is not None
        assert counts(classes) == counts(batch.labels)


def test_auto_takes_apart_what_rank_one_cannot_count():
    wrong = 0
    for seed in range(6):
        batch = random_batch(64, seed)
        observation = observe(MLP(width=300, depth=1).build(SHAPE, CLASSES, seed), batch)
        wrong += restored(RankOneLabels().reconstruct(observation, generator(0)).labels) != counts(batch.labels)
        found = AutoLabels(seconds=60.0).reconstruct(observation, generator(0))
        assert restored(found.labels) == counts(batch.labels)
        never = AutoLabels(seconds=0.0).reconstruct(observation, generator(0))
        assert restored(never.labels) == restored(RankOneLabels().reconstruct(observation, generator(0)).labels)
    assert wrong, "rank-one counts all of these, and they show nothing"


def test_auto_says_that_it_took_the_batch_apart():
    observation = observe(MLP(width=300, depth=1).build(SHAPE, CLASSES, 2), random_batch(48, 2))
    assert "all 48 examples were taken apart" in AutoLabels(seconds=60.0).reconstruct(observation, generator(0)).verdict


@pytest.mark.parametrize(
    ("model", "training"),
    [
        (MLP(width=90, depth=2), Training()),
        (MLP(width=300, depth=2, bias=False), Training()),
        (MLP(width=300, depth=2, activation="sigmoid"), Training()),
        (LeNet(), Training()),
        (WIDE, replace(DELTA, epochs=2)),
    ],
    ids=["too few units", "no bias", "no ReLU", "no hidden layer", "two steps"],
)
def test_nothing_is_returned_where_it_cannot_be_done(model, training):
    observation = observe(model.build(SHAPE, CLASSES, 0), random_batch(24), training)
    assert classes_apart(observation, 5.0, generator(0)) is None


def test_nothing_is_returned_under_noise():
    observation = observe(WIDE.build(SHAPE, CLASSES, 0), random_batch(24))
    size = observation.update.parameters["network.1.weight"].std()
    rng = generator("noise")
    noisy = observation.update.map(lambda tensor: tensor + size * torch.randn(tensor.shape, generator=rng))
    assert classes_apart(replace(observation, update=noisy), 5.0, generator(0)) is None


def test_what_does_not_explain_the_last_layer_is_not_believed():
    """The last layer's gradient is another batch's: what is found at the hidden layer contradicts it."""
    model = WIDE.build(SHAPE, CLASSES, 0)
    observation, other = (observe(model, random_batch(24, seed)) for seed in (0, 1))
    last = [name for name in observation.update.parameters if name.startswith("network.5.")]
    assert last
    mixed = observation.update.parameters | {name: other.update.parameters[name] for name in last}
    assert classes_apart(replace(observation, update=replace(observation.update, parameters=mixed)), 5.0, generator(0)) is None
    assert classes_apart(observation, 60.0, generator(0)) is not None
