"""Gradient matching: laws of its parts, what its attacks return, and what they restore."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import Granted, NotApplicable, Observation, Reconstruction
from attacks.attack import label_rows
from attacks.labels import GengLabels, GivenLabels, IDLGLabels
from attacks.matching import DLG, SME, Dimitrov, GradInversion, InvertingGradients, dlg, inverting_gradients, priors
from attacks.matching.adam import descend, falling, soft_sign
from attacks.matching.descent import minimise
from attacks.matching.distances import (
    DISTANCES,
    absolute_distance,
    cosine_distance,
    layered_cosine_distance,
    masked_cosine_distance,
    squared_distance,
)
from attacks.matching.dlg import hopeless
from attacks.matching.priors import colour_variation, crowding, label_entropy, start, total_variation
from attacks.matching.victim import gradient_of, layers_of, victim_of
from learning.data import CIFAR10, Digits, data_folder, pictures_of
from learning.models import MLP, Architecture, ConvNet, LeNet
from learning.tensors import Batch, Tensors, Update, generator
from learning.training import Training, gradient
from tests.attacks.test_labels import CLASSES, DELTA, SHAPE, observe, random_batch


def digits(size: int, seed: int = 0) -> Batch:
    test = pictures_of(Digits()).test
    return test.batch(torch.randperm(len(test), generator=generator("digits", seed))[:size])


def decibels(found: Reconstruction, batch: Batch) -> float:
    assert found.images is not None
    return -10 * math.log10((found.images - batch.images).square().mean().item())


# Distances and priors

EVERY_DISTANCE = [squared_distance, *DISTANCES.values()]


def some_gradient(seed: int) -> dict[str, Tensor]:
    rng = generator("gradient", seed)
    return {"a": torch.randn(3, 4, generator=rng).double(), "b": torch.randn(5, generator=rng).double()}


@pytest.mark.parametrize("distance", EVERY_DISTANCE)
def test_a_distance_is_zero_at_the_truth_and_positive_elsewhere(distance):
    for seed in range(5):
        wanted = some_gradient(seed)
        assert distance(wanted, wanted).item() == pytest.approx(0, abs=1e-15)
        assert distance(some_gradient(seed + 1), wanted) > 0.1


def test_joint_labels_are_found_with_the_pictures_and_not_asked_for():
    batch = digits(2)
    model = MLP(width=32).build(SHAPE, CLASSES, seed=0)
    observation = observe(model, batch)
    attack = InvertingGradients(labels=GivenLabels(), joint_labels=True, iterations=200)  # not granted: asking would raise
    found = [attack.reconstruct(observation, generator("joint", seed)) for seed in range(3)]
    for one in found:
        assert one.labels is not None
        torch.testing.assert_close(one.labels.sum(1), torch.ones(2))
        assert min(one.history) < 0.5 * one.history[0]
    right = [sorted(one.labels.argmax(1).tolist()) == sorted(batch.labels.tolist()) for one in found if one.labels is not None]
    assert sum(right) >= 2


@pytest.mark.parametrize("scale", [1e-6, 3.0, 1e6])
def test_the_cosine_does_not_see_the_scale(scale):
    found, wanted = some_gradient(0), some_gradient(1)
    scaled = {name: scale * tensor for name, tensor in found.items()}
    torch.testing.assert_close(cosine_distance(scaled, wanted), cosine_distance(found, wanted))
    torch.testing.assert_close(cosine_distance(wanted, scaled), cosine_distance(found, wanted))


def test_the_cosine_of_opposite_gradients_is_two_away():
    wanted = some_gradient(0)
    assert cosine_distance({name: -tensor for name, tensor in wanted.items()}, wanted).item() == pytest.approx(2)


def test_the_cosine_of_a_vanished_gradient_is_finite_and_flat():
    wanted = {"a": torch.ones(3)}
    for scale in (0.0, 1.0):
        found = {"a": torch.zeros(3, requires_grad=True)}
        value = cosine_distance(found, {"a": scale * wanted["a"]})
        assert value.item() == 1
        assert torch.autograd.grad(value, found["a"])[0].isfinite().all()


def test_the_squared_distance_is_a_sum_over_all_entries():
    assert squared_distance({"a": torch.zeros(2, 2), "b": torch.ones(3)}, {"a": torch.ones(2, 2), "b": torch.zeros(3)}) == 7


def test_a_distance_counts_the_wanted_parameters_only():
    found, wanted = some_gradient(0), {"a": some_gradient(0)["a"]}
    assert squared_distance(found, wanted) == 0


@pytest.mark.parametrize("name", ["squared", "absolute"])
def test_a_vanished_gradient_is_one_away(name):
    wanted = some_gradient(0)
    nothing = {key: torch.zeros_like(tensor) for key, tensor in wanted.items()}
    assert DISTANCES[name](nothing, wanted).item() == pytest.approx(1)
    scaled = {key: 1e6 * tensor for key, tensor in wanted.items()}
    assert DISTANCES[name](nothing, scaled).item() == pytest.approx(1)


def test_the_absolute_distance_minds_an_outlier_less_than_the_squared():
    wanted = some_gradient(0)
    off = {name: tensor + (tensor == tensor.max()) * 100 for name, tensor in wanted.items()}
    assert absolute_distance(off, wanted) < 0.1 * DISTANCES["squared"](off, wanted)


def test_what_was_not_shared_does_not_count_where_it_is_masked():
    for seed in range(5):
        whole = some_gradient(seed)
        pruned = {name: tensor * (tensor.abs() > 0.5) for name, tensor in whole.items()}
        assert masked_cosine_distance(whole, pruned).item() == pytest.approx(0, abs=1e-12)
        assert cosine_distance(whole, pruned) > 1e-3


def test_layers_count_alike_whatever_their_size():
    found, wanted = some_gradient(0), some_gradient(1)
    larger = {name: tensor * (1000 if name == "a" else 1) for name, tensor in wanted.items()}
    torch.testing.assert_close(layered_cosine_distance(found, larger), layered_cosine_distance(found, wanted))
    assert (cosine_distance(found, larger) - cosine_distance(found, wanted)).abs() > 1e-3


def test_brightness_has_no_colour_variation():
    grey = torch.rand(2, 1, 6, 5, generator=generator("grey"))
    assert colour_variation(grey.expand(-1, 3, -1, -1)).item() == pytest.approx(0, abs=1e-7)
    assert colour_variation(grey) == 0
    coloured = torch.rand(2, 3, 6, 5, generator=generator("coloured"))
    assert colour_variation(coloured) > 0.1
    torch.testing.assert_close(colour_variation(coloured + grey), colour_variation(coloured))


def test_label_entropy_is_zero_for_certainty_and_greatest_for_none():
    assert label_entropy(label_rows(torch.tensor([3, 1]), CLASSES)) == 0
    assert label_entropy(torch.full((2, CLASSES), 1 / CLASSES)).item() == pytest.approx(math.log(CLASSES))


def crowd(architecture: Architecture, shape: tuple[int, int, int], classes: int, batch: int) -> float:
    model = architecture.build(shape, classes, seed=0)
    observation = observe(model, Batch(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long)))
    layers = [layer for layer, _ in layers_of(victim_of(observation, torch.float32), shape)]
    return crowding(torch.zeros(batch, *shape), observation.gradient(), layers)


def test_smoothness_of_a_batch_weighs_more_the_less_its_gradient_says_of_each_pixel_and_classes_say_nothing_of_them():
    narrow, wide = LeNet(), ConvNet(width=64)
    for classes in (10, 100):
        assert [crowd(narrow, (3, 32, 32), classes, batch) for batch in (1, 4, 8)] == [1, 4, 8]
        assert crowd(wide, (3, 32, 32), classes, 8) == 1
    model = ConvNet(width=16).build((3, 32, 32), 100, seed=0)
    body = sum(p.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d) for p in m.parameters())
    assert crowd(ConvNet(width=16), (3, 32, 32), 100, 40) == pytest.approx(10 * 40 * 3072 / body)


@pytest.mark.parametrize("batch", [1, 8])
def test_smoothness_weighs_a_hundredth_where_a_linear_layer_sees_the_pictures(batch):
    assert crowd(MLP(width=32), SHAPE, CLASSES, batch) == 0.01
    assert crowd(MLP(width=32, depth=3), (3, 32, 32), 100, batch) == 0.01


def test_smoothness_weighs_no_less_where_a_linear_layer_sees_pieces_of_the_pictures_or_none():
    pictures, pieces, rest = torch.zeros(2, *SHAPE), nn.Linear(16, 8), nn.Linear(8, CLASSES)
    shared = {"pieces": torch.zeros(8, 17), "rest": torch.zeros(CLASSES, 9)}
    assert crowding(pictures, shared, [pieces, rest]) == 2
    assert crowding(pictures, {"rest": shared["rest"]}, [rest]) == 2
    assert crowding(pictures, {"own": torch.zeros(10_000)}, []) == 1


class OfItsOwn(nn.Module):
    """A model whose parameters are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 64, generator=generator("own")) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def test_a_model_without_layers_of_its_own_is_attacked_too():
    batch = random_batch(2)
    observation = replace(observe(OfItsOwn(), batch), granted=Granted(labels=batch.labels))
    attack = InvertingGradients(labels=GivenLabels(), iterations=30)
    assert attack.at_once(observation) >= 1
    found = attack.reconstruct(observation, generator(0))
    assert min(found.history) < 0.5 * found.history[0]


