"""Victims of one round that are attacked at once: each as if it were alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import Granted, NotApplicable, Observation
from attacks.labels import GivenLabels
from attacks.matching import DLG, InvertingGradients
from defenses import InstaHide, Known
from learning.models import MLP, Architecture, LeNet
from learning.tensors import generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, observe, random_batch

STEPS = Training(shared="delta", batch_size=1, learning_rate=0.1)


def victims(count: int, training: Training | None = None, architecture: Architecture | None = None) -> list[Observation]:
    """So many clients of two examples each, with the labels granted, in float64."""
    model = (architecture or LeNet()).build(SHAPE, CLASSES, 0).double()
    found = []
    for client in range(count):
        batch = random_batch(2, client)
        batch = replace(batch, images=batch.images.double())
        granted = Granted(labels=batch.labels)
        found.append(replace(observe(model, batch, training, granted), client=client))
    return found


@pytest.mark.parametrize("training", [None, STEPS], ids=["gradient", "two steps"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"signed": True},
        {"signed": False, "restarts": 3},
        {"restarts": 2},
        {"joint_labels": True, "label_entropy": 0.01},
        {"box": "sigmoid"},
        {"distance": "squared", "total_variation": 0.1},
    ],
    ids=str,
)
def test_each_is_restored_as_if_it_were_alone(change, training):
    seen = victims(3, training)
    attack = replace(InvertingGradients(labels=GivenLabels(), iterations=25), **change)
    alone = [attack.reconstruct(one, generator("start", one.client)) for one in seen]
    together = attack.reconstruct_all(seen, [generator("start", one.client) for one in seen])
    assert len({one.loss for one in alone}) == 3
    for one, other in zip(together, alone, strict=True):
        assert one.history == pytest.approx(other.history, rel=1e-8)
        assert one.loss == pytest.approx(other.loss, rel=1e-8)
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.labels, other.labels, rtol=0, atol=1e-6)
        assert one.verdict == other.verdict


def test_victims_with_losses_of_their_own_are_restored_one_after_the_other():
    """Of pixels flipped at random every client has flipped others, and so does the attack assume."""
    attack = InvertingGradients(labels=GivenLabels(), iterations=5)
    seen = [replace(one, granted=replace(one.granted, defense=Known((InstaHide(pictures=1),)))) for one in victims(3)]
    together = attack.reconstruct_all(seen, [generator(one.client) for one in seen])
    for one, other in zip(together, seen, strict=True):
        alone = attack.reconstruct(other, generator(other.client))
        assert one.images is not None
        assert alone.images is not None
        assert torch.equal(one.images, alone.images)


def test_a_victim_whose_gradient_is_not_finite_does_not_touch_the_others():
    seen = victims(3)
    spoiled = replace(seen[1], update=seen[1].update.map(lambda tensor: tensor * torch.nan))
    attack = InvertingGradients(labels=GivenLabels(), iterations=10)
    alone = attack.reconstruct(seen[2], generator(2))
    rngs = [generator(client) for client in range(3)]
    together = attack.reconstruct_all([seen[0], spoiled, seen[2]], rngs)
    assert together[1].loss == torch.inf
    assert together[2].history == pytest.approx(alone.history, rel=1e-8)


@pytest.mark.parametrize(
    ("architecture", "several"), [(LeNet(), True), (MLP(width=16), True), (MLP(width=4000), False)], ids=repr
)
def test_victims_of_small_networks_are_attacked_at_once(architecture, several):
    seen = victims(1, architecture=architecture)[0]
    attack = InvertingGradients(labels=GivenLabels())
    assert (attack.at_once(seen) > 1) == several
    if several:
        assert attack.at_once(seen) > replace(attack, restarts=8).at_once(seen)
        assert attack.at_once(seen) >= attack.at_once(replace(seen, examples=2000)) == 1


def test_victims_are_attacked_alone_where_each_has_a_loss_or_a_start_of_its_own():
    first, second = victims(2)
    attack = InvertingGradients(labels=GivenLabels())
    assert attack.at_once(replace(first, granted=replace(first.granted, defense=Known(())))) == 1
    later = replace(second, earlier=(first,))
    assert replace(attack, continued=True).at_once(later) == 1
    assert attack.at_once(later) == replace(attack, continued=True).at_once(second) == attack.at_once(second) > 1
    assert DLG(labels=GivenLabels()).at_once(first) == 1


def test_an_attack_that_takes_one_at_a_time_takes_several_one_after_the_other():
    seen = victims(2)
    attack = DLG(labels=GivenLabels(), iterations=2)
    found = attack.reconstruct_all(seen, [generator(client) for client in range(2)])
    for client, one in enumerate(found):
        alone = attack.reconstruct(seen[client], generator(client)).images
        assert isinstance(one.images, Tensor)
        assert isinstance(alone, Tensor)
        assert torch.equal(one.images, alone)


def test_one_that_cannot_be_attacked_is_refused_with_all():
    seen = victims(2)
    bare = replace(seen[1], granted=Granted())
    with pytest.raises(NotApplicable, match="does not grant"):
        InvertingGradients(labels=GivenLabels()).reconstruct_all([seen[0], bare], [generator(0), generator(1)])
