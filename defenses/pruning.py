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
            return update.map(lambda tensor: tensor.where(_largest(tensor.flatten(), self.keep).reshape(tensor.shape), 0))
        sizes = [tensor.numel() for tensor in update.parameters.values()]
        masks = iter(_largest(update.flat(), self.keep).split(sizes))
        return update.map(lambda tensor: tensor.where(next(masks).reshape(tensor.shape), 0))


def _largest(entries: Tensor, keep: float) -> Tensor:
    """True at the largest entries, false elsewhere; exactly that many, also among equals."""
    wanted = round(keep * len(entries), 6)  # 0.07 of 100 entries is 7, and not 7.000000000000001, which rounds up to 8
    kept = entries.abs().topk(max(1, math.ceil(wanted))).indices
    return torch.zeros_like(entries, dtype=torch.bool).index_fill(0, kept, True)
