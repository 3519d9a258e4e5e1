"""See through Gradients / GradInversion (Yin et al., CVPR 2021, arXiv 2104.07586)."""

import torch

from attacks.attack import Attack, Observation, Reconstruction, rows_by
from attacks.labels import LabelRestoration
from attacks.labels.gradinversion_labels import GradInversionLabels
from attacks.matching.adam import best_of, descend, falling
from attacks.matching.batch_statistics import known_statistics, statistics_distance
from attacks.matching.distances import squared_distance
from attacks.matching.group import consensus
from attacks.matching.priors import SMOOTH, starts, total_variation
from attacks.matching.slopes import LARGE, slope_of
from attacks.matching.victim import victim_of, work
from learning.catalogue import Count, Index, NotNegative, Positive, settings
from learning.tensors import Tensors


@settings
class GradInversion(Attack):
    """Pictures of least gradient distance, under priors of smoothness, BatchNorm statistics, and agreement of several seeds.

    The paper's whole objective (equations 1 to 12): the squared distance of gradients, in units of what it is at the first
    start; `total_variation` and `norm` (the mean square around mid-grey); `statistics`, where the client sends its running
    statistics or the model has its own (`batch_statistics.known_statistics`); and `group`: `seeds` restarts run at once, and
    from the middle of the descent on every one is drawn to the group's registered mean picture (`group.consensus`), found
    anew every `regroup` iterations.

    `labels`: the label restoration to ask first, by default the paper's, which finds labels that do not repeat.
    `iterations`, `learning_rate` (in units of the pixel range), `warm_up`: of Adam with plain steps, along a cosine.
    `spread`: deviation of the starting pictures around mid-grey.

    Leaves out the paper's noise on the slopes. Weights are not the paper's: they are in units that do not depend on the
    network (see `bench/matching_ablation.py` for what each term is worth). Where nothing is known of the batch's statistics
    their term is left out, and `verdict` says so. The seed and iterate of least mean loss (`adam.Run`), the group's term
    included, are returned. Assumes one local step; several are matched by their average gradient. Raises `NotApplicable` where
    `labels` does.
    """

    labels: LabelRestoration = GradInversionLabels()
    iterations: Count = 1000
    learning_rate: Positive = 0.08
    warm_up: Index = 50
    total_variation: NotNegative = SMOOTH
    norm: NotNegative = 0.001
    statistics: NotNegative = 0.01
    group: NotNegative = 0.1
    seeds: Count = 4
    regroup: Count = 20
    spread: Positive = 0.05

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        rows = rows_by(self.labels, observation, rng)
        wanted = observation.gradient()
        reference = next(iter(wanted.values()))
        victim, labels = victim_of(observation, reference.dtype), rows.to(reference)
        known = known_statistics(observation) if self.statistics else None
        apart = None if known is None else statistics_distance(victim, known)
        images = starts(observation, self.spread, self.seeds, rng).to(reference)
        first = squared_distance(victim.gradient(images[0], labels), wanted).item()

        def loss(one: Tensors) -> torch.Tensor:
            images, drawn = one["images"], one["consensus"].detach()
            total = squared_distance(victim.gradient(images, labels), wanted) / (first or 1.0)
            total = total + self.total_variation * total_variation(images) + self.norm * (images - 0.5).square().mean()
            if apart is not None:
                total = total + self.statistics * apart(images)
            return total + self.group * (images - drawn).square().mean()

        variables = {"images": images, "consensus": images.clone()}
        slope = slope_of(loss, victim, variables, self.iterations, work(victim, observation.image_shape) >= LARGE)
        grouped = self.group > 0 and self.seeds > 1

        def draw_together(iteration: int, now: Tensors) -> None:
            if not grouped or 2 * iteration < self.iterations:
                now["consensus"].copy_(now["images"])  # the term is zero, and so is its slope
            elif iteration % self.regroup == 0 or 2 * (iteration - 1) < self.iterations:
                now["consensus"].copy_(consensus(now["images"].cpu()))

        rate = falling("cosine", self.iterations, min(self.warm_up, self.iterations // 10))
        runs = descend(
            slope,
            variables,
            self.iterations,
            lambda iteration: self.learning_rate * rate(iteration),
            scales={"consensus": 0.0},
            before=draw_together,
        )
        best = best_of(runs)
        lacking = "nothing is known of the batch's statistics, and they are not matched" if self.statistics else ""
        return Reconstruction(
            images=best.variables["images"].float().cpu(),
            labels=rows,
            loss=best.loss,
            history=best.history,
            verdict=lacking if known is None else f"batch statistics from {known.source}",
        )
