"""Clipping of the update's norm."""

import torch

from defenses.defense import UpdateDefense
from learning.catalogue import Positive, settings
from learning.tensors import Update


@settings
class NormClipping(UpdateDefense):
    """Scales the shared update so that its L2 norm over all parameters is at most `max_norm`; a smaller one is unchanged.

    Source: McMahan et al. 2018 (arXiv 1710.06963), flat clipping.
    """

    max_norm: Positive

    def change(self, update: Update, rng: torch.Generator) -> Update:
        norm = torch.linalg.vector_norm(update.flat().double()).item()
        return update if norm <= self.max_norm else update.map(lambda tensor: tensor * (self.max_norm / norm))
