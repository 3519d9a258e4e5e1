"""GradInversion's parts: the group draws the same picture together and no other, and statistics are the batch's own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.labels import GivenLabels
from attacks.matching import GradInversion
from attacks.matching.batch_statistics import known_statistics, statistics_distance
from attacks.matching.group import consensus, correlation, registered
from attacks.matching.victim import victim_of
from learning.data import Digits, pictures_of
from learning.models import MLP, ConvNet
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, observe, random_batch


def scenes(count: int, seed: int = 0) -> Tensor:
    """Smooth pictures of 24 pixels a side that are grey at the edge, so that a shift around the edge is a shift."""
    coarse = torch.rand(count, 3, 6, 6, generator=generator("scenes", seed))
    fine = torch.nn.functional.interpolate(coarse, 24, mode="bicubic").clamp(0, 1)
    frame = torch.zeros(24, 24)
    frame[5:-5, 5:-5] = 1
    return fine * frame + 0.5 * (1 - frame)


def term(seeds: Tensor) -> Tensor:
    return (seeds - consensus(seeds)).square().mean()


def test_identical_seeds_are_their_own_consensus():
    """Also of several pictures: a peer compares each with the others there (its defect D16)."""
    for count in (1, 4):
        seeds = scenes(count).expand(3, -1, -1, -1, -1).clone()
        assert term(seeds).item() == pytest.approx(0, abs=1e-12)


def test_different_pictures_do_not_pull_each_other():
    for seed in range(5):
        seeds = scenes(3, seed)[:, None]
        assert consensus(seeds).equal(seeds)


def test_shifted_and_noisy_copies_are_drawn_to_one_picture():
    for seed in range(5):
        picture, rng = scenes(1, seed)[0], generator("noise", seed)
        shifts = [(0, 0), (2, -1), (-2, 3)]
        noise = 0.05 * torch.randn(3, *picture.shape, generator=rng)
        seeds = (torch.stack([torch.roll(picture, shift, (1, 2)) for shift in shifts]) + noise)[:, None]
        found = consensus(seeds)
        assert found[0].equal(found[1])
        assert found[0].equal(found[2])
        best = min(
            (torch.roll(picture, (a, b), (1, 2)) - found[0, 0]).square().mean() for a in range(-3, 4) for b in range(-3, 4)
        )
        assert best < 0.6 * (0.05**2), "the mean of three is nearer to the picture than any of them"


def test_a_stranger_is_left_out_of_the_group():
    picture, stranger = scenes(1, 0)[0], scenes(1, 1)[0]
    seeds = torch.stack([picture, torch.roll(picture, 1, 2), stranger])[:, None]
    found = consensus(seeds)
    assert found[2].equal(seeds[2])
    assert found[0].equal(found[1])


@pytest.mark.parametrize("shift", [(0, 0), (3, -4), (-5, 1)])
def test_registration_finds_the_shift(shift):
    picture = scenes(1)[0]
    moved, found = registered(picture, torch.roll(picture, shift, (1, 2)))
    assert found == shift
    assert moved.equal(torch.roll(picture, shift, (1, 2)))


def test_registration_does_not_go_farther_than_a_quarter():
    picture = scenes(1)[0]
    _, (down, aside) = registered(picture, torch.roll(picture, (11, 11), (1, 2)))
    assert max(abs(down), abs(aside)) <= 6


def test_a_constant_picture_is_like_nothing():
    assert correlation(torch.full((3, 24, 24), 0.5), scenes(1)[0]).abs() < 1e-6


# BatchNorm's statistics

SENT = Training(batch_norm="train", buffers="sent")


def of_batchnorm(training: Training, size: int = 6):
    batch = random_batch(size, shape=(3, 9, 9))
    model = ConvNet(width=2).build((3, 9, 9), CLASSES, 0)
    return observe(model.double(), Batch(batch.images.double(), batch.labels), training), batch.images.double()


def test_statistics_that_are_sent_are_those_of_the_batch():
    observation, images = sent()
    known = known_statistics(observation)
    assert known is not None
    apart = statistics_distance(victim_of(observation, torch.float64), known)
    assert apart(images).item() == pytest.approx(0, abs=1e-18)
    assert apart(images.flip(0)).item() == pytest.approx(0, abs=1e-18)
    assert apart(random_batch(6, 1, shape=(3, 9, 9)).images.double()).item() > 1e-3


def sent():
    """The model as sent, before the client's forward pass moved its buffers, as the server holds it."""
    fresh = ConvNet(width=2).build((3, 9, 9), CLASSES, 0).double()
    observation, images = of_batchnorm(SENT)
    return replace(observation, model=fresh.train()), images


def test_nothing_is_known_of_a_model_that_has_seen_nothing():
    assert known_statistics(of_batchnorm(Training())[0]) is None
    assert known_statistics(observe(MLP().build((1, 8, 8), CLASSES, 0), random_batch(2))) is None


def test_a_trained_models_statistics_are_known():
    observation, images = of_batchnorm(Training())
    model = observation.model
    model.train()(images)
    model.eval()
    known = known_statistics(observation)
    assert known is not None
    assert "own" in known.source


def test_gradinversion_says_what_it_lacks():
    observation, _ = of_batchnorm(Training(), size=2)
    observation = replace(observation, granted=replace(observation.granted, labels=torch.tensor([0, 1])))
    found = GradInversion(labels=GivenLabels(), iterations=3, seeds=2).reconstruct(observation, generator(0))
    assert "not matched" in found.verdict


def test_gradinversion_restores_digits():
    test = pictures_of(Digits()).test
    batch = test.batch(torch.stack([(test.labels == label).nonzero()[0, 0] for label in (1, 4)]))
    observation = observe(MLP(width=64, activation="sigmoid").build((1, 8, 8), CLASSES, 0), batch)
    attack = GradInversion(iterations=300, seeds=2, total_variation=0.001)
    found = attack.reconstruct(observation, generator(0))
    assert found.images is not None
    errors = (found.images[:, None] - batch.images[None]).square().mean((2, 3, 4))
    assert errors.min(0).values.max() < 0.03, errors


@pytest.mark.parametrize("architecture", [MLP(), ConvNet(width=2)], ids=["mlp", "convnet"])
def test_gradinversion_s_distance_is_one_at_the_first_start_whatever_the_network(architecture):
    observation = observe(architecture.build((3, 9, 9), CLASSES, 0), random_batch(2, shape=(3, 9, 9)))
    attack = GradInversion(labels=GivenLabels(), iterations=1, seeds=1, warm_up=0)
    observation = replace(observation, granted=replace(observation.granted, labels=torch.tensor([0, 1])))
    bare = replace(attack, total_variation=0.0, norm=0.0).reconstruct(observation, generator(0)).history[0]
    smooth = replace(attack, total_variation=3.0, norm=0.0).reconstruct(observation, generator(0)).history[0]
    assert bare == pytest.approx(1.0, rel=1e-5)
    assert smooth > bare