def test_total_variation_of_a_constant_picture_is_zero():
    assert total_variation(torch.full((2, 3, 4, 5), 0.3)) == 0


def test_total_variation_is_the_mean_step_down_plus_the_mean_step_aside():
    picture = torch.tensor([[0.0, 0.2], [0.5, 0.5]])
    down, aside = (0.5 + 0.3) / 2, (0.2 + 0.0) / 2
    assert total_variation(picture[None, None]).item() == pytest.approx(down + aside)


def test_total_variation_of_a_single_row_counts_the_steps_aside():
    assert total_variation(torch.tensor([[[[0.0, 0.25, 1.0]]]])).item() == pytest.approx(0.5)


def test_the_start_has_the_spread_that_is_asked_for():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(200))
    images = start(observation, 0.05, generator(0))
    assert images.shape == (200, *SHAPE)
    assert images.mean() == pytest.approx(0.5, abs=0.002)
    assert images.std() == pytest.approx(0.05, abs=0.002)


def test_a_uniform_start_has_the_spread_and_no_tails():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(200))
    images = start(observation, 0.05, generator(0), uniform=True)
    assert images.mean() == pytest.approx(0.5, abs=0.002)
    assert images.std() == pytest.approx(0.05, abs=0.002)
    assert (images - 0.5).abs().max() <= 0.05 * 3**0.5


