"""Batches come back exactly, in any order, with their labels; what is certified is right."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import NotApplicable, Observation, Reconstruction
from attacks.directions.completion import completed
from attacks.directions.layers import tail
from attacks.directions.low_rank import split
from attacks.directions.two_values import Found, Search, nothing, searched, typical_errors
from attacks.exact import Spear, SpearPlus
from attacks.exact.spear_plus import assembled
from attacks.labels import AutoLabels
from learning.models import MLP, LeNet, LeNet5, ResNet18
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import counts, observe, random_batch, restored

SHAPE = (1, 12, 12)


def seen(
    size: int, seed: int, width: int = 100, depth: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[Observation, Batch]:
    batch = random_batch(size, seed, SHAPE)
    batch = Batch(batch.images.to(dtype), batch.labels)
    return observe(MLP(width=width, depth=depth).build(SHAPE, 10, seed).to(dtype), batch), batch


def farthest(found: Tensor | None, truth: Tensor) -> float:
    """The largest difference of a pixel between a true picture and the restored one that is nearest to it."""
    assert found is not None
    return float((truth[:, None] - found[None]).abs().flatten(2).amax(2).amin(1).max())


def check_certified(found: Reconstruction, batch: Batch, within: float) -> None:
    """Every true picture is there up to so much in any pixel, and every restored one is certified."""
    assert farthest(found.images, batch.images) < within
    assert found.certified is not None
    assert found.certified.all(), found.verdict


@pytest.mark.parametrize(("size", "depth"), [(2, 1), (8, 1), (16, 1), (8, 3)])
def test_a_batch_is_restored_exactly_with_its_labels(size, depth):
    for seed in range(3):
        observation, batch = seen(size, seed, depth=depth)
        found = SpearPlus().reconstruct(observation, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-7)


def test_float32_updates_are_certified_to_their_precision():
    for seed in range(3):
        observation, batch = seen(8, seed, dtype=torch.float32)
        found = SpearPlus().reconstruct(observation, generator(seed))
        check_certified(found, batch, 1e-3)


@pytest.mark.parametrize("attack", [Spear(), SpearPlus()], ids=["spear", "spear-plus"])
@pytest.mark.parametrize("share", [0.03, 0.9])
def test_a_clipped_update_gives_the_pictures_all_the_same(attack, share):
    for seed in range(3):
        observation, batch = seen(8, seed)
        clipped = replace(observation, update=observation.update.map(lambda tensor: share * tensor))
        found = attack.reconstruct(clipped, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-7)


def test_a_last_missing_direction_follows_from_the_others():
    observation, _ = seen(6, 0)
    end = tail(observation)
    hidden, last = end.layers
    parts = split(hidden.gradient, 6)
    answer = torch.full((10,), 0.1, dtype=torch.float64)
    every = [typical_errors(answer, own) for own in range(10)]
    found, rng = nothing(parts, 10), generator("search")
    outgoing = last.weight.T[parts.live]
    for _ in range(5):
        for own in range(10):
            seed = int(torch.randint(2**62, (1,), generator=rng))
            found = searched(parts, hidden, outgoing, 32, 1e-8, Search(own, every[own], found, 2, 100, seed))
    assert found.directions.shape[1] == 6
    for out in range(6):
        kept = torch.tensor([index for index in range(6) if index != out])
        fewer = Found(
            found.directions[:, kept], found.classes[kept], found.errors[kept], found.open[kept], found.left_over[kept]
        )
        again = completed(fewer, parts, hidden, last, dict(enumerate(every)), 1e-8, math.inf, rng)
        assert again.directions.shape[1] == 6
        torch.testing.assert_close(again.directions[:, 5], found.directions[:, out], rtol=0, atol=1e-9)


def test_convolutions_before_leave_the_labels():
    for seed in range(3):
        batch = random_batch(8, seed, (1, 16, 16))
        batch = Batch(batch.images.double(), batch.labels)
        found = SpearPlus(rounds=8).reconstruct(observe(LeNet5().build((1, 16, 16), 10, seed).double(), batch), generator(seed))
        assert found.images is None
        assert restored(found.labels) == counts(batch.labels)


@pytest.mark.parametrize("level", [1e-4, 1e-3, 0.01, 0.1])
def test_what_is_certified_of_a_noisy_update_is_within_a_hundredth_and_loud_noise_proves_nothing(level):
    certified = 0
    for seed in range(3):
        observation, batch = seen(8, seed)
        size = level * next(t for t in observation.update.parameters.values() if t.ndim == 2).square().mean().sqrt()
        rng = generator("noise", seed)
        noisy = observation.update.map(lambda t, s=size, r=rng: t + s * torch.randn(t.shape, generator=r, dtype=t.dtype))
        found = SpearPlus(rounds=4).reconstruct(replace(observation, update=noisy), generator(seed))
        if found.certified is None or not found.certified.any():
            continue
        assert found.images is not None
        sure = found.images[found.certified]
        assert (sure[:, None] - batch.images[None]).square().flatten(2).mean(2).sqrt().amin(1).max() < 0.01
        certified += int(found.certified.sum())
    assert certified == (24 if level < 0.003 else 0)


def test_another_batch_is_not_certified():
    """An update that no batch makes has no certificate: noise as large as the gradient."""
    observation, _ = seen(6, 0)
    rng = generator("noise")
    for tensor in observation.update.parameters.values():
        tensor += tensor.std() * torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype)
    found = SpearPlus(rounds=2).reconstruct(observation, generator(0))
    assert found.certified is None or not found.certified.any()


@pytest.mark.parametrize(
    ("architecture", "shape", "size", "training", "reason"),
    [
        (LeNet(activation="relu"), SHAPE, 2, Training(), "no linear layer feeds the last one"),
        (MLP(width=8), SHAPE, 20, Training(), "told apart only where there are more"),
        (MLP(activation="sigmoid"), SHAPE, 2, Training(), "no linear layer feeds the last one"),
        (ResNet18(), (3, 16, 16), 2, Training(batch_norm="train"), "BatchNorm in train mode"),
    ],
)
def test_what_it_cannot_do_is_said(architecture, shape, size, training, reason):
    observation = observe(architecture.build(shape, 10, 0), random_batch(size, shape=shape), training)
    with pytest.raises(NotApplicable, match=reason):
        SpearPlus().reconstruct(observation, generator(0))


def test_more_directions_than_examples_are_not_believed():
    observation, batch = seen(4, 0)
    end = tail(observation)
    parts = split(end.layers[-2].gradient, 4)
    wrong = int(batch.labels[0] + 1) % 10
    many = Found(
        torch.randn(parts.rank, 9, generator=generator("many")).double(), torch.full((9,), wrong),
        torch.zeros(9, 10).double(), torch.zeros(9, len(parts.live), dtype=torch.bool), torch.zeros(9).double(),
    )  # fmt: skip
    found = assembled(observation, end, parts, many, generator("many"))
    assert found.images is None
    assert found.identifiable is False
    assert "9 directions fit 4 examples" in found.verdict
    assert restored(found.labels) == restored(AutoLabels().reconstruct(observation, generator("many")).labels)


def test_as_many_directions_as_examples_of_which_one_is_a_mixture_give_no_picture():
    observation, _ = seen(4, 0)
    end = tail(observation)
    parts = split(end.layers[-2].gradient, 4)
    some = torch.randn(parts.rank, 3, generator=generator("some")).double()
    mixed = Found(
        torch.cat([some, some[:, :1] + some[:, 1:2]], 1), torch.zeros(4, dtype=torch.long),
        torch.zeros(4, 10).double(), torch.zeros(4, len(parts.live), dtype=torch.bool), torch.zeros(4).double(),
    )  # fmt: skip
    found = assembled(observation, end, parts, mixed, generator("mixed"))
    assert found.images is None
    assert "not independent" in found.verdict
