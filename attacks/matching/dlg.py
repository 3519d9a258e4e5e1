"""Deep Leakage from Gradients (Zhu, Liu and Han, NeurIPS 2019, arXiv 1906.08935)."""

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels import LabelRestoration
from attacks.matching.descent import minimise
from attacks.matching.distances import squared_distance
from attacks.matching.priors import start
from attacks.matching.victim import gradient_of
from learning.catalogue import Count, NotNegative, Positive, settings


@settings
class DLG(Attack):
    """Pictures, and labels where none are restored first, that minimise the squared distance of gradients (equation 3).

    `labels`: a label restoration to ask first (iDLG's order of work); left out, one row of class scores per example is
    optimised with the pictures, as in the paper. `iterations`: of L-BFGS at most. `tolerance`: it ends sooner when the
    loss is this share of the first one, or stands still. `spread`: standard deviation of the starting pictures around
    mid-grey, in units of the pixel range.

    Departs from the authors' code in the way it descends, not in what it minimises: L-BFGS has a strong-Wolfe line search
    (their fixed step diverges from most starts), works in float64, and starts near grey (from a spread of 0.25 it takes
    about twice the iterations). The pictures are put into [0, 1] once, at the end; the point of least matching loss is
    returned, and `loss` is that of the pictures before.

    Assumes a twice differentiable model (sigmoid, not ReLU: there the pictures stay noise, and nothing is raised) and one
    local step; several steps are matched by their average gradient. Raises `NotApplicable` where `labels` does.
    """

    labels: LabelRestoration | None = None
    iterations: Count = 1200
    tolerance: NotNegative = 1e-9
    spread: Positive = 0.05

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        wanted = {name: tensor.double() for name, tensor in observation.gradient().items()}
        reference = next(iter(wanted.values()))
        found_gradient = gradient_of(observation, torch.float64)
        rows = None if self.labels is None else self.labels.reconstruct(observation, rng).labels
        restored = None if rows is None else rows.to(reference)
        images = start(observation, self.spread, rng).to(reference).requires_grad_()
        scores = torch.randn(observation.examples, observation.classes, generator=rng).to(reference).requires_grad_()

        def labels() -> Tensor:
            return scores.softmax(1) if restored is None else restored

        def loss() -> Tensor:
            return squared_distance(found_gradient(images, labels()), wanted)

        history = minimise(loss, [images] if self.labels else [images, scores], self.iterations, self.tolerance)
        return Reconstruction(
            images=images.detach().clamp(0, 1).nan_to_num(0.5).float().cpu(),
            labels=labels().detach().float().cpu(),
            loss=min(history),
            history=tuple(history),
        )
