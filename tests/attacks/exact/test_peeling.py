"""Peeling is exact where units see pictures alone, leaves the rest to spear-plus, and believes nothing that is not there."""

from dataclasses import replace

import pytest
import torch

from attacks import NotApplicable, Observation
from attacks.directions.layers import tail
from attacks.directions.low_rank import split
from attacks.directions.search import searched_through
from attacks.directions.two_values import Found
from attacks.exact import Peeling, SpearPlus, alternation, spear_plus
from attacks.exact.alternation import Seen, taken_out
from attacks.exact.isolation import Peeled, believed, errors_of, opened_to_all, peeled, with_one
from learning.models import MLP, LeNet5
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.exact.test_spear_plus import SHAPE, check_certified, seen
from tests.attacks.test_labels import counts, observe, random_batch, restored


def bright(size: int, seed: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Observation, Batch]:
    """Pictures that differ less from each other than from black, and a network that does not normalise them."""
    batch = random_batch(size, seed, SHAPE)
    batch = Batch((0.6 + 0.4 * batch.images).to(dtype), batch.labels)
    return observe(MLP(width=width, raw=True).build(SHAPE, 10, seed).to(dtype), batch), batch


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
        observation, batch = bright(14, seed, 80)
        end = tail(observation)
        alone = peeled(end, split(end.layers[0].gradient, 14), 14)
        assert 0 < len(alone) < 14, "the test needs a batch that peeling alone does not restore"
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


@pytest.mark.parametrize("share", [0.03, 0.9])
@pytest.mark.parametrize("finish", [True, False])
def test_a_clipped_update_gives_the_pictures_all_the_same(share, finish):
    for seed in range(3):
        observation, batch = bright(6, seed, 300)
        clipped = replace(observation, update=observation.update.map(lambda tensor: share * tensor))
        found = Peeling(finish=finish).reconstruct(clipped, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-9)


def test_clipping_is_undone_where_the_units_that_see_pictures_alone_are_the_quietest():
    """Of so many pictures the loudest units see several each."""
    for seed in range(3):
        observation, batch = bright(48, seed, 600)
        clipped = replace(observation, update=observation.update.map(lambda tensor: 0.1 * tensor))
        found = Peeling(finish=False).reconstruct(clipped, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-9)


def half_of(whole: Found) -> Found:
    """The first half of the directions of sixteen examples."""
    assert whole.directions.shape[1] == 16, "the test needs all directions"
    return Found(whole.directions[:, :8], whole.classes[:8], whole.errors[:8], whole.open[:8], whole.left_over[:8])


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_examples_found_by_direction_are_taken_out_although_others_are_missing(share):
    for seed in range(3):
        observation, batch = bright(16, seed, 300)
        observation = replace(observation, update=observation.update.map(lambda tensor: share * tensor))
        end = tail(observation)
        parts = split(end.layers[0].gradient, 16)
        whole = searched_through(observation, parts, *end.layers, SpearPlus().effort(), generator(seed))
        larger, some = taken_out(Seen(observation, end, parts), half_of(whole))
        assert len(some) > 0
        distances = torch.cdist(some.inputs, end.inputs(batch.images))
        assert distances.amin(1).max() < 1e-6
        assert batch.labels[distances.argmin(1)].equal(some.classes)
        rest = larger.without(some)
        assert rest.observation.examples == rest.parts.rank == 16 - len(some)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_spear_plus_leaves_its_rest_to_peeling(monkeypatch, share):
    """Its search ends with half of the directions, as its seconds may; then no other is made."""
    every = spear_plus.searched_through

    def none(*given) -> Found:
        raise AssertionError("peeling alone restores what is left")

    monkeypatch.setattr(spear_plus, "searched_through", lambda *given: half_of(every(*given)))
    monkeypatch.setattr(alternation, "searched_through", none)
    for seed in range(3):
        observation, batch = bright(16, seed, 300)
        observation = replace(observation, update=observation.update.map(lambda tensor: share * tensor))
        found = SpearPlus().reconstruct(observation, generator(seed))
        assert restored(found.labels) == counts(batch.labels)
        check_certified(found, batch, 1e-9)


def test_a_picture_that_alone_shuts_a_unit_is_restored_as_well():
    whole = 0
    for seed in range(3):
        observation, batch = bright(24, seed, 200)
        end = tail(observation)
        opened = end.layers[0].answers(end.inputs(batch.images)) > 0
        alone = opened
        while len(alone) and (units := alone.sum(0) == 1).any():
            alone = alone[~alone[:, units].any(1)]
        assert len(alone) > 12, "the test needs a batch of which open units alone give away less than half"
        found = Peeling(finish=False).reconstruct(observation, generator(seed))
        if found.certified is not None and found.certified.all():
            whole += 1
            assert restored(found.labels) == counts(batch.labels)
            check_certified(found, batch, 1e-9)
    assert whole >= 2


def test_units_that_are_open_for_all_give_the_sums_of_errors_times_inputs():
    observation, batch = bright(16, 0, 100)
    end = tail(observation)
    true = Peeled(end.inputs(batch.images), batch.labels)
    gradient = 16 * end.layers[0].gradient
    sums = opened_to_all(end, gradient, 1e-9)
    assert sums is not None
    assert torch.allclose(sums, errors_of(end, true).T @ with_one(true.inputs), rtol=0, atol=1e-10)
    shut = MLP(width=100).build(SHAPE, 10, 0).double()  # normalised pictures open no unit together
    end = tail(observe(shut, Batch(random_batch(40, 0, SHAPE).images.double(), torch.arange(40) % 10)))
    assert opened_to_all(end, 40 * end.layers[0].gradient, 1e-9) is None


def test_what_is_certified_of_a_float32_batch_found_in_part_is_within_a_thousandth():
    certified = 0
    for seed in range(3):
        observation, batch = bright(48, seed, 300, torch.float32)
        found = Peeling(finish=False).reconstruct(observation, generator(seed))
        assert found.images is not None
        assert found.certified is not None
        errors = (found.images[found.certified][:, None] - batch.images[None]).square().flatten(2).mean(2).sqrt().amin(1)
        assert (errors < 1e-3).all()
        certified += len(errors)
    assert certified > 48


def test_pictures_that_noise_leaves_without_a_proof_are_returned_all_the_same():
    for seed in range(3):
        observation, batch = seen(6, seed)
        size = 0.03 * observation.update.parameters[tail(observation).layers[0].name + ".weight"].square().mean().sqrt()
        rng = generator("noise", seed)
        noisy = observation.update.map(lambda t, s=size, r=rng: t + s * torch.randn(t.shape, generator=r, dtype=t.dtype))
        found = Peeling().reconstruct(replace(observation, update=noisy), generator(seed))
        assert found.images is not None
        assert found.certified is not None
        assert not found.certified.any(), found.verdict
        assert (found.images[:, None] - batch.images[None]).square().flatten(2).mean(2).sqrt().amin(0).max() < 0.05
        assert restored(found.labels) == counts(batch.labels)


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