def test_soft_signs_are_signs_of_what_is_large_and_in_proportion_below():
    slopes = torch.randn(3, 2, 50, generator=generator("slopes")) * torch.tensor([1e-9, 1.0, 1e9])[:, None, None]
    soft, size = soft_sign(slopes), slopes.abs().mean((1, 2), keepdim=True)
    assert ((soft - slopes.sign()).abs()[slopes.abs() > 3 * size] < 0.01).all()
    small = slopes.abs() < 0.1 * size
    torch.testing.assert_close(soft[small], (slopes / size)[small], rtol=0.01, atol=0)
    assert soft_sign(torch.zeros(2, 3)).equal(torch.zeros(2, 3))


def test_weight_decay_draws_pictures_to_grey_and_does_nothing_at_zero():
    """With decoupled decay the pull is the decay's own, whatever the slopes: a flat loss leaves nothing else."""

    def flat(now: Tensors) -> tuple[Tensors, Tensor]:
        return {"images": torch.zeros_like(now["images"])}, torch.arange(100.0, 0, -1)[len(seen) : len(seen) + 1]

    for decay in (0.0, 0.5):
        seen: list[Tensor] = []
        starts = {"images": torch.tensor([[0.0, 0.5, 0.9]])}
        descend(
            flat,
            starts,
            4,
            lambda _: 0.1,
            before=lambda _, now, seen=seen: seen.append(now["images"].clone()),
            decay=decay,
        )
        expected = [0.5 + (starts["images"] - 0.5) * (1 - 0.1 * decay) ** step for step in range(5)]
        torch.testing.assert_close(torch.stack(seen), torch.stack(expected))


def test_weight_decay_refuses_a_sigmoid():
    with pytest.raises(ValueError, match="projection"):
        InvertingGradients(weight_decay=0.1, box="sigmoid")


# The victim

VICTIMS = {
    "LeNet": (LeNet(), SHAPE, Training()),
    "one step's delta": (LeNet(), SHAPE, DELTA),
    "BatchNorm, eval": (ConvNet(width=2), (3, 9, 9), Training()),
    "BatchNorm, train": (ConvNet(width=2), (3, 9, 9), Training(batch_norm="train")),
}


@pytest.mark.parametrize("case", VICTIMS)
def test_the_truth_matches_the_update(case):
    """Also where a delta is shared: a peer's objective is at its maximum there (its defect D10)."""
    architecture, shape, training = VICTIMS[case]
    batch = random_batch(4, shape=shape)
    observation = observe(architecture.build(shape, CLASSES, 0).double(), double(batch), training)
    found_gradient = gradient_of(observation, torch.float64)
    wanted, rows = observation.gradient(), label_rows(batch.labels, CLASSES).double()
    found = found_gradient(double(batch).images, rows)
    norm = squared_distance({name: torch.zeros_like(tensor) for name, tensor in wanted.items()}, wanted)
    assert (squared_distance(found, wanted) / norm).item() == pytest.approx(0, abs=1e-12)
    assert cosine_distance(found, wanted).item() == pytest.approx(0, abs=1e-12)
    other = found_gradient(double(random_batch(4, seed=1, shape=shape)).images, rows)
    assert cosine_distance(other, wanted) > 1e-4


def double(batch: Batch) -> Batch:
    return Batch(batch.images.double(), batch.labels)


