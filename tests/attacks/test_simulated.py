"""Labels learnt from simulated batches: right through defenses on untrained models, and more than RLU's on trained ones."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from attacks import NotApplicable, Observation
from attacks.labels import RLU, AutoLabels, RankOneLabels, SimulatedLabels, auto
from attacks.labels.auto import clipped
from attacks.labels.last_layer import last_layer
from attacks.labels.simulated import _batches, _defended, _halves, _View
from defenses import Defense, GaussianNoise, MagnitudePruning, NormClipping, Quantization, RandomPruning, defended_update
from learning.models import MLP, LeNet
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, counts, observe, random_batch, restored
from tests.attacks.test_rlu import patterned, public

DEFENSES: dict[str, tuple[Defense, ...]] = {
    "none": (),
    "noise": (GaussianNoise(std=0.03),),
    "clipping": (NormClipping(max_norm=0.1),),
    "pruning": (MagnitudePruning(keep=0.1),),
    "random pruning": (RandomPruning(keep=0.2),),
    "8 bits": (Quantization(bits=8),),
}


def defended(model: nn.Module, batch: Batch, chain: tuple[Defense, ...], seed: int = 0) -> Observation:
    """What the server sees of a client behind that defense, public pictures granted."""
    observation = observe(model, batch, granted=public())
    update = defended_update(chain, observation.training)(copy.deepcopy(observation.model), batch, generator("draws", seed))
    return replace(observation, update=update)


def trained(seed: int) -> nn.Module:
    """A network that has learnt what the patterns have to do with the labels, from other pictures."""
    model = MLP(width=64).build(SHAPE, CLASSES, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(60):
        batch = patterned(64, "training", seed, step)
        optimizer.zero_grad()
        functional.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def recall(found: list[int], truth: list[int]) -> float:
    return sum(map(min, found, truth)) / sum(truth)


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize("architecture", [MLP(width=64), LeNet(activation="relu", initial="default")], ids=["MLP", "LeNet"])
def test_most_labels_are_right_on_untrained_models(name, architecture):
    right = []
    for seed in range(5):
        batch = patterned(4, seed)
        observation = defended(architecture.build(SHAPE, CLASSES, seed), batch, DEFENSES[name], seed)
        found = SimulatedLabels().reconstruct(observation, generator(seed))
        right.append(recall(restored(found.labels), counts(batch.labels)))
        assert found.identifiable
    assert sum(right) / len(right) >= (0.8 if name == "random pruning" else 0.9)  # which leaves two biases of ten


@pytest.mark.parametrize("name", ["none", "noise", "pruning"])
def test_more_labels_are_right_than_by_rlu_on_trained_models(name):
    """Eight victims behind two models; `auto` has the same ones where it does not take examples apart."""
    ours, rlus, autos = [], [], []
    for seed in range(8):
        batch = patterned(4, "victim", seed)
        observation = defended(trained(seed % 2), batch, DEFENSES[name], seed)
        truth = counts(batch.labels)
        attacks = (ours, SimulatedLabels()), (rlus, RLU()), (autos, AutoLabels(seconds=0))
        for scores, attack in attacks:
            scores.append(recall(restored(attack.reconstruct(observation, generator(seed)).labels), truth))
    assert sum(ours) > sum(rlus)
    assert sum(autos) > sum(rlus)


def test_clipped_is_what_is_as_long_as_a_number_of_two_digits():
    for seed in range(5):
        model, batch = MLP(width=64).build(SHAPE, CLASSES, seed), patterned(24, seed)
        for bound in (0.3, 0.012):
            assert clipped(defended(model, batch, (NormClipping(max_norm=bound),), seed))
        for chain in ((), (NormClipping(max_norm=1e3),), (GaussianNoise(std=0.03),)):
            assert not clipped(defended(model, batch, chain, seed))
    nothing = defended(model, batch, (NormClipping(max_norm=1e3),))
    assert not clipped(replace(nothing, update=nothing.update.map(torch.zeros_like)))


@pytest.mark.parametrize("train", [False, True], ids=["untrained", "trained"])
def test_auto_simulates_batches_of_many_clipped_examples(train, monkeypatch):
    """Where no factor is found that makes the counts whole, and where RLU finds labels gone, which LLG+ is asked for else."""
    monkeypatch.setattr(auto, "share_by_counts", lambda _: 1.0)
    model = trained(0) if train else MLP(width=64).build(SHAPE, CLASSES, 0)
    batch = patterned(40, 0)
    cut = defended(model, batch, (NormClipping(max_norm=0.001),))
    other = replace(cut, update=cut.update.map(lambda tensor: 1.234 * tensor))
    asked, ask = [], SimulatedLabels.reconstruct
    monkeypatch.setattr(SimulatedLabels, "reconstruct", lambda *given: asked.append(given[1]) or ask(*given))
    found = [restored(AutoLabels(seconds=0).reconstruct(one, generator(0)).labels) for one in (cut, other)]
    assert asked == [cut]
    assert recall(found[0], counts(batch.labels)) > 0.75


def test_intervals_hold_most_counts_and_the_counts_that_are_told():
    """Thirty batches, half of few classes; bounds that go nowhere but to what is told hold fewer."""
    held = told = 0
    for seed in range(30):
        batch = patterned(12, "interval", seed)
        if seed % 2:
            kept = batch.labels < 4
            batch = Batch(batch.images[kept], batch.labels[kept])
        observation = defended(trained(0), batch, ())
        found = SimulatedLabels(batches=2000, steps=100).reconstruct(observation, generator(seed))
        assert found.counts_interval is not None
        low, high = found.counts_interval
        counted, truth = torch.tensor(restored(found.labels)), torch.tensor(counts(batch.labels))
        assert ((low <= counted) & (counted <= high)).all()
        assert low.sum() <= len(batch) <= high.sum()
        held += int(((low <= truth) & (truth <= high)).sum())
        told += int((counted == truth).sum())
    assert held >= 0.93 * 300
    assert told < 0.9 * held


def test_intervals_name_one_number_where_every_count_is_known():
    observation = defended(MLP(width=64).build(SHAPE, CLASSES, 0), batch := patterned(6, 0), ())
    interval = SimulatedLabels().reconstruct(observation, generator(0)).counts_interval
    assert interval is not None
    assert [bound.tolist() for bound in interval] == [counts(batch.labels)] * 2


def test_halves_have_every_class_and_share_no_picture_but_a_classs_only_one():
    labels = torch.tensor([2, 0, 2, 0, 4, 2, 0, 2])
    one, other = (half.tolist() for half in _halves(labels))
    assert set(one) | set(other) == set(range(8))
    assert set(one) & set(other) == {4}
    for half in (one, other):
        assert set(labels[half].tolist()) == {0, 2, 4}


def test_a_gradient_that_was_made_shorter_has_the_labels_that_it_had():
    observation = defended(MLP().build(SHAPE, CLASSES, 0), patterned(6, 0), ())
    shorter = replace(observation, update=observation.update.map(lambda tensor: tensor / 1024))
    found = [restored(SimulatedLabels().reconstruct(one, generator(1)).labels) for one in (observation, shorter)]
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(5))
def test_classes_whose_entries_are_negative_are_counted(seed):
    batch = patterned(5, seed)
    observation = defended(trained(0), batch, ())
    bias = last_layer(observation).bias_gradient
    assert bias is not None
    found = torch.tensor(restored(SimulatedLabels(batches=200, steps=5).reconstruct(observation, generator(0)).labels))
    assert (found[bias < 0] > 0).all()
    assert found.sum() == 5


@pytest.mark.parametrize(("activation", "sure"), [("relu", (True, True)), ("tanh", (False, True))])
def test_only_features_that_are_not_negative_show_classes_by_the_weights(activation, sure):
    observation, pictures = defended(MLP(activation=activation).build(SHAPE, CLASSES, 0), patterned(4, 0), ()), public(40)
    assert pictures.public is not None
    assert pictures.public_labels is not None
    bright, dark = pictures.public, 1 - pictures.public
    view = _View.of(observation, torch.cat([bright, dark]), pictures.public_labels.repeat(2), generator(0))
    assert view.negative == sure
    assert (view.present(4) <= 1).all()


def test_simulated_batches_add_up():
    labels = torch.tensor([0, 0, 1, 3])
    chosen, known = _batches(labels, 5, 7, 23, generator(0))
    assert chosen.shape == (23, 4)
    assert (chosen.sum(1) == 7).all()
    assert torch.equal(known[:, 0], chosen[:, 0] + chosen[:, 1])
    assert (known[:, [2, 4]] == 0).all()


def test_what_a_view_adds_up_to_is_the_gradient():
    """The client's own pictures as public ones: what they would add, summed, is what is read of its gradient."""
    batch = patterned(6, 0)
    for chain in ((), (MagnitudePruning(keep=0.1),)):
        observation = defended(MLP().build(SHAPE, CLASSES, 0), batch, chain)
        view = _View.of(observation, batch.images, batch.labels, generator(0))
        torch.testing.assert_close(view.each.mean(0), view.wanted, rtol=1e-4, atol=1e-8)


