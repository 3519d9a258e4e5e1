"""Group consistency by registration (GradInversion, Yin et al. 2021, section 3.4): several seeds draw each other together.

The paper averages the seeds' pictures, registers each to the average and averages again; its registration is a learned flow.
Here it is translation by phase correlation (Kuglin and Hines 1975), in whole pixels and around the edge, which is what seeds
of a convolutional network differ by; and a seed that shows something else after registration is left out of the group.
"""

import torch
from jaxtyping import Float
from torch import Tensor

ALIKE = 0.5  # correlation after registration from which two pictures count as the same
FARTHEST = 0.25  # share of a side that a picture may be shifted


def consensus(
    images: Float[Tensor, "seeds batch channels height width"],
) -> Float[Tensor, "seeds batch channels height width"]:
    """What every seed's pictures should come to, one by one: the mean of the registered group, or itself outside of it.

    The group of a picture is the seed that the others resemble most, and those that resemble it; it stands where its members
    stand on average. Identical seeds are their own consensus, and so are seeds of which no two are alike.
    """
    return torch.stack([_of_one(images[:, index]) for index in range(images.shape[1])], 1)


def _of_one(pictures: Float[Tensor, "seeds channels height width"]) -> Float[Tensor, "seeds channels height width"]:
    seeds = len(pictures)
    pairs = [[registered(pictures[a], pictures[b]) for a in range(seeds)] for b in range(seeds)]  # a onto b
    likeness = torch.stack([torch.stack([correlation(pair[0], pictures[b]) for pair in pairs[b]]) for b in range(seeds)])
    middle = int(likeness.sum(1).argmax())
    group = [seed for seed in range(seeds) if seed == middle or likeness[middle, seed] >= ALIKE]
    mean = torch.stack([pairs[middle][seed][0] for seed in group]).mean(0)
    shifts = torch.tensor([pairs[middle][seed][1] for seed in group], dtype=torch.float64).mean(0).round().int().tolist()
    mean = torch.roll(mean, (-shifts[0], -shifts[1]), (1, 2))
    return torch.stack([mean if seed in group else pictures[seed] for seed in range(seeds)])


def registered(
    picture: Float[Tensor, "channels height width"], target: Float[Tensor, "channels height width"]
) -> tuple[Float[Tensor, "channels height width"], tuple[int, int]]:
    """The picture shifted to where it fits the target best, and by how many pixels down and to the right."""
    spectrum = torch.fft.rfft2(target) * torch.fft.rfft2(picture).conj()
    phase = (spectrum / spectrum.abs().clamp_min(1e-12)).sum(0)
    peaks = torch.fft.irfft2(phase, s=picture.shape[1:])
    height, width = picture.shape[1:]
    near = [torch.arange(size, device=peaks.device) for size in (height, width)]
    allowed = [torch.minimum(axis, size - axis) <= FARTHEST * size for axis, size in zip(near, (height, width), strict=True)]
    peaks = peaks.masked_fill(~(allowed[0][:, None] & allowed[1][None]), -torch.inf)
    down, aside = divmod(int(peaks.argmax()), width)
    down, aside = down - height * (down > height // 2), aside - width * (aside > width // 2)
    return torch.roll(picture, (down, aside), (1, 2)), (down, aside)


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, over all pixels and channels; zero for a constant picture, one for the same picture."""
    a, b = one - one.mean(), other - other.mean()
    same = torch.equal(one, other)
    return torch.ones((), dtype=a.dtype) if same else (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
