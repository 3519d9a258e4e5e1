"""Training on mixtures of pictures: mixup, and InstaHide-like encryption."""

from typing import Annotated

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.defense import BatchDefense, Change, unchanged
from defenses.label_smoothing import SoftBatch, soft
from learning.catalogue import NotNegative, SettingsError, settings
from learning.tensors import Batch


@settings
class Mixup(BatchDefense):
    """Mixes every picture of a mini-batch, and its label, with another of the batch, in shares of b and 1 - b.

    b is drawn from Beta(`alpha`, `alpha`) once a step, the others are the batch in random order, so that a picture may meet
    itself and a batch of one stays as it is. At 0 the update is unchanged to the last bit. Source: Zhang et al. 2018
    (arXiv 1710.09412), equation 2 and figure 1a.
    """

    alpha: NotNegative

    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Change:
        if not self.alpha:
            return unchanged
        share = _numpy(rng).beta(self.alpha, self.alpha)
        return _mixture(torch.tensor([share, 1 - share], dtype=torch.float64).expand(shape[0], 2), rng)


@settings
class InstaHide(BatchDefense):
    """Trains on mixtures of `pictures` pictures of the mini-batch each, whose pixels are then flipped by chance.

    The shares of a mixture are uniform over all that sum to 1 and have none above `largest`; labels are mixed alike. `flips`:
    every pixel and channel is mirrored at mid-grey with probability 1/2, which is a flip of the sign where the paper's
    pictures are centred. New mixtures and flips are drawn in every step. Like the paper's Intra-InstaHide, it mixes among
    the client's own pictures only: in a batch of one nothing is mixed. Source: Huang et al. 2020 (arXiv 2010.02772),
    algorithm 2, where `pictures` is 4 or 6 and `largest` .65.
    """

    pictures: Annotated[int, Field(ge=1, le=8)] = 4
    largest: Annotated[float, Field(gt=0, le=1)] = 0.65
    flips: bool = True

    @pydantic.model_validator(mode="after")
    def _possible(self) -> "InstaHide":
        if self.pictures > 1 and self.largest < 1.2 / self.pictures:
            raise SettingsError(
                f"largest = {self.largest} leaves {self.pictures} pictures too little room to sum to 1: "
                f"set it to {1.2 / self.pictures:.3g} or more"
            )
        return self

    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Change:
        mixed = _mixture(torch.from_numpy(self._shares(shape[0], _numpy(rng))), rng) if self.pictures > 1 else unchanged
        if not self.flips:
            return mixed
        flipped = torch.rand(shape, generator=rng) < 0.5

        def hidden(model: nn.Module, batch: Batch) -> Batch:
            batch = mixed(model, batch)
            images = torch.where(flipped.to(batch.images.device), 1 - batch.images, batch.images)
            return type(batch)(images, batch.labels)

        return hidden

    def _shares(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.dirichlet(np.ones(self.pictures), rows)
        while (over := drawn.max(1) > self.largest).any():
            drawn[over] = rng.dirichlet(np.ones(self.pictures), int(over.sum()))
        return drawn


def _mixture(shares: Tensor, rng: torch.Generator) -> Change:
    """Each example in the first of its row of shares, with others of the batch, which is shuffled for each further share."""
    rows, pictures = shares.shape
    orders = [torch.arange(rows), *(torch.randperm(rows, generator=rng) for _ in range(pictures - 1))]

    def mixed(model: nn.Module, batch: Batch) -> SoftBatch:
        batch = soft(model, batch)
        images, labels = torch.zeros_like(batch.images), torch.zeros_like(batch.labels)
        for order, share in zip(orders, shares.to(batch.images).T, strict=True):
            images = images + share[:, None, None, None] * batch.images[order]
            labels = labels + share[:, None] * batch.labels[order]
        return SoftBatch(images, labels)

    return mixed


def _numpy(rng: torch.Generator) -> np.random.Generator:
    """NumPy draws the distributions for which PyTorch takes no generator."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
