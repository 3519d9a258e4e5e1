"""Pictures with black pixels come back to the bit, on trained networks after local epochs too; what is certified is right."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import NotApplicable, Reconstruction
from attacks.directions.extreme import Answer
from attacks.directions.layers import entry, tail
from attacks.exact import ExtremePoints
from attacks.labels.last_layer import parameters_at
from learning.data import Digits, pictures_of
from learning.models import MLP, ConvNet, LeNet5, Normalize
from learning.tensors import Batch, generator
from learning.training import Training
from tests.attacks.test_labels import counts, observe, random_batch, restored

DIGITS = pictures_of(Digits()).train
LOCAL = Training(shared="delta", batch_size=2, epochs=10, learning_rate=0.05, momentum=0.5)


def digits(size: int, seed: int, side: int = 8) -> Batch:
    """Digits in a black frame, where the side is larger than eight pixels."""
    batch = DIGITS.batch(torch.randperm(len(DIGITS), generator=generator("digits", seed))[:size])
    margin = (side - 8) // 2
    return Batch(functional.pad(batch.images, (margin, side - 8 - margin) * 2), batch.labels)


def trained(model: nn.Module, steps: int, side: int = 8) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        batch = digits(64, step, side)
        optimizer.zero_grad()
        functional.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def there(found: Reconstruction, batch: Batch) -> Tensor:
    """Which of the restored pictures are true ones, in every bit that 256 levels can tell."""
    assert found.images is not None
    return (found.images[:, None] - batch.images[None]).abs().flatten(2).amax(2).amin(1) < 1e-6


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "leaky-relu"])
def test_a_batch_comes_back_to_the_bit_whatever_the_activation(activation):
    for seed in range(3):
        batch = digits(6, seed)
        model = MLP(width=64, depth=2, activation=activation).build((1, 8, 8), 10, seed)
        found = ExtremePoints().reconstruct(observe(model, batch), generator(seed))
        assert found.certified is not None
        assert found.certified.all(), found.verdict
        assert there(found, batch).all()
        assert found.identifiable
        assert restored(found.labels) == counts(batch.labels)


@pytest.mark.parametrize("share", [0.03, 0.9])
@pytest.mark.parametrize("size", [1, 6])
def test_a_clipped_update_gives_the_pictures_all_the_same(share, size):
    for seed in range(3):
        batch = digits(size, seed)
        observation = observe(MLP(width=64).build((1, 8, 8), 10, seed), batch)
        clipped = replace(observation, update=observation.update.map(lambda tensor: share * tensor))
        found = ExtremePoints().reconstruct(clipped, generator(seed))
        assert found.certified is not None
        assert found.certified.all(), found.verdict
        assert there(found, batch).all()
        assert restored(found.labels) == counts(batch.labels)


def test_a_trained_network_gives_away_what_it_is_not_sure_of():
    for seed in range(3):
        model = trained(MLP(width=64).build((1, 8, 8), 10, seed), 100)
        batch = digits(8, 1000 + seed)
        with torch.no_grad():
            sure = torch.softmax(model(batch.images), 1)[torch.arange(8), batch.labels]
        found = ExtremePoints().reconstruct(observe(model, batch), generator(seed))
        assert found.certified is not None
        assert there(found, batch)[found.certified].all()
        assert found.certified.sum() >= (sure < 0.999).sum()


def test_ten_local_epochs_with_momentum_hide_nothing():
    for seed in range(3):
        batch = digits(6, seed)
        found = ExtremePoints().reconstruct(observe(MLP(width=64).build((1, 8, 8), 10, seed), batch, LOCAL), generator(seed))
        assert found.certified is not None
        assert found.certified.all(), found.verdict
        assert there(found, batch).all()
        assert restored(found.labels) == counts(batch.labels)


def test_pictures_that_the_model_normalises_come_back_as_they_were():
    batch = digits(6, 0)
    model = nn.Sequential(Normalize(mean=0.3, deviation=0.2), MLP(width=64).build((1, 8, 8), 10, 0))
    found = ExtremePoints().reconstruct(observe(model, batch), generator(0))
    assert there(found, batch).all()


def test_features_behind_convolutions_tell_the_labels():
    for seed in range(3):
        batch = digits(8, seed, side=28)
        found = ExtremePoints().reconstruct(observe(LeNet5().build((1, 28, 28), 10, seed), batch), generator(seed))
        assert found.images is None
        assert "8 of 8 examples" in found.verdict
        assert "behind other layers" in found.verdict
        assert restored(found.labels) == counts(batch.labels)


def test_the_model_that_was_reached_answers_alike_by_its_layers_and_as_a_whole():
    model, batch = trained(MLP(width=64).build((1, 8, 8), 10, 0), 50), digits(8, 1)
    seen = observe(model, batch, Training(shared="delta", batch_size=4, epochs=3, learning_rate=0.5))
    sent, reached = None, parameters_at(seen, 1.0)
    pixels = batch.images[0].flatten().double()
    slopes = [[Answer(seen, end, at).slopes(pixels) for end in (tail(seen), entry(seen))] for at in (sent, reached)]
    for layers, whole in slopes:
        torch.testing.assert_close(layers, whole)
    assert (slopes[0][0] - slopes[1][0]).abs().max() > 1e-3


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 1e-1])
def test_what_is_certified_under_noise_is_right(noise):
    for seed in range(3):
        batch = digits(6, seed)
        seen = observe(MLP(width=64).build((1, 8, 8), 10, seed), batch)
        rng = generator("noise", seed)
        for tensor in seen.update.parameters.values():
            tensor += noise * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=rng)
        found = ExtremePoints(tries=16).reconstruct(seen, generator(seed))
        assert found.certified is not None
        assert there(found, batch)[found.certified].all()
        assert found.labels is not None
        assert found.labels.sum() == 6


def test_pictures_without_black_or_white_are_not_found_and_nothing_is_claimed():
    batch = random_batch(20, 0, (1, 8, 8))
    grey = Batch(0.25 + 0.5 * batch.images, batch.labels)
    found = ExtremePoints(tries=8).reconstruct(observe(MLP(width=64).build((1, 8, 8), 10, 0), grey), generator(0))
    assert found.certified is not None
    assert not found.certified.any()
    assert found.identifiable is False


def test_a_batch_larger_than_the_layer_is_no_reason_to_fail():
    batch = digits(40, 0)
    found = ExtremePoints(tries=4).reconstruct(observe(MLP(width=32).build((1, 8, 8), 10, 0), batch), generator(0))
    assert found.certified is not None
    assert there(found, batch)[found.certified].all()
    assert found.labels is not None
    assert len(found.labels) == 40


@pytest.mark.parametrize(
    ("architecture", "shape", "training", "said"),
    [
        (MLP(width=64, bias=False), (1, 8, 8), Training(), "has no bias"),
        (ConvNet(width=2), (3, 9, 9), Training(), "ReLU feeds no hidden linear layer"),
        (LeNet5(), (1, 28, 28), LOCAL, "several local steps moved the layers"),
    ],
)
def test_what_it_cannot_do_is_said_in_a_sentence(architecture, shape, training, said):
    model = architecture.build(shape, 10, 0)
    with pytest.raises(NotApplicable, match=said):
        ExtremePoints().reconstruct(observe(model, random_batch(4, 0, shape), training), generator(0))
