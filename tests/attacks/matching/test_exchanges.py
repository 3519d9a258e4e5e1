"""Labels are exchanged for those that match better: the search on its own, and in Inverting Gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import Observation, Reconstruction
from attacks.attack import Attack, label_rows
from attacks.labels import LABELS
from attacks.matching import InvertingGradients
from attacks.matching.exchanges import JUDGED, TOGETHER, TRIED, exchanged
from learning.catalogue import settings
from learning.models import MLP
from learning.tensors import generator
from learning.training import Training
from tests.attacks.matching.test_matching import digits
from tests.attacks.test_labels import CLASSES, SHAPE, observe


def rows(*labels: int) -> Tensor:
    return label_rows(torch.tensor(labels), 6)


ALL = torch.ones(5, dtype=torch.bool)


class Truth:
    """Losses that count the labels that are wrong, whatever their order, and remember what was asked."""

    def __init__(self, *labels: int):
        self.counts, self.asked = rows(*labels).sum(0), []

    def __call__(self, candidates: Tensor, iterations: int) -> list[float]:
        assert len(candidates) <= TOGETHER
        if iterations == TRIED:
            self.asked += [tuple(sorted(one.argmax(1).tolist())) for one in candidates]
        return [float((one.sum(0) - self.counts).clamp_min(0).sum()) for one in candidates]


def test_wrong_labels_are_exchanged_until_all_are_right():
    truth = Truth(0, 0, 3, 5, 5)
    found, made = exchanged(rows(0, 1, 3, 4, 2), ALL, truth, most=9)
    assert made == 3
    assert sorted(found.argmax(1).tolist()) == [0, 0, 3, 5, 5]
    assert len(truth.asked) == len(set(truth.asked)), "no batch of labels is tried twice, in whatever order"


@pytest.mark.parametrize("most", [0, 1, 2])
def test_no_more_are_exchanged_than_asked(most):
    found, made = exchanged(rows(0, 1, 3, 4, 2), ALL, Truth(0, 0, 3, 5, 5), most)
    assert made == most
    assert Truth(0, 0, 3, 5, 5)(found[None], TRIED) == [3 - most]


@pytest.mark.parametrize("together", [1, 3, 100])
def test_so_many_are_tried_at_once_at_most(together):
    truth, groups = Truth(0, 0, 3, 5, 5), []

    def losses(candidates: Tensor, iterations: int) -> list[float]:
        groups.append(len(candidates))
        return truth(candidates, iterations)

    found, made = exchanged(rows(0, 1, 3, 4, 2), ALL, losses, 9, together)
    assert made == 3
    assert sorted(found.argmax(1).tolist()) == [0, 0, 3, 5, 5]
    assert max(groups[:-1]) <= together  # the last are two that are judged
    assert together == 1 or max(groups[:-1]) > 1, "and several at once where they may"


def test_right_labels_stay_as_they_are_in_their_order():
    found, made = exchanged(rows(5, 0, 3), ALL[:3], Truth(0, 3, 5), most=3)
    assert made == 0
    assert found.argmax(1).tolist() == [5, 0, 3]


def test_of_one_class_there_is_nothing_to_exchange():
    found, made = exchanged(torch.ones(3, 1), ALL[:3], lambda candidates, _: [1.0] * len(candidates), most=3)
    assert made == 0
    assert torch.equal(found, torch.ones(3, 1))


def test_only_what_is_doubtful_is_exchanged():
    found, made = exchanged(rows(0, 1, 2), torch.tensor([False, True, False]), Truth(3, 4, 5), most=3)
    assert made == 1
    assert found.argmax(1).tolist()[::2] == [0, 2]


def test_what_a_longer_descent_matches_worse_is_not_exchanged():
    truth = Truth(3, 4, 5)
    for factor, expected in ((1, [3, 4, 5]), (-1, [0, 1, 2])):
        found, _ = exchanged(
            rows(0, 1, 2),
            ALL[:3],
            lambda some, iterations, factor=factor: [
                (factor if iterations == JUDGED else 1) * x for x in truth(some, iterations)
            ],
            most=3,
        )
        assert sorted(found.argmax(1).tolist()) == expected


@settings
class Misled(Attack):
    """A restoration that errs in two of three labels, and may hold them proven."""

    labels: tuple[int, ...]
    proven: bool = False

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        wrong = (torch.tensor(self.labels) + torch.tensor([1, 2, 0])) % CLASSES
        return Reconstruction(labels=label_rows(wrong, CLASSES), certified=torch.full((3,), self.proven))


@pytest.fixture(autouse=True)
def by_name(monkeypatch):
    monkeypatch.setitem(LABELS, "misled", Misled)


def misled(training: Training | None = None, restarts: int = 1) -> tuple[list[int], InvertingGradients, Observation]:
    """A client's labels, an attack that starts from two wrong ones of three, and what it sees."""
    data = digits(3)
    model = MLP(width=32).build(SHAPE, CLASSES, seed=0)
    attack = InvertingGradients(
        labels=Misled(labels=tuple(data.labels.tolist())), exchanges=3, iterations=40, restarts=restarts
    )
    return sorted(data.labels.tolist()), attack, observe(model, data, training)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("training", [None, Training(shared="delta", batch_size=2, learning_rate=0.05)])
def test_inverting_gradients_leaves_wrong_labels_for_right_ones(training, restarts):
    truth, attack, observation = misled(training, restarts)
    found = attack.reconstruct(observation, generator("start"))
    assert found.labels is not None
    assert sorted(found.labels.argmax(1).tolist()) == truth
    assert "2 of 3 labels were exchanged" in found.verdict


@pytest.mark.parametrize("proven", [False, True])
def test_without_exchanges_and_where_all_are_proven_labels_stay_as_restored(proven):
    truth, attack, observation = misled()
    attack = replace(attack, labels=replace(attack.labels, proven=True)) if proven else replace(attack, exchanges=0)
    found = attack.reconstruct(observation, generator("start"))
    assert found.labels is not None
    restored = attack.labels.reconstruct(observation, generator("any")).labels
    assert restored is not None
    assert torch.equal(found.labels, restored)
    assert sorted(restored.argmax(1).tolist()) != truth
    assert not found.verdict


def test_several_victims_have_their_own_labels_exchanged():
    truth, attack, observation = misled()
    found = attack.reconstruct_all([observation] * 2, [generator("start", seed) for seed in range(2)])
    assert [sorted(one.labels.argmax(1).tolist()) for one in found if one.labels is not None] == [truth, truth]


def test_labels_that_are_sought_with_the_pictures_are_not_exchanged():
    with pytest.raises(ValueError, match="exchanges is 2, and joint_labels is true"):
        InvertingGradients(exchanges=2, joint_labels=True)
