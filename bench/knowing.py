"""What it is worth to know the defense: the same updates, attacked by Inverting Gradients as it is and told of the defense.

    CURIOUS_DATA=.data python -m bench.knowing

MNIST, the untrained sigmoid LeNet of DLG or another `--model`, one picture an update (two where the defense mixes pictures; or
`--pictures`), labels given to both.
A victim has its own pictures, model, draws and start, by its number; both attackers get the same start and the same settings.
No victim is left out, nothing is chosen. A row: mean PSNR of both and the gain; how often the picture nearest to a restored
one, among `GALLERY` of which one or two are the client's, is the client's own (by chance: one in so many a picture). Intervals:
95 %, by a paired bootstrap over victims. The attack's constants were tuned on other pictures and models (`--tuning`).

One thread. `--total-variation`: of both; the knowing attacker raises it where it measures noise.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from attacks import Granted, Observation
from attacks.labels import GivenLabels
from attacks.matching import InvertingGradients
from bench.matching import decibels
from defenses import (
    DPSGD,
    Defense,
    GaussianNoise,
    InstaHide,
    Known,
    LabelSmoothing,
    MagnitudePruning,
    Mixup,
    NormClipping,
    Outpost,
    Precode,
    Quantization,
    RandomPruning,
    Sign,
    Soteria,
    Ternary,
    TransformedPictures,
    defended_update,
)
from learning.data import CIFAR10, MNIST, Pictures, pictures_of
from learning.models import MLP, Architecture, LeNet, LeNet5
from learning.tensors import Batch, generator
from learning.training import Training, set_mode

GALLERY, RESAMPLES = 100, 10_000
MODELS: dict[str, tuple[Architecture, str]] = {  # with the layer that Soteria prunes, the last hidden one
    "lenet": (LeNet(), "network.7"),
    "lenet5": (LeNet5(), "network.9"),
    "mlp": (MLP(), "network.3"),
}
ROWS: dict[str, tuple[tuple[Defense, ...], int]] = {
    "none": ((), 1),
    "noise 0.1": ((GaussianNoise(std=0.1),), 1),
    "clipping 1": ((NormClipping(max_norm=1.0),), 1),
    "pruning 90 %": ((MagnitudePruning(keep=0.1),), 1),
    "random pruning 90 %": ((RandomPruning(keep=0.1),), 1),
    "2 bits": ((Quantization(bits=2),), 1),
    "8 bits": ((Quantization(bits=8),), 1),
    "ternary": ((Ternary(),), 1),
    "sign": ((Sign(),), 1),
    "DP-SGD 0.01": ((DPSGD(max_norm=1.0, noise_multiplier=0.01),), 1),
    "Soteria 80 %": ((Soteria(layer="network.7", prune=0.8),), 1),
    "OUTPOST 1": ((Outpost(noise=1.0),), 1),
    "label smoothing 0.3": ((LabelSmoothing(smoothing=0.3),), 1),
    "ATS": ((TransformedPictures(),), 1),
    "PRECODE": ((Precode(),), 1),
    "mixup 1": ((Mixup(alpha=1.0),), 2),
    "InstaHide 2": ((InstaHide(pictures=2),), 2),
}


@dataclass(frozen=True)
class Outcome:
    """One victim: quality in dB, and the share of its pictures that are recognised, of either attacker."""

    plain: float
    knowing: float
    plain_found: float
    knowing_found: float


def victim(
    pictures: Pictures, architecture: Architecture, chain: tuple[Defense, ...], size: int, number: int, split: str
) -> tuple[Observation, Batch]:
    """What the server sees of the client with that number, and the client's batch."""
    order = torch.randperm(len(pictures.test), generator=generator("knowing", split))
    batch, training = pictures.test.batch(order[number * size : (number + 1) * size]), Training(batch_size=size)
    for defense in chain:
        architecture = defense.architecture(architecture)
    model = architecture.build(pictures.image_shape, pictures.classes, derived(split, number))
    update = defended_update(chain, training)(set_mode(model, training), batch, generator("draws", split, number))
    granted = Granted(labels=batch.labels)
    observed = Observation(0, number, model, update, training, size, pictures.image_shape, pictures.classes, granted)
    return observed, batch


