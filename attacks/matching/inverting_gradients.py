"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053)."""

from typing import Literal

import torch
from torch import Tensor
from torch.func import grad_and_value

from attacks.attack import Attack, Observation, Reconstruction, rows_by
from attacks.labels import LabelRestoration
from attacks.labels.ilrg import ILRG
from attacks.matching.adam import LAST, Run, descend, falling, soft_sign
from attacks.matching.distances import DISTANCES
from attacks.matching.priors import colour_variation, label_entropy, starts, total_variation
from attacks.matching.simulation import MOST_STEPS, orders, simulation
from attacks.matching.slopes import (
    LARGE,
    STEPS,
    TRACED_FROM,
    Slope,
    difference,
    exact,
    good_step,
    one_by_one,
    traced,
)
from attacks.matching.victim import Victim, victim_of, work
from learning.catalogue import Count, Index, NotNegative, Positive, settings
from learning.tensors import Tensors

SIGNED_RATE, PLAIN_RATE = 0.025, 0.08
STEEP = 4.0  # a sigmoid's argument moves so much more than the pixel, at mid-grey
EDGE = 1e-3  # nearest that a start comes to black or white where pixels are sigmoids
PILOT, PILOTS_FROM = 20, 100  # a pilot's share of the iterations is one in so many, and fewer than so many repay none


