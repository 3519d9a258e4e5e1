"""Labels that the study gives away."""

import torch

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from learning.catalogue import settings


@settings
class GivenLabels(Attack):
    """The true labels, where the study grants them. Not an attack: an assumption, and the report names it."""

    needs = ("labels",)

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.granted.labels is None:
            raise NotApplicable("the study does not grant the labels; set `labels = true` in its table [granted]")
        rows = label_rows(observation.granted.labels, observation.classes)
        return Reconstruction(labels=rows, certified=torch.ones(len(rows), dtype=torch.bool))