def test_defenses_are_told_by_what_they_leave():
    observation = defended(MLP(width=200).build(SHAPE, CLASSES, 0), patterned(4, 0), ())
    gradient, rng = last_layer(observation).weight_gradient, generator("noise")
    live = gradient[:, gradient.abs().amax(0) > 0]
    assert _defended(live, live)[1] < 1e-8
    noisy = live + 0.02 * torch.randn(live.shape, generator=rng)
    assert _defended(noisy, noisy)[1] == pytest.approx(0.02, rel=0.1)
    rounded = (live / live.abs().max() * 7).round() / 7
    shown, noise = _defended(rounded, rounded)
    assert shown.all()
    assert noise == pytest.approx(1 / 7 / 12**0.5)
    pruned = live * (live.abs() > live.abs().median())
    assert torch.equal(_defended(pruned, pruned)[0], (pruned != 0).to(pruned))


def test_labels_that_noise_has_buried_are_not_identifiable():
    observation = defended(trained(0), patterned(4, 0), (GaussianNoise(std=100.0),))
    found = SimulatedLabels().reconstruct(observation, generator(0))
    assert found.identifiable is False
    assert "labels not identifiable here: the gradient leaves" in found.verdict
    assert sum(restored(found.labels)) == 4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("broken", [0.0, float("nan")])
