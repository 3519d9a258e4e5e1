"""Instance recall on trained models, after one gradient and after 1, 5 and 10 local epochs; the null guess beside.

    CURIOUS_DATA=.data python -m bench.labels_trained            about ten minutes on one core

MLP and LeNet-5 on MNIST and LeNet-5 on CIFAR-10 along their training; batches of `--examples` training pictures, a third of
them a local batch, at learning rate `--local-rate`, 500 public pictures of the test set. The classes of a batch are drawn
evenly, or with `--alpha` by shares that a Dirichlet distribution draws for each client anew. Printed for every method: mean
instance recall. `null` draws classes at random; `even` gives every class the same share, which no guess that looks at nothing
can beat on evenly drawn batches.
"""

import argparse
import math

import numpy as np
import torch

from attacks.attack import Attack
from attacks.controls import Null
from attacks.labels import ILRG, RLU, AutoLabels, GengLabels, RankOneLabels
from attacks.labels.counts import whole_counts
from bench.labels import attempted, drawn, observed, public_of, scored, trained_states
from learning.data import CIFAR10, MNIST, Pictures, pictures_of
from learning.models import MLP, LeNet5
from learning.tensors import Batch
from learning.training import Training

METHODS: dict[str, Attack] = {
    "ilrg": ILRG(), "ilrg-non-negative": ILRG(solver="non-negative"), "rank-one": RankOneLabels(), "geng": GengLabels(),
    "rlu": RLU(), "auto": AutoLabels(), "null": Null(),
}  # fmt: skip


def client_of(pictures: Pictures, examples: int, alpha: float, seed: int, index: int) -> Batch:
    """A client's examples: as the training pictures come, or by class shares of its own."""
    if math.isinf(alpha):
        return drawn(pictures.train, examples, "trained", seed, index)
    numbers = np.random.default_rng([seed, index])
    counts = numbers.multinomial(examples, numbers.dirichlet([alpha] * pictures.classes))
    labels = pictures.train.labels.numpy()
    chosen = [numbers.choice(np.flatnonzero(labels == label), count) for label, count in enumerate(counts)]
    return pictures.train.batch(torch.from_numpy(np.concatenate(chosen)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--epochs", type=int, nargs="*", default=[0, 1, 5, 10], help="0: a shared gradient")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--local-rate", type=float, default=0.01)
    parser.add_argument("--alpha", type=float, default=math.inf)
    parser.add_argument("--only", default="", help="models and data whose name holds this")
    settings = parser.parse_args()
    size = settings.examples
    torch.set_num_threads(1)
    cases = {
        "MLP MNIST": (MLP(width=300, depth=2), MNIST(), 0.05, (0, 100, 400, 3000, 9000)),
        "LeNet-5 MNIST": (LeNet5(), MNIST(), 0.05, (0, 100, 400)),
        "LeNet-5 CIFAR-10": (LeNet5(), CIFAR10(), 0.02, (0, 100, 500, 2000, 5000)),
    }
    for name, (architecture, data, rate, iterations) in cases.items():
        if settings.only not in name:
            continue
        pictures = pictures_of(data)
        for seed in range(settings.seeds):
            for iteration, known, held, model in trained_states(architecture, pictures, iterations, seed, rate):
                for epochs in settings.epochs:
                    delta = Training(
                        shared="delta", batch_size=math.ceil(size / 3), epochs=max(epochs, 1), learning_rate=settings.local_rate
                    )
                    training = delta if epochs else Training()
                    recall = dict.fromkeys((*METHODS, "even"), 0.0)
                    for index in range(settings.batches):
                        batch = client_of(pictures, size, settings.alpha, seed, index)
                        granted = public_of(pictures, 500, "trained", seed, index)
                        observation = observed(model, batch, pictures.classes, training, granted, index, whole=True)
                        for method, attack in METHODS.items():
                            found = attempted(attack, observation, method, index)
                            recall[method] += scored(found, batch.labels, pictures.classes).recall
                        even = whole_counts(torch.full((pictures.classes,), size / pictures.classes), size)
                        truth = torch.bincount(batch.labels, minlength=pictures.classes)
                        recall["even"] += float(torch.minimum(even, truth).sum()) / size
                    line = " ".join(f"{method} {value / settings.batches:.3f}" for method, value in recall.items())
                    shared = f"{epochs} epochs" if epochs else "gradient"
                    print(f"{name} seed {seed} it {iteration} accuracy {known:.3f}/{held:.3f} {shared}: {line}", flush=True)


if __name__ == "__main__":
    main()