def derived(split: str, number: int) -> int:
    return number + 1_000_000 * (split == "tuning")


def restored(attack: InvertingGradients, observation: Observation, rng: torch.Generator) -> Tensor:
    images = attack.reconstruct(observation, rng).images
    assert images is not None
    return images


def recognised(found: Tensor, truth: Tensor, gallery: Tensor) -> float:
    """The share of the restored pictures whose nearest in the gallery is a true one that no other restored one has taken."""
    everything = torch.cat([truth, gallery[: GALLERY - len(truth)]])
    nearest = torch.cdist(found.flatten(1), everything.flatten(1)).argmin(1)
    return len({int(index) for index in nearest if index < len(truth)}) / len(truth)


def interval(values: list[float]) -> tuple[float, float]:
    """The mean's 95 % interval, by resampling victims."""
    drawn = np.random.default_rng(0).choice(np.array(values), (RESAMPLES, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victims", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--pictures", type=int, help="of an update, where not as many as the row says")
    parser.add_argument("--total-variation", type=float, default=0.01)
    parser.add_argument("--defenses", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--data", choices=["mnist", "cifar10"], default="mnist")
    parser.add_argument("--model", choices=list(MODELS), default="lenet")
    parser.add_argument("--tuning", action="store_true")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    pictures = pictures_of({"mnist": MNIST(), "cifar10": CIFAR10()}[settings.data])
    split = "tuning" if settings.tuning else "report"
    gallery = pictures.test.batch(torch.randperm(len(pictures.test), generator=generator("gallery"))[:GALLERY]).images
    attack = InvertingGradients(labels=GivenLabels(), iterations=settings.iterations, total_variation=settings.total_variation)
    reached = 0
    architecture, layer = MODELS[settings.model]
    for name in settings.defenses:
        chain, size = ROWS[name]
        size = settings.pictures or size
        chain = tuple(replace(one, layer=layer) if isinstance(one, Soteria) else one for one in chain)
        outcomes, begin = [], time.process_time()
        for number in range(settings.victims):
            observed, batch = victim(pictures, architecture, chain, size, number, split)
            told = replace(observed, granted=replace(observed.granted, defense=Known(chain)))
            found = [restored(attack, one, generator("start", split, number)) for one in (observed, told)]
            outcomes.append(
                Outcome(
                    *(decibels(images, batch.images) for images in found),
                    *(recognised(images, batch.images, gallery) for images in found),
                )
            )
        reached += told_row(name, outcomes, (time.process_time() - begin) / settings.victims)
    print(f"\n6 dB or twice the recognition, the interval above zero: {reached} of {len(settings.defenses)}")


def told_row(name: str, outcomes: list[Outcome], seconds: float) -> bool:
    """Prints a defense's row; whether knowing it gains 6 dB, or twice the recognition, beyond doubt."""
    gains = [outcome.knowing - outcome.plain for outcome in outcomes]
    more = [outcome.knowing_found - outcome.plain_found for outcome in outcomes]
    plain, knowing = (statistics.fmean(values) for values in zip(*((o.plain, o.knowing) for o in outcomes), strict=True))
    before, after = (statistics.fmean(v) for v in zip(*((o.plain_found, o.knowing_found) for o in outcomes), strict=True))
    (low, high), (less, most) = interval(gains), interval(more)
    enough = (knowing - plain >= 6 and low > 0) or (after >= 2 * before and less > 0)
    print(
        f"{name:20s} {plain:5.1f} -> {knowing:5.1f} dB, gain {knowing - plain:5.1f} [{low:5.1f}, {high:5.1f}]; "
        f"recognised {before:4.0%} -> {after:4.0%} [{less:+.0%}, {most:+.0%}]; {seconds:.0f} s a victim"
        f"{' *' if enough else ''}",
        flush=True,
    )
    return enough


if __name__ == "__main__":
    main()
