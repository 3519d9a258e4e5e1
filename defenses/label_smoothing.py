"""Batches whose labels are probabilities, and label smoothing, which makes them so."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from defenses.defense import BatchDefense, Change, unchanged
from learning.catalogue import settings
from learning.tensors import Batch


@dataclass(frozen=True)
class SoftBatch(Batch):
    """Examples whose `labels` are rows of class probabilities; cross-entropy takes them as it takes class indices."""

    labels: Float[Tensor, "batch classes"]


def soft(model: nn.Module, batch: Batch) -> SoftBatch:
    """The same examples with their labels as rows; as many classes as the model has outputs."""
    if isinstance(batch, SoftBatch):
        return batch
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # a forward pass in train mode would move running statistics
    with torch.no_grad():
        classes = model(batch.images[:1]).shape[1]
    for module, mode in modes:
        module.training = mode
    return SoftBatch(batch.images, nn.functional.one_hot(batch.labels, classes).to(batch.images.dtype))


@settings
class LabelSmoothing(BatchDefense):
    """Takes `smoothing` of every label's certainty and spreads it evenly over all classes, its own included.

    At 0 the update is unchanged to the last bit. Source: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """

    smoothing: Annotated[float, Field(ge=0, lt=1)]

    def drawn(self, shape: torch.Size, rng: torch.Generator) -> Change:
        return self._smoothed if self.smoothing else unchanged

    def _smoothed(self, model: nn.Module, batch: Batch) -> SoftBatch:
        hard = soft(model, batch)
        return SoftBatch(batch.images, (1 - self.smoothing) * hard.labels + self.smoothing / hard.labels.shape[1])
