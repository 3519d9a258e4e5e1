"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053)."""

import math
from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels import LabelRestoration
from attacks.labels.ilrg import ILRG
from attacks.matching.distances import cosine_distance
from attacks.matching.priors import start, total_variation
from attacks.matching.victim import GradientOf, gradient_of
from learning.catalogue import Count, NotNegative, Positive, settings
from learning.tensors import Tensors


@settings
class InvertingGradients(Attack):
    """Pictures that maximise the cosine of gradients under a total-variation prior (equation 4).

    `labels`: the label restoration to ask first. `iterations`: of Adam. `learning_rate`: its first step, in units of the
    pixel range. `decay`: "cosine" lets the step fall to zero along half a cosine, "steps" divides it by ten after 3/8, 5/8
    and 7/8 of the iterations. `signed`: Adam sees the sign of the slope only. `total_variation`: weight of the prior.
    `spread`: standard deviation of the starting pictures around mid-grey, in units of the pixel range. `restarts`:
    independent starts, of which the one with the least loss is kept.

    The paper's own preset is `decay="steps"`, `learning_rate=0.025` (its 0.1 is in units of a normalised picture, whose
    deviation is about a quarter of the range), `signed=True`, `total_variation=0.1`, `spread=0.25`, `iterations=4800`. It
    is made for deep ReLU networks with BatchNorm. The defaults are chosen on small networks, where they restore more in a
    quarter of the time.

    After every step the pictures are put back into [0, 1]. The iterate with the least loss is returned, with its `loss`
    and the losses of its run as `history`: at the start, and after every iteration. A loss that is not finite ends its run.
    Assumes one local step; several are matched by their average gradient. Raises `NotApplicable` where `labels` does.
    """

    labels: LabelRestoration = ILRG()
    iterations: Count = 1000
    learning_rate: Positive = 0.08
    decay: Literal["cosine", "steps"] = "cosine"
    signed: bool = False
    total_variation: NotNegative = 0.1
    spread: Positive = 0.05
    restarts: Count = 1

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        rows = self.labels.reconstruct(observation, rng).labels
        assert rows is not None, "label restorations restore labels"
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        found_gradient = gradient_of(observation, reference.dtype)
        starts = [start(observation, self.spread, rng).clamp(0, 1).to(reference) for _ in range(self.restarts)]
        runs = [self._descend(found_gradient, wanted, images, rows.to(reference)) for images in starts]
        images, history = min(runs, key=lambda run: min(run[1]))
        return Reconstruction(images=images.float().cpu(), labels=rows, loss=min(history), history=tuple(history))

    def _descend(
        self, found_gradient: GradientOf, wanted: Tensors, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, list[float]]:
        best, least, history = images.clone(), math.inf, []
        images.requires_grad_()
        optimizer = torch.optim.Adam([images], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._share_of_step)
        for iteration in range(self.iterations + 1):
            distance = cosine_distance(found_gradient(images, labels), wanted)
            loss = distance + self.total_variation * total_variation(images)
            value = loss.item()
            history.append(value if math.isfinite(value) else math.inf)
            if history[-1] < least:
                best, least = images.detach().clone(), history[-1]
            if iteration == self.iterations or not math.isfinite(value):
                break
            (slope,) = torch.autograd.grad(loss, images)
            images.grad = slope.sign() if self.signed else slope
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        return best, history

    def _share_of_step(self, iteration: int) -> float:
        """What is left of the learning rate in that iteration."""
        if self.decay == "cosine":
            return (1 + math.cos(math.pi * iteration / self.iterations)) / 2
        return 0.1 ** sum(iteration >= self.iterations * eighths // 8 for eighths in (3, 5, 7))
