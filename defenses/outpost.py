"""OUTPOST: noise where risk and information are great (Wang et al. 2023, More than Enough is Too Much, INFOCOM)."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.defense import Compute, Defense, survivors
from defenses.pruning import MagnitudePruning
from learning.catalogue import Fraction, NotNegative, settings
from learning.tensors import Batch, Tensors, Update, parameters_of


@settings
class Outpost(Defense):
    """Prunes every layer's gradient, then adds noise to the entries that carry most information, in every local step.

    `prune`: the fraction of each parameter's entries, the smallest, that are set to zero. `informed`: the fraction of all of
    the model's entries that get noise, those with the largest diagonal of the empirical Fisher information, estimated by
    the square of the step's gradient. `noise`: the noise's standard deviation in a parameter is this times the risk, which
    is the variance of the parameter's weights as they are in this step, and 1 at most: narrow weights are hard to invert,
    and get less noise. Without noise and pruning the update is unchanged to the last bit.

    The paper perturbs a step with a probability that falls with the number of iterations, to save time; a step here does
    not know its number, and every one is perturbed.
    """

    wraps: ClassVar[Literal["step", "round"]] = "step"

    noise: NotNegative
    informed: Fraction = 0.4
    prune: Annotated[float, Field(ge=0, lt=1)] = 0.8

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        update = compute(model, batch, rng)
        pruned = MagnitudePruning(keep=1 - self.prune).change(update, rng) if self.prune else update
        if not self.noise:
            return pruned
        chosen = MagnitudePruning(keep=self.informed, scope="whole").change(update.map(torch.square), rng).parameters
        weights = parameters_of(model)
        shared = {}
        for name, tensor in pruned.parameters.items():
            drawn = torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype).to(tensor.device)
            shared[name] = tensor + torch.where(chosen[name] != 0, self.noise * risk(weights[name]) * drawn, 0)
        return Update(shared, update.buffers)

    def expected(self, found: Tensors, shared: Tensors) -> Tensors:
        left = survivors(found, shared)  # what is pruned, and gets noise, is not zero
        return MagnitudePruning(keep=1 - self.prune).change(Update(left), torch.Generator()).parameters if self.prune else left


def risk(weights: Tensor) -> float:
    """The privacy leakage risk of a parameter: the variance of its entries, and 1 at most."""
    return min(1.0, float(weights.double().var(correction=0)))
