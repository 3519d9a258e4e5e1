"""Inverting Gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.attack import Attack, Observation, Reconstruction, rows_and_proven
from attacks.labels import GivenLabels, LabelRestoration
from attacks.labels.ilrg import ILRG
from attacks.matching.adam import Run, best_of, descend, falling, soft_sign
from attacks.matching.distances import DISTANCES, Distance
from attacks.matching.exchanges import TOGETHER, exchanged
from attacks.matching.knowing import Insight, assuming, insight
from attacks.matching.priors import colour_variation, crowding, label_entropy, starts, total_variation, variation_weight
from attacks.matching.simulation import MOST_STEPS, orders, simulation
from attacks.matching.slopes import CACHED, FILLED, LARGE, Loss, Slope, slope_of
from attacks.matching.victim import Victim, layers_of, victim_of, work
from learning.catalogue import Count, Index, NotNegative, Positive, settings
from learning.tensors import Tensors

STEEP = 4.0  # a sigmoid's argument moves so much more than the pixel, at mid-grey
EDGE = 1e-3  # nearest that a start comes to black or white where pixels are sigmoids
WANTED, WEIGHT = "wanted ", "weight"  # what is each victim's own is called so among variables of several
NEAR = 0.5  # of the step's length in the second half, where there is one: the first has come near
PILOT, PILOTS_FROM = 20, 100  # a pilot's share of the iterations is one in so many, and fewer than so many repay none
SHARED = 3  # times what a cache holds, of batches of labels that are tried at once: past it a CPU waits for its memory


@settings
class InvertingGradients(Attack):
    """Pictures that maximise the cosine of gradients under a total-variation prior (equation 4).

    `labels`: the label restoration to ask first. `exchanges`: so many of its labels at most are exchanged, one after the other,
    for those with which pictures match better after a short descent. All other classes of every example are tried each time,
    which is for few of both, and worth it where a defense hides labels from what reads the last layer. `joint_labels`: none
    is asked, and one row of class scores per example is optimised with the pictures, as DLG does. `iterations`: of Adam, at
    most. `signed`: Adam sees the sign of the slope only; "soft" leaves small slopes as they are; "auto" takes what matches
    better: on small networks one restart is run with signs and without to the end, at once, and several are dealt to both,
    half each; large ones ask two pilots of a twentieth of the iterations, and take signed steps, the paper's, where these are
    under a hundred. `learning_rate`: Adam's first step, in units of the pixel range. `decay`: "cosine" lets the step fall to
    zero along half a cosine, "steps" divides it by ten after 3/8, 5/8 and 7/8 of the iterations. `warm_up`: iterations in which
    it rises first. `weight_decay`: AdamW's, towards mid-grey. `distance`: of the gradients; squares and absolute values are in
    units of the shared gradient's own. `total_variation`, `colour_variation` (of what the channels differ by), `label_entropy`
    (of labels that are sought): weights of the priors. Left out, that of total variation is a fifth of the distance at the
    first start; for a batch of one step more where it has many pixels for the entries of its gradient, and a hundredth of it
    where a linear layer sees the pictures (`priors.crowding`). `box`: pictures are put back into [0, 1] after every step, or
    are sigmoids of what is sought. `spread`: standard deviation of the starting pictures around mid-grey, in units of the
    pixel range; their pixels are normal, or `uniform`. `restarts`: independent starts, of which the one of least mean loss is
    kept; they are computed together. `continued`: the first start is what the same attack finds in the round before, where
    rounds of the same examples are granted.

    The paper's own preset is `decay="steps"`, `learning_rate=0.025` (its 0.1 is in units of a normalised picture, whose
    deviation is about a quarter of the range), `signed=True`, `total_variation=0.1`, `spread=0.25`, `iterations=4800`.

    The iterate where the running mean of the losses is least (`adam.Run`) is returned, with its `loss` and the losses of its
    run as `history`: at the start, and after every iteration. It ends sooner when the loss stands still, and a loss that is
    not finite ends its run.

    Up to ten local steps are simulated as the server ordered them, and differentiated through; more are matched by their
    average gradient. The order in which a client takes its examples is not told: every restart assumes another order of the
    labels, and `verdict` says so. Raises `NotApplicable` where `labels` does.

    Where the client's defenses are known, what these would share is matched: see `attacks.matching.knowing`. Where they tell
    its likelihood, or their noise asks for more weight of the total variation than is set, half of the iterations go by the
    distance as it is, and half, from what matched best and in steps half as long, by that; `loss` and `history` are then of
    the second half.
    """

    adapts: ClassVar[bool] = True

    labels: LabelRestoration = ILRG()
    exchanges: Index = 0
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
        if self.exchanges and self.joint_labels:
            raise ValueError(f"exchanges is {self.exchanges}, and joint_labels is true: with it no labels are restored first")

    def at_once(self, observation: Observation) -> int:
        """As many as fill a step of small networks with arithmetic; one where they cannot be computed together."""
        if self._alone(observation):
            return 1
        shared = observation.update.parameters
        victim = victim_of(observation, next(iter(shared.values())).dtype)
        multiplications = max(1, work(victim, observation.image_shape)) * observation.examples * _simulated_steps(observation)
        lanes = min(FILLED // multiplications, CACHED // _entries(observation))
        return max(1, lanes // (2 if self.signed == "auto" and self.restarts == 1 else self.restarts))

    def _alone(self, observation: Observation) -> bool:
        """Whether a victim has a matching loss of its own kind, or is matched in two rounds, one after the other."""
        return observation.granted.defense is not None or (self.continued and bool(observation.earlier))

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        return self.reconstruct_all([observation], [rng])[0]

    def reconstruct_all(self, observations: Sequence[Observation], rngs: Sequence[torch.Generator]) -> list[Reconstruction]:
        """See `Attack`: restarts of all victims are computed together, where they can be."""
        if len(observations) > 1 and any(map(self._alone, observations)):
            return super().reconstruct_all(observations, rngs)
        every = [self._sought(observation, rng) for observation, rng in zip(observations, rngs, strict=True)]
        first = every[0]
        variables, loss = _together(every, self.restarts)
        large = _is_large(first.victim, first.observation)
        both = self.signed == "auto" and not large
        if both and self.restarts == 1:
            variables = {name: tensor.repeat_interleave(2, 0) for name, tensor in variables.items()}
        iterations = self.iterations if first.afterwards is None else -(-self.iterations // 2)
        slope = slope_of(loss, first.victim, variables, iterations, large)
        signed = self._better(slope, variables) if self.signed == "auto" and large else self.signed
        lanes = len(variables["images"]) // len(every)
        kinds = [2 * lane < lanes if both else signed in (True, "soft") for lane in range(lanes)]
        runs = self._descend(slope, variables, kinds * len(every), iterations)
        if first.afterwards is not None and iterations < self.iterations:
            found = best_of(runs).variables
            variables = {name: torch.stack([tensor] * lanes) for name, tensor in found.items()}
            slope = slope_of(first.afterwards, first.victim, variables, self.iterations - iterations, large)
            runs = self._descend(slope, variables, kinds, self.iterations - iterations, NEAR)
        return [self._found(one, best_of(runs[at * lanes : (at + 1) * lanes])) for at, one in enumerate(every)]

    def _found(self, sought: "_Sought", best: Run) -> Reconstruction:
        return Reconstruction(
            images=self._pictures(best.variables).float().cpu(),
            labels=_rows(best.variables).float().cpu(),
            loss=best.loss,
            history=best.history,
            verdict="; ".join(filter(None, [_said(sought.observation), sought.exchanges])),
        )

    def _sought(self, observation: Observation, rng: torch.Generator) -> "_Sought":
        """What is sought of a victim, and where from."""
        rows, proven = (None, None) if self.joint_labels else rows_and_proven(self.labels, observation, rng)
        pilot = replace(self, exchanges=0) if rows is None else replace(self, exchanges=0, labels=_Restored(rows=rows))
        observation = assuming(pilot, observation, rng)
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        simulated = _simulated_steps(observation) > 1
        variables = {"images": starts(observation, self.spread, self.restarts, rng, self.uniform).to(reference)}
        if self.box == "sigmoid":
            variables["images"] = variables["images"].logit(EDGE)
        order = orders(observation.examples, self.restarts if simulated else 1, rng).to(reference.device)
        if rows is None:
            scores = torch.randn(self.restarts, observation.examples, observation.classes, generator=rng)
            variables["scores"] = scores.to(reference)
        else:
            variables["labels"] = rows.to(reference)[order].expand(self.restarts, -1, -1)
        victim = victim_of(observation, reference.dtype)
        found = simulation(victim, observation.training, observation.examples) if simulated else victim.gradient
        known = insight(
            observation, victim, found, DISTANCES[self.distance], self._pictures(variables), variables.get("labels"), rng
        )
        variables |= known.inside
        weight = self._smoothness(known, wanted, variables, victim, observation)
        if self.continued and observation.earlier:  # only now: smoothness weighs what it does from a fresh start
            before = self._before(observation, rng).to(reference)
            variables["images"][0] = before.logit(EDGE) if self.box == "sigmoid" else before
        afterwards = None
        if known.surprisal is not None:
            afterwards = partial(self._loss, known, known.surprisal, wanted, known.prior)
        elif known.variation > weight:
            afterwards = partial(self._loss, known, known.distance, wanted, known.variation)
        loss = partial(self._loss, known, known.distance)
        sought = _Sought(observation, victim, variables, wanted, weight, loss, afterwards)
        if rows is None or proven is None or not self.exchanges:
            return sought
        return self._exchanged(sought, rows, ~proven, order)

    def _exchanged(self, sought: "_Sought", rows: Tensor, doubtful: Tensor, order: Tensor) -> "_Sought":
        """The same with labels that match better: each tried by a short descent from the first start."""
        loss, variables = partial(sought.loss, sought.wanted, sought.weight), sought.variables
        large = _is_large(sought.victim, sought.observation)
        cached = min(TOGETHER, max(1, SHARED * CACHED // _entries(sought.observation)))
        together = TOGETHER if variables["images"].is_cuda else cached
        slopes: dict[tuple[int, int], Slope] = {}

        def losses(candidates: Tensor, iterations: int) -> list[float]:
            lanes = {name: torch.stack([tensor[0]] * len(candidates)) for name, tensor in variables.items()}
            lanes["labels"] = candidates.to(lanes["labels"])[:, order[0]]
            kind = len(candidates), iterations
            slopes[kind] = slopes.get(kind) or slope_of(loss, sought.victim, lanes, iterations, large)
            return [run.mean for run in self._descend(slopes[kind], lanes, [True] * len(candidates), iterations)]

        better, made = exchanged(rows, doubtful, losses, self.exchanges, together)
        if not made:
            return sought
        labels = better.to(variables["labels"])[order].expand(self.restarts, -1, -1)
        said = f"{made} of {len(rows)} labels were exchanged for others that match better"
        return replace(sought, variables=variables | {"labels": labels}, exchanges=said)

    def _before(self, observation: Observation, rng: torch.Generator) -> Tensor:
        """The pictures that the attack finds in the last of the earlier observations, which may go on from those before."""
        *others, last = observation.earlier
        found = self.reconstruct(replace(last, earlier=tuple(others)), rng).images
        assert found is not None
        return found

    def _smoothness(
        self, known: Insight, wanted: Tensors, variables: Tensors, victim: Victim, observation: Observation
    ) -> float:
        """The weight of total variation."""
        crowd = 1.0
        if self.total_variation is None and observation.steps == 1:
            layers = [layer for layer, _ in layers_of(victim, observation.image_shape)]
            crowd = crowding(variables["images"][0], wanted, layers)
        distance = partial(self._distance, known, known.distance, wanted)
        return variation_weight(self.total_variation, distance, variables, crowd)

    def _distance(self, known: Insight, distance: Distance, wanted: Tensors, one: Tensors) -> Tensor:
        return distance(known.gradient(self._pictures(one), _rows(one), one), wanted)

    def _loss(self, known: Insight, distance: Distance, wanted: Tensors, weight: Tensor | float, one: Tensors) -> Tensor:
        """Distance plus priors, of one restart's variables."""
        images = self._pictures(one)
        total = self._distance(known, distance, wanted, one) + weight * total_variation(images)
        if self.colour_variation:
            total = total + self.colour_variation * colour_variation(images)
        return total + self.label_entropy * label_entropy(_rows(one)) if self.label_entropy else total

    def _better(self, slope: Slope, variables: Tensors) -> bool:
        """Whether signed steps match better than plain ones, by the mean loss that short runs of both reach."""
        if self.iterations < PILOTS_FROM:
            return True
        short = self.iterations // PILOT
        kinds = [[signed] * len(variables["images"]) for signed in (True, False)]
        pilots = [self._descend(slope, variables, kind, short) for kind in kinds]
        signed, plain = (sum(run.mean for run in runs) for runs in pilots)
        return signed < plain

    def _descend(self, slope: Slope, variables: Tensors, kinds: list[bool], iterations: int, length: float = 1.0) -> list[Run]:
        """All restarts, each with signed steps or without. `length`: of the first step, in units of the one that is set."""
        share = falling(self.decay, iterations, self.warm_up)
        scales = {name: 0.0 for name in variables if name in ("labels", WEIGHT) or name.startswith(WANTED)}
        scales["images"] = 1.0 if self.box == "projection" else STEEP
        bounded = ("images",) if self.box == "projection" else ()
        sign = soft_sign if self.signed == "soft" else torch.sign
        return descend(
            slope,
            variables,
            iterations,
            lambda iteration: length * self.learning_rate * share(iteration),
            kinds,
            scales,
            bounded,
            sign=sign,
            decay=self.weight_decay,
        )

    def _pictures(self, one: Tensors) -> Tensor:
        return one["images"].sigmoid() if self.box == "sigmoid" else one["images"]


