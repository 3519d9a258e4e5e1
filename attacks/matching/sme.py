"""Surrogate Model Extension (Zhu, Yao and Blaschko, ICML 2023, arXiv 2306.00127)."""

import torch
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, rows_by
from attacks.labels import LabelRestoration
from attacks.labels.auto import AutoLabels
from attacks.matching.adam import best_of, descend, falling
from attacks.matching.distances import cosine_distance
from attacks.matching.priors import starts, total_variation, variation_weight
from attacks.matching.slopes import LARGE, slope_of
from attacks.matching.victim import victim_of, work
from learning.catalogue import Count, NotNegative, Positive, settings
from learning.tensors import Tensors


@settings
class SME(Attack):
    """Pictures whose gradient, at one model between the one sent and the one reached, points along the client's way.

    After many local steps nothing is simulated: somewhere on the line from the sent weights to those reached there is a
    model at which all of the client's examples together have about the gradient of the whole way (section 4). Its `place`
    on the line, 0 to 1, is sought with the pictures. Costs one gradient an iteration, however many steps the client made.

    `labels`, `iterations`, `learning_rate`, `total_variation`, `spread`, `restarts`: as in Inverting Gradients, with plain
    steps. `place`: where on the line the search begins. `place_rate`: its learning rate, as a share of the pictures'.

    The best iterate of the best restart by the matching loss is returned; `verdict` says where on the line it is matched.
    Assumes steps whose path bends little. Raises `NotApplicable` where a gradient is shared: then there is no line.
    """

    labels: LabelRestoration = AutoLabels()
    iterations: Count = 1000
    learning_rate: Positive = 0.08
    total_variation: NotNegative | None = None
    spread: Positive = 0.05
    restarts: Count = 1
    place: NotNegative = 0.5
    place_rate: NotNegative = 0.1

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.training.shared != "delta":
            raise NotApplicable("a shared gradient does not say which model the client reached: attack a delta")
        rows = rows_by(self.labels, observation, rng)
        wanted, change = observation.gradient(), observation.update.parameters
        reference = next(iter(wanted.values()))
        victim, labels = victim_of(observation, reference.dtype), rows.to(reference)

        def distance(one: Tensors) -> Tensor:
            weights = {name: tensor + one["place"] * change[name] for name, tensor in victim.weights.items()}
            return cosine_distance(victim.gradient_at(weights, one["images"], labels), wanted)

        def loss(one: Tensors) -> Tensor:
            return distance(one) + weight * total_variation(one["images"])

        places = torch.full((self.restarts,), min(self.place, 1.0)).to(reference)
        variables = {"images": starts(observation, self.spread, self.restarts, rng).to(reference), "place": places}
        weight = variation_weight(self.total_variation, distance, variables)
        large = work(victim, observation.image_shape) >= LARGE
        slope, share = slope_of(loss, victim, variables, self.iterations, large), falling("cosine", self.iterations)
        runs = descend(
            slope,
            variables,
            self.iterations,
            lambda iteration: self.learning_rate * share(iteration),
            scales={"place": self.place_rate},
            bounded=("images", "place"),
        )
        best = best_of(runs)
        return Reconstruction(
            images=best.variables["images"].float().cpu(),
            labels=rows,
            loss=best.loss,
            history=best.history,
            verdict=f"matched at {best.variables['place'].item():.2f} of the way from the model sent to the model reached",
        )
