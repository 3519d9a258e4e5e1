"""What an attacker who knows the defenses is told is what they do."""

import math
import pickle

import pytest
import torch

from defenses import (
    DPSGD,
    Defense,
    GaussianNoise,
    InstaHide,
    Known,
    LabelSmoothing,
    LaplacianNoise,
    MagnitudePruning,
    Mixup,
    NormClipping,
    Outpost,
    Quantization,
    RandomPruning,
    Sign,
    Soteria,
    Ternary,
    TransformedPictures,
)
from defenses.label_smoothing import SoftBatch
from learning.tensors import Batch, Tensors, Update, generator
from learning.training import gradient
from tests.defenses.behind import changed, network, pictures, same

# What is shared is on average, and over all that was not told by it, in the direction of what is expected.
LEAVE_THE_MEAN: list[tuple[Defense, ...]] = [
    (GaussianNoise(std=0.05),),
    (LaplacianNoise(std=0.05),),
    (NormClipping(max_norm=0.1),),
    (MagnitudePruning(keep=0.3),),
    (RandomPruning(keep=0.3),),
    (RandomPruning(keep=0.3, unbiased=True),),
    (Quantization(bits=3),),
    (Ternary(clip=0.0),),
    (Soteria(layer="4", prune=0.5),),
    (Outpost(noise=0.05, prune=0.5),),
    (NormClipping(max_norm=1.0), GaussianNoise(std=0.05)),
    (MagnitudePruning(keep=0.3), RandomPruning(keep=0.5)),
]


def plain() -> Tensors:
    return gradient(network().eval(), pictures())


def along(one: Tensors, other: Tensors) -> float:
    """The cosine of the angle between two gradients."""
    left, right = (torch.cat([tensors[name].flatten().double() for name in plain()]) for tensors in (one, other))
    return float(torch.nn.functional.cosine_similarity(left, right, 0))


@pytest.mark.parametrize("chain", LEAVE_THE_MEAN, ids=repr)
def test_what_is_shared_is_on_average_what_is_expected(chain):
    given, draws = plain(), [changed(list(chain), plain(), seed).parameters for seed in range(200)]
    total = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in given}
    known = Known(chain)
    expected = {name: torch.stack([known.expected(given, draw)[name] for draw in draws]).mean(0) for name in given}
    assert along(total, expected) > 0.97


@pytest.mark.parametrize("chain", LEAVE_THE_MEAN, ids=repr)
def test_what_is_expected_is_nearer_to_what_is_shared_than_the_gradient_is(chain):
    given, shared = plain(), changed(list(chain), plain()).parameters
    assert along(Known(chain).expected(given, shared), shared) >= along(given, shared) - 1e-6


def test_what_is_pruned_is_not_expected():
    given, shared = plain(), changed([MagnitudePruning(keep=0.2)], plain()).parameters
    assert same(Known((MagnitudePruning(keep=0.2),)).expected(given, shared), shared)


@pytest.mark.parametrize("defense", [Quantization(bits=2), Quantization(bits=4), Ternary(clip=0.0), Ternary()], ids=repr)
def test_a_surprisal_is_the_logarithm_of_how_often_it_is_drawn(defense):
    """A single entry that is not the largest, of a thousand draws; nothing is ever drawn that has no likelihood."""
    given = {"a": torch.tensor([1.0, -0.3, 0.4])}
    draws = [changed([defense], given, seed).parameters["a"] for seed in range(1000)]
    for other in {tuple(draw.tolist()) for draw in draws}:
        shared = torch.tensor(other)
        often = sum(torch.equal(draw, shared) for draw in draws) / len(draws)
        likely = math.exp(-3 * float(defense.surprisal(given, {"a": shared})))
        assert often == pytest.approx(likely, abs=4 * (likely / len(draws)) ** 0.5)


@pytest.mark.parametrize(
    "chain",
    [
        (Quantization(bits=2),),
        (Quantization(bits=5),),
        (Quantization(bits=3, rounding="nearest"),),
        (Ternary(),),
        (NormClipping(max_norm=0.1), Quantization(bits=3)),
        (LabelSmoothing(smoothing=0.1), Ternary()),
    ],
    ids=repr,
)
def test_nothing_is_less_surprising_than_the_truth(chain):
    """Gibbs's inequality, over draws: not the gradient of others, its own in another length, nor none at all."""
    given, draws = plain(), [changed(list(chain), plain(), seed).parameters for seed in range(20)]
    known, noise = Known(chain), generator("noise")

    def surprise(found: Tensors) -> float:
        surprisals = [known.surprisal(found, draw) for draw in draws]
        return sum(float(one) for one in surprisals if one is not None) / len(draws)

    own = surprise(given)
    others = [{n: t + 0.3 * t.std() * torch.randn(t.shape, generator=noise) for n, t in given.items()}]
    others += [{n: size * t for n, t in given.items()} for size in (0.0, 0.5, 1.5) if len(chain) == 1]
    assert all(own < surprise(other) < 1e6 for other in others)


def test_what_cannot_have_been_rounded_to_what_was_shared_has_a_slope_towards_what_can():
    shared = {"a": torch.tensor([1.0, 0.0, -1.0])}
    for defense in (Quantization(bits=2), Quantization(bits=8), Quantization(bits=8, rounding="nearest")):
        far = torch.tensor([-0.9, 0.9, 0.9], requires_grad=True)
        (slope,) = torch.autograd.grad(defense.surprisal({"a": far}, shared), far)
        assert torch.equal(slope.sign(), torch.tensor([-1.0, 1.0, 1.0]))


