"""Deep Leakage from Gradients (Zhu, Liu and Han, NeurIPS 2019, arXiv 1906.08935)."""

import torch
from torch import Tensor
from torch.func import grad_and_value

from attacks.attack import Attack, Observation, Reconstruction
from attacks.labels import LabelRestoration
from attacks.matching.descent import minimise, stands_still
from attacks.matching.distances import squared_distance
from attacks.matching.priors import start
from attacks.matching.slopes import TRACED_FROM, traced
from attacks.matching.victim import victim_of
from learning.catalogue import Count, NotNegative, Positive, settings
from learning.tensors import Tensors

HIGH, TRIAL = 0.01, 50  # a loss over this share of the first is to be halved in so many iterations


@settings
class DLG(Attack):
    """Pictures, and labels where none are restored first, that minimise the squared distance of gradients (equation 3).

    `labels`: a label restoration to ask first (iDLG's order of work); left out, one row of class scores per example is
    optimised with the pictures, as in the paper. `iterations`: of L-BFGS at most, of all starts together. `tolerance`: it ends
    sooner when the loss is this share of the start's first one. `spread`: standard deviation of the starting pictures around
    mid-grey, in units of the pixel range.

    A start is given up when its loss stands still, or does not halve in fifty iterations while it is over a hundredth of the
    first; what is left of the iterations goes to a fresh one. Nothing but the matching loss decides, and the start of least
    loss is returned.

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
        victim = victim_of(observation, torch.float64)
        rows = None if self.labels is None else self.labels.reconstruct(observation, rng).labels
        restored = None if rows is None else rows.to(reference)

        def labels(sought: Tensors) -> Tensor:
            return sought["scores"].softmax(1) if restored is None else restored

        def loss(sought: Tensors) -> Tensor:
            return squared_distance(victim.gradient(sought["images"], labels(sought)), wanted)

        slope, runs, left = grad_and_value(loss), [], self.iterations
        while left > 0:
            variables = {"images": start(observation, self.spread, rng).to(reference)}
            scores = torch.randn(observation.examples, observation.classes, generator=rng).to(reference)
            if restored is None:
                variables["scores"] = scores
            if not runs:
                slope = traced(slope, variables, self.iterations >= TRACED_FROM)
            history = minimise(slope, variables, left, self.tolerance, hopeless)
            runs.append((history, variables))
            left -= max(len(history) - 1, 1)
            if min(history) <= self.tolerance * history[0]:
                break
        history, variables = min(runs, key=lambda run: min(run[0]))
        return Reconstruction(
            images=variables["images"].clamp(0, 1).nan_to_num(0.5).float().cpu(),
            labels=labels(variables).float().cpu(),
            loss=min(history),
            history=tuple(history),
        )


def hopeless(history: list[float]) -> bool:
    """Whether a start is to be given up: its loss stands still, or falls too slowly for one that is still high."""
    high = len(history) > TRIAL and min(history) > HIGH * history[0]
    return stands_still(history) or (high and min(history) > 0.5 * min(history[:-TRIAL]))
