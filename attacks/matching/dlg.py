"""Deep Leakage from Gradients (Zhu, Liu and Han, NeurIPS 2019, arXiv 1906.08935)."""

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels import LabelRestoration
from attacks.matching.descent import minimise
from attacks.matching.distances import squared_distance
from attacks.matching.victim import gradient_of
from learning.catalogue import Count, Positive, settings


@settings
class DLG(Attack):
    """Pictures, and labels where none are restored first, that minimise the squared distance of gradients (equation 3).

    `labels`: a label restoration to ask first (iDLG's order of work); left out, label scores are optimised with the
    pictures, as in the paper. `iterations`: of L-BFGS at most; it ends sooner when the loss no longer falls.
    `spread`: standard deviation of the starting pictures around mid-grey.

    L-BFGS has a strong-Wolfe line search (Nocedal and Wright, algorithm 3.5): the paper's fixed step diverges from most
    starts. Assumes a twice differentiable model (sigmoid, not ReLU) and one local step; several steps are matched by their
    average gradient.
    """

    labels: LabelRestoration | None = None
    iterations: Count = 3000
    spread: Positive = 0.25

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        wanted = observation.gradient()
        dtype = next(iter(wanted.values())).dtype
        restored = None if self.labels is None else self.labels.reconstruct(observation, rng).labels
        images = 0.5 + self.spread * torch.randn(observation.examples, *observation.image_shape, generator=rng)
        scores = torch.randn(observation.examples, observation.classes, generator=rng)
        images, scores = images.to(dtype).requires_grad_(), scores.to(dtype).requires_grad_()
        found_gradient = gradient_of(observation, dtype)

        def labels() -> Tensor:
            return scores.softmax(1) if restored is None else restored.to(dtype)

        def loss() -> Tensor:
            return squared_distance(found_gradient(images, labels()), wanted)

        history = minimise(loss, [images] if restored is not None else [images, scores], self.iterations)
        return Reconstruction(
            images=images.detach().clamp(0, 1).float(),
            labels=labels().detach().float(),
            loss=history[-1],
            history=tuple(history),
        )
