"""Local training simulated: it is what the client does, to the last digit, and can be differentiated through."""

from dataclasses import replace

import pytest
import torch

from attacks.attack import label_rows
from attacks.labels import GivenLabels
from attacks.matching import InvertingGradients
from attacks.matching.distances import cosine_distance, squared_distance
from attacks.matching.simulation import orders, simulation
from attacks.matching.victim import victim_of
from learning.models import ConvNet, LeNet
from learning.tensors import Batch, Tensors, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, observe, random_batch

ORDERS = {
    "one epoch": (LeNet(), SHAPE, Training(shared="delta", batch_size=2, learning_rate=0.1)),
    "a last batch that is smaller": (LeNet(), SHAPE, Training(shared="delta", batch_size=3, learning_rate=0.1)),
    "epochs of the whole batch": (LeNet(), SHAPE, Training(shared="delta", batch_size=4, epochs=3, learning_rate=0.1)),
    "momentum": (LeNet(), SHAPE, Training(shared="delta", batch_size=1, learning_rate=0.1, momentum=0.9)),
    "steps, not epochs": (LeNet(), SHAPE, Training(shared="delta", batch_size=4, steps=2, learning_rate=0.3)),
    "BatchNorm, train": (ConvNet(width=2), (3, 9, 9), Training(shared="delta", batch_size=2, batch_norm="train")),
    "BatchNorm, eval": (ConvNet(width=2), (3, 9, 9), Training(shared="delta", batch_size=2)),
}


def double(batch: Batch) -> Batch:
    return Batch(batch.images.double(), batch.labels)


def in_clients_order(batch: Batch, training: Training) -> Batch:
    """The examples in the order of the client's first epoch; `observe` draws it from `generator("client")`, after one draw."""
    rng = generator("client")
    torch.randint(2**62, (1,), generator=rng)
    order = torch.randperm(len(batch), generator=rng)
    return Batch(batch.images[order], batch.labels[order])


def wanted_norm(wanted: Tensors) -> float:
    return squared_distance({name: torch.zeros_like(tensor) for name, tensor in wanted.items()}, wanted).item()


@pytest.mark.parametrize("case", ORDERS)
def test_the_truth_in_the_clients_order_gives_the_clients_update(case):
    """Peers' objective is at its greatest there (their defects D9 and D10)."""
    architecture, shape, training = ORDERS[case]
    batch = double(random_batch(4, shape=shape))
    observation = observe(architecture.build(shape, CLASSES, 0).double(), batch, training)
    truth, wanted = in_clients_order(batch, training), observation.gradient()
    simulate = simulation(victim_of(observation, torch.float64), training, 4)
    found = simulate(truth.images, label_rows(truth.labels, CLASSES).double())
    assert squared_distance(found, wanted).item() < 1e-20 * wanted_norm(wanted)
    assert cosine_distance(found, wanted).item() == pytest.approx(0, abs=1e-12)


def test_the_average_gradient_at_the_truth_is_not_the_clients_update():
    """What the simulation is for."""
    training = Training(shared="delta", batch_size=1, learning_rate=0.5)
    batch = double(random_batch(4))
    observation = observe(LeNet().build(SHAPE, CLASSES, 0).double(), batch, training)
    found = victim_of(observation, torch.float64).gradient(batch.images, label_rows(batch.labels, CLASSES).double())
    assert squared_distance(found, observation.gradient()) > 1e-4 * wanted_norm(observation.gradient())


def test_every_epoch_may_have_pictures_of_its_own():
    """With the same pictures in every epoch it is the simulation of one set; with others it is not."""
    training = Training(shared="delta", batch_size=2, epochs=3)
    batch = double(random_batch(4))
    observation = observe(LeNet().build(SHAPE, CLASSES, 0).double(), batch, training)
    simulate = simulation(victim_of(observation, torch.float64), training, 4)
    rows = label_rows(batch.labels, CLASSES).double()
    once, thrice = simulate(batch.images, rows), simulate(batch.images.repeat(3, 1, 1, 1), rows.repeat(3, 1))
    torch.testing.assert_close(once, thrice)
    other = batch.images.repeat(3, 1, 1, 1)
    other[-1] = 0
    assert squared_distance(simulate(other, rows.repeat(3, 1)), once) > 0


def test_orders_begin_with_the_order_as_it_is_and_are_permutations():
    drawn = orders(5, 40, generator(0))
    assert drawn[0].tolist() == [0, 1, 2, 3, 4]
    assert drawn.sort(1).values.equal(torch.arange(5).expand(40, 5))
    assert len({tuple(order.tolist()) for order in drawn}) > 20


def test_several_steps_are_simulated_and_the_assumed_order_is_said():
    training = Training(shared="delta", batch_size=1, learning_rate=0.05)
    observation = observe(LeNet().build(SHAPE, CLASSES, 0), random_batch(2), training)
    observation = replace(observation, granted=replace(observation.granted, labels=torch.tensor([0, 1])))
    found = InvertingGradients(labels=GivenLabels(), iterations=5, restarts=3).reconstruct(observation, generator(0))
    assert "order" in found.verdict
    whole = replace(observation, training=replace(training, batch_size=2, epochs=2))
    assert InvertingGradients(labels=GivenLabels(), iterations=5).reconstruct(whole, generator(0)).verdict == ""
    many = replace(observation, training=replace(training, epochs=10))
    assert "average" in InvertingGradients(labels=GivenLabels(), iterations=5).reconstruct(many, generator(0)).verdict
