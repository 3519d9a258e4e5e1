"""What several local epochs on a trained model leave of the labels for an estimator that learns from the rounds themselves.

    CURIOUS_DATA=.data python -m bench.labels_ceiling            about a quarter of an hour on one core

No attack: it is given `--rounds` rounds of clients that draw from the very training pictures from which the victims draw, with
their counts, and learns to read the counts off whole updates: kernel ridge regression, one linear kernel a layer of the
entries' inverse hyperbolic sines in units of their medians. The layer, or all of them, and the ridge are chosen by a fifth of
the rounds that is held out, and never by the victims. With `--pool public` it draws from 500 public pictures, as an attacker
could who has the time, and one half of these is held out.

Printed: instance recall of `--victims` victims with its standard error, beside `even` (every class the same share), the same
after more and more of the rounds; and of the first `--attacked` of them, with 500 public pictures, what RLU and `auto` read
and how many of RLU's verdicts say that the labels are not to be known. Models, rates, and batches are those of
`bench.labels_trained`.
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.labels import RLU, AutoLabels
from attacks.labels.counts import whole_counts
from bench.labels import attempted, drawn, observed, public_of, scored, trained_states
from learning.data import CIFAR10, MNIST, Examples, Pictures, pictures_of
from learning.models import MLP, Architecture, LeNet5
from learning.tensors import generator
from learning.training import Training, local_update

SIZE, PUBLIC, LOCAL_BATCH, LOCAL_RATE = 24, 500, 8, 0.01
MOST = 50_000  # entries of a layer that are read
RIDGES = [10.0**exponent for exponent in (-4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1)]  # in units of the kernel's diagonal
CASES: dict[str, tuple[Architecture, MNIST | CIFAR10, float, int]] = {
    "MLP MNIST": (MLP(width=300, depth=2), MNIST(), 0.05, 3000),
    "LeNet-5 MNIST": (LeNet5(), MNIST(), 0.05, 400),
    "LeNet-5 CIFAR-10": (LeNet5(), CIFAR10(), 0.02, 5000),
}


@dataclass(frozen=True)
class Rounds:
    """Updates of many rounds, one row a round, by layer, and the counts behind them."""

    updates: dict[str, Tensor]
    counts: Tensor

    def some(self, rows: slice) -> "Rounds":
        return Rounds({name: tensor[rows] for name, tensor in self.updates.items()}, self.counts[rows])


def played(model: nn.Module, pool: Examples, number: int, training: Training, classes: int, seed: str) -> Rounds:
    """Rounds of clients whose batches are drawn from the pool."""
    read = {name: torch.randperm(p.numel(), generator=generator("read", name))[:MOST] for name, p in model.named_parameters()}
    updates = {name: torch.empty(number, len(entries)) for name, entries in read.items()}
    counts = torch.empty(number, classes, dtype=torch.long)
    for index in range(number):
        batch = drawn(pool, SIZE, seed, index)
        found = local_update(model, batch, training, generator(seed, "order", index)).parameters
        for name, entries in read.items():
            updates[name][index] = found[name].flatten()[entries]
        counts[index] = torch.bincount(batch.labels, minlength=classes)
    return Rounds(updates, counts)


def kernels(known: Rounds, others: list[Rounds]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """One a layer and the mean of all: among the known rounds, and between each of the others and these."""
    among: list[Tensor] = []
    between: list[list[Tensor]] = []
    for name, tensor in known.updates.items():
        size = tensor.abs().median(0).values
        size = torch.where(size > 0, size, tensor.abs().mean(0)).clamp_min(1e-20)
        seen = (tensor / size).asinh()
        mean, deviation = seen.mean(0), seen.std(0)
        scale = torch.where(deviation > 1e-9, 1 / deviation, 0)
        seen = (seen - mean) * scale
        among.append((seen @ seen.T).double() / seen.shape[1])
        new = [((one.updates[name] / size).asinh() - mean) * scale for one in others]
        between.append([(one @ seen.T).double() / seen.shape[1] for one in new])
    among.append(torch.stack(among).mean(0))
    between.append([torch.stack(parts).mean(0) for parts in zip(*between, strict=True)])
    return among, between


def read(known: Rounds, held: Rounds, victims: Rounds) -> tuple[str, Tensor]:
    """The victims' counts, by the layer and ridge that read those of the held rounds best."""
    names, mean = [*known.updates, "all layers"], known.counts.double().mean(0)
    among, between = kernels(known, [held, victims])
    best, found = float("inf"), ("", torch.empty(0))
    for name, own, (to_held, to_victims) in zip(names, among, between, strict=True):
        for ridge in RIDGES:
            solved = torch.linalg.solve(own + ridge * torch.eye(len(own)).double(), known.counts - mean)
            missed = float((to_held @ solved + mean - held.counts).square().mean())
            if missed < best:
                best, found = missed, (f"{name}, ridge {ridge:.2g}", to_victims @ solved + mean)
    return found


