"""iDLG's label: the sign of the last layer's gradient (Zhao et al. 2020, arXiv 2001.02610)."""

import torch

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, label_rows
from attacks.labels.last_layer import last_layer
from learning.catalogue import settings


@settings
class IDLGLabels(Attack):
    """The label of a single example: the class whose row of the last layer's gradient points the other way.

    With cross-entropy the bias gradient is p - y, negative at the label alone: exact, whatever the activation and however
    trained. Without a bias the row sums are read instead, which is exact if the features are not negative.
    Assumes one example and one local step; several steps on the same example still leave the sign.
    """

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.examples != 1:
            raise NotApplicable(f"iDLG restores the label of one example, and the client used {observation.examples}")
        layer = last_layer(observation)
        score = layer.weight_gradient.sum(1) if layer.bias_gradient is None else layer.bias_gradient
        return Reconstruction(labels=label_rows(score.argmin().reshape(1), observation.classes))
