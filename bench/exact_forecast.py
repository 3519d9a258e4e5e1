"""The forecast of exact attacks against what then happens: area under the curve, and whether the odds are what they say.

    CURIOUS_DATA=.data python -m bench.exact_forecast --cells 200

Every cell has its own data set, width, depth, batch size, precision, noise and normalisation, drawn by its number, with its
own model, batch and stand-in batch (of the test pictures). The attack is given --seconds, and a cell's outcome is whether
every picture came back with a mean squared error below 1e-6. The constants of the forecast were fitted on the cells of
--kind fit, and are judged on those of --kind report.
"""

import argparse
import time
from dataclasses import replace

import torch
from sklearn.metrics import roc_auc_score

from attacks import EXACT, Attack, NotApplicable, Observation
from attacks.exact.forecast import EXACT as ERROR
from attacks.exact.forecast import FORECAST, forecasts
from bench.labels import drawn
from learning.catalogue import build
from learning.data import CIFAR10, MNIST, Digits, pictures_of
from learning.models import MLP
from learning.tensors import Batch, Update, generator
from learning.training import Training, local_update
from studies.scores import squared_errors

DATA = {"digits": Digits(), "mnist": MNIST(), "cifar10": CIFAR10()}
BINS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", choices=[name for name in FORECAST if name != "linear"], default="spear-plus")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first cell")
    parser.add_argument("--kind", choices=["fit", "report"], default="report")
    parser.add_argument("--data", nargs="*", choices=list(DATA), default=list(DATA))
    parser.add_argument("--seconds", type=float, default=8.0, help="that the attack may take")
    chosen = parser.parse_args()
    attack = build(EXACT, {"name": chosen.attack, "seconds": chosen.seconds})
    odds, outcomes, slowest = [], [], 0.0
    for index in range(chosen.first, chosen.first + chosen.cells):
        said, happened, seconds, words = _cell(index, chosen.kind, chosen.data, chosen.attack, attack)
        odds.append(said)
        outcomes.append(happened)
        slowest = max(slowest, seconds)
        print(f"{index} forecast {said:.3f} exact {int(happened)} in {seconds:.2f} s | {words}", flush=True)
    _summed_up(torch.tensor(odds, dtype=torch.float64), torch.tensor(outcomes), slowest)


def _cell(index: int, kind: str, data: list[str], method: str, attack: Attack) -> tuple[float, bool, float, str]:
    """The forecast of a cell, what happened, how many seconds the forecast took, and the cell in words."""
    rng = generator("forecast", kind, index)

    def one(*choices: int | float | str) -> int | float | str:
        return choices[int(torch.randint(len(choices), (1,), generator=rng))]

    name, width, depth, raw = str(one(*data)), int(one(40, 60, 90, 130)), int(one(1, 1, 2)), bool(one(0, 0, 1))
    examples = max(2, int(width * float(torch.rand(1, generator=rng)) * 0.6))
    dtype = torch.float64 if one(0, 1) else torch.float32
    noise = float(one(0.0, 0.0, 1e-6, 1e-4, 1e-3, 1e-2))
    pictures = pictures_of(DATA[name])
    shape, classes = pictures.image_shape, pictures.classes
    model = MLP(width=width, depth=depth, raw=raw).build(shape, classes, index).to(dtype)

    def shared(batch: Batch, *seed: str | int) -> Update:
        update = local_update(model, batch, Training(), generator("client", *seed))
        draw = generator("noise", *seed)
        size = noise * float(next(iter(update.parameters.values())).square().mean().sqrt())
        return update.map(lambda t: t + size * torch.randn(t.shape, generator=draw, dtype=torch.float64).to(dtype))

    def batch_of(part: Batch) -> Batch:
        return replace(part, images=part.images.to(dtype))

    stand_in = batch_of(drawn(pictures.test, examples, "forecast stand-in", kind, index))
    began = time.perf_counter()
    said = forecasts(model, classes, stand_in, Training(), lambda: shared(stand_in, "stand-in", index))[method]
    seconds = time.perf_counter() - began
    batch = batch_of(drawn(pictures.train, examples, "forecast", kind, index))
    observation = Observation(
        round=0, client=0, model=model, update=shared(batch, index), training=Training(), examples=examples,
        image_shape=shape, classes=classes,
    )  # fmt: skip
    try:
        images = attack.reconstruct(observation, generator("attack", index)).images
    except NotApplicable:
        images = None
    happened = images is not None and bool((squared_errors(batch.images.double(), images).amin(1) < ERROR).all())
    words = (
        f"{name} {'raw' if raw else 'normalised'} {width} units, depth {depth}, {examples} examples, {dtype}, noise {noise:g}"
    )
    return said.probability, happened, seconds, f"{words} | {said.sentence}"


def _summed_up(odds: torch.Tensor, outcomes: torch.Tensor, slowest: float) -> None:
    happened = outcomes.double()
    print(f"{len(odds)} cells, {int(outcomes.sum())} exact; area under the curve {roc_auc_score(outcomes, odds):.4f}")
    error = 0.0
    for bin in range(BINS):
        inside = (odds * BINS).floor().clamp_max(BINS - 1) == bin
        if inside.any():
            said, came = float(odds[inside].mean()), float(happened[inside].mean())
            error += abs(said - came) * float(inside.double().mean())
            bounds = f"{bin / BINS:.1f} to {(bin + 1) / BINS:.1f}"
            print(f"forecast {bounds}: {int(inside.sum())} cells, {said:.3f} said, {came:.3f} exact")
    brier = float((odds - happened).square().mean())
    print(f"expected calibration error {error:.4f}; Brier {brier:.4f}; slowest forecast {slowest:.2f} s")


if __name__ == "__main__":
    main()
