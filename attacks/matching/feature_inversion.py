"""Feature inversion: pictures with the features that a network's linear layers give away exactly.

What SPEAR's authors do with convolutions (Dimitrov et al., NeurIPS 2024, arXiv 2403.03945), as do Kariyappa et al. (ICML 2023).
"""

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.exact.features import features_of
from attacks.matching.adam import best_of, descend, falling
from attacks.matching.distances import cosine_distance
from attacks.matching.priors import starts, total_variation
from attacks.matching.slopes import LARGE, slope_of
from attacks.matching.victim import layer_inputs, victim_of, work
from learning.catalogue import Count, NotNegative, Positive, settings
from learning.tensors import Tensors

SETTLED = 0.8  # share of the iterations after which the prior stays as it is


@settings
class FeatureInversion(Attack):
    """Pictures of a batch from a network whose convolutions end in linear layers with ReLU between.

    First the inputs of the first linear layer are solved for, example by example, and their labels (`attacks.exact.features`).
    Then pictures are sought that have these inputs and the shared gradient: the mean squared distance of the features, in
    units of their own square, times `features`, and the cosine distance of the gradients. The prior falls from
    `total_variation` to `least_variation` along a geometric series: what a picture is like comes first, then its details.

    `seconds`: for each way to the features. `iterations`, `learning_rate` (in units of the pixel range): of Adam with plain
    steps, along a cosine. `spread`: deviation of the starting pictures around mid-grey. `restarts`: of which the one of least
    mean loss is returned, and its iterate of least mean loss (`adam.Run`).

    Several local steps are matched by their average gradient. Raises `NotApplicable` where features are not to be had: see
    `features_of`.
    """

    features: Positive = 1.0
    iterations: Count = 1000
    learning_rate: Positive = 0.1
    total_variation: Positive = 1.0
    least_variation: Positive = 0.003
    spread: NotNegative = 0.05
    restarts: Count = 2
    seconds: Positive = 20.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        found = features_of(observation, self.seconds, rng)
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        victim, labels, target = victim_of(observation, reference.dtype), found.labels.to(reference), found.inputs.to(reference)
        inputs_for, size = layer_inputs(victim, [found.name]), target.square().sum()

        def loss(one: Tensors) -> Tensor:
            images = one["images"]
            apart = (inputs_for(images)[found.name] - target).square().sum() / size
            matched = self.features * apart + cosine_distance(victim.gradient(images, labels), wanted)
            return matched + one["variation"].detach() * total_variation(images)

        images = starts(observation, self.spread, self.restarts, rng).to(reference)
        variables = {"images": images, "variation": images.new_full((self.restarts,), self.total_variation)}
        slope = slope_of(loss, victim, variables, self.iterations, work(victim, observation.image_shape) >= LARGE)

        def let_go(iteration: int, now: Tensors) -> None:
            way = min(1.0, iteration / (SETTLED * self.iterations))
            now["variation"].fill_(self.total_variation ** (1 - way) * self.least_variation**way)

        rate = falling("cosine", self.iterations)
        runs = descend(
            slope,
            variables,
            self.iterations,
            lambda iteration: self.learning_rate * rate(iteration),
            scales={"variation": 0.0},
            before=let_go,
        )
        best = best_of(runs)
        solved = f"the inputs of '{found.name}' were solved for, and leave {found.remainder:.1g} of its gradient unexplained"
        return Reconstruction(
            images=best.variables["images"].float().cpu(),
            labels=found.labels.float().cpu(),
            loss=best.loss,
            history=best.history,
            verdict=solved,
        )
