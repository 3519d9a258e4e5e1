"""The table that every attack of the catalogue passes, and the controls."""

import copy
import pickle

import pytest
import torch

from attacks import ATTACKS, Attack, Granted, NotApplicable
from attacks.controls import Mean, Null
from attacks.exact import ExtremePoints, Linear, Peeling, Spear, SpearPlus
from attacks.labels import (
    ILRG,
    LLG,
    RLG,
    RLU,
    AutoLabels,
    GengLabels,
    GivenLabels,
    GradInversionLabels,
    IDLGLabels,
    RankOneLabels,
    SimulatedLabels,
    SoftLabels,
)
from attacks.matching import DLG, SME, Dimitrov, FeatureInversion, GengImages, GradInversion, InvertingGradients
from learning.models import MLP, ConvNet, LeNet, LeNet5
from learning.tensors import generator
from learning.training import Training
from tests.attacks.test_labels import CLASSES, SHAPE, observe, random_batch

QUICK: dict[str, Attack] = {
    "given": GivenLabels(),
    "idlg": IDLGLabels(),
    "ilrg": ILRG(solver="non-negative"),
    "auto": AutoLabels(),
    "gradinversion-labels": GradInversionLabels(),
    "llg": LLG(knowledge="public"),
    "rlg": RLG(),
    "geng": GengLabels(dummies=4),
    "rank-one": RankOneLabels(),
    "rlu": RLU(rounds=2, runs=2, points=2),
    "simulated-labels": SimulatedLabels(batches=200, steps=5),
    "soft-labels": SoftLabels(),
    "dlg": DLG(iterations=4),
    "inverting-gradients": InvertingGradients(iterations=4, restarts=2),
    "gradinversion": GradInversion(iterations=4, seeds=2, regroup=1),
    "geng-images": GengImages(iterations=4),
    "dimitrov": Dimitrov(iterations=4),
    "sme": SME(iterations=4, restarts=2),
    "feature-inversion": FeatureInversion(iterations=4, seconds=2),
    "extreme-points": ExtremePoints(tries=4),
    "linear": Linear(),
    "spear": Spear(chunk=1024, samples=4096),
    "spear-plus": SpearPlus(starts=8, rounds=2),
    "peeling": Peeling(seconds=5),
    "null": Null(),
    "mean": Mean(),
}

# For one example, for labels that do not repeat, for several local steps, or for networks that end in linear layers with ReLU
CHOOSY = (
    "idlg", "gradinversion-labels", "gradinversion", "rlg", "simulated-labels", "soft-labels", "dimitrov", "sme",
    "extreme-points", "linear", "spear", "spear-plus", "peeling", "feature-inversion",
)  # fmt: skip

IN_TRAIN_MODE = Training(batch_norm="train")


def everything_granted(examples: int, shape: tuple[int, int, int]) -> Granted:
    public = random_batch(5, seed=99, shape=shape)
    return Granted(labels=torch.arange(examples) % CLASSES, public=public.images, public_labels=public.labels)


CASES = {
    "LeNet": (LeNet(), SHAPE, 3, Training()),
    "one example": (LeNet(), SHAPE, 1, Training()),
    "one example, MLP": (MLP(), SHAPE, 1, Training()),
    "delta": (MLP(), SHAPE, 3, Training(shared="delta", batch_size=2, epochs=2, learning_rate=0.01)),
    "linear layers behind convolutions": (LeNet5(), (1, 16, 16), 3, Training()),
    "BatchNorm in train mode": (ConvNet(width=2), (3, 9, 9), 3, IN_TRAIN_MODE),
}


@pytest.fixture(params=CASES)
def observation(request):
    architecture, shape, examples, training = CASES[request.param]
    model = architecture.build(shape, CLASSES, seed=0)
    return observe(model, random_batch(examples, shape=shape), training, everything_granted(examples, shape))


def test_the_table_holds_every_attack():
    assert QUICK.keys() == ATTACKS.keys()
    assert all(type(QUICK[name]) is ATTACKS[name] for name in ATTACKS)


