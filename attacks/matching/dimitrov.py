"""Data Leakage in Federated Averaging (Dimitrov, Balunovic, Konstantinov and Vechev, TMLR 2022, arXiv 2206.12395)."""

import scipy.optimize
import torch
from jaxtyping import Float
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, rows_by
from attacks.labels import LabelRestoration
from attacks.labels.auto import AutoLabels
from attacks.matching.adam import best_of, descend, falling
from attacks.matching.distances import cosine_distance
from attacks.matching.priors import start, total_variation, variation_weight
from attacks.matching.simulation import simulation
from attacks.matching.slopes import LARGE, slope_of
from attacks.matching.victim import victim_of, work
from learning.catalogue import Count, NotNegative, Positive, settings
from learning.tensors import Tensors


@settings
class Dimitrov(Attack):
    """Pictures, a set for every epoch, whose local training as the server ordered it ends where the client ended.

    All steps are simulated and differentiated through (section 4.1). The client shuffles its examples in every epoch, and
    tells nobody: so every epoch has variables of its own, with the restored labels dealt to its steps at random, and a prior
    that does not see the order draws the epochs together (section 4.2; here the mean picture of every class, which the same
    examples have in any order). In the end the epochs' pictures are matched to the first epoch's, class by class, and
    averaged (section 4.3).

    `labels`: of the client's whole round. `iterations`, `learning_rate`, `total_variation`, `spread`: as in Inverting
    Gradients, with plain steps. `epoch_prior`: its weight. `restarts`: each deals the labels anew; the one with the least
    loss is kept.

    `loss` and `history` are of the variables before they are averaged. Costs as many gradients an iteration as the client
    made steps, and their memory. Raises `NotApplicable` for a shared gradient, which is one step, and where the server
    ordered steps instead of whole epochs and the last epoch is cut.
    """

    labels: LabelRestoration = AutoLabels()
    iterations: Count = 200
    learning_rate: Positive = 0.08
    total_variation: NotNegative | None = None
    epoch_prior: NotNegative = 1.0
    spread: Positive = 0.05
    restarts: Count = 1

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        examples, training = observation.examples, observation.training
        if training.shared != "delta":
            raise NotApplicable("a shared gradient is one step, and this method simulates several: attack a delta")
        passes = -(-examples // training.batch_size)
        if observation.steps % passes:
            raise NotApplicable(f"{observation.steps} local steps are no whole epochs of {passes} steps each")
        epochs = observation.steps // passes
        rows = rows_by(self.labels, observation, rng)
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        victim = victim_of(observation, reference.dtype)
        simulate = simulation(victim, training, examples)
        dealt = torch.stack([dealt_labels(rows, epochs, rng) for _ in range(self.restarts)]).to(reference)
        starts = [torch.cat([start(observation, self.spread, rng)] * epochs) for _ in range(self.restarts)]
        variables = {"images": torch.stack(starts).clamp(0, 1).to(reference), "labels": dealt}

        def distance(one: Tensors) -> Tensor:
            return cosine_distance(simulate(one["images"], one["labels"].detach()), wanted)

        def loss(one: Tensors) -> Tensor:
            together = self.epoch_prior * epochs_apart(one["images"], one["labels"].detach(), epochs)
            return distance(one) + together + weight * total_variation(one["images"])

        weight = variation_weight(self.total_variation, distance, variables)
        large = work(victim, observation.image_shape) * observation.steps >= LARGE
        slope, share = slope_of(loss, victim, variables, self.iterations, large), falling("cosine", self.iterations)
        rate = lambda iteration: self.learning_rate * share(iteration)  # noqa: E731
        best = best_of(descend(slope, variables, self.iterations, rate, scales={"labels": 0.0}))
        images, labels = averaged(best.variables["images"], best.variables["labels"], epochs)
        whole = training.batch_size >= examples
        return Reconstruction(
            images=images.float().cpu(),
            labels=labels.float().cpu(),
            loss=best.loss,
            history=best.history,
            verdict="" if whole else "which labels met in a local step is not told: they are dealt to the steps at random",
        )


def dealt_labels(rows: Float[Tensor, "batch classes"], epochs: int, rng: torch.Generator) -> Float[Tensor, "all classes"]:
    """The labels of every epoch, one epoch after the other, each in an order of its own."""
    return torch.cat([rows[torch.randperm(len(rows), generator=rng)] for _ in range(epochs)])


def epochs_apart(
    images: Float[Tensor, "all channels height width"], labels: Float[Tensor, "all classes"], epochs: int
) -> Float[Tensor, ""]:
    """How far the epochs' mean pictures of every class are apart: their variance over the epochs, a mean over all pixels.

    Zero where all epochs hold the same examples, in whatever order.
    """
    pictures, rows = images.unflatten(0, (epochs, -1)), labels.unflatten(0, (epochs, -1))
    sums = torch.einsum("enk,enchw->ekchw", rows, pictures)
    means = sums / rows.sum(1).clamp_min(1e-6)[:, :, None, None, None]
    present = (rows.sum(1) > 0).to(images)[:, :, None, None, None]
    away = (means - means.mean(0)) * present
    return away.square().sum() / (present.sum() * images[0].numel()).clamp_min(1)


def averaged(images: Tensor, labels: Tensor, epochs: int) -> tuple[Tensor, Tensor]:
    """One set of pictures from one of each epoch: every epoch's are assigned to the first's, and the mean is taken."""
    pictures, rows = images.unflatten(0, (epochs, -1)), labels.unflatten(0, (epochs, -1))
    total = pictures[0].clone()
    for others, theirs in zip(pictures[1:], rows[1:], strict=True):
        apart = torch.cdist(pictures[0].flatten(1).double(), others.flatten(1).double()).square()
        strange = torch.cdist(rows[0].double(), theirs.double()) * apart.max() * len(rows[0])
        _, match = scipy.optimize.linear_sum_assignment((apart + strange).cpu().numpy())
        total += others[torch.as_tensor(match, device=others.device)]
    return total / epochs, rows[0]
