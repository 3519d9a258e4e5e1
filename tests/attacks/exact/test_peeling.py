"""Peeling is exact where units see pictures alone, leaves the rest to spear-plus, and believes nothing that is not there."""

import pytest
import torch
from torch import nn

from attacks import NotApplicable, Observation
from attacks.exact import Peeling
from attacks.exact.layers import tail
from attacks.exact.low_rank import split
from attacks.exact.peeling import Peeled, believed, peeled
from learning.models import MLP, LeNet5, Normalize
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.exact.test_spear_plus import SHAPE, check_certified
from tests.attacks.test_labels import counts, observe, random_batch, restored


def bright(size: int, seed: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Observation, Batch]:
    """Pictures that differ less from each other than from black, and a network that does not normalise them."""
    batch = random_batch(size, seed, SHAPE)
    batch = Batch((0.6 + 0.4 * batch.images).to(dtype), batch.labels)
    model = MLP(width=width).build(SHAPE, 10, seed)
    model = nn.Sequential(Normalize(mean=0.0, deviation=1.0), *list(model.children())[1:]).to(dtype)
    return observe(model, batch), batch


@pytest.mark.parametrize("finish", [True, False])
def test_pictures_seen_alone_are_restored_exactly_with_their_labels(finish):
    for seed in range(3):
        observation, batch = bright(6, seed, 300)
        found = Peeling(finish=finish).reconstruct(observation, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-9)
        assert "6 examples were peeled off" in found.verdict


def test_what_no_unit_sees_alone_is_left_to_spear_plus():
    whole = 0
    for seed in range(3):
        observation, batch = bright(16, seed, 100)
        end = tail(observation)
        alone = peeled(end, split(end.layers[0].gradient, 16), 16)
        assert 0 < len(alone) < 16, "the test needs a batch that peeling alone does not restore"
        half = Peeling(finish=False).reconstruct(observation, generator(seed))
        assert half.certified is not None
        assert int(half.certified.sum()) == len(alone)
        found = Peeling(seconds=5).reconstruct(observation, generator(seed))
        for certain in (half, found):
            assert certain.images is not None
            assert certain.certified is not None
            nearest = (certain.images[certain.certified][:, None] - batch.images[None]).abs().flatten(2).amax(2).amin(1)
            assert nearest.max() < 1e-6
        whole += bool(found.certified.all())
    assert whole >= 2


def test_what_is_not_an_example_is_not_believed():
    observation, batch = bright(12, 0, 300)
    end = tail(observation)
    parts = split(end.layers[0].gradient, 12)
    true = Peeled(batch.images.flatten(1), batch.labels)
    assert believed(end, parts, true, 12, 1e-6).all()
    assert not believed(end, parts, Peeled(true.inputs, (true.classes + 1) % 10), 12, 1e-6).any()
    assert not believed(end, parts, Peeled((true.inputs + true.inputs.roll(1, 0)) / 2, true.classes), 12, 1e-6).any()
    assert not believed(end, parts, Peeled(true.inputs + 1e-4 * torch.rand(12, 144), true.classes), 12, 1e-6).any()


def test_float32_updates_are_certified_to_their_precision():
    for seed in range(3):
        observation, batch = bright(8, seed, 300, torch.float32)
        check_certified(Peeling().reconstruct(observation, generator(seed)), batch, 1e-3)


@pytest.mark.parametrize(
    ("architecture", "shape", "size", "training", "reason"),
    [
        (MLP(depth=2), SHAPE, 2, Training(), "one hidden layer"),
        (LeNet5(), (1, 16, 16), 2, Training(), "one hidden layer"),
        (MLP(bias=False), SHAPE, 2, Training(), "has no bias"),
        (MLP(width=8), SHAPE, 20, Training(), "told apart only where there are more"),
        (MLP(), SHAPE, 2, Training(shared="delta", batch_size=2, epochs=2), "client made 2"),
    ],
)
def test_what_it_cannot_do_is_said(architecture, shape, size, training, reason):
    observation = observe(architecture.build(shape, 10, 0), random_batch(size, shape=shape), training)
    with pytest.raises(NotApplicable, match=reason):
        Peeling().reconstruct(observation, generator(0))
