"""Zero-shot batch labels with duplicates (Geng et al. 2021, arXiv 2110.09074).

Along several local steps as Dimitrov et al. 2022 do: means over models between the one sent and the one reached.
"""

from typing import Literal

import torch

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.labels.counts import rows_of, whole_counts
from attacks.labels.last_layer import answers, dummy_pictures, last_layer
from learning.catalogue import Count, Positive, settings


@settings
class GengLabels(Attack):
    """How many examples of each class there are, from what the model answers to pictures of pure noise.

    The batch's mean probabilities p are taken from `dummies` noise pictures (`spread`: their deviation around mid-grey, in
    units of the pixel range). From the last layer's bias gradient the counts are n = K (p - gradient). From the weight
    gradient, which is the paper's form, they are n = K (p - row sums / s), where s is the mean sum of the last layer's input.

    `form`: "bias", "weights", or "auto": the bias where the layer has one, which is by far the better.
    `points`: after several local steps, p and s are means over so many models (or as many as there are steps, if fewer) on
    the straight way from the model sent to the model reached.

    Assumes an untrained or hardly trained model: that noise and pictures get the same answers. The form "weights" also
    assumes features whose sum is nearly the same for all pictures, as ReLU's are, and not SiLU's. Needs no data. Raises
    `NotApplicable` where there is no bias and the form "bias" is set, and where the features' sum is zero.
    """

    form: Literal["auto", "bias", "weights"] = "auto"
    dummies: Count = 64
    spread: Positive = 0.25
    points: Count = 10

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        layer, total = last_layer(observation), observation.examples
        images = dummy_pictures(observation, self.dummies, self.spread, rng)
        steps = min(observation.steps, self.points)
        shares = [step / steps for step in range(steps)]
        seen = [answers(observation, images, rng, share) for share in shares]
        probabilities = torch.stack([p.mean(0) for _, p in seen]).mean(0)
        if self.form == "bias" and layer.bias_gradient is None:
            raise NotApplicable("the last layer has no bias; set form = 'weights' or 'auto'")
        if layer.bias_gradient is not None and self.form != "weights":
            return _counted(total * (probabilities - layer.bias_gradient), total)
        feature_sum = torch.stack([features.sum(1).mean() for features, _ in seen]).mean()
        if not feature_sum.abs() > 0:
            raise NotApplicable("the last layer's input sums to zero on noise, and this method divides by that sum")
        return _counted(total * (probabilities - layer.weight_gradient.sum(1) / feature_sum), total)


def _counted(estimate: torch.Tensor, total: int) -> Reconstruction:
    return Reconstruction(labels=rows_of(whole_counts(estimate, total)))
