"""Image classifiers by name."""

import copy
import functools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learning.models import (
    ACTIVATIONS,
    MLP,
    MODELS,
    VGG16,
    Architecture,
    ConvNet,
    LeNet,
    Normalize,
    Precode,
    ResNet18,
    bottlenecks,
    divergence,
    has_batch_norm,
    without_noise,
)
from learning.tensors import generator

LIGHT: dict[str, Architecture] = {name: cls() for name, cls in MODELS.items() if name != "precode"} | {
    "vgg16": VGG16(hidden=64),
    "convnet": ConvNet(width=8),
    "precode": Precode(network=LeNet(), width=16),
}
SMALLEST = {"convnet": 9, "lenet5": 16}
SHAPES = [((1, 8, 8), 10), ((1, 28, 28), 100), ((3, 32, 32), 10), ((3, 32, 32), 100)]


@functools.cache
def built(name: str, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """A model that tests share; none of them may change it."""
    return LIGHT[name].build(fitting(name, shape), classes, seed)


def fitting(name: str, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape, or the smallest that the model takes."""
    return shape[0], *(max(side, SMALLEST.get(name, 1)) for side in shape[1:])


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@pytest.mark.parametrize(("shape", "classes"), SHAPES)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_scores_pictures_between_zero_and_one(name, shape, classes, untouched_random_state):
    model = without_noise(copy.deepcopy(built(name, shape, classes, 0))).eval()
    images = torch.rand(3, *fitting(name, shape), generator=generator("pictures"))
    images[1], images[2] = 0, 1
    scores = model(images)
    assert scores.shape == (3, classes)
    assert torch.isfinite(scores).all()
    assert not torch.equal(scores[0], scores[1]), "the picture matters"
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_another_seed_gives_other_weights(name):
    one, other = state(built(name, (1, 8, 8), 10, 0)), state(built(name, (1, 8, 8), 10, 1))
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        constant = bool((tensor == tensor.flatten()[0]).all())  # BatchNorm begins at 0 and 1
        assert constant or not torch.equal(tensor, other[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_alone_decides_and_the_callers_random_state_does_not_move(name):
    one = state(built(name, (1, 8, 8), 10, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        again = state(LIGHT[name].build(fitting(name, (1, 8, 8)), 10, 0))
        after = torch.get_rng_state()
        torch.manual_seed(12345)
        assert torch.equal(after, torch.get_rng_state())
    assert all(torch.equal(tensor, one[key]) for key, tensor in again.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_new_model_has_not_seen_a_picture(name):
    for key, tensor in state(built(name, (3, 32, 32), 10, 0)).items():
        if key.endswith("running_mean"):
            assert not tensor.any()
        if key.endswith("running_var"):
            assert torch.equal(tensor, torch.ones_like(tensor))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7), (1, 8, 8), (4, 3, 40)])
def test_a_size_is_taken_or_refused_with_the_remedy(name, shape):
    if min(shape[1:]) >= SMALLEST.get(name, 1):
        assert LIGHT[name].build(shape, 7, 0).eval()(torch.rand(2, *shape)).shape == (2, 7)
    else:
        with pytest.raises(ValueError, match="choose another model or larger pictures"):
            LIGHT[name].build(shape, 7, 0)


def test_convnet_takes_nine_pixels_and_not_eight():
    assert ConvNet(width=2).build((1, 9, 9), 10, 0)
    with pytest.raises(ValueError, match="needs pictures of 9 pixels a side, not 9x8"):
        ConvNet(width=2).build((1, 9, 8), 10, 0)


@pytest.mark.parametrize("model", [MLP(width=2**31 - 1), VGG16(hidden=2**31 - 1)], ids=["mlp", "vgg16"])
def test_a_model_that_does_not_fit_into_memory_is_refused(model, untouched_random_state):
    with pytest.raises(ValueError, match=r"cannot be built for pictures of shape .*choose a smaller or another model"):
        model.build((3, 32, 32), 10, 0)


def test_a_model_that_does_not_take_its_pictures_is_refused():
    class Wrong(Architecture):
        def layers(self, image_shape, classes):
            return nn.Linear(3, classes)

    with pytest.raises(ValueError, match=r"cannot be built for pictures of shape \(1, 8, 8\)"):
        Wrong().build((1, 8, 8), 10, 0)


def test_normalisation_is_inside_and_no_state():
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    assert Normalize()(images).flatten().tolist() == [-2, 0, 2]
    assert not Normalize().state_dict()
    model = MLP(depth=0).build((1, 1, 3), 2, 0)
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
    expected = (images.flatten() - 0.5) / 0.25 @ linear.weight.T + linear.bias
    assert torch.allclose(model(images).flatten(), expected)


@given(
    width=st.integers(1, 20),
    depth=st.integers(0, 4),
    activation=st.sampled_from(list(ACTIVATIONS)),
    bias=st.booleans(),
    classes=st.integers(2, 12),
)
def test_an_mlp_has_the_depth_width_and_biases_it_was_told(width, depth, activation, bias, classes):
    model = MLP(width=width, depth=depth, activation=activation, bias=bias).build((1, 4, 5), classes, 0)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in linear] == [20, *[width] * depth]
    assert [layer.out_features for layer in linear] == [*[width] * depth, classes]
    assert all((layer.bias is not None) == bias for layer in linear)
    assert sum(isinstance(module, ACTIVATIONS[activation]) for module in model.modules()) == depth


def test_lenet_begins_as_in_the_paper():
    weights = torch.cat([p.detach().flatten() for p in LeNet().build((3, 32, 32), 100, 0).parameters()])
    assert weights.abs().max() <= 0.5
    assert weights.abs().max() > 0.499
    assert float(weights.var()) == pytest.approx(1 / 12, rel=0.02)  # of 85,000 uniform draws
    usual = torch.cat([p.detach().flatten() for p in LeNet(initial="default").build((3, 32, 32), 100, 0).parameters()])
    assert usual.abs().max() < 0.2


def test_lenet_is_the_papers():
    """Zhu et al. 2019: three 5x5 convolutions of 12 channels with strides 2, 2, 1, and 768 features for 32x32."""
    model = LeNet().build((3, 32, 32), 100, 0)
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 4] == [(12, 3, 5, 5), (12, 12, 5, 5), (12, 12, 5, 5)]
    assert next(module for module in model.modules() if isinstance(module, nn.Linear)).in_features == 768


def test_convnet_is_the_papers():
    """Geiping et al. 2020: channels 64 times 1, 2, 2, 4, 4, 4, 4, 4, and 2,304 features for 32x32."""
    model = ConvNet().build((3, 32, 32), 10, 0)
    assert [p.shape[0] // 64 for p in model.parameters() if p.ndim == 4] == [1, 2, 2, 4, 4, 4, 4, 4]
    assert next(module for module in model.modules() if isinstance(module, nn.Linear)).in_features == 2304


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.7), pytest.param("resnet50", 25.6, marks=pytest.mark.slow)])
def test_resnets_have_the_papers_size(name, millions):
    model = MODELS[name]().build((3, 64, 64), 1000, 0)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_small_pictures_get_a_stem_that_keeps_their_pixels(name):
    small = MODELS[name]().build((1, 32, 32), 10, 0)
    large = MODELS[name]().build((1, 64, 64), 10, 0)
    first = [next(m for m in model.modules() if isinstance(m, nn.Conv2d)) for model in (small, large)]
    assert [(conv.kernel_size, conv.stride) for conv in first] == [((3, 3), (1, 1)), ((7, 7), (2, 2))]
    assert not any(isinstance(m, nn.MaxPool2d) for m in small.modules())
    assert any(isinstance(m, nn.MaxPool2d) for m in large.modules())


def test_vggs_dropout_is_the_one_it_was_told():
    model = VGG16(hidden=8, dropout=0.25).build((3, 32, 32), 10, 0)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize("name", MODELS)
def test_batch_norm_is_told(name):
    assert has_batch_norm(built(name, (1, 8, 8), 10, 0)) == (name not in ("mlp", "lenet", "lenet5", "precode"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_large_models_take_224_pixels(name):
    model = MODELS[name]().build((3, 224, 224), 1000, seed=0).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 224, 224, generator=generator("large"))).shape == (1, 1000)


def test_vgg16_begins_as_torchvisions():
    """He et al. 2015 by fan out: a 3x3 convolution to c channels has variance 2 / (9 c), and no bias."""
    model = built("vgg16", (3, 32, 32), 10, 0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert float(module.weight.detach().var()) == pytest.approx(2 / (9 * module.out_channels), rel=0.15)
            assert not module.bias.detach().any()  # pyright: ignore


@pytest.mark.slow
def test_vgg16_has_the_papers_size():
    """138,357,544 parameters (Simonyan and Zisserman 2015, configuration D), and 8,448 of BatchNorm."""
    assert sum(p.numel() for p in VGG16().build((3, 224, 224), 1000, 0).parameters()) == 138_357_544 + 8448


def test_models_that_are_built_in_two_threads_at_once_have_their_own_weights():
    """A server builds the next federation's model while its attacks rebuild the last one's."""
    alone = {seed: MLP(width=64).build((1, 8, 8), 10, seed) for seed in range(2)}
    with ThreadPoolExecutor(2) as executor:
        built = list(executor.map(lambda i: (i % 2, MLP(width=64).build((1, 8, 8), 10, i % 2)), range(200)))
    for seed, model in built:
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, alone[seed].get_parameter(name))


# PRECODE


def test_a_bottleneck_stands_before_the_last_linear_layer_and_the_rest_begins_as_it_did():
    model = Precode(network=ResNet18(), width=8).build((3, 16, 16), 10, 0)
    assert list(bottlenecks(model)) == ["network.fc.0"]
    assert isinstance(model.get_submodule("network.fc.1"), nn.Linear)
    lenet = Precode(network=LeNet(), width=8).build((1, 12, 12), 10, 0)
    assert float(lenet.get_parameter("network.0.weight").detach().abs().max()) > 0.4, "as the paper of DLG draws it"
    assert float(lenet.get_parameter("network.7.0.decoder.weight").detach().abs().max()) <= 8**-0.5, "as PyTorch draws it"


def test_codes_are_drawn_in_every_pass_and_have_the_deviation_that_was_told():
    module = bottlenecks(LIGHT["precode"].build((1, 8, 8), 10, 0))["network.7.0"]
    with torch.no_grad():
        module.decoder.weight.copy_(torch.eye(*module.decoder.weight.shape))
        module.decoder.bias.zero_()
        module.encoder.weight.zero_()
        module.encoder.bias.copy_(torch.cat([torch.full((16,), 3.0), torch.full((16,), math.log(0.25))]))
        found = module(torch.zeros(4000, module.encoder.in_features))[:, :16]
    assert float(found.mean()) == pytest.approx(3, abs=0.01)
    assert float(found.std()) == pytest.approx(0.5, abs=0.01)
    without_noise(module)
    assert torch.equal(module(torch.zeros(1, module.encoder.in_features))[:, :16], torch.full((1, 16), 3.0))


def test_the_divergence_is_that_of_the_codes_from_the_standard_normal_distribution():
    model = LIGHT["precode"].build((1, 8, 8), 10, 0)
    module = bottlenecks(model)["network.7.0"]
    images = torch.rand(3, 1, 8, 8)
    seen: list[torch.Tensor] = []
    module.encoder.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(images)
    mean, logarithm = seen[0].chunk(2, 1)
    codes = torch.distributions.Normal(mean, (logarithm / 2).exp())
    expected = torch.distributions.kl_divergence(codes, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert divergence(model) == pytest.approx(1e-3 * expected.item(), rel=1e-5)
    assert divergence(LeNet().build((1, 8, 8), 10, 0)) == 0


def test_a_model_that_was_run_can_be_copied():
    model = LIGHT["precode"].build((1, 8, 8), 10, 0)
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert all(torch.equal(tensor, state(again)[key]) for key, tensor in state(model).items())
