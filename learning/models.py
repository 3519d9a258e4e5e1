"""Image classifiers by name. Normalisation lives inside the model: every model takes pictures in [0, 1]."""

import itertools
import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, TypeAlias, cast

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from learning.catalogue import Count, NotNegative, chosen_from, settings
from learning.tensors import seeded

ImageShape: TypeAlias = tuple[int, int, int]
Activation = Literal["relu", "sigmoid", "tanh", "leaky-relu", "silu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "leaky-relu": nn.LeakyReLU,
    "silu": nn.SiLU,
}


class Normalize(nn.Module):
    """Pictures in [0, 1] to zero mean and unit scale, with one constant mean and deviation for all channels.

    The constants are not buffers: they are the model's, known to everybody, and no state of training.
    """

    def __init__(self, mean: float = 0.5, deviation: float = 0.25):
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return (images - self.mean) / self.deviation

    def extra_repr(self) -> str:
        return f"mean={self.mean}, deviation={self.deviation}"


class Architecture(ABC):
    """A classifier's settings. `build` gives the network for a picture's shape and a number of classes."""

    @abstractmethod
    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        """The network behind the normalisation, with PyTorch's own initialisation. Raises `ValueError` if it does not fit."""

    def normalization(self) -> Normalize:
        """What stands before the network."""
        return Normalize()

    def start(self, network: nn.Module, rng: torch.Generator) -> None:  # noqa: B027 (most models keep PyTorch's own)
        """Draws other initial weights than PyTorch's own, where the model's paper does."""

    def build(self, image_shape: ImageShape, classes: int, seed: int) -> nn.Module:
        """A new, untrained classifier. The same seed gives the same weights; the caller's random state is left as it was."""
        with seeded(seed):
            network = nn.Sequential()
            network.add_module("normalize", self.normalization())
            try:
                network.add_module("network", self.layers(image_shape, classes))
                self.start(network, torch.Generator().manual_seed(seed))
                with torch.no_grad():
                    network.eval()(torch.zeros(1, *image_shape))
            except (RuntimeError, MemoryError) as error:
                raise ValueError(
                    f"{self} cannot be built for pictures of shape {image_shape} ({str(error).splitlines()[0]}): "
                    f"choose a smaller or another model, or other pictures"
                ) from None
        return network


@settings
class MLP(Architecture):
    """Fully connected: `depth` hidden layers of `width` units. `bias` false leaves all biases out.

    `raw`: whether it sees pixels in [0, 1] as they are, and not normalised.
    """

    width: Count = 128
    depth: Annotated[int, Field(ge=0, le=1000)] = 1
    activation: Activation = "relu"
    bias: bool = True
    raw: bool = False

    def normalization(self) -> Normalize:
        return Normalize(mean=0.0, deviation=1.0) if self.raw else Normalize()

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        sizes = [math.prod(image_shape), *[self.width] * self.depth]
        hidden = [
            layer
            for inputs, outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs, self.bias), ACTIVATIONS[self.activation]())
        ]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes, self.bias))


@settings
class LeNet(Architecture):
    """The small LeNet of Deep Leakage from Gradients (Zhu et al. 2019): three 5x5 convolutions of 12 channels, one layer.

    `initial`: with "uniform" all weights and biases are drawn from U(-0.5, 0.5) as in that paper; "default" is PyTorch's own.
    """

    activation: Activation = "sigmoid"
    initial: Literal["uniform", "default"] = "uniform"

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        channels, height, width = image_shape
        body = nn.Sequential()
        for inputs, stride in ((channels, 2), (12, 2), (12, 1)):
            body.append(nn.Conv2d(inputs, 12, 5, padding=2, stride=stride)).append(ACTIVATIONS[self.activation]())
            height, width = -(-height // stride), -(-width // stride)
        return body.append(nn.Flatten()).append(nn.Linear(12 * height * width, classes))

    def normalization(self) -> Normalize:
        """What stands before the network."""
        return Normalize()

    def start(self, network: nn.Module, rng: torch.Generator) -> None:
        if self.initial == "uniform":
            for parameter in network.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5, generator=rng)


