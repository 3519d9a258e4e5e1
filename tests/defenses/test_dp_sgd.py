"""Per-example gradients equal a loop's; clipping, noise and epsilon hold what they say."""

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm as normal
from torch import nn

import defenses.dp_sgd
from defenses import DPSGD, GaussianNoise, NormClipping, defended_update
from defenses.dp_sgd import per_example_gradients
from learning.models import MODELS
from learning.tensors import Batch, Update, generator, seeded
from learning.training import Training, gradient, local_update
from tests.defenses.behind import norm, same

GRADIENT = Training(batch_size=6)
DELTA = Training(shared="delta", batch_size=2, epochs=2, learning_rate=0.3)


def model_of(name: str = "lenet", shape: tuple[int, int, int] = (1, 12, 12), **fields) -> nn.Module:
    return MODELS[name](**fields).build(shape, 10, 0)


def examples(count: int = 6, shape: tuple[int, int, int] = (1, 12, 12)) -> Batch:
    rng = generator("examples")
    return Batch(torch.rand(count, *shape, generator=rng), torch.randint(10, (count,), generator=rng))


def behind(defense: DPSGD, training: Training = GRADIENT, batch: Batch | None = None, seed: int = 0) -> Update:
    return defended_update([defense], training)(model_of(), batch or examples(), generator(seed))


@pytest.mark.parametrize(("name", "fields"), [("mlp", {}), ("lenet", {}), ("convnet", {"width": 2})])
def test_per_example_gradients_are_those_of_a_loop(name, fields):
    """ConvNet has BatchNorm, in eval mode."""
    model, batch = model_of(name, **fields).double(), Batch(examples().images.double(), examples().labels)
    (found,) = per_example_gradients(model, batch)
    for index in range(len(batch)):
        alone = gradient(model, Batch(batch.images[index : index + 1], batch.labels[index : index + 1]))
        for parameter, tensor in alone.items():
            assert torch.allclose(found[parameter][index], tensor, rtol=1e-9, atol=1e-12)


def test_clipped_sums_are_those_of_a_loop_whatever_fits_into_memory(monkeypatch):
    batch, model = examples(), model_of()
    clip, total = NormClipping(max_norm=0.7), 0
    for index in range(len(batch)):
        alone = Update(gradient(model, Batch(batch.images[index : index + 1], batch.labels[index : index + 1])))
        assert norm(alone) > 0.7, "something is clipped"
        total = total + clip.change(alone, generator(0)).flat().double()
    for at_once in (1, 3 * sum(p.numel() for p in model.parameters()), 2**26):
        monkeypatch.setattr(defenses.dp_sgd, "AT_ONCE", at_once)
        found = behind(DPSGD(max_norm=0.7, noise_multiplier=0))
        assert torch.allclose(found.flat().double(), total / len(batch), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("training", [GRADIENT, DELTA], ids=["gradient", "delta"])
def test_without_noise_and_clipping_it_is_the_plain_update(training):
    plain = local_update(model_of(), examples(), training, generator(0)).flat()
    found = behind(DPSGD(max_norm=1e6, noise_multiplier=0), training).flat()
    assert torch.allclose(found, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_norm", [0.05, 0.5, 5.0])
def test_one_example_moves_the_sum_by_no_more_than_the_norm(max_norm):
    """The sensitivity on which epsilon rests, for adding or removing an example, be it as far out as one can be."""
    batch = examples()
    batch = Batch(torch.cat([batch.images[:5], 1e4 * batch.images[5:]]), batch.labels)
    defense = DPSGD(max_norm=max_norm, noise_multiplier=0)
    whole = 6 * behind(defense, batch=batch).flat().double()
    without = 5 * behind(defense, batch=Batch(batch.images[:5], batch.labels[:5])).flat().double()
    moved = float((whole - without).norm())
    assert moved <= max_norm * (1 + 1e-4)
    assert moved == pytest.approx(max_norm, rel=1e-3), "the example that is far out is clipped to the norm"
    plain = Training(batch_size=6)
    far = 6 * local_update(model_of(), batch, plain, generator(0)).flat().double()
    near = 5 * local_update(model_of(), Batch(batch.images[:5], batch.labels[:5]), plain, generator(0)).flat().double()
    assert float((far - near).norm()) > max_norm, "undefended it moves further"


def test_the_noise_has_its_deviation():
    """Of a step's mean: the multiplier times the norm over the number of examples."""
    quiet = behind(DPSGD(max_norm=0.5, noise_multiplier=0)).flat()
    noise = torch.cat([behind(DPSGD(max_norm=0.5, noise_multiplier=3), seed=seed).flat() - quiet for seed in range(5)])
    deviation = 3 * 0.5 / 6
    assert abs(float(noise.mean())) < 5 * deviation / math.sqrt(len(noise))
    assert float(noise.std()) == pytest.approx(deviation, rel=5 / math.sqrt(2 * len(noise)))


def test_every_local_step_has_noise_of_its_own():
    """Without gradients to speak of, a delta of n steps is a sum of n noises: its variance grows n-fold."""
    defense = DPSGD(max_norm=1e-6, noise_multiplier=1e6)  # noise of deviation 1 a sum, and hardly a gradient

    def deviation(steps: int) -> float:
        training = Training(shared="delta", batch_size=2, steps=steps, learning_rate=1.0)
        return float(torch.cat([behind(defense, training, seed=seed).flat() for seed in range(3)]).std())

    entries = 3 * sum(p.numel() for p in model_of().parameters())
    for steps in (1, 4):
        assert deviation(steps) == pytest.approx(math.sqrt(steps) / 2, rel=5 / math.sqrt(2 * entries))


def test_the_same_generator_gives_the_same_noise(untouched_random_state):
    defense = DPSGD(max_norm=0.5, noise_multiplier=1)
    one, again, other = (behind(defense, DELTA, seed=seed) for seed in (0, 0, 1))
    assert same(one.parameters, again.parameters)
    assert not same(one.parameters, other.parameters)


def test_examples_draw_dropouts_of_their_own():
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10))
    batch = Batch(examples(1).images.expand(4, -1, -1, -1), examples(1).labels.expand(4))
    with seeded(1):
        (found,) = per_example_gradients(model, batch)
    rows = found["2.weight"].flatten(1)
    assert len(rows.unique(dim=0)) == 4