def test_a_tensor_of_which_nothing_was_shared_surprises_nobody():
    shared = {"a": torch.zeros(3), "b": torch.tensor([1.0])}
    found = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([1.0])}
    assert float(Quantization(bits=4).surprisal(found, shared)) == 0
    assert Known((Quantization(bits=4), GaussianNoise(std=1))).surprisal(found, shared) is None
    assert Known(()).surprisal(found, shared) is None


def test_what_has_the_signs_that_were_shared_is_not_unlikely_and_its_negative_is():
    given, shared = plain(), changed([Sign()], plain()).parameters
    known = Known((GaussianNoise(std=0), Sign()))
    assert float(known.unlikelihood(given, shared)) == 0  # pyright: ignore[reportArgumentType]
    assert float(known.unlikelihood({name: -tensor for name, tensor in given.items()}, shared)) > 0.5  # pyright: ignore[reportArgumentType]
    assert Known((Sign(), GaussianNoise(std=1))).unlikelihood(given, shared) is None
    assert Known(()).unlikelihood(given, shared) is None


def test_only_what_contradicts_a_sign_or_a_zero_counts_whatever_the_size():
    shared = {"a": torch.tensor([1.0, -1.0, 1.0, 0.0])}
    assert float(Sign().unlikelihood({"a": torch.tensor([5.0, -0.1, 2.0, 0.0])}, shared)) == 0
    some = {"a": torch.tensor([1.0, 3.0, -1.0, 3.0])}
    for size in (1, 7):
        found = Sign().unlikelihood({"a": size * some["a"]}, shared)
        assert float(found) == pytest.approx((3 + 1 + 3) / 2 / 4), "two wrong signs, and what should have been zero"


def test_what_outpost_prunes_is_not_expected_though_its_noise_hides_where():
    given, defense = plain(), Outpost(noise=5.0, prune=0.5)
    shared = changed([defense], given).parameters
    bare = changed([Outpost(noise=0.0, prune=0.5)], given).parameters
    assert any((tensor != 0).sum() > (bare[name] != 0).sum() for name, tensor in shared.items()), "noise where it was pruned"
    assert same(Known((defense,)).expected(given, shared), bare)


BATCH = [TransformedPictures(), Mixup(alpha=1.0), InstaHide(pictures=2), LabelSmoothing(smoothing=0.2)]


@pytest.mark.parametrize("defense", BATCH, ids=repr)
def test_the_examples_of_a_draw_are_those_that_a_client_trains_on_with_that_draw(defense):
    batch = pictures()
    rows = torch.nn.functional.one_hot(batch.labels, 10).float()
    seen: list[Batch] = []
    model = network().eval()

    def compute(model, batch, rng):
        seen.append(batch)
        return Update({})

    defense.share(compute, model, SoftBatch(batch.images, rows), torch.Generator().manual_seed(5))
    images, labels = Known((defense,)).assuming(5).examples(batch.images.shape)(model, batch.images, rows)
    assert torch.equal(images, seen[0].images)
    assert torch.equal(labels, seen[0].labels)


def test_of_several_changes_of_the_examples_the_last_of_the_chain_is_made_first():
    chain = (TransformedPictures(policy=("invert",)), TransformedPictures(policy=({"name": "solarize", "strength": 0.5},)))
    image, rows = torch.full((1, 1, 4, 4), 0.8), torch.eye(10)[:1]
    seen: list[Batch] = []

    def compute(model, batch, rng):
        seen.append(batch)
        return Update({})

    chain[1].share(lambda m, b, r: chain[0].share(compute, m, b, r), network(), SoftBatch(image, rows), generator(0))
    images, _ = Known(chain).assuming(0).examples(image.shape)(network(), image, rows)
    assert torch.equal(images, seen[0].images)


def test_pictures_are_differentiated_through():
    image = torch.rand(2, 1, 8, 8, generator=generator("one")).requires_grad_()
    for defense in BATCH:
        images, _ = Known((defense,)).assuming(3).examples(image.shape)(network().eval(), image, torch.eye(10)[:2])
        (slope,) = torch.autograd.grad(images.square().sum(), image)
        assert float(slope.abs().max()) > 0.1


def test_what_is_shared_of_a_given_gradient_is_what_the_chain_makes_of_it():
    chain: tuple[Defense, ...] = (Mixup(alpha=1.0), MagnitudePruning(keep=0.2), GaussianNoise(std=0.1))
    batch, given = pictures(), plain()
    rows = torch.nn.functional.one_hot(batch.labels, 10).float()
    found = Known(chain).shared(given, network().eval(), batch.images, rows, 1.0, generator(0))
    assert same(found, changed(list(chain[1:]), given).parameters)
    private = Known((DPSGD(max_norm=1.0, noise_multiplier=0.0),))
    assert private.shared(given, network().eval(), batch.images, rows, 1.0, generator(0)).keys() == given.keys()


def test_it_travels_to_workers():
    known = Known((TransformedPictures(), Sign())).assuming(7)
    assert pickle.loads(pickle.dumps(known)) == known
