"""RLU: exact where moments are, intervals that cover, and a verdict where nothing is to be known."""

import pytest
import torch

from attacks import Granted, NotApplicable
from attacks.labels import RLU
from attacks.labels.last_layer import last_layer
from attacks.labels.rlu import Moments, _effects, _Round
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


def played(counts: list[int], effects: torch.Tensor, noise: float, seed: int) -> _Round:
    drawn = noise * torch.randn(4, len(counts), generator=generator("plays", seed))
    tried = torch.tensor(counts)
    return _Round(tried, (effects @ tried.double()).float() + drawn, torch.ones(4))


def test_what_an_example_adds_is_learnt_from_the_changes_between_played_rounds():
    means = torch.eye(3, dtype=torch.float64) - 1 / 3
    rounds = [played(one, 0.2 * means, 1e-4, seed) for seed, one in enumerate([[8, 8, 8], [12, 6, 6], [10, 10, 4]])]
    torch.testing.assert_close(_effects(means, rounds[:1]), means)
    learnt = _effects(means, rounds)
    for before, after in ((0, 1), (1, 2), (0, 2)):
        change = (rounds[after].counts - rounds[before].counts).double()
        torch.testing.assert_close(learnt @ change, 0.2 * means @ change, atol=5e-3, rtol=0)


def test_changes_that_drown_in_the_plays_noise_teach_nothing():
    means = torch.eye(3, dtype=torch.float64) - 1 / 3
    rounds = [played(one, 0.2 * means, 100.0, seed) for seed, one in enumerate([[8, 8, 8], [9, 8, 7]])]
    assert float((_effects(means, rounds) - means).abs().max()) < 0.05
    single = [_Round(one.counts, one.sums[:1], one.sizes[:1]) for one in rounds]
    torch.testing.assert_close(_effects(means, single), means)


def test_the_counts_whose_played_round_comes_nearest_are_returned(monkeypatch):
    """The first round is played as the client's was; every later one far from it."""
    batch, model = patterned(24, 0), MLP().build(SHAPE, CLASSES, 0)
    observation = observe(model, batch, Training(shared="delta", batch_size=8, epochs=2, learning_rate=0.01), public())
    tried: list[list[int]] = []

    def play(observation, public, labels, counts, rng):
        tried.append(counts.tolist())
        return last_layer(observation).bias_gradient + (len(tried) > 4) * torch.arange(CLASSES), 1.0

    monkeypatch.setattr("attacks.labels.rlu._play", play)
    found = RLU().reconstruct(observation, generator(0))
    assert len({tuple(one) for one in tried}) > 1
    assert restored(found.labels) == tried[0]
