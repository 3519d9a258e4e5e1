"""The label restoration that fits, chosen by a rule from what the server knows, and never by the truth."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from attacks.attack import Attack, NotApplicable, Observation, Reconstruction, found_by, label_rows
from attacks.directions.layers import common_input
from attacks.labels.apart import classes_apart, examples_apart, pictures_apart
from attacks.labels.counts import rows_of, whole_counts
from attacks.labels.geng import GengLabels
from attacks.labels.idlg import IDLGLabels
from attacks.labels.last_layer import answers, dummy_pictures, last_layer
from attacks.labels.llg import LLG
from attacks.labels.rank_one import RankOneLabels
from attacks.labels.rlu import RLU
from attacks.labels.simulated import SimulatedLabels
from attacks.labels.soft_labels import SoftLabels
from learning.catalogue import Count, Fraction, NotNegative, Positive, settings

BALANCED = 1e-4  # of the errors' size: what their sum is at most where noise, pruning and rounding have not touched them
ROUNDED = 1e-6  # and what adding single-precision probabilities leaves
SHARES, ROUNDS = 2000, 4  # of its length that clipping may have left of a gradient; answers are read anew with each one found
FEW = 3  # examples a class, where signs tell more than sizes
LEARNABLE = 200  # classes: what is learnt of more takes long
EXACT = 1e-6  # of an update's length: what rounding its entries leaves of a bound that it was clipped to
WHOLE = 0.15  # how far from whole numbers counts may be that are believed


@settings
class AutoLabels(Attack):
    """Asks one of the other restorations:

    1. of one example and one step, `soft-labels`; `idlg` where that refuses or finds its conditions broken;
    2. without a bias gradient, `geng` in its form for weights;
    3. if the model still answers every picture alike, `rank-one`, unless public pictures are granted with which several
       steps can be played. Where its counts after one step are not nearly whole numbers, and would be had the gradient been
       longer by some factor, it was clipped, and that factor is undone; where there is none, the batch is taken apart
       (`apart`), which can give every label exactly where a hidden layer has `apart.UNITS` for every example; else, if public
       pictures are granted and the errors no longer sum to zero, `simulated-labels`, which undoes more than clipping, and is
       asked of at most `FEW` examples a class in any case (here and below: of at most `LEARNABLE` classes);
    4. else, first, the examples that can be taken apart as extreme points, one by one, as `extreme-points` does: after one
       step their classes are right, trained model or not, after several, where the first layer sees pictures, mostly;
    5. of the others, if public pictures are granted, `rlu`, else `geng`;
    6. after one step, in the place of RLU's counts, those of `simulated-labels` where the errors no longer sum to zero, or
       there are at most `FEW` examples a class; but LLG+'s with the same pictures where RLU finds the labels not identifiable
       and there are more examples than classes, or too many to simulate, and the update was not clipped. LLG+ reads the
       largest rows first, which are those of the few examples that a model which has learnt the client's pictures is not
       sure of.

    Clipped: the update is as long as a number of two digits, up to `EXACT`, as those are that were clipped to one, and hardly
    any by chance.

    Alike: what the last layer answers to the rank-one embedding of the gradient is, in total variation, at most `alike` from
    the model's mean answer to reference pictures (the public ones where granted, else `dummies` of noise with the deviation
    `spread`). Training drives the two apart; the true labels are nowhere in it. `seconds`: that taking apart may cost; with
    zero it is never done.

    Guarantees and refusals are those of the restoration asked.
    """

    alike: Fraction = 0.15
    dummies: Count = 64
    spread: Positive = 0.25
    seconds: NotNegative = 5.0

    def reconstruct(self, observation: Observation, rng: torch.Generator) -> Reconstruction:
        if observation.examples == 1 and observation.steps == 1:
            try:
                found = SoftLabels().reconstruct(observation, rng)
            except NotApplicable:
                return IDLGLabels().reconstruct(observation, rng)
            return found if found.identifiable else IDLGLabels().reconstruct(observation, rng)
        chosen = self.chosen(observation, rng)
        doubtful = isinstance(chosen, RankOneLabels) and _doubtful(chosen.estimate(observation), observation.examples)
        if doubtful and (share := share_by_counts(observation)) < 1:
            found = chosen.reconstruct(observation.enlarged(share), rng)
            return replace(found, verdict=f"counts are whole numbers if the gradient was clipped to {share:.2g} of its length")
        if self.seconds and doubtful:
            classes = classes_apart(observation, self.seconds, rng)
            if classes is not None:
                said = f"all {len(classes)} examples were taken apart: the labels are theirs, and explain the gradient"
                rows = label_rows(classes.sort().values, observation.classes)
                return Reconstruction(labels=rows, verdict=said, certified=_first(len(rows), len(rows)))
        if isinstance(chosen, RankOneLabels) and (doubtful or _few(observation)) and _changed(observation, doubtful):
            chosen = SimulatedLabels()
        if not self.seconds or isinstance(chosen, RankOneLabels | SimulatedLabels):
            return _asked(chosen, observation, rng)
        if observation.steps > 1:
            classes, rest = pictures_apart(observation, self.seconds, rng), observation
        else:
            classes, rest = examples_apart(observation, self.seconds, rng)
        agrees = ", and the model agrees" if observation.steps == 1 else ""
        said = f"{len(classes)} of {observation.examples} examples were taken apart{agrees}"
        rows = label_rows(classes.sort().values, observation.classes)
        proven = _first(len(rows), observation.examples) if observation.steps == 1 else None
        if rest is None or len(classes) == observation.examples:
            return Reconstruction(labels=rows, verdict=said, certified=proven)
        found = _asked(chosen, rest, rng)
        if not len(classes):
            return found
        assert found.labels is not None
        seen = torch.bincount(classes, minlength=observation.classes)
        others = found.labels if rest is not observation else _others(found.labels, seen)
        return replace(
            found,
            labels=torch.cat([rows, others.to(rows)]),
            certified=proven,
            counts_interval=None,  # those that are left are no draw: the model is surer of them than of public pictures
            verdict=f"{said}; of the others: {found.verdict}" if found.verdict else said,
        )

    def chosen(self, observation: Observation, rng: torch.Generator) -> Attack:
        """The restoration to ask about several examples or steps."""
        layer, public = last_layer(observation), observation.granted.public
        if layer.bias is None or layer.bias_gradient is None:
            return GengLabels(form="weights")
        if observation.steps > 1 and public is not None:
            return RLU()
        pictures = dummy_pictures(observation, self.dummies, self.spread, rng) if public is None else public
        reference = answers(observation, pictures, rng)[1].mean(0)
        gradient = layer.bias_gradient.nan_to_num(0.0)
        embedding = common_input(layer.weight_gradient.nan_to_num(0.0), gradient)
        answer = torch.softmax(layer.weight @ embedding + layer.bias, 0)
        if (answer - reference).abs().sum() / 2 <= self.alike:
            return RankOneLabels()
        return GengLabels() if public is None else RLU()


def share_by_counts(observation: Observation) -> float:
    """What clipping left of the gradient's length: for which rank-one counts are nearly whole and none negative; 1 if none is.

    Only of one step's errors that still sum to zero, as those do that were made smaller and not otherwise changed.
    """
    errors, total, share = last_layer(observation).bias_gradient, observation.examples, 1.0
    if errors is None or observation.steps > 1 or not _balanced(observation):
        return 1.0
    for _ in range(ROUNDS):
        expected = RankOneLabels().estimate(observation.enlarged(share)) + total * errors / share  # by the model's answer
        least = float((total * errors / (expected + WHOLE))[errors > 0].max())
        if not 0 < least < 1:
            return 1.0
        shares = torch.logspace(math.log10(least), 0, SHARES, dtype=errors.dtype, device=errors.device)
        estimates = expected - total * errors / shares[:, None]
        share = float(shares[(estimates - estimates.round()).abs().amax(1).argmin()])
    return 1.0 if _doubtful(RankOneLabels().estimate(observation.enlarged(share)), total) else share


def clipped(observation: Observation) -> bool:
    """Whether the update's length is a number of two digits: one in some thousands is by chance."""
    length = float(torch.linalg.vector_norm(observation.update.flat().double()))
    return length > 0 and abs(length - float(f"{length:.1e}")) < EXACT * length


