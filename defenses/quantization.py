"""Quantization of the update to few levels: uniform, ternary, signs."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from defenses.defense import UpdateDefense
from learning.catalogue import NotNegative, settings
from learning.tensors import Tensors, Update

LEAST_CHANCE = 0.05  # of a rounding: what is less likely is told by a straight line, since a logarithm has no slope beyond zero


@settings
class Quantization(UpdateDefense):
    """Rounds every entry to one of 2^bits - 1 levels, which stand evenly from minus to plus the tensor's largest magnitude.

    Zero is a level, and stays zero. `rounding`: "stochastic" goes to one of the two levels around an entry, to the nearer
    one with the greater probability, such that the expected value is the entry; "nearest" takes the nearer one. Source:
    Alistarh et al. 2017 (arXiv 1610.02132), with the largest magnitude in the norm's place.
    """

    bits: Annotated[int, Field(ge=2, le=16)]
    rounding: Literal["stochastic", "nearest"] = "stochastic"

    def change(self, update: Update, rng: torch.Generator) -> Update:
        return update.map(lambda tensor: _rounded(tensor, self._levels, rng if self.rounding == "stochastic" else None))

    @property
    def _levels(self) -> int:
        """Above zero."""
        return 2 ** (self.bits - 1) - 1

    def surprisal(self, found: Tensors, shared: Tensors) -> Tensor:
        return _surprisal(found, shared, self._levels, by_chance=self.rounding == "stochastic")


@settings
class Ternary(UpdateDefense):
    """Shares each entry as minus, zero or plus the tensor's largest magnitude, by chance; its expected value is the entry.

    `clip`: entries are first cut off at so many of their tensor's root mean squares, which bounds the noise and biases
    what is cut; 0 cuts nothing. Source: Wen et al. 2017, TernGrad (arXiv 1705.07878), section 3, where the clip is at 2.5
    standard deviations.
    """

    clip: NotNegative = 2.5

    def change(self, update: Update, rng: torch.Generator) -> Update:
        return update.map(lambda tensor: _rounded(self._cut(tensor), 1, rng))

    def _cut(self, tensor: Tensor) -> Tensor:
        bound = self.clip * tensor.double().square().mean().sqrt().to(tensor.dtype)
        return tensor.clamp(-bound, bound) if self.clip else tensor

    def surprisal(self, found: Tensors, shared: Tensors) -> Tensor:
        if self.clip:
            bounds = {name: tensor.abs().max() for name, tensor in shared.items()}
            found = {name: found[name].clamp(-bound, bound) for name, bound in bounds.items()}
        return _surprisal(found, shared, 1, by_chance=True)


@settings
class Sign(UpdateDefense):
    """Shares the sign of every entry; zeros stay zero.

    `scale`: "mean" multiplies by the tensor's mean magnitude, so that the update keeps its size; "one" shares bare signs, for
    which the server's learning rate must be chosen. Source: Bernstein et al. 2018, signSGD (arXiv 1802.04434); the scale is
    of Karimireddy et al. 2019 (arXiv 1901.09847).
    """

    scale: Literal["mean", "one"] = "mean"

    def change(self, update: Update, rng: torch.Generator) -> Update:
        if self.scale == "one":
            return update.map(torch.sign)
        return update.map(lambda tensor: tensor.sign() * tensor.double().abs().mean().to(tensor.dtype))

    def unlikelihood(self, found: Tensors, shared: Tensors) -> Tensor:
        """The magnitudes that have another sign or are shared as zero, a mean over all entries in units of each tensor's mean.

        In units of its own mean a gradient comes no nearer to signs by shrinking.
        """
        wrong = [
            torch.where(tensor == 0, found[name].abs(), (-found[name] * tensor.sign()).clamp_min(0)).sum()
            / found[name].abs().mean().clamp_min(torch.finfo(tensor.dtype).tiny)
            for name, tensor in shared.items()
        ]
        return torch.stack(wrong).sum() / sum(tensor.numel() for tensor in shared.values())


def _surprisal(found: Tensors, shared: Tensors, levels: int, by_chance: bool) -> Tensor:
    """The mean negative log-probability that entries were rounded to what was shared.

    An entry goes to one of the two levels around it, to each with the probability of one less its distance in levels; or to
    the nearest, which is sure up to half a level away, and is here as if it were by chance from there on. Below `LEAST_CHANCE`
    a straight line takes the logarithm's place. A tensor of zeros says nothing.
    """
    total = torch.zeros(())
    for name, tensor in shared.items():
        largest = tensor.abs().max()
        away = (found[name] - tensor).abs() * (levels / torch.where(largest > 0, largest, torch.inf))
        chance = 1 - away if by_chance else 1.5 - away.clamp_min(0.5)
        beyond = (LEAST_CHANCE - chance).clamp_min(0) / LEAST_CHANCE
        total = total.to(away) + (beyond - chance.clamp_min(LEAST_CHANCE).log()).sum()
    return total / sum(tensor.numel() for tensor in shared.values())


def _rounded(tensor: Tensor, levels: int, rng: torch.Generator | None) -> Tensor:
    """Entries at multiples of the largest magnitude over `levels`: by chance, or the nearest without a generator."""
    largest = tensor.abs().max()
    if largest == 0:
        return tensor
    places = tensor.abs() / largest * levels
    if rng is None:
        whole = places.round()
    else:
        chance = torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype).to(tensor.device)
        whole = places.floor() + (chance < places.frac())
    return (whole / levels * largest).copysign(tensor)
