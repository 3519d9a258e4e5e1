"""Soft labels: exact for smoothed, mixed and hard labels alike.

Nothing says which it is, and no truth is asked (a peer's code accepts a root only if it is near the true one: D24).
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks import NotApplicable, Observation
from attacks.labels import AutoLabels, SoftLabels
from learning.models import MLP, LeNet, LeNet5, ResNet18
from learning.tensors import Update, generator
from learning.training import Training
from tests.attacks.test_labels import observe, random_batch


def soft_label(kind: str, classes: int, seed: int) -> Tensor:
    rng = generator(kind, classes, seed)
    first, second = torch.randperm(classes, generator=rng)[:2]
    share, label = float(torch.rand((), generator=rng)), torch.zeros(classes)
    if kind in ("smoothing", "both"):
        label += share / 2 / classes
    if kind in ("mixup", "both"):
        other = float(torch.rand((), generator=rng))
        label[first] += (1 - label.sum()) * other
    if kind == "hard" or kind == "smoothing":
        label[first] += 1 - label.sum()
    else:
        label[second] += 1 - label.sum()
    return label


def without_bias(model: nn.Module) -> nn.Module:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.bias = None
    return model.eval()


def seen(model: nn.Module, image: Tensor, label: Tensor) -> Observation:
    """An update of the last layer alone, from one example with a soft label."""
    loss = functional.cross_entropy(model(image), label[None])
    names = [name for name, p in model.named_parameters() if p.ndim == 2][-1:]
    names += [name for name, p in model.named_parameters() if name == names[0].replace("weight", "bias")]
    gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    return Observation(
        round=0, client=0, model=model, update=Update(dict(zip(names, gradients, strict=True))), training=Training(),
        examples=1, image_shape=(3, 16, 16), classes=len(label),
    )  # fmt: skip


def image(seed: int) -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=generator("image", seed))


@pytest.mark.parametrize("kind", ["smoothing", "mixup", "both", "hard"])
@pytest.mark.parametrize("classes", [5, 10, 100])
def test_labels_are_exact_without_a_bias(kind, classes):
    model = without_bias(LeNet5().build((3, 16, 16), classes, 0))
    for seed in range(40):
        label = soft_label(kind, classes, seed)
        found = SoftLabels().reconstruct(seen(model, image(seed), label), generator(0))
        assert found.labels is not None
        assert (found.labels[0] - label).abs().max() <= 1e-5
        assert found.identifiable
        assert found.certified is not None
        assert found.certified.tolist() == [True]
        assert found.verdict == ""


@pytest.mark.parametrize("kind", ["smoothing", "mixup", "hard"])
def test_labels_are_exact_with_a_bias(kind):
    model = MLP().build((3, 16, 16), 10, 0).eval()
    for seed in range(20):
        label = soft_label(kind, 10, seed)
        found = SoftLabels().reconstruct(seen(model, image(seed), label), generator(0)).labels
        assert found is not None
        assert (found[0] - label).abs().max() <= 1e-5


@pytest.mark.parametrize("share", [1e-3, 0.3, 0.9])
def test_a_hard_label_behind_clipping_is_hard(share):
    """Its errors would else be a soft label's, and of the wrong class wherever the model is wrong."""
    model = MLP().build((3, 16, 16), 10, 0).eval()
    for seed in range(20):
        label = soft_label("hard", 10, seed)
        clipped = seen(model, image(seed), label)
        clipped = replace(clipped, update=clipped.update.map(lambda tensor: share * tensor))
        for attack in (SoftLabels(), AutoLabels()):
            found = attack.reconstruct(clipped, generator(0)).labels
            assert found is not None
            assert found[0].equal(label)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smoothing", "mixup"])
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_labels_are_exact_on_a_deep_network(kind, classes):
    model = without_bias(ResNet18().build((3, 16, 16), classes, 0))
    for seed in range(50):
        label = soft_label(kind, classes, seed)
        found = SoftLabels().reconstruct(seen(model, image(seed), label), generator(0)).labels
        assert found is not None
        assert (found[0] - label).abs().max() <= 1e-5


def test_the_false_hard_label_at_large_scale_is_not_taken():
    """As the unknown factor grows every label turns hard: a confident model makes that look like an answer."""
    model = without_bias(LeNet5().build((3, 16, 16), 10, 0))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(2.5)
    for seed in range(40):
        label = soft_label("mixup", 10, seed)
        found = SoftLabels().reconstruct(seen(model, image(seed), label), generator(0)).labels
        assert found is not None
        assert (found[0] - label).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["smoothing", "mixup", "hard"])
@pytest.mark.parametrize(("classes", "scale", "exact"), [(10, 2, 2e-6), (1000, 3, 1e-5)])
def test_labels_are_exact_where_few_classes_have_any_probability(kind, classes, scale, exact):
    """Most entries then say next to nothing of the unknown factor, and it must be read off the few that do."""
    model = without_bias(LeNet().build((3, 16, 16), classes, 0))
    with torch.no_grad():
        [module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight.mul_(scale)
    for seed in range(30):
        label = soft_label(kind, classes, seed)
        found = SoftLabels().reconstruct(seen(model, image(seed), label), generator(0)).labels
        assert found is not None
        assert (found[0] - label).abs().max() <= exact


def test_a_broken_necessary_condition_is_told():
    model = without_bias(LeNet5().build((3, 16, 16), 10, 0))
    observation = seen(model, image(0), soft_label("mixup", 10, 0))
    shifted = replace(observation, update=observation.update.map(lambda t: t + 0.01))
    found = SoftLabels().reconstruct(shifted, generator(0))
    assert found.identifiable is False
    assert found.certified is not None
    assert found.certified.tolist() == [False]
    assert "sum to" in found.verdict
    (gradient,) = observation.update.parameters.values()
    other = torch.randn(gradient.shape, generator=generator(1)) * gradient.abs().max()
    mixed = replace(observation, update=observation.update.map(lambda t: t + other - other.mean(0)))
    assert "rank one" in SoftLabels().reconstruct(mixed, generator(0)).verdict


def test_what_it_cannot_do_is_refused():
    model = MLP(bias=False).build((1, 8, 8), 10, 0)
    with pytest.raises(NotApplicable, match="used 2"):
        SoftLabels().reconstruct(observe(model, random_batch(2)), generator(0))
    several = Training(shared="delta", steps=3)
    with pytest.raises(NotApplicable, match="made 3"):
        SoftLabels().reconstruct(observe(model, random_batch(1), several), generator(0))
    few = seen(without_bias(LeNet5().build((3, 16, 16), 4, 0)), image(0), soft_label("hard", 4, 0))
    with pytest.raises(NotApplicable, match="at least 5 classes"):
        SoftLabels().reconstruct(few, generator(0))
    one = observe(model, random_batch(1))
    nothing = replace(one, update=one.update.map(torch.zeros_like))
    with pytest.raises(NotApplicable, match="zero or not finite"):
        SoftLabels().reconstruct(nothing, generator(0))
