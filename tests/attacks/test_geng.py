"""Geng's zero-shot counts, in both forms (a peer lists the method and cannot build it: D19)."""

import pytest

from attacks import ATTACKS, NotApplicable
from attacks.labels import GengLabels
from learning.catalogue import build
from learning.models import MLP, LeNet
from learning.tensors import generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, counts, observe, random_batch, restored


def test_it_is_built_by_its_name():
    assert build(ATTACKS, {"name": "geng", "form": "weights"}) == GengLabels(form="weights")


@pytest.mark.parametrize(
    "training",
    [Training(), Training(shared="delta", batch_size=8, epochs=3, learning_rate=0.01)],
    ids=["gradient", "six steps"],
)
def test_duplicates_are_counted_on_untrained_models(training):
    for seed in range(5):
        batch = random_batch(16, seed)
        observation = observe(LeNet(activation="relu", initial="default").build(SHAPE, CLASSES, seed), batch, training)
        assert restored(GengLabels().reconstruct(observation, generator(0)).labels) == counts(batch.labels)


def test_the_weights_alone_tell_most_labels_of_a_network_without_a_bias():
    recalled = 0
    for seed in range(10):
        batch = random_batch(16, seed)
        found = GengLabels().reconstruct(observe(MLP(bias=False).build(SHAPE, CLASSES, seed), batch), generator(0))
        recalled += sum(map(min, restored(found.labels), counts(batch.labels)))
    assert recalled >= 0.7 * 160


def test_the_bias_form_needs_a_bias():
    with pytest.raises(NotApplicable, match="form = 'weights'"):
        GengLabels(form="bias").reconstruct(observe(MLP(bias=False).build(SHAPE, CLASSES, 0), random_batch(2)), generator(0))
