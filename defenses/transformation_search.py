"""The search of ATS for transformation policies (Gao et al. 2021, arXiv 2011.13900, sections 4.2 and 4.3), without any attack.

Two scores stand for what an attack and a training would cost to find out. The policies are tried on pictures that the searcher
has: its own, or public ones.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from defenses.transformations import TRANSFORMS, Transform, TransformedPictures
from learning.tensors import Batch
from learning.training import gradient

STRENGTHS = 10  # a transform's strength is one of so many, evenly up to 1
SMALL = 1e-5  # keeps the logarithm of an eigenvalue finite


@dataclass(frozen=True)
class Candidate:
    """A policy and its scores. `privacy`: lower hides more. `accuracy`: higher is learnt better."""

    defense: TransformedPictures
    privacy: float
    accuracy: float


def search(
    trained: nn.Module,
    untrained: nn.Module,
    batch: Batch,
    rng: torch.Generator,
    candidates: int = 50,
    length: int = 3,
    kept: float = 0.5,
) -> list[Candidate]:
    """Random policies of `length` transforms, without those that cost most accuracy, the most private first.

    `trained`, `untrained`: the model after some training, by which privacy is scored, and before it, by which accuracy is;
    both are left as they were. `kept`: the share of the candidates with the best accuracy scores that is let through, where
    the paper has a threshold of its network and data. All draws come from `rng`: the same generator finds the same.
    """
    found = []
    for _ in range(candidates):
        names = [list(TRANSFORMS)[int(torch.randint(len(TRANSFORMS), (1,), generator=rng))] for _ in range(length)]
        strengths = (1 + torch.randint(STRENGTHS, (length,), generator=rng)) / STRENGTHS
        policy = tuple(
            Transform(name=name, strength=round(float(s), 2))  # pyright: ignore[reportArgumentType]
            for name, s in zip(names, strengths, strict=True)
        )
        defense = TransformedPictures(policy=policy)
        changed = defense.drawn(batch.images.shape, rng)(trained, batch)
        privacy = privacy_score(trained, changed, rng)
        found.append(Candidate(defense, privacy, accuracy_score(untrained, changed.images)))
    found.sort(key=lambda candidate: -candidate.accuracy)
    return sorted(found[: max(1, round(kept * candidates))], key=lambda candidate: candidate.privacy)


def privacy_score(model: nn.Module, batch: Batch, rng: torch.Generator, points: int = 20) -> float:
    """How soon the gradient betrays a picture: the area under the likeness of gradients on the way from noise to the picture.

    For every picture of the (transformed) batch alone: the mean over parameters of the cosine between its gradient and that of
    so many steps from uniform noise towards it, integrated over the way by trapezoids (equation 4), and the mean over the
    pictures. At most 1, which is a picture that any noise is as good as.
    """
    areas = []
    for image, label in zip(batch.images.split(1), batch.labels.split(1), strict=True):
        wanted = gradient(model, Batch(image, label))
        noise = torch.rand(image.shape, generator=rng).to(image)
        way = [torch.lerp(noise, image, step / points) for step in range(points + 1)]
        likeness = torch.tensor([_likeness(gradient(model, Batch(one, label)), wanted) for one in way])
        areas.append(torch.trapezoid(likeness, dx=1 / points))
    return float(torch.stack(areas).mean())


def _likeness(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    cosines = [functional.cosine_similarity(one[name].flatten(), tensor.flatten(), 0) for name, tensor in other.items()]
    return float(torch.stack(cosines).mean())


def accuracy_score(model: nn.Module, images: Float[Tensor, "batch channels height width"]) -> float:
    """How well an untrained network tells the pictures apart, which foretells accuracy (Mellor et al., arXiv 2006.04647v1).

    With v the eigenvalues of the correlations between the pictures' derivatives of the summed scores: the negative sum of
    log(v + k) + 1 / (v + k). Greatest, minus the number of pictures, where no two are correlated.
    """
    pictures = images.detach().clone().requires_grad_()
    (slopes,) = torch.autograd.grad(model(pictures).sum(), pictures)
    values = torch.linalg.eigvalsh(torch.corrcoef(slopes.flatten(1).double())).clamp_min(0) + SMALL
    return -float((values.log() + 1 / values).sum())
