"""SPEAR by sampling: exact in float64 and float32, and its counts."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import NotApplicable
from attacks.attack import label_rows
from attacks.directions.inputs import Inputs, fitting_labels, run_through
from attacks.directions.layers import Tail, tail
from attacks.directions.low_rank import Split, split
from attacks.exact import Spear
from attacks.exact.spear import _guessed, _of_one_example, _Pool, _shut, _subsets, expected_samples, fewest_zeros, sampled
from learning.models import MLP, LeNet5
from learning.tensors import Batch, Update, generator
from learning.training import gradient
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
    assert (zeros >= fewest_zeros(200, 20)).all()
    assert fewest_zeros(200, 20) > 60


def test_no_row_is_drawn_twice_and_every_subset_is_as_likely():
    drawn = _subsets(5, 3, 20000, generator(0)).sort(1).values
    subsets, times = drawn.unique(dim=0, return_counts=True)
    assert subsets.tolist() == [list(subset) for subset in itertools.combinations(range(5), 3)]
    assert (times - 2000).abs().max() < 5 * (20000 * 0.1 * 0.9) ** 0.5


def taken_apart(size: int, seed: int, width: int) -> tuple[Tail, Split, Tensor, Tensor]:
    """The tail, the split, which live rows every example shuts, and its direction, one a row: from the truth."""
    observation, batch = seen(size, seed, width=width)
    end = tail(observation)
    parts = split(end.layers[0].gradient, size)
    hidden = observation.model.get_submodule(end.layers[0].name)
    inputs: list[Tensor] = []
    handle = hidden.register_forward_hook(lambda *call: inputs.append(call[2]))
    observation.model(batch.images)
    handle.remove()
    shut = inputs[0].detach()[:, parts.live] <= 0
    rows = parts.left / parts.left.norm(dim=1, keepdim=True)
    return end, parts, shut, torch.stack([torch.linalg.svd(rows[own])[2][-1] for own in shut])


def test_a_mixture_of_two_examples_is_told_from_an_example_by_the_zeros_that_it_cannot_spare():
    for seed in range(3):
        _, parts, shut, directions = taken_apart(6, seed, width=60)
        rows = parts.left / parts.left.norm(dim=1, keepdim=True)
        assert len(_of_one_example(parts, directions, 1e-7, 8)) == 6
        first, second = directions[:2]
        mixtures = []
        for row in rows[~shut[0] & ~shut[1]]:  # zero where both are shut, and by the weights in this row
            mixed = first * (row @ second) - second * (row @ first)
            mixtures.append(mixed / mixed.norm())
        together = torch.stack(mixtures)
        assert ((rows @ together.T).abs() < 1e-9).sum(0).min() >= 8
        assert len(_of_one_example(parts, together, 1e-7, 8)) == 0


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_the_last_directions_are_guessed_from_the_others(missing):
    for seed in range(3):
        end, parts, _, directions = taken_apart(10, seed, width=100)
        rows = parts.left / parts.left.norm(dim=1, keepdim=True)
        pool = _Pool(parts.left)
        for direction in directions[missing:]:
            assert pool.add((rows @ direction).abs() < 1e-9)
        needed = fewest_zeros(len(rows), 10)
        guesses = _guessed(parts, end.layers[0], pool, 1e-7, needed, generator(seed))
        found = torch.stack([torch.linalg.svd(rows[own])[2][-1] for own in guesses])
        assert ((found @ directions.T).abs()[:, :missing].amax(0) > 1 - 1e-9).any()
        assert len(_guessed(parts, end.layers[0], _Pool(parts.left), 1e-7, 20, generator(seed))) == 0


def test_the_last_direction_is_found_though_its_example_shuts_fewer_units_than_are_asked_for():
    end, parts, shut, directions = taken_apart(10, 0, width=100)
    rows = parts.left / parts.left.norm(dim=1, keepdim=True)
    last = int(shut.sum(1).argmin())
    pool = _Pool(parts.left)
    for direction in directions[torch.arange(10) != last]:
        assert pool.add((rows @ direction).abs() < 1e-9)
    more = int(shut[last].sum()) + 5
    (guess,) = _guessed(parts, end.layers[0], pool, 1e-7, more, generator(0))
    assert guess.tolist() == shut[last].tolist()


@pytest.mark.parametrize("noise", [1e-6, 1e-5, 1e-4])
def test_noise_costs_no_more_samples(noise):
    """Noise in every entry, also of units that are open for nobody; the settings give up after four chunks."""
    for seed in range(4):
        exact, batch = seen(6, seed)
        first = tail(exact).layers[0].gradient
        size, draw = noise * float(first.square().mean().sqrt()), generator("noise", seed)
        update = exact.update.map(
            lambda t, size=size, draw=draw: t + size * torch.randn(t.shape, generator=draw, dtype=t.dtype)
        )
        found = Spear(chunk=4096, samples=4 * 4096, seconds=1000).reconstruct(replace(exact, update=update), generator(seed))
        assert found.certified is not None
        assert found.certified.all()
        assert restored(found.labels) == counts(batch.labels)


def test_zeros_are_those_that_noise_explains():
    """Products of noise alone exceed five deviations once in two million; an open unit's do almost always."""
    for seed in range(3):
        _, _, shut, directions = taken_apart(6, seed, width=60)
        gradient = tail(seen(6, seed, width=60)[0]).layers[0].gradient
        size = 1e-6 * float(gradient.square().mean().sqrt())
        noisy = gradient + size * torch.randn(gradient.shape, generator=generator(seed), dtype=gradient.dtype)
        live = gradient.abs().amax(1) > 0
        parts = split(noisy[live], 6)
        turned = directions @ split(gradient, 6).left.T @ parts.left  # the same directions in the noisy split's coordinates
        found = _shut(parts, turned / turned.norm(dim=1, keepdim=True))
        assert found[shut].double().mean() > 0.99
        assert found[~shut].double().mean() < 0.02


