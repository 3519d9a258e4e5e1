"""The attacker who knows the defense: what it matches, and what that is worth."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import Granted, Observation
from attacks.labels import ILRG, GivenLabels
from attacks.matching import InvertingGradients
from attacks.matching.distances import cosine_distance
from attacks.matching.knowing import DRAWS, assuming, before_noise, insight, noise_share, slopes_without_noise
from attacks.matching.priors import total_variation
from attacks.matching.victim import victim_of
from defenses import (
    DPSGD,
    Defense,
    GaussianNoise,
    Known,
    LabelSmoothing,
    MagnitudePruning,
    Precode,
    Quantization,
    RandomPruning,
    Sign,
    Soteria,
    Ternary,
    TransformedPictures,
    defended_update,
)
from learning.data import MNIST, Digits, pictures_of
from learning.models import MLP, Architecture, LeNet, bottlenecks
from learning.tensors import Batch, Update, generator
from learning.training import Training, gradient, set_mode
from tests.attacks.matching.test_matching import decibels

ATTACK = InvertingGradients(labels=GivenLabels(), iterations=20)


SMALL: tuple[Digits | MNIST, Architecture] = (Digits(), MLP(width=32))


def observed(
    chain: tuple[Defense, ...],
    seed: int = 0,
    data_and_network: tuple[Digits | MNIST, Architecture] = SMALL,
    size: int = 1,
    training: Training = Training(),  # noqa: B008 (frozen)
) -> tuple[Observation, Batch]:
    """What the server sees of a client behind the chain; labels and defense granted."""
    data, network = data_and_network
    pictures = pictures_of(data)
    batch = pictures.test.batch(torch.randperm(len(pictures.test), generator=generator("knowing test", seed))[:size])
    for defense in chain:
        network = defense.architecture(network)
    model = set_mode(network.build(pictures.image_shape, pictures.classes, seed), training)
    update = defended_update(chain, training)(model, batch, generator("client", seed))
    granted = Granted(labels=batch.labels, defense=Known(chain))
    return Observation(0, 0, model, update, training, size, pictures.image_shape, pictures.classes, granted), batch


def plain(observation: Observation) -> Observation:
    return replace(observation, granted=replace(observation.granted, defense=None))


def rows_of(batch: Batch) -> Tensor:
    return torch.nn.functional.one_hot(batch.labels, 10).float()


def known(observation: Observation, batch: Batch):
    victim = victim_of(observation, torch.float32)
    assumed = assuming(ATTACK, observation, generator("assuming"))
    rows = rows_of(batch)[None]
    return insight(assumed, victim, victim.gradient, cosine_distance, batch.images[None], rows, generator("insight"))


CHAINS: list[tuple[Defense, ...]] = [
    (),
    (MagnitudePruning(keep=0.2),),
    (RandomPruning(keep=0.2),),
    (Sign(),),
    (Quantization(bits=3),),
    (GaussianNoise(std=0.01),),
    (Soteria(layer="network.3", prune=0.5),),
    (LabelSmoothing(smoothing=0.3),),
    (TransformedPictures(policy=("rotate",)),),
    (Precode(width=8),),
    (DPSGD(max_norm=1.0, noise_multiplier=0.01),),
    (LabelSmoothing(smoothing=0.3), MagnitudePruning(keep=0.5), GaussianNoise(std=0.001)),
]


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_the_same_generator_restores_the_same_and_the_observation_is_untouched(chain, untouched_random_state):
    observation, _ = observed(chain)
    before = {name: tensor.clone() for name, tensor in observation.update.parameters.items()}
    one, again = (ATTACK.reconstruct(observation, generator("start")).images for _ in range(2))
    assert one is not None
    assert again is not None
    assert torch.equal(one, again)
    assert one.min() >= 0
    assert one.max() <= 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in observation.update.parameters.items())
    assert all(module.noisy for module in bottlenecks(observation.model).values())


def test_who_knows_that_there_is_no_defense_does_as_who_knows_nothing():
    observation, _ = observed(())
    told, untold = (ATTACK.reconstruct(one, generator("start")) for one in (observation, plain(observation)))
    assert told.history == untold.history
    assert torch.equal(told.images, untold.images)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "chain",
    [
        (MagnitudePruning(keep=0.2),),
        (RandomPruning(keep=0.2),),
        (Sign(),),
        (Soteria(layer="network.3", prune=0.5),),
        (LabelSmoothing(smoothing=0.3),),
        (MagnitudePruning(keep=0.5), RandomPruning(keep=0.5)),
    ],
    ids=repr,
)
def test_the_truth_matches_exactly_for_who_knows_and_not_for_who_does_not(chain):
    observation, batch = observed(chain)
    wanted = observation.gradient()
    one = known(observation, batch)
    assert float(one.distance(one.gradient(batch.images, rows_of(batch), {}), wanted)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_distance(gradient(observation.model, batch), wanted)) > 1e-4


def test_of_the_draws_of_a_transformation_the_right_one_is_among_those_assumed_and_matches_best():
    chain = (TransformedPictures(policy=("rotate", "invert", {"name": "shift-x", "strength": 0.3})),)
    observation, batch = observed(chain)
    wanted = observation.gradient()
    losses = []
    victim = victim_of(observation, torch.float32)
    for draw in range(40):
        told = replace(observation, granted=replace(observation.granted, defense=Known(chain).assuming(draw)))
        one = insight(told, victim, victim.gradient, cosine_distance, batch.images[None], None, generator(0))
        losses.append(round(float(one.distance(one.gradient(batch.images, rows_of(batch), {}), wanted)), 5))
    assert min(losses) == pytest.approx(0, abs=1e-5)
    assert len(set(losses)) == 4, "two signs that matter; to invert has no direction"


def test_draws_that_do_the_same_are_assumed_once_and_their_number_is_bounded():
    tried: list[int | None] = []

    class Counts(InvertingGradients):
        def reconstruct(self, observation, rng):
            assert observation.granted.defense is not None
            tried.append(observation.granted.defense.draw)
            return InvertingGradients.reconstruct(self, observation, rng)

    attack = Counts(labels=GivenLabels(), iterations=5)
    assuming(attack, observed((TransformedPictures(policy=("rotate",)),))[0], generator(0))
    assert len(tried) == 2, "to the left and to the right"
    tried.clear()
    assuming(attack, observed((TransformedPictures(policy=("rotate", "shear-x", "shift-x", "shift-y")),))[0], generator(0))
    assert len(tried) == DRAWS
    tried.clear()
    assuming(attack, observed((GaussianNoise(std=1.0),))[0], generator(0))
    assert tried == [], "nothing is drawn for the pictures"


def test_labels_are_restored_once_for_all_assumed_draws(monkeypatch):
    asked, ask = [], ILRG.reconstruct
    monkeypatch.setattr(ILRG, "reconstruct", lambda *given: asked.append(given[1]) or ask(*given))
    observation = observed((TransformedPictures(policy=("rotate", "shear-x")),))[0]
    found = InvertingGradients(labels=ILRG(), iterations=5).reconstruct(observation, generator(0))
    assert len(asked) == 1
    assert torch.equal(found.labels, ask(ILRG(), observation, generator(0)).labels)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("std", [0.003, 0.01, 0.03])
def test_the_measured_noise_is_that_which_is_there(std):
    observation, batch = observed((GaussianNoise(std=std),))
    entries = sum(tensor.numel() for tensor in observation.gradient().values())
    size = sum(float(tensor.square().sum()) for tensor in gradient(observation.model, batch).values())
    own = torch.rand(batch.images.shape, generator=generator("own pictures"))
    victim = victim_of(observation, torch.float32)
    share = noise_share(observation, victim, own, rows_of(batch), generator("draws"))
    noise = entries * std**2
    assert share == pytest.approx(noise / (noise + size), rel=0.2)


@pytest.mark.parametrize("chain", [(), (MagnitudePruning(keep=0.1),), (Soteria(layer="network.3", prune=0.5),)], ids=repr)
def test_where_there_is_no_noise_the_prior_is_the_one_set(chain):
    observation, batch = observed(chain)
    assert known(observation, batch).variation == 0


def test_what_is_quantized_is_matched_by_its_likelihood_in_the_end():
    """The truth's own loss is the surprisal and the prior; what is restored comes nearer to it than by the distance alone."""
    observation, batch = observed((Quantization(bits=3),))
    one, wanted = known(observation, batch), observation.gradient()
    assert one.surprisal is not None
    entries = sum(tensor.numel() for tensor in wanted.values())
    assert one.prior == pytest.approx(2.5 * 64 / entries)
    attack = replace(ATTACK, iterations=200)
    found, blind = (attack.reconstruct(o, generator("start")) for o in (observation, plain(observation)))
    assert len(found.history) == 101, "of the second half"
    assert found.loss is not None
    assert found.images is not None
    assert blind.images is not None
    gradient = one.gradient(found.images, rows_of(batch), {})
    expected = one.surprisal(gradient, wanted) + one.prior * total_variation(found.images)
    assert found.loss == pytest.approx(float(expected), rel=1e-3)
    assert decibels(found, batch) > decibels(blind, batch) + 3