@pytest.mark.parametrize("name", QUICK)
class TestEveryAttack:
    @pytest.fixture
    def attack(self, name, observation):
        if name in CHOOSY:
            try:
                QUICK[name].reconstruct(observation, generator(0))
            except NotApplicable as reason:
                pytest.skip(str(reason))
        return QUICK[name]

    def test_gives_pictures_and_labels_of_the_right_kind(self, attack, observation):
        found = attack.reconstruct(observation, generator(1))
        if found.images is not None:
            assert found.images.shape == (observation.examples, *observation.image_shape)
            assert found.images.dtype == torch.float32
            assert found.images.isfinite().all()
            assert found.images.min() >= 0
            assert found.images.max() <= 1
            assert not found.images.requires_grad
        assert found.labels is not None
        assert found.labels.shape == (observation.examples, CLASSES)
        torch.testing.assert_close(found.labels.sum(1), torch.ones(observation.examples))
        assert found.labels.min() >= 0
        if found.loss is not None:
            assert found.loss in found.history

    def test_gives_the_same_bits_for_the_same_generator(self, attack, observation):
        first, second = (attack.reconstruct(observation, generator(2)) for _ in range(2))
        torch.rand(3)  # PyTorch's global generator must not matter
        third = attack.reconstruct(observation, generator(2))
        for other in (second, third):
            assert (first.images is None) == (other.images is None)
            assert first.images is None or first.images.equal(other.images)
            assert first.labels.equal(other.labels)
            assert (first.loss, first.history) == (other.loss, other.history)

    def test_leaves_the_observation_as_it_was(self, attack, observation):
        model, update = observation.model, observation.update
        before = copy.deepcopy((model.state_dict(), update.parameters, update.buffers))
        modes = [module.training for module in model.modules()]
        state = torch.get_rng_state()
        attack.reconstruct(observation, generator(3))
        after = (model.state_dict(), update.parameters, update.buffers)
        for old, new in zip(before, after, strict=True):
            assert old.keys() == new.keys()
            assert all(old[name].equal(new[name]) for name in old)
        assert [module.training for module in model.modules()] == modes
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert torch.get_rng_state().equal(state)

    def test_leaves_no_hooks_behind(self, attack, observation):
        """A peer's priors leave one hook a restart on the model (its defect D5)."""
        attack.reconstruct(observation, generator(4))
        for module in observation.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks

    def test_travels_to_a_worker_and_back(self, attack, observation):
        here = attack.reconstruct(observation, generator(5))
        far_attack, far_observation = pickle.loads(pickle.dumps((attack, observation)))
        assert far_attack == attack
        there = pickle.loads(pickle.dumps(far_attack.reconstruct(far_observation, generator(5))))
        assert here.images is None or here.images.equal(there.images)
        assert here.labels.equal(there.labels)


def test_null_looks_at_nothing():
    one, other = (observe(LeNet().build(SHAPE, CLASSES, seed), random_batch(4, seed)) for seed in range(2))
    first, second = (Null().reconstruct(observation, generator(0)) for observation in (one, other))
    assert first.images is not None
    assert second.images is not None
    assert first.images.equal(second.images)
    assert not first.images.equal(Null().reconstruct(one, generator(1)).images)


def test_null_draws_pixels_and_labels_evenly():
    found = Null().reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2000)), generator(0))
    assert found.images is not None
    assert found.labels is not None
    assert found.images.mean() == pytest.approx(0.5, abs=0.005)
    assert found.images.var() == pytest.approx(1 / 12, abs=0.002)
    assert found.labels.mean(0).tolist() == pytest.approx([0.1] * CLASSES, abs=0.03)


def test_mean_is_the_mean_of_the_public_pictures():
    public = random_batch(6, seed=5)
    granted = Granted(public=public.images, public_labels=torch.full((6,), 3))
    found = Mean().reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2), granted=granted), generator(0))
    assert found.images is not None
    assert found.labels is not None
    torch.testing.assert_close(found.images, public.images.mean(0).expand(2, -1, -1, -1))
    assert found.labels.argmax(1).tolist() == [3, 3]


@pytest.mark.parametrize("granted", [Granted(), Granted(public=torch.rand(3, *SHAPE))], ids=["nothing", "no labels"])
def test_mean_needs_public_pictures(granted):
    with pytest.raises(NotApplicable, match="no public pictures"):
        Mean().reconstruct(observe(MLP().build(SHAPE, CLASSES, 0), random_batch(2), granted=granted), generator(0))