def test_dropout_is_left_out_of_the_match():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, CLASSES))
    batch = random_batch(2)
    observation = observe(model, batch, Training(batch_norm="train"))
    found = gradient_of(observation, torch.float32)(batch.images, label_rows(batch.labels, CLASSES))
    torch.testing.assert_close({n: g.detach() for n, g in found.items()}, gradient(model.eval(), batch))


def test_parameters_that_are_not_shared_are_not_matched():
    observation = observe(LeNet().build(SHAPE, CLASSES, 0), random_batch(1))
    first = dict(list(observation.update.parameters.items())[:1])
    found = gradient_of(replace(observation, update=Update(first)), torch.float32)
    assert found(torch.rand(1, *SHAPE), label_rows(torch.tensor([0]), CLASSES)).keys() == first.keys()


# The descent


def rosenbrock(point: Tensor) -> Tensor:
    return (100 * (point[1:] - point[:-1].square()).square() + (1 - point[:-1]).square()).sum()


def downhill(loss: Callable[[], Tensor], point: Tensor, iterations: int, tolerance: float = 0.0) -> list[float]:
    """`minimise` for a loss that looks at the point itself."""

    def slope(variables: Tensors) -> tuple[Tensors, Tensor]:
        with torch.enable_grad():
            value = loss()
            return {"point": torch.autograd.grad(value, point)[0]}, value

    return minimise(slope, {"point": point}, iterations, tolerance)


def valley() -> Tensor:
    return torch.tensor([-1.2, 1.0, -0.5, 2.0], dtype=torch.float64, requires_grad=True)


def test_descent_reaches_the_bottom_of_a_curved_valley():
    point = valley()
    history = downhill(lambda: rosenbrock(point), point, 200)
    torch.testing.assert_close(point.detach(), torch.ones(4, dtype=torch.float64))
    assert history == sorted(history, reverse=True)


def test_descent_takes_slopes_however_they_lie_in_memory():
    """Recorded convolutions give a picture's with its channels together."""
    pictures = torch.zeros(1, 3, 4, 5, dtype=torch.float64)

    def slope(variables: Tensors) -> tuple[Tensors, Tensor]:
        away = (variables["images"] - 0.5).contiguous(memory_format=torch.channels_last)
        return {"images": 2 * away}, away.square().sum()

    minimise(slope, {"images": pictures}, 3)
    torch.testing.assert_close(pictures, torch.full_like(pictures, 0.5))


@pytest.mark.parametrize("iterations", [1, 7])
def test_descent_tells_the_loss_at_the_start_and_after_every_iteration(iterations):
    point = valley()
    first = rosenbrock(point).item()
    history = downhill(lambda: rosenbrock(point), point, iterations)
    assert len(history) == iterations + 1
    assert history[0] == first
    assert history[-1] < first
    assert rosenbrock(point).item() == pytest.approx(min(history), rel=1e-12)


def test_descent_evaluates_no_point_twice():
    point, seen = valley(), []

    def loss() -> Tensor:
        seen.append(tuple(point.tolist()))
        return rosenbrock(point)

    downhill(loss, point, 30)
    assert len(set(seen)) == len(seen) > 30


def test_descent_does_not_see_the_unit_of_the_loss():
    """PyTorch's L-BFGS drops curvature below an absolute threshold; a gradient's unit must not decide that."""
    point, small = valley(), valley()
    downhill(lambda: rosenbrock(point), point, 200)
    downhill(lambda: rosenbrock(small) * 2.0**-70, small, 200)
    assert small.equal(point)


def test_descent_returns_the_least_finite_loss():
    for good in range(1, 12):
        point, values = valley(), []

        def loss(point: Tensor = point, values: list[float] = values, good: int = good) -> Tensor:
            value = rosenbrock(point) * (1.0 if len(values) < good else math.nan)
            values.append(value.item())
            return value

        history = downhill(loss, point, 50)
        assert rosenbrock(point).item() <= values[0]
        assert rosenbrock(point).item() == pytest.approx(min(history), rel=1e-12)
        assert not any(math.isnan(value) for value in history)


def test_descent_goes_on_after_a_loss_that_is_not_finite():
    """Beyond 2 the loss is not a number, and the bottom is at 1.9."""
    point = torch.tensor([-40.0], dtype=torch.float64, requires_grad=True)
    downhill(lambda: (point - 1.9).square().sum() + 0 * (2 - point).log().sum(), point, 100)
    assert point.item() == pytest.approx(1.9, abs=1e-4)


@pytest.mark.parametrize("start_value", [math.nan, math.inf])
def test_descent_from_nowhere_stays_there(start_value):
    point = torch.ones(2, requires_grad=True)
    history = downhill(lambda: point.sum() * start_value, point, 50)
    assert history == [math.inf]
    assert point.tolist() == [1, 1]