def test_a_single_iteration_goes_by_the_distance():
    observation, _ = observed((Quantization(bits=3),))
    assert len(replace(ATTACK, iterations=1).reconstruct(observation, generator("start")).history) == 2


@pytest.mark.parametrize("size", [1, 3])
def test_what_lies_before_the_noise_of_a_bottleneck_matches_whatever_was_drawn(size):
    """Given the slopes behind the noise, which of one example are shared, and of several are sought."""
    observation, batch = observed((Precode(width=8),), size=size)
    model, wanted = observation.model, observation.gradient()
    (name, module), *_ = bottlenecks(model).items()
    one, rows = known(observation, batch), rows_of(batch)
    if size == 1:
        assert not one.inside
        found = one.gradient(batch.images, rows, {})
        assert float(one.distance(found, wanted)) == pytest.approx(0, abs=1e-6)
        other = one.gradient(torch.rand(batch.images.shape, generator=generator("other")), rows, {})
        assert float(one.distance(other, wanted)) > 0.1
    else:
        (sought,) = one.inside.values()
        assert sought.shape == (1, size, 16)
    slopes = torch.randn(size, 16, generator=generator("slopes"))
    made = before_noise(victim_of(observation, torch.float32), name, batch.images, slopes)
    module.noisy = False
    model(batch.images)
    assert module.encoded is not None
    (weight,) = torch.autograd.grad((module.encoded * slopes).sum(), [model.get_parameter("network.1.weight")])
    assert torch.allclose(made["network.1.weight"], weight, atol=1e-6)
    assert not made[f"{name}.decoder.weight"].any()


