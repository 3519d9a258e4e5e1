"""SPEAR by sampling: exact in float64 and float32, and its counts."""

import pytest
import torch

from attacks import NotApplicable
from attacks.exact import Spear
from attacks.exact.spear import expected_samples, fewest_zeros
from learning.models import MLP, LeNet5
from learning.tensors import generator
from tests.attacks.exact.test_spear_plus import SHAPE, check_certified, seen
from tests.attacks.test_labels import counts, observe, random_batch, restored


@pytest.mark.parametrize(("size", "depth"), [(2, 1), (6, 1), (6, 3)])
def test_a_batch_is_restored_exactly_with_its_labels(size, depth):
    for seed in range(3):
        observation, batch = seen(size, seed, depth=depth)
        found = Spear(chunk=4096).reconstruct(observation, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-7)


def test_float32_updates_are_certified_to_their_precision():
    for seed in range(3):
        observation, batch = seen(6, seed, dtype=torch.float32)
        found = Spear(chunk=4096).reconstruct(observation, generator(seed))
        check_certified(found, batch, 1e-3)


def test_the_expected_number_of_samples_is_the_papers():
    """n* for 200 units: lemma 5.2."""
    for rank, samples in [(4, 17), (6, 83), (8, 388), (10, 1.8e3), (12, 8.5e3), (16, 2.0e5), (20, 4.9e6)]:
        assert expected_samples(200, rank) == pytest.approx(samples, rel=0.06)


def test_a_true_direction_has_the_zeros_that_are_asked_for():
    zeros = torch.randint(2, (20000, 200), generator=generator(0)).sum(1)
    assert (zeros >= fewest_zeros(200, 20, 1e-5)).all()
    assert fewest_zeros(200, 20, 1e-5) > 60


def test_too_few_samples_give_no_picture_and_say_so():
    observation, _ = seen(16, 0)
    found = Spear(chunk=16, samples=16).reconstruct(observation, generator(0))
    assert found.images is None
    assert "of 16 directions" in found.verdict


def test_what_it_cannot_do_is_said():
    sigmoid = MLP(activation="sigmoid").build(SHAPE, 10, 0)
    with pytest.raises(NotApplicable, match="followed by ReLU"):
        Spear().reconstruct(observe(sigmoid, random_batch(2, shape=SHAPE)), generator(0))
    convolutions = LeNet5().build((1, 16, 16), 10, 0)
    with pytest.raises(NotApplicable, match="sees the picture"):
        Spear().reconstruct(observe(convolutions, random_batch(2, shape=(1, 16, 16))), generator(0))
