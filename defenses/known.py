"""A chain of defenses as an attacker computes with it who knows what they are, and not what they drew."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from defenses.defense import BatchDefense, Defense, around
from defenses.label_smoothing import SoftBatch
from learning.tensors import Batch, Tensors, Update


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

    def bounds(self, shared: Tensors) -> tuple[Tensors, Tensors] | None:
        """Those of the last defense: what entered the others is not known from what left it."""
        return self.chain[-1].bounds(shared) if self.chain else None

    def shared(self, gradient: Tensors, model: nn.Module, images: Tensor, rows: Tensor, rng: torch.Generator) -> Tensors:
        others = [defense for defense in self.chain if not isinstance(defense, BatchDefense)]
        compute = around(others, lambda model, batch, rng: Update(gradient))
        return compute(model, SoftBatch(images, rows), rng).parameters