def test_where_a_bottleneck_drew_nothing_what_would_be_without_noise_is_what_was_shared():
    observation, batch = observed((Precode(width=8),), size=3)
    ((name, module),) = bottlenecks(observation.model).items()
    module.noisy = False
    observation = replace(observation, update=Update(gradient(observation.model, batch)))
    victim, one = victim_of(observation, torch.float32), known(observation, batch)
    slopes = slopes_without_noise(victim, name, batch.images, rows_of(batch))
    torch.testing.assert_close(slopes.sum(0), observation.gradient()[f"{name}.encoder.bias"])
    (sought,) = one.inside
    at_rest = {sought: torch.zeros(3, 16)}
    assert float(one.distance(one.gradient(batch.images, rows_of(batch), at_rest), observation.gradient())) < 1e-5
    other = rows_of(batch)[[1, 2, 0]]
    assert float(one.distance(one.gradient(batch.images, other, at_rest), observation.gradient())) > 0.01, "labels tell"


def test_noise_is_measured_in_the_units_of_what_is_shared():
    """A delta is a tenth of a gradient here: noise that is small in one is great in the other."""
    shares = []
    for shared in ("gradient", "delta"):
        observation, batch = observed((GaussianNoise(std=0.01),), training=Training(shared=shared, learning_rate=0.1))
        victim = victim_of(observation, torch.float32)
        shares.append(noise_share(observation, victim, batch.images, rows_of(batch), generator("draws")))
    entries = sum(tensor.numel() for tensor in observation.gradient().values())
    size = sum(float(tensor.square().sum()) for tensor in gradient(observation.model, batch).values())
    for share, deviation in zip(shares, (0.01, 0.1), strict=True):
        noise = entries * deviation**2
        assert share == pytest.approx(noise / (noise + size), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defense", "gain"),
    [
        (RandomPruning(keep=0.1), 5.0),
        (Sign(), 5.0),
        (MagnitudePruning(keep=0.1), 2.5),
        (Precode(), 8.0),
        (Ternary(), 2.5),
    ],
    ids=repr,
)
def test_to_know_the_defense_gains_decibels(defense, gain, needed):
    """Over three pictures, models and starts; half to two thirds of what was measured on ten (bench/knowing.py)."""
    needed("MNIST")
    attack = replace(ATTACK, iterations=300, total_variation=0.01)
    gains = []
    for seed in range(3):
        observation, batch = observed((defense,), seed, (MNIST(), LeNet()))
        told, untold = (decibels(attack.reconstruct(o, generator(seed)), batch) for o in (observation, plain(observation)))
        gains.append(told - untold)
    assert sum(gains) / 3 > gain
    assert math.isfinite(sum(gains))
