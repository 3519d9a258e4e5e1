"""Mixtures: their shares, what they keep, and how pixels flip."""

import math

import numpy as np
import pytest
import torch

from defenses import Defense, InstaHide, Mixup
from learning.tensors import Batch, Update, generator
from tests.defenses.behind import network, pictures


def trained_on(defense: Defense, batch: Batch, seed: int = 0) -> Batch:
    """The batch that the defense computes with."""
    seen: list[Batch] = []

    def compute(model, batch, rng):
        seen.append(batch)
        return Update({})

    defense.share(compute, network(), batch, generator(seed))
    (found,) = seen
    return found


def of_eight() -> Batch:
    """Pictures that are unit vectors: a mixture shows its shares in its first eight pixels."""
    images = torch.zeros(8, 1, 8, 8)
    images.flatten(1)[:, :8] = torch.eye(8)
    return Batch(images, torch.arange(8))


def shares_of(batch: Batch) -> torch.Tensor:
    return batch.images.flatten(1)[:, :8]


MIXERS = [Mixup(alpha=1), InstaHide(flips=False), InstaHide(pictures=2, flips=False), InstaHide(pictures=6, flips=False)]


@pytest.mark.parametrize("defense", MIXERS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_mixtures_keep_the_batch_s_sum_or_its_shares(defense, seed):
    found = trained_on(defense, of_eight(), seed)
    shares = shares_of(found)
    assert torch.allclose(shares.sum(1), torch.ones(8)), "a mixture's shares sum to 1"
    assert (shares >= 0).all()
    assert (shares > 0).sum(1).max() <= (2 if isinstance(defense, Mixup) else defense.pictures)
    assert torch.allclose(found.labels[:, :8], shares), "labels are mixed as pictures are"
    assert (found.labels[:, 8:] == 0).all()
    if isinstance(defense, Mixup):
        assert torch.allclose(shares.sum(0), torch.ones(8)), "every picture is given away whole"


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_s_share_is_of_a_beta_distribution(alpha):
    drawn = torch.stack([trained_on(Mixup(alpha=alpha), of_eight(), seed).labels for seed in range(400)])
    own = drawn.diagonal(dim1=1, dim2=2)[:, :8]
    share = own.min(1).values  # a picture that meets itself has 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(float(share.mean()) - 0.5) < 5 * math.sqrt(variance / 400)
    assert float(share.var()) == pytest.approx(variance, rel=0.3)


def test_no_share_of_instahide_is_above_its_largest():
    defense = InstaHide(pictures=4, largest=0.4, flips=False)
    drawn = defense._shares(2000, np.random.default_rng(0))
    assert drawn.max() <= 0.4
    assert abs(drawn.mean(0) - 0.25).max() < 0.01, "no place is favoured"
    assert drawn.max() > 0.39


def test_flips_mirror_half_of_the_pixels_at_mid_grey():
    batch = Batch(torch.full((50, 1, 8, 8), 0.2), torch.zeros(50, dtype=torch.long))
    found = trained_on(InstaHide(pictures=1), batch).images
    assert torch.allclose((found - 0.5).abs(), torch.full_like(found, 0.3))
    flipped = float((found > 0.5).double().mean())
    assert abs(flipped - 0.5) < 5 * 0.5 / math.sqrt(50 * 64)
    assert not torch.equal(found[0], found[1]), "each picture has flips of its own"


def test_flips_alone_keep_labels_as_they_are():
    assert torch.equal(trained_on(InstaHide(pictures=1), pictures()).labels, pictures().labels)


def test_pixels_stay_in_range():
    for defense in (*MIXERS, InstaHide()):
        images = trained_on(defense, pictures()).images
        assert images.min() >= -1e-6
        assert images.max() <= 1 + 1e-6


def test_every_step_mixes_anew():
    one, other = (trained_on(InstaHide(), pictures(), seed).images for seed in (0, 1))
    assert not torch.allclose(one, other)


def test_a_largest_share_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"largest = 0\.2.*set it to 0\.3 or more"):
        InstaHide(pictures=4, largest=0.2)
