"""Towards General Deep Leakage: one batch from several model-gradient pairs (Geng et al. 2021, arXiv 2110.09074)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad_and_value

from attacks.attack import Attack, Observation, Reconstruction, rows_by
from attacks.labels import LabelRestoration
from attacks.labels.geng import GengLabels
from attacks.matching.descent import minimise
from attacks.matching.distances import relative_squared_distance
from attacks.matching.priors import outside, start, total_variation
from attacks.matching.slopes import TRACED_FROM, traced
from attacks.matching.victim import victim_of
from learning.catalogue import Count, NotNegative, Positive, settings
from learning.tensors import Tensors


@settings
class GengImages(Attack):
    """Pictures whose gradients match at every model at which the client was seen with the same batch.

    Every observation of the batch (`Observation.earlier` and the observation itself) is a pair of a model and the gradient
    that the client shared there; a delta counts as its average gradient, the paper's form for FedAvg. The mean over the
    pairs of the squared distances, each in units of its own gradient, is minimised over one set of pictures, by L-BFGS with
    a line search, in float64. With one pair it is DLG with restored labels. Another model is another set of equations for the
    same pixels; consecutive models say nearly the same.

    `labels`: the label restoration to ask first, about the observation itself. `iterations`: of L-BFGS at most. `tolerance`:
    it ends sooner when the loss is this share of the first one, or stands still. `clip`: weight of the mean squared way of
    pixels outside [0, 1], and `total_variation` of the prior of smoothness, of which the paper has both. `spread`: deviation
    of the starting pictures around mid-grey. `restarts`: independent starts, one after the other, of which the one of least
    loss is kept.

    Assumes a twice differentiable model, and that the earlier observations are of the same batch: nobody tells the server,
    and the study that grants them says so. The point of least loss is returned, put into [0, 1]; `loss` is of the pictures
    before. Raises `NotApplicable` where `labels` does.
    """

    labels: LabelRestoration = GengLabels()
    iterations: Count = 600
    tolerance: NotNegative = 1e-14
    clip: NotNegative = 0.01
    total_variation: NotNegative = 0.0
    spread: Positive = 0.05
    restarts: Count = 1

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        rows = rows_by(self.labels, observation, rng)
        reference = next(iter(observation.gradient().values())).double()
        labels = rows.to(reference)
        pairs = [_distance(one, labels) for one in (*observation.earlier, observation)]

        def loss(sought: Tensors) -> Tensor:
            images = sought["images"]
            total = torch.stack([distance(images) for distance in pairs]).mean() + self.clip * outside(images)
            return total + self.total_variation * total_variation(images) if self.total_variation else total

        slope, runs = grad_and_value(loss), []
        for restart in range(self.restarts):
            variables = {"images": start(observation, self.spread, rng).to(reference)}
            if restart == 0:
                slope = traced(slope, variables, self.iterations >= TRACED_FROM)
            runs.append((minimise(slope, variables, self.iterations, self.tolerance), variables["images"]))
        history, images = min(runs, key=lambda run: min(run[0]))
        return Reconstruction(
            images=images.clamp(0, 1).nan_to_num(0.5).float().cpu(),
            labels=rows,
            loss=min(history),
            history=tuple(history),
            verdict=f"matched at {len(pairs)} models" if len(pairs) > 1 else "",
        )


def _distance(observation: Observation, labels: Tensor) -> Callable[[Tensor], Tensor]:
    wanted = {name: tensor.double() for name, tensor in observation.gradient().items()}
    victim = victim_of(observation, torch.float64)
    return lambda images: relative_squared_distance(victim.gradient(images, labels), wanted)
