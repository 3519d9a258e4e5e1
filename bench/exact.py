"""Exact attacks, row by row: pictures restored exactly, certified, and falsely certified, with the time it took.

    CURIOUS_DATA=.data python -m bench.exact --attack spear-plus --batch 20 --width 200 --batches 10

Every batch has its own pictures, model and generator, numbered from 0; all are counted. `exact`: pictures whose mean squared
error is below --exact after an optimal assignment. `whole`: batches of which every picture is. `false`: certified pictures
whose nearest true picture is further than that. `labels`: recalled labels;
`null`: those of classes at random. Memory is not limited, threads are PyTorch's own.
"""

import argparse
import json
import time
from dataclasses import replace

import torch

from attacks import EXACT, Attack, NotApplicable, Observation
from attacks.attack import Reconstruction
from attacks.controls import Null
from bench.labels import drawn, trained_states
from learning.catalogue import build
from learning.data import CIFAR10, MNIST, Digits, FashionMNIST, ImageFolder, Pictures, pictures_of
from learning.models import MLP, Architecture, LeNet5
from learning.tensors import Batch, Update, generator
from learning.training import Training, local_update, set_mode
from studies.scores import score, squared_errors

DATA = {
    "cifar10": CIFAR10(),
    "mnist": MNIST(),
    "fashion-mnist": FashionMNIST(),
    "digits": Digits(),
    "imagenet": ImageFolder(root="imagenet200", size=224),
}
PRECISION = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", choices=list(EXACT), default="spear-plus")
    parser.add_argument("--settings", nargs="*", default=[], help="the attack's own, as name=number or name=true")
    parser.add_argument("--data", choices=list(DATA), default="cifar10")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    parser.add_argument("--precision", choices=list(PRECISION), default="float64", help="of model, pictures and update")
    parser.add_argument("--noise", type=float, default=0.0, help="relative to the first layer's root mean square")
    parser.add_argument("--steps", type=int, default=1, help="local steps on the whole batch")
    parser.add_argument("--epochs", type=int, default=0, help="local epochs of batches of eight, in place of steps")
    parser.add_argument("--lenet5", action="store_true", help="LeNet-5 in place of a network of linear layers")
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--rate", type=float, default=0.01, help="of the local steps")
    parser.add_argument("--trained", type=int, default=0, help="steps of SGD that the model was trained for")
    parser.add_argument("--training-rate", type=float, default=0.02)
    parser.add_argument("--raw", action="store_true", help="the model does not normalise pictures")
    parser.add_argument("--classes", type=int, default=0, help="so many, the labels taken modulo; 0 for the data's own")
    parser.add_argument("--same", action="store_true", help="all examples of a batch have one label")
    parser.add_argument("--exact", type=float, default=1e-6, help="largest mean squared error of an exact picture")
    chosen = parser.parse_args()
    attack = attack_of(chosen.attack, chosen.settings)
    pictures = pictures_of(DATA[chosen.data])
    if chosen.classes:
        train, test = (replace(some, labels=some.labels % chosen.classes) for some in (pictures.train, pictures.test))
        pictures = replace(pictures, train=train, test=test, classes=chosen.classes)
    model = None
    if chosen.trained:
        states = trained_states(_architecture(chosen), pictures, (chosen.trained,), 0, chosen.training_rate)
        ((_, known, held, model),) = states
        print(f"trained for {chosen.trained} steps: accuracy {known:.3f} on the clients' pictures, {held:.3f} on others")
    total = {"exact": 0.0, "whole": 0.0, "certified": 0.0, "false": 0.0, "labels": 0.0, "seconds": 0.0, "cpu": 0.0, "null": 0.0}
    for index in range(chosen.first, chosen.first + chosen.batches):
        batch = _batch(pictures, chosen.batch, chosen.same, index)
        observation = _observed(chosen, pictures, model, batch, index)
        began, spent = time.perf_counter(), time.process_time()
        try:
            found = attack.reconstruct(observation, generator("attack", index))
        except NotApplicable as reason:
            found = Reconstruction(verdict=f"not applicable: {reason}")
        times = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent}
        row = _judged(found, batch, pictures.classes, chosen.exact) | times
        row["null"] = _recall(Null().reconstruct(observation, generator("null", index)), batch, pictures.classes)
        for name, value in row.items():
            total[name] += value
        print(index, *[f"{name} {value:.4g}" for name, value in row.items()], "|", found.verdict, flush=True)
    print(
        f"{vars(chosen)}\n mean over {chosen.batches}:",
        *[f"{n} {v / chosen.batches:.4f}" for n, v in total.items()],
        flush=True,
    )


