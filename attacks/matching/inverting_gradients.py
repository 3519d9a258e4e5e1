"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053)."""

from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels import LabelRestoration
from attacks.labels.ilrg import ILRG
from attacks.matching.adam import Run, descend, falling
from attacks.matching.distances import cosine_distance
from attacks.matching.priors import start, total_variation
from attacks.matching.slopes import LARGE, Slope, difference, good_step, one_by_one, stacked, traced
from attacks.matching.victim import victim_of, work
from learning.catalogue import Count, Index, NotNegative, Positive, settings
from learning.tensors import Tensors

SIGNED_RATE, PLAIN_RATE = 0.025, 0.08
PILOT = 10  # a pilot's share of the iterations is one in so many


@settings
class InvertingGradients(Attack):
    """Pictures that maximise the cosine of gradients under a total-variation prior (equation 4).

    `labels`: the label restoration to ask first. `joint_labels`: none is asked, and one row of class scores per example is
    optimised with the pictures, as DLG does. `iterations`: of Adam, at most. `signed`: Adam sees the sign of the slope
    only; "auto" asks two pilots of a tenth of the iterations, one signed and one plain, and takes what matches better.
    `learning_rate`: Adam's first step, in units of the pixel range; left out, 0.025 for signed steps and 0.08 for plain
    ones. `decay`: "cosine" lets the step fall to zero along half a cosine, "steps" divides it by ten after 3/8, 5/8 and 7/8
    of the iterations. `warm_up`: iterations in which it rises first. `total_variation`: weight of the prior. `spread`:
    standard deviation of the starting pictures around mid-grey, in units of the pixel range. `restarts`: independent starts,
    of which the one with the least loss is kept; they are computed together.

    The paper's own preset is `decay="steps"`, `learning_rate=0.025` (its 0.1 is in units of a normalised picture, whose
    deviation is about a quarter of the range), `signed=True`, `total_variation=0.1`, `spread=0.25`, `iterations=4800`.

    After every step the pictures are put back into [0, 1]. The iterate with the least loss is returned, with its `loss` and
    the losses of its run as `history`: at the start, and after every iteration. It ends sooner when the loss stands still,
    and a loss that is not finite ends its run. Large networks are matched by finite differences where these come within
    0.98 of the exact slope at the start, and exactly in the last tenth. Assumes one local step; several are matched by their
    average gradient. Raises `NotApplicable` where `labels` does.
    """

    labels: LabelRestoration = ILRG()
    joint_labels: bool = False
    iterations: Count = 1000
    learning_rate: Positive | None = None
    decay: Literal["cosine", "steps"] = "cosine"
    warm_up: Index = 0
    signed: bool | Literal["auto"] = "auto"
    total_variation: NotNegative = 0.1
    spread: Positive = 0.05
    restarts: Count = 1

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        rows = None
        if not self.joint_labels:
            rows = self.labels.reconstruct(observation, rng).labels
            assert rows is not None, "label restorations restore labels"
        starts = [start(observation, self.spread, rng).clamp(0, 1).to(reference) for _ in range(self.restarts)]
        variables = {"images": torch.stack(starts)}
        if rows is None:
            scores = torch.randn(self.restarts, observation.examples, observation.classes, generator=rng)
            variables["scores"] = scores.to(reference)
        slopes = self._slopes(observation, None if rows is None else rows.to(reference), wanted, variables)
        signed = self._better(slopes[0], variables) if self.signed == "auto" else self.signed
        runs = self._descend(slopes, variables, signed, self.iterations)
        best = min(runs, key=lambda run: run.loss)
        if rows is None:
            rows = best.variables["scores"].softmax(1).float().cpu()
        return Reconstruction(images=best.variables["images"].float().cpu(), labels=rows, loss=best.loss, history=best.history)

    def _slopes(
        self, observation: Observation, labels: Tensor | None, wanted: Tensors, variables: Tensors
    ) -> tuple[Slope, Slope]:
        """The slope to begin with, and the exact one to end with."""
        victim = victim_of(observation, variables["images"].dtype)

        def prior(one: Tensors) -> Tensor:
            return self.total_variation * total_variation(one["images"])

        def loss(one: Tensors) -> Tensor:
            rows = one["scores"].softmax(1) if labels is None else labels
            return cosine_distance(victim.gradient(one["images"], rows), wanted) + prior(one)

        if labels is None or work(victim, observation.image_shape) < LARGE:
            exact = traced(stacked(loss), variables, self.iterations)
            return exact, exact
        first = {name: tensor[:1] for name, tensor in variables.items()}

        def differences(step: float) -> Slope:
            return one_by_one(difference(victim, labels, wanted, cosine_distance, prior, step))

        exact = stacked(loss, together=False)
        step = good_step(exact, differences, first)
        return exact if step is None else differences(step), exact

    def _better(self, slope: Slope, variables: Tensors) -> bool:
        """Whether signed steps match better than plain ones, by the mean loss that short runs of both reach."""
        pilots = [
            self._descend((slope, slope), variables, signed, max(1, self.iterations // PILOT)) for signed in (True, False)
        ]
        signed, plain = (sum(run.loss for run in runs) for runs in pilots)
        return signed < plain

    def _descend(self, slopes: tuple[Slope, Slope], variables: Tensors, signed: bool, iterations: int) -> list[Run]:
        rate = self.learning_rate or (SIGNED_RATE if signed else PLAIN_RATE)
        share = falling(self.decay, iterations, self.warm_up)
        return descend(slopes, variables, iterations, lambda iteration: rate * share(iteration), signed)