@settings
class InvertingGradients(Attack):
    """Pictures that maximise the cosine of gradients under a total-variation prior (equation 4).

    `labels`: the label restoration to ask first. `joint_labels`: none is asked, and one row of class scores per example is
    optimised with the pictures, as DLG does. `iterations`: of Adam, at most. `signed`: Adam sees the sign of the slope
    only; "soft" leaves small slopes as they are; "auto" takes what matches better: on small networks one restart is run with
    signs and without to the end, at once, and several are dealt to both, half each; large ones ask two pilots of a twentieth
    of the iterations, and take signed steps, the paper's, where these are under a hundred.
    `learning_rate`: Adam's first step, in units of the pixel range; left out, 0.025 for signed steps and 0.08 for plain
    ones. `decay`: "cosine" lets the step fall to zero along half a cosine, "steps" divides it by ten after 3/8, 5/8 and 7/8
    of the iterations. `warm_up`: iterations in which it rises first. `weight_decay`: AdamW's, towards mid-grey. `distance`: of
    the gradients; squares and absolute values are in units of the shared gradient's own. `total_variation`,
    `colour_variation` (of what the channels differ by), `label_entropy` (of labels that are sought): weights of the priors.
    `box`: pictures are put back into [0, 1] after every step, or are sigmoids of what is sought. `spread`: standard deviation
    of the starting pictures around mid-grey, in units of the pixel range; their pixels are normal, or `uniform`. `restarts`:
    independent starts, of which the one with the least loss is kept; they are computed together.

    The paper's own preset is `decay="steps"`, `learning_rate=0.025` (its 0.1 is in units of a normalised picture, whose
    deviation is about a quarter of the range), `signed=True`, `total_variation=0.1`, `spread=0.25`, `iterations=4800`.

    The iterate with the least loss is returned, with its `loss` and
    the losses of its run as `history`: at the start, and after every iteration. It ends sooner when the loss stands still,
    and a loss that is not finite ends its run. Large networks are matched by finite differences where these come within
    0.98 of the exact slope at the start, and exactly in the last tenth.

    Up to ten local steps are simulated as the server ordered them, and differentiated through; more are matched by their
    average gradient. The order in which a client takes its examples is not told: every restart assumes another order of the
    labels, and `verdict` says so. Raises `NotApplicable` where `labels` does.
    """

    labels: LabelRestoration = ILRG()
    joint_labels: bool = False
    iterations: Count = 1000
    learning_rate: Positive | None = None
    decay: Literal["cosine", "steps"] = "cosine"
    warm_up: Index = 0
    signed: bool | Literal["soft", "auto"] = "auto"
    distance: Literal["cosine", "masked-cosine", "layered-cosine", "squared", "absolute"] = "cosine"
    total_variation: NotNegative = 0.1
    colour_variation: NotNegative = 0.0
    label_entropy: NotNegative = 0.0
    box: Literal["projection", "sigmoid"] = "projection"
    spread: NotNegative = 0.05
    uniform: bool = False
    weight_decay: NotNegative = 0.0
    restarts: Count = 1

    def __post_init__(self) -> None:
        if self.weight_decay and self.box == "sigmoid":
            raise ValueError(f'weight_decay is {self.weight_decay}, and box is "sigmoid": decay needs box = "projection"')

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        rows = None if self.joint_labels else rows_by(self.labels, observation, rng)
        simulated = 1 < observation.steps <= MOST_STEPS
        variables = {"images": starts(observation, self.spread, self.restarts, rng, self.uniform).to(reference)}
        if self.box == "sigmoid":
            variables["images"] = variables["images"].logit(EDGE)
        if rows is None:
            scores = torch.randn(self.restarts, observation.examples, observation.classes, generator=rng)
            variables["scores"] = scores.to(reference)
        else:
            order = orders(observation.examples, self.restarts if simulated else 1, rng).to(reference.device)
            variables["labels"] = rows.to(reference)[order].expand(self.restarts, -1, -1)
        victim = victim_of(observation, reference.dtype)
        large = work(victim, observation.image_shape) * (observation.steps if simulated else 1) >= LARGE
        both = self.signed == "auto" and not large
        if both and self.restarts == 1:
            variables = {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in variables.items()}
        slopes = self._slopes(victim, observation, wanted, variables, simulated, large)
        signed = self._better(slopes[0], variables) if self.signed == "auto" and large else self.signed
        lanes = len(variables["images"])
        kinds = [2 * lane < lanes if both else signed in (True, "soft") for lane in range(lanes)]
        runs = self._descend(slopes, variables, kinds, self.iterations)
        best = min(runs, key=lambda run: run.loss)
        return Reconstruction(
            images=self._pictures(best.variables).float().cpu(),
            labels=_rows(best.variables).float().cpu(),
            loss=best.loss,
            history=best.history,
            verdict=_said(observation, simulated),
        )

    def _slopes(
        self, victim: Victim, observation: Observation, wanted: Tensors, variables: Tensors, simulated: bool, large: bool
    ) -> tuple[Slope, Slope]:
        """The slope to begin with, and the exact one to end with."""
        found = simulation(victim, observation.training, observation.examples) if simulated else victim.gradient
        distance = DISTANCES[self.distance]

        def prior(one: Tensors) -> Tensor:
            images = self._pictures(one)
            total = self.total_variation * total_variation(images)
            if self.colour_variation:
                total = total + self.colour_variation * colour_variation(images)
            return total + self.label_entropy * label_entropy(_rows(one)) if self.label_entropy else total

        def loss(one: Tensors) -> Tensor:
            return distance(found(self._pictures(one), _rows(one)), wanted) + prior(one)

        alone = {name: tensor[0] for name, tensor in variables.items()}
        steps = {step: difference(victim, wanted, distance, prior, step) for step in STEPS}
        differs = large and not simulated and not self.joint_labels and self.box == "projection"
        step = good_step(grad_and_value(loss), steps, alone) if differs else None
        if step is None:
            slope = exact(loss, variables, self.iterations, large)
            return slope, slope
        first = one_by_one(traced(steps[step], alone, self.iterations >= TRACED_FROM))
        return first, exact(loss, variables, round(LAST * self.iterations), large)

    def _better(self, slope: Slope, variables: Tensors) -> bool:
        """Whether signed steps match better than plain ones, by the mean loss that short runs of both reach."""
        if self.iterations < PILOTS_FROM:
            return True
        short = self.iterations // PILOT
        kinds = [[signed] * self.restarts for signed in (True, False)]
        pilots = [self._descend((slope, slope), variables, kind, short) for kind in kinds]
        signed, plain = (sum(run.loss for run in runs) for runs in pilots)
        return signed < plain

    def _descend(self, slopes: tuple[Slope, Slope], variables: Tensors, kinds: list[bool], iterations: int) -> list[Run]:
        """All restarts, each with signed steps or without."""
        paces = [self.learning_rate or (SIGNED_RATE if kind else PLAIN_RATE) for kind in kinds]
        share = falling(self.decay, iterations, self.warm_up)
        scales = {"labels": 0.0, "images": 1.0 if self.box == "projection" else STEEP}
        bounded = ("images",) if self.box == "projection" else ()
        sign = soft_sign if self.signed == "soft" else torch.sign
        return descend(
            slopes, variables, iterations, share, kinds, scales, bounded, paces=paces, sign=sign, decay=self.weight_decay
        )

    def _pictures(self, one: Tensors) -> Tensor:
        return one["images"].sigmoid() if self.box == "sigmoid" else one["images"]


def _rows(one: Tensors) -> Tensor:
    """The label rows that go with the pictures: fixed, or those of scores that are sought with them."""
    return one["labels"].detach() if "labels" in one else one["scores"].softmax(-1)


def _said(observation: Observation, simulated: bool) -> str:
    if observation.steps == 1:
        return ""
    if not simulated:
        return f"matched by the average gradient of {observation.steps} local steps"
    whole = observation.training.batch_size >= observation.examples
    return "" if whole else "the order in which the client took its examples is assumed: it is not told"
