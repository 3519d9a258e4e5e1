"""PRECODE (Scheliga et al. 2022, arXiv 2108.04725): the federation trains its model with a variational bottleneck in it."""

import torch
from torch import nn

from defenses.defense import Compute, Defense
from learning.catalogue import Count, NotNegative, settings
from learning.models import Architecture
from learning.models import Precode as Bottlenecked
from learning.tensors import Batch, Update


@settings
class Precode(Defense):
    """Puts a variational bottleneck before the last linear layer of the model that the whole federation trains.

    `width`, `weight`: of `learning.models.Precode`, which is the model. What clients share of it is left as it is: the noise
    is inside. The deviation of the codes is exp(log-variance / 2), about 1 in an untrained model.
    """

    width: Count = 256
    weight: NotNegative = 1e-3

    def architecture(self, model: Architecture) -> Architecture:
        return Bottlenecked(network=model, width=self.width, weight=self.weight)

    def share(self, compute: Compute, model: nn.Module, batch: Batch, rng: torch.Generator) -> Update:
        return compute(model, batch, rng)
