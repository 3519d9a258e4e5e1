"""Labels of few examples behind defenses: one gradient of an untrained and of a trained model, instance recall by method.

    CURIOUS_DATA=.data python -m bench.labels_defended           some ten minutes on one core

An MLP on MNIST (`--model`: LeNet-5 on MNIST or CIFAR-10); batches of `--examples` training pictures, drawn evenly or, with
`--alpha`, by class shares that a Dirichlet distribution draws for each client anew; `--public` pictures of the test set. Nobody
is told the defense. `auto` takes nothing apart here, which it would where a defense changes no more than the length. Behind the
mean of every method: half of its 95 % interval over the batches.
"""

import argparse
import copy
import math
import statistics
from dataclasses import replace

import torch

from attacks.attack import Attack
from attacks.labels import ILRG, LLG, RLU, AutoLabels, RankOneLabels, SimulatedLabels
from bench.labels import attempted, observed, public_of, scored, trained_states
from bench.labels_trained import client_of
from defenses import (
    DPSGD,
    Defense,
    GaussianNoise,
    MagnitudePruning,
    NormClipping,
    Quantization,
    RandomPruning,
    Sign,
    Ternary,
    defended_update,
)
from learning.data import CIFAR10, MNIST, Data, pictures_of
from learning.models import MLP, Architecture, LeNet5
from learning.tensors import generator

METHODS: dict[str, Attack] = {
    "ilrg": ILRG(), "rank-one": RankOneLabels(), "llg": LLG(), "llg+": LLG(knowledge="public"), "rlu": RLU(),
    "simulated": SimulatedLabels(), "auto": AutoLabels(seconds=0),
}  # fmt: skip
ROWS: dict[str, tuple[Defense, ...]] = {
    "none": (),
    "noise 0.01": (GaussianNoise(std=0.01),),
    "noise 0.1": (GaussianNoise(std=0.1),),
    "clipping 0.3": (NormClipping(max_norm=0.3),),
    "pruning 90 %": (MagnitudePruning(keep=0.1),),
    "random pruning 90 %": (RandomPruning(keep=0.1),),
    "8 bits": (Quantization(bits=8),),
    "2 bits": (Quantization(bits=2),),
    "ternary": (Ternary(),),
    "sign": (Sign(),),
    "DP-SGD 0.01": (DPSGD(max_norm=1.0, noise_multiplier=0.01),),
}
MODELS: dict[str, tuple[Architecture, Data, float, tuple[int, int]]] = {
    "mlp": (MLP(width=300, depth=2), MNIST(), 0.05, (0, 400)),
    "lenet5": (LeNet5(), MNIST(), 0.05, (0, 400)),
    "lenet5-cifar10": (LeNet5(), CIFAR10(), 0.02, (0, 2000)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="mlp")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=math.inf)
    parser.add_argument("--public", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--defenses", nargs="+", choices=list(ROWS), default=list(ROWS))
    settings = parser.parse_args()
    torch.set_num_threads(1)
    architecture, data, rate, iterations = MODELS[settings.model]
    pictures, size, seed = pictures_of(data), settings.examples, settings.seed
    for iteration, known, held, model in trained_states(architecture, pictures, iterations, seed, rate):
        print(f"{settings.model} after {iteration} iterations, accuracy {known:.3f} / {held:.3f}, {size} examples")
        for name in settings.defenses:
            recall: dict[str, list[float]] = {method: [] for method in METHODS}
            for index in range(settings.batches):
                batch = client_of(pictures, size, settings.alpha, seed, index)
                granted = public_of(pictures, settings.public, "defended", seed, index)
                seen = observed(model, batch, pictures.classes, granted=granted, seed=index)
                update = defended_update(ROWS[name], seen.training)
                changed = update(copy.deepcopy(model), batch, generator("draws", seed, index))
                defended = replace(seen, update=changed)
                for method, attack in METHODS.items():
                    found = attempted(attack, defended, method, index)
                    recall[method].append(scored(found, batch.labels, pictures.classes).recall)
            line = " ".join(f"{method} {spread(values)}" for method, values in recall.items())
            print(f"{name}: {line}", flush=True)


def spread(values: list[float]) -> str:
    reach = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.2f}+-{reach:.2f}"


if __name__ == "__main__":
    main()