def test_descent_ends_where_the_loss_is_flat():
    point = torch.ones(2, requires_grad=True)
    assert len(downhill(lambda: (0 * point).sum() + 1, point, 1000)) < 10


def test_descent_ends_where_the_loss_stands_still():
    """The loss falls for ever, and by less and less: 1 + exp(-x)."""
    point = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    slow = torch.linspace(1e-3, 1, 50, dtype=torch.float64)
    assert 20 < len(downhill(lambda: 1 + (-slow * point).exp().mean() / 1e3, point, 10_000)) < 400


def test_descent_ends_at_the_tolerance():
    point = valley()
    history = downhill(lambda: rosenbrock(point), point, 200, tolerance=1e-3)
    assert history[-1] <= 1e-3 * history[0] < history[-2]


# What the attacks return


def quick_lenet(size: int, seed: int = 0, training: Training | None = None) -> tuple[Observation, Batch]:
    batch = digits(size, seed)
    return observe(LeNet().build(SHAPE, CLASSES, seed), batch, training), batch


@pytest.mark.parametrize("training", [Training(), replace(DELTA, batch_size=1)], ids=["gradient", "delta"])
def test_dlg_restores_a_digit_whose_label_is_known(training):
    for seed in range(2):
        observation, batch = quick_lenet(1, seed, training)
        assert decibels(DLG(labels=IDLGLabels(), iterations=80).reconstruct(observation, generator(seed)), batch) > 30


def test_dlg_returns_the_labels_that_it_optimised():
    """A peer returns those of its random start (its defect D1): they would be right here one time in ten."""
    for seed in range(5):
        observation, batch = quick_lenet(1, seed)
        found = DLG(iterations=80).reconstruct(observation, generator(seed))
        assert found.labels is not None
        assert found.labels.argmax(1).tolist() == batch.labels.tolist()
        assert found.labels.max() > 0.9
        assert decibels(found, batch) > 20


def test_dlg_restores_a_batch_of_several():
    observation, _ = quick_lenet(2, seed=1)
    found = DLG(iterations=80).reconstruct(observation, generator(0))
    assert found.loss is not None
    assert found.loss < 0.05 * found.history[0]


def test_a_start_is_hopeless_when_its_loss_stays_high_or_stands_still():
    def first(losses: list[float]) -> int | None:
        return next((length for length in range(1, len(losses)) if hopeless(losses[:length])), None)

    steady = [2.0 ** (-step / 40) for step in range(1000)]
    assert first(steady) is None
    stuck = [max(loss, 0.1) for loss in steady]  # from iteration 133 on
    assert 133 < (first(stuck) or 0) <= 183
    slow = [max(loss, 0.009 * 0.99 ** (step / 40)) for step, loss in enumerate(steady)]
    assert first(slow) is None, "a low loss may take its time"
    assert first([*steady[:300], *[steady[299]] * 110]) == 400


def test_dlg_begins_afresh_with_what_is_left_and_keeps_the_best_start(monkeypatch):
    losses = iter([[1.0, 0.3, 0.2], [1.0, 0.05, 0.04, 0.03], [1.0, 0.1]])
    budgets, images = [], []

    def descent(slope, variables, iterations, tolerance, given_up):
        budgets.append(iterations)
        images.append(variables["images"])
        return next(losses)

    monkeypatch.setattr(dlg, "minimise", descent)
    observation, _ = quick_lenet(1)
    found = DLG(iterations=6).reconstruct(observation, generator(0))
    assert budgets == [6, 4, 1]
    assert found.history == (1.0, 0.05, 0.04, 0.03)
    torch.testing.assert_close(found.images, images[1].clamp(0, 1).float())
    assert not images[0].equal(images[1])


def test_dlg_begins_no_other_start_once_one_has_matched():
    observation, _ = quick_lenet(1)
    attack = DLG(labels=IDLGLabels(), iterations=400, tolerance=1e-4)
    found = attack.reconstruct(observation, generator(0))
    assert found.loss <= 1e-4 * found.history[0]
    assert len(found.history) < 200


def test_dlg_says_the_loss_of_what_it_returns():
    faint = random_batch(1)
    observation = observe(LeNet().build(SHAPE, CLASSES, 0), replace(faint, images=0.5 + 0.1 * (faint.images - 0.5)))
    found = DLG(iterations=30).reconstruct(observation, generator(0))
    assert found.images is not None
    assert found.labels is not None
    assert 0 < found.images.min() < found.images.max() < 1, "the check below needs pictures that were not cut"
    wanted = {name: tensor.double() for name, tensor in observation.gradient().items()}
    again = squared_distance(gradient_of(observation, torch.float64)(found.images.double(), found.labels.double()), wanted)
    assert again.item() == pytest.approx(found.loss, rel=1e-4)
    assert len(found.history) == 31


