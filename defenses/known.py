"""A chain of defenses as an attacker computes with it who knows what they are, and not what they drew."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from defenses.defense import BatchDefense, Defense, around
from defenses.label_smoothing import SoftBatch
from learning.tensors import Batch, Tensors, Update

TINY = 1e-30  # what a length is at least, to divide by it


@dataclass(frozen=True)
class Known:
    """What a study grants of the defenses to its attackers, to whom it is an `attacks.attack.KnownDefense`."""

    chain: tuple[Defense, ...]
    draw: int | None = None

    def assuming(self, draw: int) -> "Known":
        return replace(self, draw=draw)

    def examples(self, shape: torch.Size) -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]:
        rng = torch.Generator().manual_seed(self.draw or 0)
        changes = [defense.drawn(shape, rng) for defense in reversed(self.chain) if isinstance(defense, BatchDefense)]

        def changed(model: nn.Module, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            batch: Batch = SoftBatch(images, rows)
            for change in changes:
                batch = change(model, batch)
            return batch.images, batch.labels

        return changed

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        for defense in self.chain:
            found = defense.expected(found, shared)
        return found

    def unlikelihood(self, found: Tensors, shared: Tensors) -> Tensor | None:
        """By the last defense, from what is expected behind the others."""
        if not self.chain:
            return None
        *others, last = self.chain
        return last.unlikelihood(Known(tuple(others)).expected(found, shared), shared)

    def surprisal(self, found: Tensors, shared: Tensors) -> Tensor | None:
        """By the last defense, from what is expected behind the others, which may have changed its length."""
        if not self.chain:
            return None
        *others, last = self.chain
        if others:
            found = Known(tuple(others)).expected(found, shared)
            size = _product(found, shared) / _product(found, found).clamp_min(TINY)
            found = {name: size.clamp_min(TINY) * tensor for name, tensor in found.items()}
        return last.surprisal(found, shared)

    def shared(
        self, gradient: Tensors, model: nn.Module, images: Tensor, rows: Tensor, scale: float, rng: torch.Generator
    ) -> Tensors:
        others = [defense for defense in self.chain if not isinstance(defense, BatchDefense)]
        step = around([one for one in others if one.wraps == "step"], lambda model, batch, rng: Update(gradient))
        of_the_round = [one for one in others if one.wraps == "round"]
        compute = around(of_the_round, lambda *given: step(*given).map(lambda tensor: scale * tensor))
        return {name: tensor / scale for name, tensor in compute(model, SoftBatch(images, rows), rng).parameters.items()}


def _product(left: Tensors, right: Tensors) -> Tensor:
    return torch.stack([(left[name] * tensor).sum() for name, tensor in right.items()]).sum()