def test_where_noise_turns_all_rows_but_a_few_nothing_is_found_and_nothing_breaks():
    end, parts, _, _ = taken_apart(6, 0, width=60)
    weak = parts.left.clone()
    weak[3:] *= 1e-9
    found = sampled(replace(parts, left=weak, unsure=1e-3), end.layers[0], 4096, 10**6, 10.0, generator(0))
    assert found.directions.shape == (6, 0)


def test_of_two_directions_alike_the_pool_keeps_the_one_with_more_zeros():
    _, parts, shut, directions = taken_apart(6, 0, width=60)
    pool, fewer = _Pool(parts.left), shut[0].clone()
    fewer[shut[0].nonzero()[:3]] = False
    assert pool.add(fewer)
    assert pool.add(shut[0])
    assert not pool.add(fewer)
    assert pool.zeros.tolist() == [float(shut[0].sum())]
    assert float((pool.directions[:, 0] @ directions[0]).abs()) == pytest.approx(1)


def test_a_narrow_layer_needs_no_more_than_a_few_times_the_samples_that_are_expected():
    for seed in range(3):
        observation, batch = seen(12, seed, width=60)
        samples = round(5 * expected_samples(60, 12))
        found = Spear(chunk=4096, samples=samples, seconds=1000).reconstruct(observation, generator(seed))
        check_certified(found, batch, 1e-7)


def test_too_few_samples_give_no_picture_and_say_so():
    observation, _ = seen(16, 0)
    found = Spear(chunk=16, samples=16).reconstruct(observation, generator(0))
    assert found.images is None
    assert "of 16 directions" in found.verdict


def test_an_example_that_leaves_nothing_in_the_update_hides_no_other():
    for seed in range(3):
        observation, batch = seen(6, seed)
        end = tail(observation)
        features = end.layers[0].answers(end.inputs(batch.images)).clamp_min(0)
        with torch.no_grad():  # the model is sure of the first, and as it was of the others
            last = observation.model.get_submodule(end.layers[1].name).get_parameter("weight")
            last[batch.labels[0]] += 60 * torch.linalg.pinv(features)[:, 0]
        observation = replace(observation, update=Update(gradient(observation.model, batch)))
        found = Spear(chunk=4096).reconstruct(observation, generator(seed))
        assert found.images is not None
        assert found.certified is not None
        assert found.labels is not None
        assert found.certified.tolist() == [True] * 5 + [False]
        nearest = (found.images[:5, None] - batch.images[None]).abs().flatten(2).amax(2).min(1)
        assert nearest.values.max() < 1e-7
        assert nearest.indices.sort().values.tolist() == [1, 2, 3, 4, 5]
        assert found.labels[:5].argmax(1).equal(batch.labels[nearest.indices])


def test_what_it_cannot_do_is_said():
    sigmoid = MLP(activation="sigmoid").build(SHAPE, 10, 0)
    with pytest.raises(NotApplicable, match="followed by ReLU"):
        Spear().reconstruct(observe(sigmoid, random_batch(2, shape=SHAPE)), generator(0))
    convolutions = LeNet5().build((1, 16, 16), 10, 0)
    with pytest.raises(NotApplicable, match="sees the picture"):
        Spear().reconstruct(observe(convolutions, random_batch(2, shape=(1, 16, 16))), generator(0))


def test_a_class_of_which_the_model_is_sure_to_the_bit_is_not_taken_for_the_label_of_a_mistake():
    observation, batch = seen(4, 0)
    with torch.no_grad():
        for parameter in list(observation.model.parameters())[-2:]:
            parameter.mul_(1e4)  # probabilities are ones and noughts
        sure = observation.model(batch.images).argmax(1)
    labels = (sure + 1) % 10
    end = tail(replace(observation, update=Update(gradient(observation.model, Batch(batch.images, labels)))))
    inputs = end.inputs(batch.images)
    slopes = run_through(end, inputs, label_rows(labels, 10).to(inputs), 4).slopes
    assert fitting_labels(end, Inputs(inputs, slopes), 4).argmax(1).tolist() == labels.tolist()