def test_one_iteration_is_enough_to_return_something():
    observation, _ = quick_lenet(2)
    for attack in (DLG(iterations=1), InvertingGradients(iterations=1)):
        found = attack.reconstruct(observation, generator(0))
        assert len(found.history) == 2
        assert found.images is not None
        assert found.images.isfinite().all()


@pytest.mark.parametrize("attack", [DLG(iterations=5), InvertingGradients(iterations=5, labels=GivenLabels())], ids=repr)
def test_an_update_that_is_not_finite_gives_pictures_all_the_same(attack):
    observation, batch = quick_lenet(1)
    observation = replace(
        observation,
        update=observation.update.map(lambda tensor: torch.full_like(tensor, math.nan)),
        granted=replace(observation.granted, labels=batch.labels),
    )
    found = attack.reconstruct(observation, generator(0))
    assert found.images.isfinite().all()
    assert found.labels.isfinite().all()
    assert found.loss == math.inf


@pytest.mark.parametrize("attack", [InvertingGradients(iterations=3), GradInversion(iterations=3, seeds=2)])
def test_restored_labels_that_are_right_lead_to_the_very_pictures_of_given_ones(attack):
    batch = random_batch(3)
    labels = batch.labels.sort().values
    observation = observe(MLP().build(SHAPE, CLASSES, 0), batch, granted=Granted(labels=labels))
    given, restored = (
        replace(attack, labels=restoration).reconstruct(observation, generator(0))
        for restoration in (GivenLabels(), GengLabels())
    )
    assert restored.labels.argmax(1).tolist() == labels.tolist()
    assert torch.equal(restored.images, given.images)


@pytest.mark.parametrize("attack", [DLG(labels=GivenLabels()), InvertingGradients(labels=GivenLabels())], ids=repr)
def test_matching_refuses_where_its_labels_do(attack):
    observation, _ = quick_lenet(1)
    with pytest.raises(NotApplicable, match="does not grant"):
        attack.reconstruct(observation, generator(0))


def running_means(losses: Sequence[float]) -> list[float]:
    """The mean of the losses up to each, in which every one counts a fifth less than the next."""
    weights = [0.8**age for age in range(len(losses))]
    return [float(np.average(losses[last::-1], weights=weights[: last + 1])) for last in range(len(losses))]


@pytest.mark.parametrize("signed", [True, False])
def test_inverting_gradients_returns_the_iterate_of_least_mean_loss(signed):
    observation, _ = quick_lenet(2)
    attack = InvertingGradients(iterations=12, learning_rate=0.3, signed=signed, decay="steps", total_variation=0.1)
    found = attack.reconstruct(observation, generator(1))
    assert found.images is not None
    assert found.labels is not None
    means = running_means(found.history)
    assert found.loss == found.history[means.index(min(means))]
    assert found.loss < found.history[-1], "the check below needs a run that ends worse than its best"
    distance = cosine_distance(gradient_of(observation, torch.float32)(found.images, found.labels), observation.gradient())
    assert (distance + 0.1 * total_variation(found.images)).item() == pytest.approx(found.loss, rel=1e-4)


@pytest.mark.parametrize(
    "attack",
    [InvertingGradients(iterations=1), SME(iterations=1), Dimitrov(iterations=1, epoch_prior=0.0)],
    ids=lambda attack: type(attack).__name__,
)
def test_total_variation_that_is_left_out_weighs_a_fifth_of_the_first_start_s_distance(attack):
    shared = "gradient" if isinstance(attack, InvertingGradients) else "delta"
    observation = observe(LeNet().build(SHAPE, CLASSES, 0), random_batch(2, 0), training=Training(shared=shared, batch_size=2))

    def first(weight: float | None) -> float:
        return replace(attack, total_variation=weight).reconstruct(observation, generator(0)).history[0]

    distance = first(0.0)
    assert first(None) - distance == pytest.approx(0.2 * distance * (first(1.0) - distance), rel=1e-3)


@pytest.mark.parametrize(
    ("count", "training", "factor"),
    [
        (1, Training(), 1.0),
        (2, Training(), 2.0),
        (8, Training(), 8.0),
        (4, Training(shared="delta", batch_size=1), 1.0),  # four steps, which are no single gradient
    ],
)
def test_smoothness_weighs_more_where_one_gradient_has_few_entries_for_the_pixels(count, training, factor):
    """LeNet's 15,826 entries for one, two and eight pictures of 32 x 32: 0.19, 0.39 and 1.55 pixels each."""
    batch = random_batch(count, 0, shape=(3, 32, 32))
    observation = observe(LeNet().build((3, 32, 32), CLASSES, 0), batch, training=training)
    observation = replace(observation, granted=Granted(labels=batch.labels))
    attack = InvertingGradients(labels=GivenLabels(), iterations=1, signed=True)

    def first(weight: float | None) -> float:
        return replace(attack, total_variation=weight).reconstruct(observation, generator(0)).history[0]

    distance = first(0.0)
    assert first(None) - distance == pytest.approx(0.2 * factor * distance * (first(1.0) - distance), rel=1e-3)