def test_gradients_of_nothing_are_survived(bias, broken):
    observation = replace(observe(MLP(bias=bias).build(SHAPE, CLASSES, 0), patterned(6, 0)), granted=public())
    empty = replace(observation, update=observation.update.map(lambda tensor: torch.full_like(tensor, broken)))
    assert sum(restored(SimulatedLabels().reconstruct(empty, generator(0)).labels)) == 6


def test_a_layer_without_a_bias_is_enough():
    batch = patterned(4, 0)
    found = SimulatedLabels().reconstruct(defended(MLP(bias=False).build(SHAPE, CLASSES, 0), batch, ()), generator(0))
    assert restored(found.labels) == counts(batch.labels)


def test_what_it_cannot_do_it_says():
    model, batch = MLP().build(SHAPE, CLASSES, 0), random_batch(4)
    with pytest.raises(NotApplicable, match="no public pictures are granted"):
        SimulatedLabels().reconstruct(observe(model, batch), generator(0))
    several = Training(shared="delta", batch_size=2)
    with pytest.raises(NotApplicable, match="2 local steps"):
        SimulatedLabels().reconstruct(observe(model, batch, several, public()), generator(0))


def test_auto_asks_it_where_an_untrained_models_gradient_was_changed():
    changed, asked = Quantization(bits=2), []
    for seed in range(6):
        batch = patterned(4, seed)
        observation = defended(LeNet(activation="relu", initial="default").build(SHAPE, CLASSES, seed), batch, (changed,), seed)
        truth, found = counts(batch.labels), [
            restored(attack.reconstruct(observation, generator(seed)).labels) for attack in (AutoLabels(), RankOneLabels())
        ]  # fmt: skip
        asked.append([recall(one, truth) for one in found])
    autos, ranked = zip(*asked, strict=True)
    assert sum(autos) > sum(ranked)


def half_trained(seed: int) -> nn.Module:
    """A network that answers every picture in its own way, and is sure of none."""
    model = trained(seed)
    with torch.no_grad():
        list(model.parameters())[-2].mul_(0.5)
    return model


def test_auto_keeps_rlus_counts_of_many_examples_and_its_interval_of_few():
    for size, same in ((31, True), (8, False)):
        alike = []
        for seed in range(4):
            observation = defended(half_trained(0), patterned(size, seed), ())
            auto, rlu = (attack.reconstruct(observation, generator(seed)) for attack in (AutoLabels(seconds=0), RLU()))
            alike.append(restored(auto.labels) == restored(rlu.labels))
            assert rlu.identifiable
            assert auto.identifiable
            assert auto.counts_interval is not None
        assert all(alike) == same
