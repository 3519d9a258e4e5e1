"""RLU: exact where moments are, intervals that cover, and a verdict where nothing is to be known."""

import pytest
import torch

from attacks import Granted, NotApplicable
from attacks.labels import RLU
from attacks.labels.rlu import Moments
from learning.models import MLP, LeNet
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, counts, observe, random_batch, restored


def patterned(size: int, *seed: int | str) -> Batch:
    """Pictures that have something to do with their label, so that a model's answers differ by class."""
    rng = generator("patterned", *seed)
    labels = torch.randint(CLASSES, (size,), generator=rng)
    patterns = torch.rand(CLASSES, *SHAPE, generator=generator("patterns"))
    return Batch((0.5 * patterns[labels] + 0.5 * torch.rand(size, *SHAPE, generator=rng)), labels)


def public(size: int = 400) -> Granted:
    batch = patterned(size, "public")
    return Granted(public=batch.images, public_labels=batch.labels)


@pytest.mark.parametrize(
    "training",
    [Training(), Training(shared="delta", batch_size=8, epochs=5, learning_rate=0.01)],
    ids=["gradient", "five epochs"],
)
def test_counts_are_right_on_untrained_models(training):
    for seed in range(3):
        batch = patterned(24, seed)
        model = LeNet(activation="relu", initial="default").build(SHAPE, CLASSES, seed)
        found = RLU(runs=2, rounds=2).reconstruct(observe(model, batch, training, public()), generator(0))
        assert restored(found.labels) == counts(batch.labels)
        assert found.identifiable
        assert (found.counts_interval is None) == (training.shared == "delta")
        assert found.verdict.startswith("no interval is given") == (training.shared == "delta")


def test_intervals_cover_and_hold_the_nearest_count():
    model, covered, asked = MLP().build(SHAPE, CLASSES, 0), 0, 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # probabilities that differ from picture to picture
    for seed in range(30):
        batch = patterned(64, seed)
        found = RLU().reconstruct(observe(model, batch, granted=public()), generator(seed))
        assert found.counts_interval is not None
        low, high = found.counts_interval
        assert (low <= high).all()
        assert low.min() >= 0
        assert high.max() <= 64
        truth = torch.tensor(counts(batch.labels))
        covered, asked = covered + int(((low <= truth) & (truth <= high)).sum()), asked + CLASSES
    assert 0.9 <= covered / asked <= 1.0


def test_a_model_that_has_memorised_the_client_gets_a_verdict():
    batch, model = patterned(24, 0), MLP().build(SHAPE, CLASSES, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    noisy = Batch(torch.rand(24, *SHAPE, generator=generator("noise")), batch.labels)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(noisy.images), noisy.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    found = RLU().reconstruct(observe(model, noisy, granted=public()), generator(0))
    assert found.identifiable is False
    assert found.verdict.startswith("labels not identifiable here: ")


def test_a_class_without_a_public_picture_is_held_to_be_like_all():
    errors = torch.tensor([[-0.5, 0.5, 0.0], [0.25, -0.5, 0.25]], dtype=torch.float64)
    moments = Moments.of(errors, torch.tensor([0, 1]), 3)
    torch.testing.assert_close(moments.means[:, 0], errors[0])
    torch.testing.assert_close(moments.means.sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_what_it_needs():
    with pytest.raises(NotApplicable, match="no public pictures"):
        RLU().reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2)), generator(0))
    unbiased = observe(MLP(bias=False).build(SHAPE, CLASSES, 0), random_batch(2), granted=public(50))
    with pytest.raises(NotApplicable, match="no bias"):
        RLU().reconstruct(unbiased, generator(0))
