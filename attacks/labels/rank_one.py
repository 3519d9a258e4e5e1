"""Rank-one labels: one embedding for the whole batch, by least squares. No paper; the project's own reference measured it."""

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.directions.layers import common_input
from attacks.labels.counts import rows_of, whole_counts
from attacks.labels.last_layer import last_layer, last_layer_with_bias, parameters_at
from learning.catalogue import Index, settings


@settings
class RankOneLabels(Attack):
    """How many examples of each class there are, if all examples look nearly alike to the last layer.

    For cross-entropy the bias gradient is the batch's mean of p - y, so that counts are n = K (p - gradient), p being the
    batch's mean probabilities: exact, whatever the model. If all examples share one embedding e, the weight gradient is the
    product of the bias gradient and e, and p is the last layer's answer to e.

    `refinements`: how often the embedding is read again, once there are counts. The least-squares embedding weighs the
    examples unevenly: those of classes that are rarer or more frequent than the model expects count most. With counts in
    hand, the combination of rows is taken that weighs the examples most evenly.

    Assumes a last linear layer with a bias, and an untrained or hardly trained model; no data. On untrained networks every
    count is right up to batches far larger than iLRG's. After several local steps the probabilities are the mean of those
    of the model sent and of the model reached. Raises `NotApplicable` where there is no bias.
    """

    refinements: Index = 2

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        estimate, gradient = self.estimate(observation), last_layer_with_bias(observation)[3].nan_to_num(0.0)
        return Reconstruction(labels=rows_of(_whole(estimate, gradient, observation.examples)))

    def estimate(self, observation: Observation) -> Float[Tensor, " classes"]:
        """The counts before they are made whole."""
        weight, bias, weight_gradient, bias_gradient = last_layer_with_bias(observation)
        weight_gradient, bias_gradient = weight_gradient.nan_to_num(0.0), bias_gradient.nan_to_num(0.0)
        total = observation.examples
        layers = [(weight, bias), *_reached(observation)]
        direction, estimate = bias_gradient, torch.zeros_like(bias_gradient)
        for _ in range(1 + self.refinements):
            embedding = common_input(weight_gradient, bias_gradient, direction)
            probabilities = torch.stack([torch.softmax(w @ embedding + b, 0) for w, b in layers]).mean(0)
            estimate = total * (probabilities - bias_gradient)
            counts = _whole(estimate, bias_gradient, total).to(probabilities)
            direction = _even_direction(probabilities, counts, bias_gradient)
        return estimate


def _whole(estimate: Tensor, bias_gradient: Tensor, total: int) -> Tensor:
    """Whole counts: what p is off by, where the examples are not alike, is the more the larger it is."""
    return whole_counts(estimate, total, (estimate / total + bias_gradient).clamp_min(0.0))


def _reached(observation: Observation) -> list[tuple[Tensor, Tensor]]:
    """The last layer as the client reached it, where it made several steps."""
    if observation.steps == 1:
        return []
    name, parameters = last_layer(observation).name, parameters_at(observation, 1.0)
    return [(parameters[f"{name}.weight"].double(), parameters[f"{name}.bias"].double())]


def _even_direction(probabilities: Tensor, counts: Tensor, bias_gradient: Tensor) -> Tensor:
    """The combination u of rows for which gradient' u is the embedding's mean with the most even weights on the examples.

    An example of class c has the weight p.u - u_c; the sum of their squares is least, for p.u = 0, where u is constant plus
    a multiple of p_c / n_c. Classes without an example are held to have half of one.
    """
    ratio = probabilities / counts.clamp_min(0.5)
    direction = ratio - probabilities @ ratio
    return direction * torch.sign(bias_gradient @ direction)
