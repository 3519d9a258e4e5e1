"""Pruning (sparsification) of the update."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from defenses.defense import UpdateDefense, survivors
from learning.catalogue import Fraction, settings
from learning.tensors import Tensors, Update


@settings
class MagnitudePruning(UpdateDefense):
    """Keeps the `keep` fraction of the update's entries that are largest in magnitude and sets the others to zero.

    `scope`: "layer" keeps that fraction of every parameter tensor, "whole" of all entries together. The number kept is
    rounded up, so that at least one entry stays; at 1 the update is unchanged. Source: Zhu et al. 2019 (arXiv
    1906.08935), section 5; Lin et al. 2018 (arXiv 1712.01887), without their error feedback, for which a client would have
    to remember what it has held back: `defenses.mod` does that for clients that can.
    """

    keep: Fraction
    scope: Literal["layer", "whole"] = "layer"

    def change(self, update: Update, rng: torch.Generator) -> Update:
        return _pruned(update, self.scope, lambda entries: _largest(entries, _kept(len(entries), self.keep)))

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        return survivors(found, shared)


@settings
class RandomPruning(UpdateDefense):
    """Keeps the `keep` fraction of the update's entries, drawn anew in every round, and sets the others to zero.

    `scope` and the number kept are those of magnitude pruning. `unbiased`: what is kept is scaled up by the number of
    entries over the number kept, so that the expected value is the update itself. Source: Konecny et al. 2016
    (arXiv 1610.05492), random mask; the scaling is random-k's (Stich et al. 2018, arXiv 1809.07599).
    """

    keep: Fraction
    scope: Literal["layer", "whole"] = "layer"
    unbiased: bool = False

    def change(self, update: Update, rng: torch.Generator) -> Update:
        pruned = _pruned(update, self.scope, lambda entries: _drawn(entries, _kept(len(entries), self.keep), rng))
        if not self.unbiased:
            return pruned
        entries = sum(tensor.numel() for tensor in update.parameters.values())

        def scaled(tensor: Tensor) -> Tensor:
            of = tensor.numel() if self.scope == "layer" else entries
            return tensor * (of / _kept(of, self.keep))

        return pruned.map(scaled)

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        return survivors(found, shared)


def _pruned(update: Update, scope: Literal["layer", "whole"], keeps: Callable[[Tensor], Tensor]) -> Update:
    """The update where `keeps` is true of its entries, which it gets in a vector: each parameter's, or all."""
    if scope == "layer":
        return update.map(lambda tensor: tensor.where(keeps(tensor.flatten()).reshape(tensor.shape), 0))
    sizes = [tensor.numel() for tensor in update.parameters.values()]
    masks = iter(keeps(update.flat()).split(sizes))
    return update.map(lambda tensor: tensor.where(next(masks).reshape(tensor.shape), 0))


def _kept(entries: int, keep: float) -> int:
    """How many entries stay."""
    return max(1, math.ceil(round(keep * entries, 6)))  # 0.07 of 100 is 7, and not 7.000000000000001, which rounds up to 8


def _largest(entries: Tensor, count: int) -> Tensor:
    """True at the largest entries, false elsewhere; exactly that many, also among equals."""
    return _true_at(entries.abs().topk(count, sorted=False).indices, entries)


def _drawn(entries: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """True at so many entries, every choice of them equally likely."""
    return _true_at(torch.randperm(len(entries), generator=rng)[:count].to(entries.device), entries)


def _true_at(indices: Tensor, entries: Tensor) -> Tensor:
    return torch.zeros_like(entries, dtype=torch.bool).index_fill(0, indices, True)
