"""Labels of batches that are taken apart: all of them right, or none returned."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attacks.directions.extreme import Answer, Member, examples_at_ends
from attacks.labels import AutoLabels, RankOneLabels
from attacks.labels.apart import classes_apart, examples_apart, pictures_apart
from attacks.labels.auto import _others
from attacks.labels.last_layer import last_layer
from learning.models import MLP, LeNet, LeNet5
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.exact.test_extreme_points import digits, trained
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
    found = AutoLabels(seconds=60.0).reconstruct(observation, generator(0))
    assert "all 48 examples were taken apart" in found.verdict
    assert found.certified is not None
    assert found.certified.tolist() == [True] * 48


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


def learnt(seed: int) -> tuple[nn.Module, Batch]:
    """A network that is sure of most digits, and 24 of them."""
    model = trained(LeNet5().build((1, 28, 28), CLASSES, seed), 100, side=28)
    return model, digits(24, 1000 + seed, side=28)


def test_what_a_trained_network_is_not_sure_of_is_taken_apart():
    right, without = 0, 0
    for seed in range(2):
        model, batch = learnt(seed)
        truth, observation = torch.tensor(counts(batch.labels)), observe(model, batch)
        classes, rest = examples_apart(observation, 60.0, generator(0))
        assert rest is not None
        assert rest.examples == 24 - len(classes) < 16
        assert (torch.tensor(counts(classes)) <= truth).all()
        for auto, seconds in ((True, 60.0), (False, 0.0)):
            found = AutoLabels(seconds=seconds).reconstruct(observation, generator(0))
            assert ("were taken apart, and the model agrees" in found.verdict) == auto
            assert (found.certified is not None) == auto
            if found.certified is not None and found.labels is not None:
                assert int(found.certified.sum()) == int(found.verdict.split()[0])
                assert (torch.tensor(restored(found.labels[found.certified])) <= truth).all()
            same = int(torch.minimum(torch.tensor(restored(found.labels)), truth).sum())
            right, without = right + auto * same, without + (not auto) * same
    assert right > without


def every_other(*given: Any) -> tuple[Answer, list[Member]]:
    answer, members = examples_at_ends(*given)
    return answer, members[::2]


@pytest.mark.parametrize("training", [Training(), replace(DELTA, learning_rate=0.1)], ids=["gradient", "one step"])
def test_the_others_gradient_is_left(training, monkeypatch):
    """It is a sum of the true examples' own: each is there once, or not at all."""
    model, batch = learnt(0)
    monkeypatch.setattr("attacks.labels.apart.examples_at_ends", every_other)
    classes, rest = examples_apart(observe(model, batch, training), 60.0, generator(0))
    assert rest is not None
    assert rest.steps == 1
    name = last_layer(rest).name
    alone = [observe(model, Batch(batch.images[i : i + 1], batch.labels[i : i + 1])) for i in range(24)]
    columns = torch.stack([one.gradient()[f"{name}.weight"].flatten() for one in alone], 1).double()
    amounts = torch.linalg.lstsq(columns, rest.examples * last_layer(rest).weight_gradient.flatten()[:, None]).solution[:, 0]
    large = columns.norm(dim=0) > 0.1 * columns.norm(dim=0).max()
    torch.testing.assert_close(amounts[large], amounts[large].round(), atol=0.05, rtol=0)  # a member is one to within `FITS`
    assert sorted(set(amounts[large].round().tolist())) == [0, 1]
    gone = batch.labels[large & (amounts.round() == 0)]
    assert (torch.tensor(counts(gone)) <= torch.tensor(counts(classes))).all()


def test_pictures_that_several_epochs_share_tell_their_labels():
    several = Training(shared="delta", batch_size=4, epochs=3, learning_rate=0.05)
    found = 0
    for seed in range(3):
        batch = digits(8, 1000 + seed)
        model = trained(MLP(width=64).build(SHAPE, CLASSES, seed), 50)
        seen, truth = observe(model, batch, several), torch.tensor(counts(batch.labels))
        classes = torch.tensor(counts(pictures_apart(seen, 60.0, generator(seed))))
        assert (classes <= truth).all()
        auto = AutoLabels(seconds=60.0).reconstruct(seen, generator(seed))
        assert auto.labels is not None
        assert len(auto.labels) == 8
        assert "of 8 examples were taken apart" in auto.verdict
        assert auto.certified is None, "several steps prove nothing"
        assert int(torch.minimum(torch.tensor(restored(auto.labels)), truth).sum()) >= int(auto.verdict.split()[0])
        found += int(classes.sum())
    assert found > 12
    behind = observe(LeNet5().build((1, 28, 28), CLASSES, 0), digits(8, 0, side=28), several)
    assert not len(pictures_apart(behind, 60.0, generator(0)))


def test_the_labels_of_the_others_are_what_is_left():
    assert counts(_others(torch.eye(3)[[0, 0, 1, 1, 2, 2]], torch.tensor([2, 1, 0])).argmax(1))[:3] == [0, 1, 2]
    assert counts(_others(torch.eye(3)[[0, 0, 1, 1, 1, 1]], torch.tensor([0, 0, 3])).argmax(1))[:3] == [1, 2, 0]


@pytest.mark.parametrize(
    ("model", "size", "training"),
    [(LeNet5(), 120, Training()), (LeNet(), 24, Training()), (LeNet5(), 24, replace(DELTA, batch_size=8))],
    ids=["too few units", "no hidden layer", "three steps"],
)
def test_nothing_is_taken_out_where_nothing_can_be_searched(model, size, training):
    observation = observe(model.build((1, 28, 28), CLASSES, 0), digits(size, 0, side=28), training)
    classes, rest = examples_apart(observation, 60.0, generator(0))
    assert not len(classes)
    assert rest is observation