def test_total_variation_that_is_left_out_does_not_drown_a_convnet_s_gradient():
    """A weight that suits LeNet does: the distances that are left are larger, in the geometric mean over four models."""
    shares = []
    for seed in range(4):
        images = functional.interpolate(torch.rand(1, 3, 4, 4, generator=generator("smooth", seed)), 16, mode="bilinear")
        granted = Granted(labels=torch.tensor([seed]))
        model = ConvNet(width=8).build((3, 16, 16), CLASSES, seed)
        observation = observe(model, Batch(images, torch.tensor([seed])), granted=granted)
        left = []
        for weight in (None, 0.1):
            attack = InvertingGradients(labels=GivenLabels(), iterations=60, total_variation=weight)
            found = attack.reconstruct(observation, generator(seed))
            assert found.images is not None
            assert found.labels is not None
            gradient = gradient_of(observation, torch.float32)(found.images, found.labels)
            left.append(cosine_distance(gradient, observation.gradient()).item())
        shares.append(left[0] / left[1])
    assert math.prod(shares) ** (1 / len(shares)) < 0.6


def in_double(observation: Observation) -> Observation:
    return replace(observation, model=observation.model.double(), update=observation.update.map(Tensor.double))


@pytest.mark.parametrize("signed", [True, False])
def test_the_restart_of_least_mean_loss_is_returned(signed):
    observation = in_double(quick_lenet(2)[0])
    one, rng = InvertingGradients(iterations=5, signed=signed, total_variation=0.1), generator(0)
    runs = [one.reconstruct(observation, rng) for _ in range(4)]
    best = min(runs, key=lambda run: min(running_means(run.history)))
    assert len({run.loss for run in runs}) == 4
    together = replace(one, restarts=4).reconstruct(observation, generator(0))
    assert together.loss == pytest.approx(best.loss, rel=1e-9)
    assert together.history == pytest.approx(best.history, rel=1e-9)
    torch.testing.assert_close(together.images, best.images)


def test_restarts_are_dealt_to_both_kinds_of_steps():
    """The first half takes signed steps and the second plain ones: no more runs than restarts."""
    observation = in_double(quick_lenet(2)[0])
    one, rng = InvertingGradients(iterations=5, total_variation=0.1), generator(0)
    alone = [replace(one, signed=signed).reconstruct(observation, rng) for signed in (True, True, False, False)]
    best = min(alone, key=lambda run: min(running_means(run.history)))
    together = replace(one, restarts=4).reconstruct(observation, generator(0))
    assert len({run.loss for run in alone}) == 4
    assert together.history == pytest.approx(best.history, rel=1e-9)


def test_what_matches_better_is_chosen_of_signed_and_plain_steps(monkeypatch):
    """Left to itself the attack is one of its two explicit forms, by the loss; large networks go by their pilots' losses."""
    observation = in_double(quick_lenet(2)[0])
    attack = InvertingGradients(iterations=100, total_variation=0.01)

    def run(iterations: int, signed: bool) -> Reconstruction:
        return replace(attack, iterations=iterations, signed=signed).reconstruct(observation, generator(0))

    for large, iterations in ((False, 100), (True, 5)):
        monkeypatch.setattr(inverting_gradients, "LARGE", 0 if large else math.inf)
        losses = {signed: min(running_means(run(iterations, signed).history)) for signed in (True, False)}
        assert losses[True] != losses[False]
        chosen = min(losses, key=lambda signed: losses[signed])
        found = attack.reconstruct(observation, generator(0))
        assert found.history == pytest.approx(run(100, chosen).history, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        *({"distance": name} for name in DISTANCES),
        {"box": "sigmoid"},
        {"colour_variation": 0.01},
        {"spread": 0.0},
        {"signed": "soft"},
        {"uniform": True, "spread": 0.289},
        {"weight_decay": 0.1},
        {"joint_labels": True, "label_entropy": 0.001},
    ],
    ids=str,
)
def test_every_setting_brings_the_gradients_together(change):
    """The loss falls to less than half, its distance is the one asked for, and pictures are pictures."""
    observation, _ = quick_lenet(1)
    attack = replace(InvertingGradients(iterations=120, total_variation=0.001), **change)
    found = attack.reconstruct(observation, generator(0))
    assert found.loss < 0.5 * found.history[0]
    assert 0 <= found.images.min() < found.images.max() <= 1
    again = DISTANCES[attack.distance](
        gradient_of(observation, torch.float32)(found.images, found.labels), observation.gradient()
    )
    assert again.item() == pytest.approx(found.loss, abs=0.05 * found.history[0])