def test_batch_norm_in_train_mode_is_refused():
    training = Training(batch_norm="train", batch_size=6)
    chain = [DPSGD(max_norm=1, noise_multiplier=1)]
    with pytest.raises(ValueError, match=r"training\.batch_norm = 'eval'"):
        defended_update(chain, training)(model_of("convnet", width=2), examples(), generator(0))


def test_defenses_of_the_round_act_on_its_result():
    chain = [DPSGD(max_norm=1, noise_multiplier=0), NormClipping(max_norm=0.01), GaussianNoise(std=0)]
    assert norm(defended_update(chain, DELTA)(model_of(), examples(), generator(0))) == pytest.approx(0.01, rel=1e-4)


def exact(steps: int, noise_multiplier: float, delta: float) -> float:
    """Epsilon of composed Gaussian mechanisms, in closed form (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""
    mu = math.sqrt(steps) / noise_multiplier
    lacking = lambda e: normal.cdf(mu / 2 - e / mu) - math.exp(e) * normal.cdf(-mu / 2 - e / mu) - delta  # noqa: E731
    return brentq(lacking, 0, 200)


@pytest.mark.parametrize(("steps", "noise_multiplier"), [(1, 1.0), (10, 2.0), (100, 20.0)])
def test_epsilon_without_sampling_is_the_closed_form(steps, noise_multiplier):
    defense = DPSGD(max_norm=3, noise_multiplier=noise_multiplier)
    true = exact(steps, noise_multiplier, 1e-5)
    assert true <= defense.epsilon(steps, 1.0, 1e-5) <= true + 0.02
    assert true <= defense.epsilon(steps, 1.0, 1e-5, "rdp") <= 1.2 * true


def test_epsilon_is_opacus_s_for_the_same_steps():
    from opacus.accountants import RDPAccountant

    spent = RDPAccountant()
    for _ in range(200):
        spent.step(noise_multiplier=1.1, sample_rate=0.05)
    assert DPSGD(max_norm=1, noise_multiplier=1.1).epsilon(200, 0.05, 1e-5, "rdp") == spent.get_epsilon(1e-5)


def test_epsilon_grows_with_steps_and_sampling_and_falls_with_noise():
    def epsilon(noise_multiplier: float, steps: int, rate: float) -> float:
        return DPSGD(max_norm=1, noise_multiplier=noise_multiplier).epsilon(steps, rate, 1e-5, "rdp")

    assert 0 < epsilon(1, 10, 0.1) < epsilon(1, 100, 0.1) < epsilon(1, 100, 0.5)
    assert epsilon(2, 100, 0.1) < epsilon(1, 100, 0.1)
    assert epsilon(0, 1, 0.1) == float("inf")
    assert epsilon(0, 0, 0.1) == 0


@pytest.mark.parametrize(("steps", "rate", "delta"), [(-1, 0.1, 1e-5), (1, 0.0, 1e-5), (1, 1.5, 1e-5), (1, 0.1, 0.0)])
def test_what_is_no_accounting_is_refused(steps, rate, delta):
    with pytest.raises(ValueError, match="sampling_rate"):
        DPSGD(max_norm=1, noise_multiplier=1).epsilon(steps, rate, delta)
