"""Pruning (sparsification) of the update."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from defenses.defense import Compute, Defense
from learning.catalogue import Fraction, settings
from learning.tensors import Batch, Update


@settings
class MagnitudePruning(Defense):
    """Keeps the `keep` fraction of the update's entries that are largest in magnitude and sets the others to zero.

    `scope`: "layer" keeps that fraction of every parameter tensor, "whole" of all entries together. The number kept is
    rounded up, so that at least one entry stays; at 1 the update is unchanged. Source: Zhu et al. 2019 (arXiv
    1906.08935), section 5; Lin et al. 2018 (arXiv 1712.01887), without their error feedback.
    """

    keep: Fraction
    scope: Literal["layer", "whole"] = "layer"

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        update = compute(model, batch, rng)
        if self.scope == "layer":
            return update.map(lambda tensor: tensor * _largest(tensor.flatten(), self.keep).reshape(tensor.shape))
        sizes = [tensor.numel() for tensor in update.parameters.values()]
        masks = iter(_largest(update.flat(), self.keep).split(sizes))
        return update.map(lambda tensor: tensor * next(masks).reshape(tensor.shape))


def _largest(entries: Tensor, keep: float) -> Tensor:
    """1 at the largest entries, 0 elsewhere; exactly that many, also among equals."""
    kept = entries.abs().topk(math.ceil(keep * len(entries))).indices
    return torch.zeros_like(entries).index_fill(0, kept, 1)