def _balanced(observation: Observation) -> bool:
    """Whether the errors sum to zero over all classes, as they do where a gradient was not changed but in its length."""
    errors = last_layer(observation).bias_gradient
    return errors is not None and abs(float(errors.sum())) < BALANCED * float(errors.abs().sum()) + ROUNDED


def _simulable(observation: Observation) -> bool:
    """Whether `simulated-labels` can be asked, and answers soon."""
    return observation.granted.public is not None and observation.steps == 1 and observation.classes <= LEARNABLE


def _changed(observation: Observation, unsure: bool) -> bool:
    """Whether `simulated-labels` can be asked of a gradient that was changed: only in its length if another is `unsure`."""
    return _simulable(observation) and (not _balanced(observation) or (unsure and clipped(observation)))


def _few(observation: Observation) -> bool:
    return observation.examples <= FEW * observation.classes


def _asked(chosen: Attack, observation: Observation, rng: torch.Generator) -> Reconstruction:
    """What the restoration finds, with other labels in the place of RLU's where these are nearer."""
    found = chosen.reconstruct(observation, rng)
    if not isinstance(chosen, RLU) or observation.steps > 1:
        return found
    unsure, simulable = not found.identifiable, _simulable(observation)
    changed = _changed(observation, unsure)
    if unsure and not changed and (observation.examples > observation.classes or not simulable):
        return _counted(found, LLG(knowledge="public"), observation, rng)
    if changed or (simulable and _few(observation)):
        return _counted(found, SimulatedLabels(), observation, rng)
    return found


def _counted(found: Reconstruction, restoration: Attack, observation: Observation, rng: torch.Generator) -> Reconstruction:
    """The same verdict over another restoration's counts."""
    other = found_by(restoration, observation, rng)
    return replace(found, labels=other.labels, counts_interval=other.counts_interval)


def _first(proven: int, examples: int) -> Tensor:
    """Flags of the first so many of the examples."""
    return torch.arange(examples) < proven


def _others(labels: Tensor, seen: Tensor) -> Tensor:
    """The labels of all examples without those that were seen, as many as are left: in proportion where they do not agree."""
    missing = len(labels) - int(seen.sum())
    left = (torch.bincount(labels.argmax(1).cpu(), minlength=len(seen)) - seen).clamp_min(0)
    return rows_of(whole_counts(left.double() * missing / left.sum(), missing))


def _doubtful(estimate: Tensor, examples: int) -> bool:
    """Whether rounding the counts may have made one of them wrong."""
    return float((estimate - whole_counts(estimate, examples).to(estimate)).abs().max()) > WHOLE
