"""The low-rank split of a layer's gradient (SPEAR, Dimitrov et al., NeurIPS 2024, section 3).

A linear layer's gradient is the sum over the examples of (slope of the loss at the layer's output) times (its input), so its
rank is the batch size at most, and both factors are known up to one small invertible matrix.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import NotApplicable


@dataclass(frozen=True)
class Split:
    """`gradient[live]` = `left` times `right` up to noise; `left` has orthonormal columns.

    `live`: indices of the units that any example activates. `noise`: standard deviation of a gradient's entry that the split
    leaves unexplained, `noises` row by row. `unsure`: about the sine of the angle by which noise turns `left`; rounding in
    float64 at least.
    """

    live: Tensor
    left: Float[Tensor, "live rank"]
    right: Float[Tensor, "rank columns"]
    values: Float[Tensor, " rank"]
    noise: float
    noises: Float[Tensor, " live"]
    unsure: float

    @property
    def rank(self) -> int:
        """As many examples as the gradient tells apart."""
        return self.left.shape[1]


def split(gradient: Float[Tensor, "units columns"], examples: int) -> Split:
    """Splits a layer's gradient in float64. The rank is the number of examples, or what stands out of the noise if less.

    Noise is what `examples` directions leave over. Raises `NotApplicable` where nothing could be left over: the layer has
    too few units or inputs for so many examples.
    """
    live = gradient.abs().amax(1).gt(0).nonzero().flatten()
    if examples >= min(len(live), gradient.shape[1]):
        raise NotApplicable(
            f"the layer's gradient has {len(live)} rows that are not zero and {gradient.shape[1]} columns: {examples} examples "
            f"are told apart only where there are more of both"
        )
    rows = gradient[live]
    # A random range finder (Halko, Martinsson and Tropp 2011) with two power steps: a full SVD takes minutes where a layer
    # has thousands of units, and only this many directions hold more than noise.
    width = min(examples + 16, *rows.shape)
    drawn = torch.randn(rows.shape[1], width, generator=torch.Generator().manual_seed(0), dtype=rows.dtype).to(rows.device)
    space = torch.linalg.qr(rows @ drawn)[0]
    for _ in range(2):
        space = torch.linalg.qr(rows @ (torch.linalg.qr(rows.T @ space)[0]))[0]
    inside = space.T @ rows
    left, values, right = torch.linalg.svd(inside, full_matrices=False)
    left = (space @ left)[:, :examples]
    values, right = values[:examples], right[:examples]
    rest = rows - left @ (values[:, None] * right)
    noise = float(rest.square().sum().div((len(live) - examples) * (rows.shape[1] - examples)).sqrt())
    floor = max(noise * (len(live) ** 0.5 + rows.shape[1] ** 0.5), float(values[0]) * 1e-13)
    rank = max(1, int(values.gt(2 * floor).sum()))
    return Split(
        live,
        left[:, :rank].contiguous(),
        values[:rank, None] * right[:rank],
        values[:rank],
        noise,
        rest.square().sum(1).div(rows.shape[1] - examples).sqrt(),
        max(1e-13, noise * len(live) ** 0.5 / float(values[rank - 1])),
    )