@settings
class LeNet5(Architecture):
    """LeNet-5 (LeCun et al. 1998) as label restoration uses it: 5x5 convolutions of 6 and 16 channels, each pooled by two.

    Then fully connected layers of 120 and 84 units, and the classes. Pictures of at least 16 pixels a side.
    """

    activation: Activation = "relu"

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        channels, height, width = image_shape
        if min(height, width) < 16:
            raise ValueError(
                f"lenet5 needs pictures of at least 16 pixels a side, not {height}x{width}: choose another model or larger "
                f"pictures"
            )
        unit = ACTIVATIONS[self.activation]
        height, width = ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2
        return nn.Sequential(
            *[nn.Conv2d(channels, 6, 5), unit(), nn.MaxPool2d(2)],
            *[nn.Conv2d(6, 16, 5), unit(), nn.MaxPool2d(2), nn.Flatten()],
            *[nn.Linear(16 * height * width, 120), unit(), nn.Linear(120, 84), unit(), nn.Linear(84, classes)],
        )


@settings
class ConvNet(Architecture):
    """The ConvNet of Inverting Gradients (Geiping et al. 2020): eight 3x3 convolutions with BatchNorm, two poolings by three.

    `width`: channels of the first convolution (64 in the paper); the others have two and four times as many.
    Pictures of at least 9 pixels a side.
    """

    width: Count = 64

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        channels, height, width = image_shape
        if min(height, width) < 9:
            raise ValueError(
                f"convnet pools twice by three and needs pictures of 9 pixels a side, not {height}x{width}: choose another "
                f"model or larger pictures"
            )
        plan = [1, 2, 2, 4, 4, 4, "pool", 4, 4, "pool"]
        body = nn.Sequential()
        for item in plan:
            if isinstance(item, str):
                body.append(nn.MaxPool2d(3))
                height, width = height // 3, width // 3
            else:
                outputs = item * self.width
                body.append(nn.Conv2d(channels, outputs, 3, padding=1)).append(nn.BatchNorm2d(outputs)).append(nn.ReLU())
                channels = outputs
        return body.append(nn.Flatten()).append(nn.Linear(channels * height * width, classes))


def _small(image_shape: ImageShape) -> bool:
    return max(image_shape[1:]) < 64


def _resnet(depth: Literal[18, 50], image_shape: ImageShape, classes: int) -> nn.Module:
    import torchvision  # a second of every worker's start that most models do not need

    network = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}[depth](num_classes=classes)
    if _small(image_shape):
        network.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    elif image_shape[0] != 3:
        network.conv1 = nn.Conv2d(image_shape[0], 64, 7, stride=2, padding=3, bias=False)
    return network


@settings
class ResNet18(Architecture):
    """torchvision's ResNet-18 (He et al. 2016); pictures under 64 pixels get a 3x3 stem with stride 1 and no pooling."""

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        return _resnet(18, image_shape, classes)


@settings
class ResNet50(Architecture):
    """torchvision's ResNet-50 (He et al. 2016); pictures under 64 pixels get a 3x3 stem with stride 1 and no pooling."""

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        return _resnet(50, image_shape, classes)


@settings
class VGG16(Architecture):
    """torchvision's VGG-16 with BatchNorm (Simonyan and Zisserman 2015).

    Pictures under 64 pixels keep the convolutions and get one pooled position before the fully connected layers of
    `hidden` units (4,096 in the paper); a pooling is left out where the picture has no pixel left to pool.
    """

    hidden: Count = 4096
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        from torchvision.models import vgg

        features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
        if image_shape[0] != 3:
            features[0] = nn.Conv2d(image_shape[0], 64, 3, padding=1)
        side = min(image_shape[1:])
        for index, layer in enumerate(features):
            if isinstance(layer, nn.MaxPool2d):
                if side < 2:
                    features[index] = nn.Identity()
                side //= 2
        positions = 1 if _small(image_shape) else 7
        classifier = nn.Sequential(
            *[nn.Linear(512 * positions**2, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)],
            *[nn.Linear(self.hidden, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)],
            nn.Linear(self.hidden, classes),
        )
        network = nn.Sequential()
        network.add_module("features", features)
        network.add_module("average", nn.AdaptiveAvgPool2d(positions))
        network.add_module("flatten", nn.Flatten())
        network.add_module("classifier", classifier)
        return network

    def normalization(self) -> Normalize:
        """What stands before the network."""
        return Normalize()

    def start(self, network: nn.Module, rng: torch.Generator) -> None:
        """torchvision's: He et al. 2015, by the number of outgoing connections."""
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=rng)
                nn.init.zeros_(cast(Tensor, module.bias))