def _entries(observation: Observation) -> int:
    """Entries of a victim's gradient and pictures."""
    shared = observation.update.parameters.values()
    return sum(tensor.numel() for tensor in shared) + observation.examples * math.prod(observation.image_shape)


@settings
class _Restored(GivenLabels):
    """Labels that are given to a pilot because they have been restored already."""

    rows: Tensor
    needs = ()

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        return Reconstruction(labels=self.rows)


@dataclass(frozen=True)
class _Sought:
    """What is sought of a victim: its restarts' variables, stacked, of least `loss`.

    `wanted`: what the client shared. `weight`: of total variation. `loss`: of the two, and of one restart's variables.
    `afterwards`: of these alone, what is made least in the second half, where a known defense asks for one. `exchanges`: what
    is to be said of those of labels.
    """

    observation: Observation
    victim: Victim
    variables: Tensors
    wanted: Tensors
    weight: float
    loss: Callable[[Tensors, Tensor | float, Tensors], Tensor]
    afterwards: Loss | None = None
    exchanges: str = ""


def _together(every: Sequence[_Sought], restarts: int) -> tuple[Tensors, Loss]:
    """The variables of all victims' restarts, stacked, and the loss of one restart's: what is the victim's goes among them."""
    first = every[0]
    if len(every) == 1:
        return first.variables, partial(first.loss, first.wanted, first.weight)
    variables = {name: torch.cat([one.variables[name] for one in every]) for name in first.variables}
    for name in first.wanted:
        variables[WANTED + name] = torch.stack([one.wanted[name] for one in every]).repeat_interleave(restarts, 0)
    weights = variables["images"].new_tensor([one.weight for one in every])
    variables[WEIGHT] = weights.repeat_interleave(restarts)

    def loss(one: Tensors) -> Tensor:
        return first.loss({name: one[WANTED + name].detach() for name in first.wanted}, one[WEIGHT].detach(), one)

    return variables, loss


def _is_large(victim: Victim, observation: Observation) -> bool:
    """Whether arithmetic, and not calls, is what a step costs."""
    return work(victim, observation.image_shape) * _simulated_steps(observation) >= LARGE


def _simulated_steps(observation: Observation) -> int:
    """How many local steps are simulated: one where one gradient stands for all of them."""
    return observation.steps if observation.steps <= MOST_STEPS else 1


def _rows(one: Tensors) -> Tensor:
    """The label rows that go with the pictures: fixed, or those of scores that are sought with them."""
    return one["labels"].detach() if "labels" in one else one["scores"].softmax(-1)


def _said(observation: Observation) -> str:
    if observation.steps == 1:
        return ""
    if _simulated_steps(observation) == 1:
        return f"matched by the average gradient of {observation.steps} local steps"
    whole = observation.training.batch_size >= observation.examples
    return "" if whole else "the order in which the client took its examples is assumed: it is not told"