def attack_of(name: str, written: list[str]) -> Attack:
    """The exact attack of that name, with settings written as name=number or name=true."""
    pairs = (text.split("=") for text in written)
    return build(EXACT, {"name": name, **{key: json.loads(value) for key, value in pairs}})


def _batch(pictures: Pictures, size: int, same: bool, index: int) -> Batch:
    batch = drawn(pictures.train, 60 * size if same else size, "exact", index)
    if same:
        chosen = (batch.labels == index % pictures.classes).nonzero().flatten()[:size]
        batch = Batch(batch.images[chosen], batch.labels[chosen])
    return batch


def _architecture(chosen: argparse.Namespace) -> Architecture:
    return (
        LeNet5(activation=chosen.activation)
        if chosen.lenet5
        else MLP(width=chosen.width, depth=chosen.depth, activation=chosen.activation, raw=chosen.raw)
    )


def _observed(
    chosen: argparse.Namespace, pictures: Pictures, trained: torch.nn.Module | None, batch: Batch, index: int
) -> Observation:
    dtype = torch.float64 if chosen.precision == "float64" else torch.float32
    model = trained or _architecture(chosen).build(pictures.image_shape, pictures.classes, index)
    training = Training(shared="delta", batch_size=len(batch), steps=chosen.steps, learning_rate=chosen.rate)
    if chosen.epochs:
        training = Training(shared="delta", batch_size=8, epochs=chosen.epochs, learning_rate=chosen.rate)
    training = training if chosen.steps > 1 or chosen.epochs else Training()
    model = set_mode(model.to(dtype), training)
    update = local_update(model, Batch(batch.images.to(dtype), batch.labels), training, generator("client", index))
    rng = generator("noise", index)
    first = next(tensor for tensor in update.parameters.values() if tensor.ndim == 2)
    size = chosen.noise * float(first.double().square().mean().sqrt())

    def sent(tensor: torch.Tensor) -> torch.Tensor:
        noisy = tensor + size * torch.randn(tensor.shape, generator=rng, dtype=torch.float64).to(dtype) if size else tensor
        return noisy.to(PRECISION[chosen.precision]).to(dtype)

    return Observation(
        round=0, client=0, model=model, update=Update({n: sent(t) for n, t in update.parameters.items()}), training=training,
        examples=len(batch), image_shape=pictures.image_shape, classes=pictures.classes,
    )  # fmt: skip


def _judged(found: Reconstruction, batch: Batch, classes: int, exact: float) -> dict[str, float]:
    truth = replace(batch, images=batch.images.double())
    labels = _recall(found, truth, classes)
    if found.images is None:
        return {"exact": 0.0, "whole": 0.0, "certified": 0.0, "false": 0.0, "labels": labels}
    errors = squared_errors(truth.images, found.images)
    right = score(Reconstruction(images=found.images), truth, classes).mse or []
    share = sum(value < exact for value in right) / len(truth)
    certified = torch.zeros(len(found.images), dtype=torch.bool) if found.certified is None else found.certified
    wrong = certified & (errors.amin(0) >= exact)
    return {
        "exact": share, "whole": float(share == 1), "certified": float(certified.sum()) / len(truth),
        "false": float(wrong.sum()), "labels": labels,
    }  # fmt: skip


def _recall(found: Reconstruction, batch: Batch, classes: int) -> float:
    if found.labels is None:
        return 0.0
    return score(Reconstruction(labels=found.labels), batch, classes).label_accuracy or 0.0


if __name__ == "__main__":
    main()
