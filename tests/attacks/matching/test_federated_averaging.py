"""Dimitrov's epochs, the surrogate model, and several model-gradient pairs of one batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import NotApplicable, Observation
from attacks.attack import label_rows
from attacks.labels import GivenLabels
from attacks.matching import SME, Dimitrov, GengImages
from attacks.matching.dimitrov import averaged, dealt_labels, epochs_apart
from learning.data import Digits, pictures_of
from learning.models import LeNet
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, observe, random_batch


def digits(size: int, seed: int = 0) -> Batch:
    test = pictures_of(Digits()).test
    return test.batch(torch.randperm(len(test), generator=generator("digits", seed))[:size])


def knowing(observation: Observation, batch: Batch) -> Observation:
    return replace(observation, granted=replace(observation.granted, labels=batch.labels.sort().values))


def decibels(found: Tensor, batch: Batch) -> float:
    """The least of the pictures', by the better of the two orders of a batch of two."""
    orders = [found, found.flip(0)]
    errors = [(one - batch.images).square().flatten(1).mean(1) for one in orders]
    return -10 * math.log10(min(error.max().item() for error in errors))


def in_epochs(epochs: int, size: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same examples in every epoch, each in an order of its own."""
    batch, rng = random_batch(size, seed), generator("shuffles", seed)
    order = torch.cat([torch.randperm(size, generator=rng) for _ in range(epochs)])
    return batch.images[order], label_rows(batch.labels, CLASSES)[order]


def test_epochs_of_the_same_examples_are_not_apart_in_any_order():
    for seed in range(5):
        images, labels = in_epochs(3, seed=seed)
        assert epochs_apart(images, labels, 3).item() == pytest.approx(0, abs=1e-12)
        images[-1] += 0.1
        assert epochs_apart(images, labels, 3).item() > 1e-6


def test_averaging_finds_the_examples_again():
    for seed in range(5):
        images, labels = in_epochs(4, seed=seed)
        found, rows = averaged(images, labels, 4)
        torch.testing.assert_close(found, images[:4])
        assert rows.equal(labels[:4])


def test_averaging_never_mixes_labels():
    """Two examples that look alike, with different labels: the labels decide."""
    images = torch.tensor([0.4, 0.6, 0.4, 0.6])[:, None, None, None].expand(-1, 1, 2, 2)
    rows = label_rows(torch.tensor([0, 1, 1, 0]), CLASSES)
    found, _ = averaged(images, rows, 2)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.5])


def test_labels_are_dealt_to_every_epoch():
    rows = label_rows(torch.tensor([0, 0, 1, 7]), CLASSES)
    dealt = dealt_labels(rows, 50, generator(0)).unflatten(0, (50, 4)).argmax(2)
    assert dealt.sort(1).values.equal(torch.tensor([0, 0, 1, 7]).expand(50, 4))
    assert len({tuple(epoch.tolist()) for epoch in dealt}) > 5


def test_dimitrov_restores_digits_from_local_epochs():
    training = Training(shared="delta", batch_size=1, epochs=2, learning_rate=0.02)
    scores = []
    for seed in range(1):
        batch = digits(2, seed)
        observation = knowing(observe(LeNet().build(SHAPE, CLASSES, seed), batch, training), batch)
        found = Dimitrov(labels=GivenLabels(), iterations=150).reconstruct(observation, generator(seed))
        assert found.images is not None
        assert found.loss < 0.3 * found.history[0]
        scores.append(decibels(found.images, batch))
    assert min(scores) > 10, scores


@pytest.mark.parametrize("training", [Training(), Training(shared="delta", batch_size=1, steps=3)], ids=["gradient", "cut"])
def test_dimitrov_refuses_what_is_no_whole_epochs(training):
    with pytest.raises(NotApplicable):
        Dimitrov().reconstruct(observe(LeNet().build(SHAPE, CLASSES, 0), random_batch(2), training), generator(0))


def test_the_surrogate_stays_on_the_line():
    training = Training(shared="delta", batch_size=1, epochs=20, learning_rate=0.05)
    batch = digits(2)
    observation = knowing(observe(LeNet().build(SHAPE, CLASSES, 0), batch, training), batch)
    found = SME(labels=GivenLabels(), iterations=30, place_rate=20.0).reconstruct(observation, generator(0))
    place = float(found.verdict.split()[2])
    assert 0 <= place <= 1
    assert place != 0.5
    with pytest.raises(NotApplicable, match="delta"):
        SME().reconstruct(observe(LeNet().build(SHAPE, CLASSES, 0), batch), generator(0))


def test_a_surrogate_on_the_way_matches_many_steps_better_than_the_model_sent():
    training = Training(shared="delta", batch_size=2, epochs=40, learning_rate=0.2)
    batch = digits(2)
    observation = knowing(observe(LeNet().build(SHAPE, CLASSES, 0), batch, training), batch)
    attack = SME(labels=GivenLabels(), iterations=60, total_variation=0.001)
    still = replace(attack, place=0.0, place_rate=0.0)
    learned, sent = (one.reconstruct(observation, generator(0)).loss for one in (attack, still))
    assert learned < sent


def test_more_models_restore_more():
    """Geng's claim, on digits; `bench/matching_pairs.py` has it on CIFAR-10."""
    batch = digits(2, 3)
    pairs = [knowing(observe(LeNet().build(SHAPE, CLASSES, i), batch), batch) for i in range(3)]
    attack = GengImages(labels=GivenLabels(), iterations=80)
    ordered = Batch(batch.images[batch.labels.argsort()], batch.labels.sort().values)
    scores = []
    for earlier in ([], pairs[1:]):
        found = attack.reconstruct(replace(pairs[0], earlier=tuple(earlier)), generator(0))
        assert found.images is not None
        scores.append(decibels(found.images, ordered))
    assert scores[1] > 25, scores
    assert scores[1] > scores[0] + 5, scores
