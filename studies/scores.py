"""How much of the truth an attack restored, and how surely we know it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from attacks import Reconstruction
from learning.tensors import Batch
from studies.perceptual import lpips

LEAST_ERROR = 1e-30  # mean squared error below which a picture counts as exact: 300 dB
DRAWN_TO = 60.0  # dB, where drawings end: no eye tells more, and the 300 of exact pictures would leave the others no room
LABEL_SCORES = ("label_accuracy", "exact_counts", "le_acc", "ln_acc", "counts_covered", "counts_width")
IMAGE_SCORES = ("psnr", "ssim", "lpips", "mse", "exact", "identified", "certified", "false_certificates")
GALLERY = 100  # pictures among which a restored one is to be identified: its own and others of the same set
EXACT_ERROR = 1e-6  # mean squared error up to which a picture came back exactly: a quarter of a pixel's level
CERTIFIED_ERROR = 1e-4  # mean squared error above which a picture that was certified as exact is not: a pixel error of 0.01


@dataclass(frozen=True)
class Scores:
    """One reconstruction held against the truth. What was not restored has None.

    `matches`: for every true picture the restored one that is its, by the assignment with the least total squared error.
    `mse`, `psnr` (dB, range 1), `ssim` (scikit-image's, range 1), `lpips` (where it is asked for; see `studies.perceptual`):
    one number per true picture, in the truth's order.
    `exact`: 1 for every true picture that came back as it was (the root mean squared error of its pixels is at most 0.001).
    `identified`: 1 for every true picture whose restored one resembles it more than any picture of a gallery of others does, by
    the correlation of pixels, which neither brightness nor contrast move. `among`: how many pictures they are; chance is one
    in so many for each restored picture, and so at most as many times that as are restored, since the truth matches them.
    `certified`: 1 for every true picture whose restored one the attack itself certifies as exact; `false_certificates`: 1 for
    each of these that is neither the true picture nor one that the model was given (the root mean squared error of its pixels
    is above 0.01).
    `label_accuracy`: share of the examples whose label was restored, as multisets; of the restored labels, where they are
    more. `exact_counts`: 1 if all counts are right. `le_acc`, `ln_acc`: share of all classes whose presence, and whose
    count, is right (iLRG's figures: absent classes count as successes). `counts_covered`: share of all classes whose count
    lies in the interval that the attack gives at 95 %; `counts_width`: mean width of those intervals, in examples.
    """

    matches: list[int] | None = None
    mse: list[float] | None = None
    psnr: list[float] | None = None
    ssim: list[float] | None = None
    lpips: list[float] | None = None
    exact: list[float] | None = None
    identified: list[float] | None = None
    among: int | None = None
    certified: list[float] | None = None
    false_certificates: list[float] | None = None
    label_accuracy: float | None = None
    exact_counts: float | None = None
    le_acc: float | None = None
    ln_acc: float | None = None
    counts_covered: float | None = None
    counts_width: float | None = None

    def row(self) -> dict[str, Any]:
        """The scores as a dict for the ledger, without those that are None."""
        return {name: value for name, value in vars(self).items() if value is not None}


def score(
    reconstruction: Reconstruction,
    truth: Batch,
    classes: int,
    others: Float[Tensor, "n channels height width"] | None = None,
    given: Float[Tensor, "given channels height width"] | None = None,
    perceived: bool = False,
) -> Scores:
    """Holds a reconstruction against the truth; the order in which examples were restored does not matter.

    `others`: the gallery's pictures beside the true one; without any, nothing is identified, and that score is left out.
    `given`: what the model was given in the true pictures' place, where a defense changes them: a certificate speaks of these.
    `perceived`: whether LPIPS is among the scores.
    A true picture that no restored one is left for is scored against mid-grey, and a pixel that is not a number is mid-grey.
    """
    images: dict[str, Any] = (
        {} if reconstruction.images is None else _image_scores(reconstruction.images, truth.images, perceived)
    )
    labels: dict[str, Any] = (
        {} if reconstruction.labels is None else _label_scores(reconstruction.labels, truth.labels, classes)
    )
    if (interval := reconstruction.counts_interval) is not None:
        labels |= _interval_scores(*interval, truth.labels, classes)
    if others is not None and len(others) and reconstruction.images is not None:
        images["identified"] = _identified(reconstruction.images, truth.images, images["matches"], others)
        images["among"] = len(others) + 1
    if reconstruction.certified is not None and reconstruction.images is not None:
        images |= _certificate_scores(reconstruction.images, reconstruction.certified, images, given)
    return Scores(**images, **labels)


def one_number(value: float | list[float]) -> float:
    """A score of one update: of pictures, their mean."""
    return statistics.fmean(value) if isinstance(value, list) else float(value)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for pictures in [0, 1]; 300 dB for a picture that is exact in float64."""
    return -10 * math.log10(max(mse, LEAST_ERROR))


def squared_errors(
    truth: Float[Tensor, "n channels height width"], found: Float[Tensor, "m channels height width"]
) -> Float[Tensor, "n m"]:
    """Mean squared error of every true picture against every restored one, in float64."""
    return torch.stack([(found.double() - picture.double()).square().flatten(1).mean(1) for picture in truth])


def _image_scores(found: Tensor, truth: Tensor, perceived: bool) -> dict[str, Any]:
    lacking = max(0, len(truth) - len(found))
    found = found.nan_to_num(0.5, posinf=1.0, neginf=0.0)  # the assignment refuses what is not a number
    found = torch.cat([found, torch.full((lacking, *truth.shape[1:]), 0.5, dtype=found.dtype)])
    errors = squared_errors(truth, found).numpy()
    _, matches = scipy.optimize.linear_sum_assignment(errors)
    mse = [float(errors[i, j]) for i, j in enumerate(matches)]
    seen = {"lpips": lpips(found[matches], truth)} if perceived else {}
    return seen | {
        "matches": [int(j) for j in matches],
        "mse": mse,
        "psnr": [psnr(value) for value in mse],
        "exact": [float(value <= EXACT_ERROR) for value in mse],
        "ssim": [_ssim(found[int(j)], truth[i]) for i, j in enumerate(matches)],
    }


def _certificate_scores(
    found: Tensor, certified: Tensor, images: dict[str, Any], given: Tensor | None
) -> dict[str, list[float]]:
    near = [mse <= CERTIFIED_ERROR for mse in images["mse"]]
    if given is not None:
        nearest = squared_errors(given, found.nan_to_num(0.5)).amin(0) <= CERTIFIED_ERROR
        near = [own or (j < len(found) and bool(nearest[j])) for own, j in zip(near, images["matches"], strict=True)]
    flags = [bool(certified[j]) if j < len(certified) else False for j in images["matches"]]
    wrong = [flag and not right for flag, right in zip(flags, near, strict=True)]
    return {"certified": list(map(float, flags)), "false_certificates": list(map(float, wrong))}


def _identified(found: Tensor, truth: Tensor, matches: list[int], others: Tensor) -> list[float]:
    gallery = _standardised(others)
    flags = []
    for picture, match in zip(truth, matches, strict=True):
        if match >= len(found):
            flags.append(0.0)
            continue
        restored, own = _standardised(found[match][None].nan_to_num(0.5, posinf=1.0, neginf=0.0)), _standardised(picture[None])
        flags.append(float(restored @ own.T > (restored @ gallery.T).max()))  # a plain grey resembles all alike, and none more
    return flags


def _standardised(images: Tensor) -> Tensor:
    """Pictures as rows of mean zero and norm one, so that their products are correlations; a plain one is zero."""
    rows = images.double().flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1e-12)


def _ssim(found: Tensor, truth: Tensor) -> float:
    window = min(7, *truth.shape[1:])
    window -= 1 - window % 2
    pictures = (found.double().numpy(), truth.double().numpy())
    sample = window > 1  # a window of one pixel has no sample covariance: the division would be by zero
    return float(
        structural_similarity(*pictures, data_range=1.0, channel_axis=0, win_size=window, use_sample_covariance=sample)  # pyright: ignore
    )


def _label_scores(rows: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    found = torch.bincount(rows.argmax(1), minlength=classes)
    true = torch.bincount(truth, minlength=classes)
    return {
        "label_accuracy": float(torch.minimum(found, true).sum() / max(len(truth), len(rows))),
        "exact_counts": float(torch.equal(found, true)),
        "le_acc": float(((found > 0) == (true > 0)).double().mean()),
        "ln_acc": float((found == true).double().mean()),
    }


def _interval_scores(low: Tensor, high: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    true = torch.bincount(truth, minlength=classes)
    return {
        "counts_covered": float(((low.cpu() <= true) & (true <= high.cpu())).double().mean()),
        "counts_width": float((high - low).double().mean()),
    }


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over `victims` updates; `low` and `high` are None where one victim is all there is."""

    mean: float
    low: float | None
    high: float | None
    victims: int


def estimate(by_seed: Sequence[Sequence[float]], draws: int = 2000) -> Estimate:
    """The mean over all victims and a bootstrap interval: seeds are drawn with replacement, then victims within each.

    `by_seed`: one sequence of victims' scores per seed; victims of one seed share a model and a partition, so they are not
    independent. With a single seed only victims are drawn, and the interval says nothing about other seeds.
    """
    groups = [np.asarray(group, dtype=float) for group in by_seed if len(group)]
    values = np.concatenate(groups)
    if len(values) == 1:
        return Estimate(float(values[0]), None, None, 1)
    rng = np.random.default_rng(0)
    sizes = np.array([len(group) for group in groups])
    starts = np.cumsum(sizes) - sizes
    at_once = max(1, 1_000_000 // int(sizes.max()))  # draws, so that a large study does not fill the memory
    means = [_resampled(values, starts, sizes, min(at_once, draws - done), rng) for done in range(0, draws, at_once)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def _resampled(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means of so many two-level resamples of the groups that lie in `values` one after the other."""
    total, count = np.zeros(draws), np.zeros(draws)
    for _ in sizes:
        group = rng.integers(len(sizes), size=draws)
        places = rng.integers(sizes[group][:, None], size=(draws, sizes.max()))
        drawn = np.arange(sizes.max()) < sizes[group][:, None]
        total += np.where(drawn, values[starts[group][:, None] + places], 0.0).sum(1)
        count += sizes[group]
    return total / count
