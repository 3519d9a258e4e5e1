"""ATS: training on transformed pictures (Gao et al. 2021, arXiv 2011.13900)."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from defenses.defense import BatchDefense, Change
from learning.catalogue import settings
from learning.tensors import Batch

Turn = Callable[[Tensor, Tensor], Tensor]  # pictures, and for each a strength between -1 and 1, to pictures


def _affine(matrix: Callable[[Tensor], tuple[Any, ...]]) -> Turn:
    """Moves pixels by a 2x3 matrix of the strength, bilinearly; what comes from outside is grey."""

    def turned(images: Tensor, strength: Tensor) -> Tensor:
        entries = [torch.as_tensor(entry, dtype=images.dtype).expand(len(images)) for entry in matrix(strength)]
        grid = functional.affine_grid(
            torch.stack(entries, 1).reshape(-1, 2, 3).to(images.device), list(images.shape), align_corners=False
        )
        return functional.grid_sample(images - 0.5, grid, align_corners=False) + 0.5

    return turned


def _column(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (1 + 0.9 * _column(strength)) * (images - mean)


def _turned_by(angle: Tensor) -> tuple[Any, ...]:
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return cosine, -sine, 0, sine, cosine, 0


TRANSFORMS: dict[str, Turn] = {
    "rotate": _affine(lambda strength: _turned_by(strength * math.radians(30))),
    "shear-x": _affine(lambda strength: (1, 0.3 * strength, 0, 0, 1, 0)),
    "shear-y": _affine(lambda strength: (1, 0, 0, 0.3 * strength, 1, 0)),
    "shift-x": _affine(lambda strength: (1, 0, 0.9 * strength, 0, 1, 0)),
    "shift-y": _affine(lambda strength: (1, 0, 0, 0, 1, 0.9 * strength)),
    "brightness": lambda images, strength: images * (1 + 0.9 * _column(strength)),
    "contrast": _contrast,
    "invert": lambda images, strength: images + _column(strength.abs()) * (1 - 2 * images),
    "solarize": lambda images, strength: torch.where(images > 1 - _column(strength.abs()), 1 - images, images),
}


@settings
class Transform:
    """One transformation. `strength`: 1 is the greatest that AutoAugment (arXiv 1805.09501) uses, 0 changes nothing.

    The greatest: 30 degrees; a shear of .3; a shift by 45 % of the side; 90 % of brightness or contrast; all inverted.
    """

    name: Literal["rotate", "shear-x", "shear-y", "shift-x", "shift-y", "brightness", "contrast", "invert", "solarize"]
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0


def _transform(value: Any) -> Any:
    value = {"name": value} if isinstance(value, str) else value
    return Transform(**value) if isinstance(value, dict) else value


@settings
class TransformedPictures(BatchDefense):
    """Trains on transformed pictures: every transform of `policy` is applied to every picture, one after the other.

    A transform is a name or a table with `name` and `strength`; its direction is drawn for each picture in every step.
    Pixels stay in [0, 1], labels as they are. The paper searches for policies whose gradients say little and whose accuracy
    is good; this is such a policy's use, and the policy is given. An empty one leaves the update unchanged to the last bit.
    """

    policy: Annotated[
        tuple[Annotated[Transform, BeforeValidator(_transform)], ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    ] = (Transform(name="shift-x", strength=0.5), Transform(name="rotate"), Transform(name="contrast"))

    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Change:
        steps = [(t, 2 * torch.randint(2, (shape[0],), generator=rng) - 1) for t in self.policy]

        def transformed(model: nn.Module, batch: Batch) -> Batch:
            images = batch.images
            for transform, signs in steps:
                if transform.strength:
                    images = TRANSFORMS[transform.name](images, (transform.strength * signs).to(images)).clamp(0, 1)
            return type(batch)(images, batch.labels)

        return transformed
