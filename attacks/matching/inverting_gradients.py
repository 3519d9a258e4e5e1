"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053)."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction, rows_by
from attacks.labels import LabelRestoration
from attacks.labels.ilrg import ILRG
from attacks.matching.adam import Run, best_of, descend, falling, soft_sign
from attacks.matching.distances import DISTANCES
from attacks.matching.knowing import Insight, assuming, insight
from attacks.matching.priors import colour_variation, crowding, label_entropy, starts, total_variation, variation_weight
from attacks.matching.simulation import MOST_STEPS, orders, simulation
from attacks.matching.slopes import LARGE, Loss, Slope, slope_of
from attacks.matching.victim import victim_of, work
from learning.catalogue import Count, Index, NotNegative, Positive, settings
from learning.tensors import Tensors

STEEP = 4.0  # a sigmoid's argument moves so much more than the pixel, at mid-grey
EDGE = 1e-3  # nearest that a start comes to black or white where pixels are sigmoids
PILOT, PILOTS_FROM = 20, 100  # a pilot's share of the iterations is one in so many, and fewer than so many repay none


@settings
class InvertingGradients(Attack):
    """Pictures that maximise the cosine of gradients under a total-variation prior (equation 4).

    `labels`: the label restoration to ask first. `joint_labels`: none is asked, and one row of class scores per example is
    optimised with the pictures, as DLG does. `iterations`: of Adam, at most. `signed`: Adam sees the sign of the slope
    only; "soft" leaves small slopes as they are; "auto" takes what matches better: on small networks one restart is run
    with signs and without to the end, at once, and several are dealt to both, half each; large ones ask two pilots of a
    twentieth of the iterations, and take signed steps, the paper's, where these are under a hundred. `learning_rate`:
    Adam's first step, in units of the pixel range. `decay`: "cosine" lets the step fall to zero along half a cosine,
    "steps" divides it by ten after 3/8, 5/8 and 7/8 of the iterations. `warm_up`: iterations in which it rises first.
    `weight_decay`: AdamW's, towards mid-grey. `distance`: of the gradients; squares and absolute values are in units of the
    shared gradient's own. `total_variation`, `colour_variation` (of what the channels differ by), `label_entropy` (of
    labels that are sought): weights of the priors. Left out, that of total variation is a fifth of the distance at the
    first start, and more where a batch of one step has many pixels for the entries of its gradient (`priors.crowding`).
    `box`: pictures are put back into [0, 1] after every step, or are sigmoids of what is sought. `spread`: standard
    deviation of the starting pictures around mid-grey, in units of the pixel range; their pixels are normal, or `uniform`.
    `restarts`: independent starts, of which the one of least mean loss is kept; they are computed together. `continued`: the
    first start is what the same attack finds in the round before, where rounds of the same examples are granted.

    The paper's own preset is `decay="steps"`, `learning_rate=0.025` (its 0.1 is in units of a normalised picture, whose
    deviation is about a quarter of the range), `signed=True`, `total_variation=0.1`, `spread=0.25`, `iterations=4800`.

    The iterate where the running mean of the losses is least (`adam.Run`) is returned, with its `loss` and the losses of its
    run as `history`: at the start, and after every iteration. It ends sooner when the loss stands still, and a loss that is
    not finite ends its run.

    Up to ten local steps are simulated as the server ordered them, and differentiated through; more are matched by their
    average gradient. The order in which a client takes its examples is not told: every restart assumes another order of the
    labels, and `verdict` says so. Raises `NotApplicable` where `labels` does.

    Where the client's defenses are known, what these would share is matched, and their noise may ask for more weight of the
    total variation than is set: see `attacks.matching.knowing`.
    """

    adapts: ClassVar[bool] = True

    labels: LabelRestoration = ILRG()
    joint_labels: bool = False
    iterations: Count = 1000
    learning_rate: Positive = 0.08
    decay: Literal["cosine", "steps"] = "cosine"
    warm_up: Index = 0
    signed: bool | Literal["soft", "auto"] = "auto"
    distance: Literal["cosine", "masked-cosine", "layered-cosine", "squared", "absolute"] = "cosine"
    total_variation: NotNegative | None = None
    colour_variation: NotNegative = 0.0
    label_entropy: NotNegative = 0.0
    box: Literal["projection", "sigmoid"] = "projection"
    spread: NotNegative = 0.05
    uniform: bool = False
    weight_decay: NotNegative = 0.0
    restarts: Count = 1
    continued: bool = False

    def __post_init__(self) -> None:
        if self.weight_decay and self.box == "sigmoid":
            raise ValueError(f'weight_decay is {self.weight_decay}, and box is "sigmoid": decay needs box = "projection"')

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        observation = assuming(self, observation, rng)
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
        found = simulation(victim, observation.training, observation.examples) if simulated else victim.gradient
        known = insight(
            observation, victim, found, DISTANCES[self.distance], self._pictures(variables), variables.get("labels"), rng
        )
        variables |= known.inside
        loss = self._loss(known, wanted, variables, observation.steps)
        if self.continued and observation.earlier:  # only now: smoothness weighs what it does from a fresh start
            before = self._before(observation, rng).to(reference)
            variables["images"][0] = before.logit(EDGE) if self.box == "sigmoid" else before
        large = work(victim, observation.image_shape) * (observation.steps if simulated else 1) >= LARGE
        both = self.signed == "auto" and not large
        if both and self.restarts == 1:
            variables = {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in variables.items()}
        slope = slope_of(loss, victim, variables, self.iterations, large)
        signed = self._better(slope, variables) if self.signed == "auto" and large else self.signed
        lanes = len(variables["images"])
        kinds = [2 * lane < lanes if both else signed in (True, "soft") for lane in range(lanes)]
        runs = self._descend(slope, variables, kinds, self.iterations)
        best = best_of(runs)
        return Reconstruction(
            images=self._pictures(best.variables).float().cpu(),
            labels=_rows(best.variables).float().cpu(),
            loss=best.loss,
            history=best.history,
            verdict=_said(observation, simulated),
        )

    def _before(self, observation: Observation, rng: torch.Generator) -> Tensor:
        """The pictures that the attack finds in the last of the earlier observations, which may go on from those before."""
        *others, last = observation.earlier
        found = self.reconstruct(replace(last, earlier=tuple(others)), rng).images
        assert found is not None
        return found

    def _loss(self, known: Insight, wanted: Tensors, variables: Tensors, steps: int) -> Loss:
        """Distance plus priors, of one restart's variables."""

        def distance(one: Tensors) -> Tensor:
            return known.distance(known.gradient(self._pictures(one), _rows(one), one), wanted)

        crowd = crowding(variables["images"][0], wanted) if steps == 1 else 1.0
        weight = max(variation_weight(self.total_variation, distance, variables, crowd), known.variation)

        def loss(one: Tensors) -> Tensor:
            images = self._pictures(one)
            total = distance(one) + weight * total_variation(images)
            if self.colour_variation:
                total = total + self.colour_variation * colour_variation(images)
            return total + self.label_entropy * label_entropy(_rows(one)) if self.label_entropy else total

        return loss

    def _better(self, slope: Slope, variables: Tensors) -> bool:
        """Whether signed steps match better than plain ones, by the mean loss that short runs of both reach."""
        if self.iterations < PILOTS_FROM:
            return True
        short = self.iterations // PILOT
        kinds = [[signed] * self.restarts for signed in (True, False)]
        pilots = [self._descend(slope, variables, kind, short) for kind in kinds]
        signed, plain = (sum(run.mean for run in runs) for runs in pilots)
        return signed < plain

    def _descend(self, slope: Slope, variables: Tensors, kinds: list[bool], iterations: int) -> list[Run]:
        """All restarts, each with signed steps or without."""
        share = falling(self.decay, iterations, self.warm_up)
        scales = {"labels": 0.0, "images": 1.0 if self.box == "projection" else STEEP}
        bounded = ("images",) if self.box == "projection" else ()
        sign = soft_sign if self.signed == "soft" else torch.sign
        return descend(
            slope,
            variables,
            iterations,
            lambda iteration: self.learning_rate * share(iteration),
            kinds,
            scales,
            bounded,
            sign=sign,
            decay=self.weight_decay,
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
