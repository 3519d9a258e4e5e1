"""What it costs the attacker that clients send new weights and not the update itself: float32 rounds the difference away.

    python -m bench.precision

The same clients' one step of SGD, sent as the update and as new weights, at falling learning rates. Per rate: how far the
gradient that the server computes back is off (relative, in the worst layer: the median and the worst of the clients), whose
labels `auto` restores exactly, and whose pictures `extreme-points` restores exactly (all pixels within a thousandth).
Digits, batches of four, the fully connected model of the study `quick`, untrained and after 100 steps.
"""

import argparse
import statistics

import torch

from attacks import ATTACKS, Observation, Reconstruction
from attacks.workers import Job, run_job
from learning.catalogue import build
from learning.data import Digits, pictures_of
from learning.models import MLP
from learning.tensors import Batch, Tensors, Update, generator, parameters_of
from learning.training import Training, gradient, local_update
from studies.scores import score

STATES = {"untrained": 0, "100 steps": 100}
RATES = (0.1, 0.01, 0.001, 0.0001)


def drawn(rng: torch.Generator, count: int) -> Batch:
    train = pictures_of(Digits()).train
    return train.batch(torch.randperm(len(train), generator=rng)[:count])


def model_after(steps: int) -> torch.nn.Module:
    model = MLP().build((1, 8, 8), 10, seed=0)
    rng = generator("precision", "training")
    for _ in range(steps):
        found = gradient(model, drawn(rng, 32))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(0.1 * found[name])
    return model


def by_weights(model: torch.nn.Module, delta: Tensors) -> Tensors:
    """The delta that is left of weights in float32, taken in float64."""
    sent = parameters_of(model)
    return {name: ((sent[name] + delta[name]).double() - sent[name].double()).float() for name in delta}


def exact_labels(found: Reconstruction, truth: Batch) -> bool:
    return score(found, truth, 10).row()["label_accuracy"] == 1


def exact_pictures(found: Reconstruction, truth: Batch) -> float:
    return statistics.fmean(score(found, truth, 10).row()["exact"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    clients = parser.parse_args().clients
    torch.set_num_threads(1)
    labels, pictures = build(ATTACKS, "auto"), build(ATTACKS, "extreme-points")
    for state, steps in STATES.items():
        model = model_after(steps)
        for rate in RATES:
            order = Training(shared="delta", batch_size=4, learning_rate=rate)
            off, right, exact = [], {"update": 0, "weights": 0}, {"update": 0.0, "weights": 0.0}
            for client in range(clients):
                truth = drawn(generator("precision", client), 4)
                delta = local_update(model, truth, order, generator("precision", "steps", client)).parameters
                rounded = by_weights(model, delta)
                off.append(max(float((rounded[name] - delta[name]).norm() / delta[name].norm()) for name in delta))
                for sent, tensors in (("update", delta), ("weights", rounded)):
                    seen = Observation(1, client, model, Update(tensors), order, 4, (1, 8, 8), 10)
                    told = [run_job(Job(client, attack, seen, client)).reconstruction for attack in (labels, pictures)]
                    right[sent] += told[0] is not None and exact_labels(told[0], truth)
                    exact[sent] += 0.0 if told[1] is None else exact_pictures(told[1], truth) / clients
            counted = (f"{sent}: labels exact of {right[sent]}, pictures {exact[sent]:.0%}" for sent in right)
            print(
                f"{state}, learning rate {rate:g}: off by {statistics.median(off):.1e} (worst {max(off):.1e}); "
                f"of {clients} clients, by {'; by '.join(counted)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
