"""LLG: labels by the sign and the size of the gradient (Wainakh et al., PoPETs 2022, algorithms 1 and 2)."""

from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction
from attacks.labels.counts import rows_of
from attacks.labels.last_layer import answers, dummy_pictures, last_layer
from learning.catalogue import Count, Positive, settings


@settings
class LLG(Attack):
    """How many examples of each class there are: every example pulls the row sum of its class down by about the same amount.

    First each class with a negative row sum gets one label; then the class with the smallest row sum gets one label at a
    time, and what one example contributes (its impact) is added back at once, until the batch is full.

    `knowledge`: "gradient" is LLG, whose impact is the mean of the negative sums over the batch size, raised by 1/C;
    "model" is LLG*, which takes impact and offset (what the other classes' examples add to a row) from `dummies` pictures of
    noise (`spread`: their deviation in units of the pixel range); "public" is LLG+, which takes them from granted public
    pictures. Impact and offset are the exact expectations over those pictures, all classes being equally likely.

    Assumes features whose sum is positive and much alike for all examples: ReLU or sigmoid, an untrained or hardly trained
    model, one local step. Needs no bias. Raises `NotApplicable` where public pictures are asked for and not granted.
    """

    knowledge: Literal["gradient", "model", "public"] = "gradient"
    dummies: Count = 64
    spread: Positive = 0.25

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        sums = last_layer(observation).weight_gradient.sum(1).nan_to_num(0.0)
        total, classes = observation.examples, observation.classes
        if self.knowledge == "gradient":
            impact, offset = sums.clamp_max(0).sum() / total * (1 + 1 / classes), torch.zeros_like(sums)
        else:
            features, probabilities = answers(observation, self._pictures(observation, rng), rng)
            feature_sums = features.sum(1)
            impact, offset = -feature_sums.mean() / total, feature_sums @ probabilities / len(feature_sums)
        return Reconstruction(labels=rows_of(_one_by_one(sums, impact, offset, total)))

    def _pictures(self, observation: Observation, rng: torch.Generator) -> Tensor:
        if self.knowledge == "model":
            return dummy_pictures(observation, self.dummies, self.spread, rng)
        if observation.granted.public is None:
            raise NotApplicable("no public pictures are granted, and knowledge = 'public' needs them")
        return observation.granted.public


def _one_by_one(sums: Tensor, impact: Tensor, offset: Tensor, total: int) -> Tensor:
    counts, left = torch.zeros(len(sums), dtype=torch.long), sums - offset
    negative = torch.nonzero(sums < 0).flatten()
    for index in negative[sums[negative].argsort(stable=True)][:total]:
        counts[index] += 1
        left[index] -= impact
    while counts.sum() < total:
        index = left.argmin()  # read anew for every label: a peer goes on subtracting from the class it found first
        counts[index] += 1
        left[index] -= impact.clamp_max(-1e-12 * max(1.0, float(sums.abs().max())))  # no impact at all would fill one class
    return counts
