"""The rules for labels that do not repeat (GradInversion's and RLG), and LLG's one-by-one rule, which lets them."""

import pytest
import torch

from attacks import Granted, NotApplicable
from attacks.labels import LLG, RLG, GradInversionLabels
from learning.models import MLP, LeNet
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, counts, observe, random_batch, restored

TOLD_APART = {"gradinversion-labels": GradInversionLabels(), "rlg": RLG()}


def distinct_batch(size: int, seed: int) -> Batch:
    return Batch(random_batch(size, seed).images, torch.randperm(CLASSES, generator=generator(seed))[:size])


@pytest.mark.parametrize("name", TOLD_APART)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_distinct_labels_are_found(name, bias, size):
    for seed in range(3):
        batch = distinct_batch(size, seed)
        observation = observe(MLP(bias=bias).build(SHAPE, CLASSES, seed), batch, Training(shared="delta", batch_size=64))
        assert restored(TOLD_APART[name].reconstruct(observation, generator(0)).labels) == counts(batch.labels)


@pytest.mark.parametrize("name", TOLD_APART)
def test_repeated_labels_are_refused(name):
    batch = Batch(random_batch(4).images, torch.tensor([1, 1, 2, 3]))
    with pytest.raises(NotApplicable, match="labels repeat"):
        TOLD_APART[name].reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), batch), generator(0))


@pytest.mark.parametrize(("name", "reason"), [("gradinversion-labels", "labels repeat"), ("rlg", "fewer than 10 are needed")])
def test_more_examples_than_classes_are_refused(name, reason):
    with pytest.raises(NotApplicable, match=reason):
        TOLD_APART[name].reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(11)), generator(0))


def test_rlg_does_not_mind_features_of_both_signs():
    """The smallest entry of a row says nothing there; the errors' signs do."""
    for seed in range(3):
        batch = distinct_batch(6, seed)
        observation = observe(MLP(activation="tanh").build(SHAPE, CLASSES, seed), batch)
        assert restored(RLG().reconstruct(observation, generator(0)).labels) == counts(batch.labels)


@pytest.mark.parametrize(("knowledge", "least"), [("gradient", 13), ("model", 16), ("public", 16)])
def test_llg_shares_out_repeated_labels(knowledge, least):
    """A peer takes every label after the first from one class: [4, 4, 4, 4] becomes [1, 13, 1, 1] (D7)."""
    batch = Batch(random_batch(16).images, torch.arange(16) % 4)
    public = random_batch(30, seed=7)
    for seed in range(3):
        model = LeNet(activation="sigmoid", initial="default").build(SHAPE, CLASSES, seed)
        granted = Granted(public=public.images, public_labels=public.labels)
        found = LLG(knowledge=knowledge).reconstruct(observe(model, batch, granted=granted), generator(0))
        assert sum(map(min, restored(found.labels), counts(batch.labels))) >= least


def test_llg_fills_the_batch_where_the_gradient_is_nothing():
    observation = observe(MLP().build(SHAPE, CLASSES, 0), random_batch(12))
    empty = observation.update.map(torch.zeros_like)
    found = LLG().reconstruct(type(observation)(**{**vars(observation), "update": empty}), generator(0))
    assert sum(restored(found.labels)) == 12


def test_llg_plus_needs_public_pictures():
    with pytest.raises(NotApplicable, match="no public pictures"):
        LLG(knowledge="public").reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2)), generator(0))