class VariationalBottleneck(nn.Module):
    """Draws a code from a normal distribution that the features set, and makes features of it again: PRECODE's module.

    Code = mean + exp(log-variance / 2) * noise (Kingma and Welling 2014), the noise drawn anew for every example in every
    forward pass, in train mode and in eval mode alike, from PyTorch's global generator; one that is not `noisy` gives the
    mean. `encoded`: means and log-variances of the last forward pass.
    """

    noisy = True
    encoded: Float[Tensor, "batch twice_the_width"] | None = None

    def __init__(self, features: int, width: int, weight: float):
        super().__init__()
        self.weight = weight
        self.encoder, self.decoder = nn.Linear(features, 2 * width), nn.Linear(width, features)

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        encoded = self.encoded = self.encoder(features)
        mean, logarithm = encoded.chunk(2, 1)
        return self.decoder(mean + (logarithm / 2).exp() * torch.randn_like(mean) if self.noisy else mean)

    def divergence(self) -> Tensor | float:
        """`weight` times the mean divergence of the last codes from a standard normal (Kullback-Leibler, in nats)."""
        if self.encoded is None:
            return 0.0
        mean, logarithm = self.encoded.chunk(2, 1)
        return self.weight * ((mean.square() + logarithm.exp() - 1 - logarithm) / 2).sum(1).mean()

    def __getstate__(self) -> dict[str, object]:
        """A copy's: what a forward pass left cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "encoded"}


def bottlenecks(model: nn.Module) -> dict[str, VariationalBottleneck]:
    """The model's variational bottlenecks, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, VariationalBottleneck)}


def divergence(model: nn.Module) -> Tensor | float:
    """What the bottlenecks add to the loss of the forward pass just made; 0 where there are none."""
    return sum((module.divergence() for module in bottlenecks(model).values()), 0.0)


def without_noise(model: nn.Module) -> nn.Module:
    """The model itself, whose bottlenecks give their mean from now on."""
    for module in bottlenecks(model).values():
        module.noisy = False
    return model


@settings
class Precode(Architecture):
    """PRECODE (Scheliga et al. 2022, arXiv 2108.04725): `network` with a variational bottleneck before its last linear layer.

    `width`: entries of the code. `weight`: of the codes' divergence in the training loss. The last layer's name gets ".1",
    the bottleneck is ".0". The defense `precode` puts it into whatever model a study trains.
    """

    network: Annotated[Architecture, BeforeValidator(lambda value: chosen_from(MODELS)(value))]
    width: Count = 256
    weight: NotNegative = 1e-3

    def layers(self, image_shape: ImageShape, classes: int) -> nn.Module:
        network = self.network.layers(image_shape, classes)
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError(f"{self.network} has no linear layer for a bottleneck to stand before: choose another model")
        last = network.get_submodule(linear[-1])
        assert isinstance(last, nn.Linear)
        parent, _, name = linear[-1].rpartition(".")
        bottleneck = VariationalBottleneck(last.in_features, self.width, self.weight)
        setattr(network.get_submodule(parent), name, nn.Sequential(bottleneck, last))
        return network

    def normalization(self) -> Normalize:
        """What stands before the network."""
        return Normalize()

    def start(self, network: nn.Module, rng: torch.Generator) -> None:
        """The network's own start; the bottleneck keeps PyTorch's."""
        kept = {name: module.state_dict() for name, module in bottlenecks(network).items()}
        kept = {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in kept.items()}
        self.network.start(network, rng)
        for name, state in kept.items():
            network.get_submodule(name).load_state_dict(state)


MODELS: dict[str, type[Architecture]] = {
    "mlp": MLP,
    "lenet": LeNet,
    "lenet5": LeNet5,
    "convnet": ConvNet,
    "vgg16": VGG16,
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "precode": Precode,
}


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the model normalises by statistics of the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
