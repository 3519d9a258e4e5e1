"""One example is solved for exactly, from hard, smoothed and mixed labels, with biases and without."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import NotApplicable, Observation
from attacks.exact import Linear
from learning.models import MLP, LeNet
from learning.tensors import Update, generator
from learning.training import Training
from tests.attacks.test_labels import observe, random_batch
from tests.attacks.test_soft_labels import soft_label

SHAPE = (3, 16, 16)


def seen(model: nn.Module, picture: Tensor, label: Tensor) -> Observation:
    loss = functional.cross_entropy(model(picture), label[None])
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return Observation(
        round=0, client=0, model=model, update=Update(dict(zip(parameters, gradients, strict=True))), training=Training(),
        examples=1, image_shape=SHAPE, classes=len(label),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["hard", "smoothing", "mixup"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "silu"])
def test_a_bias_gives_picture_and_label_behind_any_activation(kind, activation):
    for seed in range(5):
        model = MLP(width=64, depth=2, activation=activation).build(SHAPE, 10, seed).double()
        picture = torch.rand(1, *SHAPE, generator=generator("picture", seed), dtype=torch.float64)
        label = soft_label(kind, 10, seed).double()
        found = Linear().reconstruct(seen(model, picture, label), generator(0))
        assert found.images is not None
        assert found.labels is not None
        assert found.certified is not None
        assert (found.images - picture).abs().max() < 1e-9
        assert (found.labels[0] - label).abs().max() < 1e-6
        assert found.certified.all(), found.verdict


@pytest.mark.parametrize("kind", ["hard", "smoothing", "mixup"])
def test_without_biases_the_whole_network_is_walked_back(kind):
    """FCN-4 of Wang et al. 2024, narrower: the error left is that of a label in float32."""
    for seed in range(5):
        model = MLP(width=64, depth=3, bias=False).build(SHAPE, 10, seed).double()
        picture = torch.rand(1, *SHAPE, generator=generator("picture", seed), dtype=torch.float64)
        found = Linear().reconstruct(seen(model, picture, soft_label(kind, 10, seed).double()), generator(0))
        assert found.images is not None
        assert (found.images - picture).abs().max() < 1e-4


@pytest.mark.parametrize("share", [0.03, 0.9])
def test_a_clipped_update_of_a_hard_label_gives_both_all_the_same(share):
    for seed in range(5):
        model = MLP(width=64).build(SHAPE, 10, seed).double()
        picture = torch.rand(1, *SHAPE, generator=generator("picture", seed), dtype=torch.float64)
        label = soft_label("hard", 10, seed).double()
        whole = seen(model, picture, label)
        clipped = replace(whole, update=whole.update.map(lambda tensor: share * tensor))
        found = Linear().reconstruct(clipped, generator(0))
        assert found.images is not None
        assert found.certified is not None
        assert (found.images - picture).abs().max() < 1e-9
        assert found.labels is not None
        assert found.labels[0].equal(label.float())
        assert found.certified.all(), found.verdict


def test_what_it_cannot_do_is_said():
    with pytest.raises(NotApplicable, match="client used 2"):
        Linear().reconstruct(observe(MLP().build(SHAPE, 10, 0), random_batch(2, shape=SHAPE)), generator(0))
    with pytest.raises(NotApplicable, match="the first layer is Conv2d"):
        Linear().reconstruct(observe(LeNet().build(SHAPE, 10, 0), random_batch(1, shape=SHAPE)), generator(0))
    delta = Training(shared="delta", batch_size=1, epochs=2)
    with pytest.raises(NotApplicable, match="made 2"):
        Linear().reconstruct(observe(MLP().build(SHAPE, 10, 0), random_batch(1, shape=SHAPE), delta), generator(0))
    model = MLP(bias=False, activation="sigmoid").build(SHAPE, 10, 0)
    with pytest.raises(NotApplicable, match="without biases"):
        Linear().reconstruct(observe(model, random_batch(1, shape=SHAPE)), generator(0))
