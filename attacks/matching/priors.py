"""What is known of pictures before looking at the gradient."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.attack import Observation
from learning.tensors import Tensors

SMOOTH = 0.2  # total variation's weight where none is set, as a share of the distance at the first start
CROWDED = 0.1  # pixels for each entry of a gradient, from which that weight grows
SEEN = 0.01  # of that weight, where a linear layer sees the pictures


def total_variation(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbouring pixels, downwards plus sideways (anisotropic). Zero for a constant picture.

    A picture that is one pixel high or wide has no neighbours that way, and they count as zero.
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().sum() / max(images[:, :, 1:].numel(), 1)
    aside = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().sum() / max(images[:, :, :, 1:].numel(), 1)
    return down + aside


def variation_weight(given: float | None, distance: Callable[[Tensors], Tensor], starts: Tensors, crowd: float = 1.0) -> float:
    """The weight of total variation that was given, or else a fifth of the first start's distance, times the `crowd`.

    `starts`: the stacked variables of which `distance` takes one restart's. An untrained ConvNet's cosine distance is 0.005 at
    grey pictures and LeNet's 0.2: a weight that is right for the one drowns the other's gradient.
    """
    if given is not None:
        return given
    return SMOOTH * crowd * distance({name: tensor[0] for name, tensor in starts.items()}).item()


def crowding(images: Float[Tensor, "batch channels height width"], shared: Tensors, layers: Sequence[nn.Module]) -> float:
    """How much more the smoothness of a batch should weigh, by what one gradient says of each pixel.

    `layers`: the victim's convolutions and linear layers, in the order in which they run. Where the first is linear and sees
    whole pictures, its gradient holds the pictures themselves, each pixel once for every unit, and a hundredth is enough: four
    pictures of MNIST come to 34 dB for 16, and behind noise of three times the gradient's size to 12 for 10. Elsewhere it is
    at least one: pixels for each entry of the shared gradient, in tenths, up to the number of pictures. The last linear layer
    is not counted, for it says what the network makes of the pictures: eight for eight of CIFAR behind LeNet, where 8,146
    entries are left for their 24,576 pixels, and one behind a ConvNet of 2.9 million.
    """
    if layers and isinstance(layers[0], nn.Linear) and layers[0].in_features == images[0].numel():
        return SEEN
    entries = sum(tensor.numel() for tensor in shared.values())
    if layers and isinstance(layers[-1], nn.Linear):
        entries -= sum(parameter.numel() for parameter in layers[-1].parameters())
    return min(float(len(images)), max(1.0, images.numel() / max(entries, 1) / CROWDED))


def colour_variation(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
    """Total variation of what the channels differ by: edges are mostly of brightness. Zero for one channel."""
    return total_variation(images[:, 1:] - images[:, :-1]) if images.shape[1] > 1 else images.sum() * 0


def label_entropy(rows: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Mean entropy of rows of class probabilities, in nats: zero where every row is certain."""
    return torch.special.entr(rows).sum(-1).mean()


def outside(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
    """Mean squared way that pixels are outside [0, 1]; zero for pictures."""
    return (images - images.clamp(0, 1)).square().mean()


def start(
    observation: Observation, spread: float, rng: torch.Generator, uniform: bool = False
) -> Float[Tensor, "batch channels height width"]:
    """Starting pictures: independent pixels around mid-grey with that standard deviation, not cut to [0, 1].

    Normal, or uniform: with a spread of 0.289 over all of [0, 1]. Drawn on the CPU in float32, so that they are the same on
    every device.
    """
    shape = (observation.examples, *observation.image_shape)
    if uniform:
        return 0.5 + spread * 12**0.5 * (torch.rand(shape, generator=rng) - 0.5)
    return 0.5 + spread * torch.randn(shape, generator=rng)


def starts(
    observation: Observation, spread: float, restarts: int, rng: torch.Generator, uniform: bool = False
) -> Float[Tensor, "restarts batch channels height width"]:
    """So many of them, drawn one after the other and cut to [0, 1]."""
    return torch.stack([start(observation, spread, rng, uniform) for _ in range(restarts)]).clamp(0, 1)