def recall(estimates: Tensor, truth: Tensor) -> tuple[float, float]:
    """The mean share of a batch's labels that are read, and its standard error."""
    each = [
        float(torch.minimum(whole_counts(one.clamp_min(0) * SIZE / one.clamp_min(0).sum(), SIZE), true).sum()) / SIZE
        for one, true in zip(estimates.double(), truth, strict=True)
    ]
    return torch.tensor(each).mean().item(), torch.tensor(each).std().item() / len(each) ** 0.5


def attacked(model: nn.Module, pictures: Pictures, number: int, training: Training) -> str:
    """What the attacks read of the first victims."""
    right, unknown = {"rlu": 0.0, "auto": 0.0}, 0
    for index in range(number):
        batch = drawn(pictures.train, SIZE, "victims", index)
        granted = public_of(pictures, PUBLIC, "ceiling", index)
        observation = observed(model, batch, pictures.classes, training, granted, index, whole=True)
        for name, attack in (("rlu", RLU()), ("auto", AutoLabels())):
            found = attempted(attack, observation, name, index)
            right[name] += scored(found, batch.labels, pictures.classes).recall / number
            unknown += name == "rlu" and found is not None and not found.identifiable
    return (
        f"rlu {right['rlu']:.3f}, auto {right['auto']:.3f}; rlu says of {unknown} of {number} that labels are not to be known"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--victims", type=int, default=200)
    parser.add_argument("--attacked", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pool", choices=["train", "public"], default="train")
    parser.add_argument("--only", default="", help="models and data whose name holds this")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(shared="delta", batch_size=LOCAL_BATCH, epochs=asked.epochs, learning_rate=LOCAL_RATE)
    for name, (architecture, data, rate, iteration) in CASES.items():
        if asked.only not in name:
            continue
        pictures = pictures_of(data)
        *_, (_, known, held, model) = trained_states(architecture, pictures, (iteration,), 0, rate)
        classes, fifth = pictures.classes, asked.rounds // 5
        pools = [pictures.train, pictures.train]
        if asked.pool == "public":
            order = torch.randperm(len(pictures.test), generator=generator("ceiling"))[:PUBLIC]
            pools = [Examples(pictures.test.images[half], pictures.test.labels[half]) for half in order.chunk(2)]
        learnt, tried = (
            played(model, pool, number, training, classes, seed)
            for pool, number, seed in zip(pools, (asked.rounds - fifth, fifth), ("learnt", "tried"), strict=True)
        )
        victims = played(model, pictures.train, asked.victims, training, classes, "victims")
        even, _ = recall(torch.full((asked.victims, classes), 1.0), victims.counts)
        print(f"{name}, accuracy {known:.3f}/{held:.3f}, {asked.epochs} epochs: even {even:.3f}", flush=True)
        for share in (4, 2, 1):
            number = len(learnt.counts) // share
            chosen, estimates = read(learnt.some(slice(number)), tried, victims)
            right, error = recall(estimates, victims.counts)
            print(f"  learnt from {number} rounds: {right:.3f} +- {error:.3f} ({chosen})", flush=True)
        if asked.attacked:
            print(f"  {attacked(model, pictures, asked.attacked, training)}", flush=True)


if __name__ == "__main__":
    main()
