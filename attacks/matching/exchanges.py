"""Labels by what matches: one after the other is exchanged for another class as long as pictures then match better."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

TRIED = 20  # iterations that show whether labels can be matched; a hundred show no more
TOGETHER = 32  # batches of labels that are tried at once

Losses: TypeAlias = Callable[[Float[Tensor, "some batch classes"]], Sequence[float]]


def exchanged(rows: Float[Tensor, "batch classes"], losses: Losses, most: int) -> tuple[Float[Tensor, "batch classes"], int]:
    """The label rows that match best, and how many of them were exchanged.

    `losses`: of several batches of label rows, what each is matched by at best, as far as that is known. In every round each
    label is exchanged for each other class, and the exchange that matches best is made; there are at most so many rounds, and
    none after one that made nothing better. What is only another order of the same labels is not tried again.
    """
    classes = rows.shape[1]
    certain = torch.eye(classes, dtype=rows.dtype, device=rows.device)
    least, made, tried = losses(rows[None])[0], 0, {_content(rows)}
    while made < most:
        found: list[Tensor] = []
        for place in range(len(rows)):
            for row in certain:
                other = rows.clone()
                other[place] = row
                if _content(other) not in tried:
                    tried.add(_content(other))
                    found.append(other)
        values = [loss for some in torch.stack(found).split(TOGETHER) for loss in losses(some)] if found else []
        if min(values, default=least) >= least:
            break
        least, made = min(values), made + 1
        rows = found[values.index(least)]
    return rows, made


def _content(rows: Tensor) -> tuple[tuple[float, ...], ...]:
    """The rows in an order that does not depend on theirs."""
    return tuple(sorted(tuple(row) for row in rows.tolist()))
