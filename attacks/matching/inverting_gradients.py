"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053)."""

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels import LabelRestoration
from attacks.labels.ilrg import ILRG
from attacks.matching.distances import cosine_distance
from attacks.matching.priors import total_variation
from attacks.matching.victim import gradient_of
from learning.catalogue import Count, NotNegative, Positive, settings


@settings
class InvertingGradients(Attack):
    """Pictures that maximise the cosine of gradients under a total-variation prior (equation 4).

    `labels`: the label restoration to ask first. `iterations`: of Adam, whose step is divided by ten after 3/8, 5/8 and
    7/8 of them. `learning_rate`: in units of the pixel range (the paper's 0.1 is in units of a normalised picture, whose
    deviation is about a quarter of that range). `signed`: Adam sees the sign of the gradient only, as in the paper.
    `total_variation`: weight of the prior. `restarts`: independent starts, of which the one with the least loss is kept.

    After every step the pictures are put back into [0, 1]. The iterate with the least loss is returned. Several local
    steps are matched by their average gradient.
    """

    labels: LabelRestoration = ILRG()
    iterations: Count = 4800
    learning_rate: Positive = 0.025
    signed: bool = True
    total_variation: NotNegative = 0.1
    restarts: Count = 1

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        labels = self.labels.reconstruct(observation, rng).labels
        assert labels is not None, "label restorations restore labels"
        runs = [self._descend(observation, labels, rng) for _ in range(self.restarts)]
        images, history = min(runs, key=lambda run: min(run[1]))
        return Reconstruction(images=images.float(), labels=labels, loss=min(history), history=tuple(history))

    def _descend(self, observation: Observation, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, list[float]]:
        wanted = observation.gradient()
        dtype = next(iter(wanted.values())).dtype
        found_gradient = gradient_of(observation, dtype)
        start = 0.5 + 0.25 * torch.randn(observation.examples, *observation.image_shape, generator=rng)
        images = start.clamp(0, 1).to(dtype).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=self.learning_rate)
        milestones = [self.iterations * eighths // 8 for eighths in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        best, least, history = images.detach().clone(), float("inf"), []
        for iteration in range(self.iterations + 1):
            distance = cosine_distance(found_gradient(images, labels.to(dtype)), wanted)
            loss = distance + self.total_variation * total_variation(images)
            history.append(loss.item())
            if history[-1] < least:
                best, least = images.detach().clone(), history[-1]
            if iteration == self.iterations:
                break
            (slope,) = torch.autograd.grad(loss, images)
            images.grad = slope.sign() if self.signed else slope
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        return best, history