def test_a_sigmoid_keeps_pictures_inside_without_touching_them():
    """A digit's black is approached; a projection puts pixels on the edge itself."""
    observation, _ = quick_lenet(1)
    attack = InvertingGradients(iterations=80, total_variation=0.0)
    inside, put_back = (
        replace(attack, box=box).reconstruct(observation, generator(0)).images for box in ("sigmoid", "projection")
    )
    assert 0 < inside.min() < inside.max() < 1
    assert put_back.min() == 0


def test_labels_of_less_entropy_are_surer():
    observation, _ = quick_lenet(2)
    attack = InvertingGradients(iterations=60, joint_labels=True, total_variation=0.0)
    free, sure = (replace(attack, label_entropy=weight).reconstruct(observation, generator(0)).labels for weight in (0.0, 1.0))
    assert label_entropy(sure) < 0.8 * label_entropy(free)


def test_the_step_falls_as_the_paper_says():
    shares = [falling("steps", 80)(iteration) for iteration in range(80)]
    assert [iteration for iteration in range(1, 80) if shares[iteration] < shares[iteration - 1]] == [30, 50, 70]
    assert shares[79] == pytest.approx(1e-3)
    cosine = falling("cosine", 80)
    assert [cosine(iteration) for iteration in (0, 40, 80)] == pytest.approx([1, 0.5, 0])


def test_the_step_rises_before_it_falls():
    share = falling("cosine", 100, warm_up=9)
    shares = [share(iteration) for iteration in range(101)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert shares[9:] == sorted(shares[9:], reverse=True)
    assert shares[100] == pytest.approx(0)


def test_a_start_goes_on_from_what_was_found_in_the_round_before(monkeypatch):
    """Smoothness weighs what it does at a fresh start: by a fifth of a small distance it would weigh nothing."""
    weights = []

    def variation_weight(*given: Any) -> float:
        weights.append(priors.variation_weight(*given))
        return weights[-1]

    monkeypatch.setattr(inverting_gradients, "variation_weight", variation_weight)
    batch = digits(1, 3)
    earlier, later = (
        replace(observe(LeNet().build(SHAPE, CLASSES, index), batch), granted=Granted(labels=batch.labels)) for index in (0, 1)
    )
    afresh = InvertingGradients(labels=GivenLabels(), iterations=60)
    attack = replace(afresh, continued=True)
    both = replace(later, earlier=(earlier,))
    assert attack.reconstruct(both, generator(0)).history[0] < 0.5 * afresh.reconstruct(both, generator(0)).history[0]
    assert attack.reconstruct(later, generator(0)).history == afresh.reconstruct(later, generator(0)).history
    continued, _, fresh, *_ = weights
    assert continued == fresh


def test_inverting_gradients_restores_digits():
    observation, batch = quick_lenet(1)
    found = InvertingGradients(iterations=200, total_variation=0.01).reconstruct(observation, generator(0))
    assert decibels(found, batch) > 15


# Real pictures


@pytest.fixture(scope="module")
def cifar():
    if not (data_folder() / "cifar10").is_dir():
        pytest.skip(f"no CIFAR-10 pictures in '{data_folder() / 'cifar10'}': set CURIOUS_DATA")
    test = pictures_of(CIFAR10()).test
    order = torch.randperm(len(test), generator=generator("matching quality"))[:10]
    batches = [test.batch(order[i : i + 1]) for i in range(10)]
    return [(observe(LeNet().build((3, 32, 32), 10, seed), batch), batch) for seed, batch in enumerate(batches)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("labels", [IDLGLabels(), None], ids=["label restored", "label optimised"])
def test_dlg_restores_real_pictures_from_most_starts(cifar, labels):
    """In fewer iterations than it takes by default: those come to higher figures, not to more pictures."""
    attack = DLG(labels=labels, iterations=450)
    scores = [decibels(attack.reconstruct(seen, generator(seed)), batch) for seed, (seen, batch) in enumerate(cifar)]
    assert sum(score >= 20 for score in scores) >= 7, scores


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_inverting_gradients_restores_real_pictures(cifar):
    attack = InvertingGradients(iterations=500)
    scores = [decibels(attack.reconstruct(seen, generator(seed)), batch) for seed, (seen, batch) in enumerate(cifar)]
    assert sum(scores) / len(scores) >= 15, scores
