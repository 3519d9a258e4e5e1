"""Labels by what matches: one after the other is exchanged for another class as long as pictures then match better."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TRIED = 20  # iterations in which labels are tried: a hundred tell one exchange from another no better
JUDGED = 100  # in which those found are held against those restored
TOGETHER = 32  # batches of labels that are tried at once, at most

Losses: TypeAlias = Callable[[Float[Tensor, "some batch classes"], int], Sequence[float]]


def exchanged(
    restored: Float[Tensor, "batch classes"],
    doubtful: Bool[Tensor, " batch"],
    losses: Losses,
    most: int,
    together: int = TOGETHER,
) -> tuple[Float[Tensor, "batch classes"], int]:
    """The label rows that match best, and how many of them were exchanged.

    `doubtful`: which may be. `losses`: of several batches of label rows, `together` at most, and a number of iterations, what
    each is matched by after so many. In every round each label is exchanged for each other class, and the exchange that
    matches best is made; there are at most so many rounds, and none after one that made nothing better. What is only another
    order of the same labels is not tried again. In the end those found must match better than those restored after a longer
    descent, too.
    """
    certain = torch.eye(restored.shape[1], dtype=restored.dtype, device=restored.device)
    rows, least, made, tried = restored, losses(restored[None], TRIED)[0], 0, {_content(restored)}
    while made < most:
        found: list[Tensor] = []
        for place in torch.nonzero(doubtful).flatten().tolist():
            for row in certain:
                other = rows.clone()
                other[place] = row
                content = _content(other)
                if content not in tried:
                    tried.add(content)
                    found.append(other)
        groups = torch.stack(found).chunk(-(-len(found) // together)) if found else ()
        values = [loss for group in groups for loss in losses(group, TRIED)]
        if min(values, default=least) >= least:
            break
        least, made = min(values), made + 1
        rows = found[values.index(least)]
    if made:
        before, after = losses(torch.stack([restored, rows]), JUDGED)
        if before <= after:
            return restored, 0
    return rows, made


def _content(rows: Tensor) -> tuple[bytes, ...]:
    """The rows in an order that does not depend on theirs."""
    return tuple(sorted(row.tobytes() for row in rows.cpu().numpy()))
