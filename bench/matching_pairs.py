"""Geng's claims on the sigmoid LeNet and CIFAR-10: what several model-gradient pairs of one batch are worth.

    CURIOUS_DATA=.data python -m bench.matching_pairs --seeds 3

For a batch of two with the labels given: 1, 2 and 4 pairs at independent models; 2 consecutive models of training on that
batch; one wrong label; two pictures of one class. One line a seed, nothing chosen, then the mean of every case with its 95 %
interval; PSNR is the mean of the batch after the best assignment. One thread.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch

from attacks import Granted, Observation
from attacks.labels import GivenLabels
from attacks.matching import GengImages
from bench.matching import decibels, interval
from learning.data import CIFAR10, Pictures, pictures_of
from learning.models import LeNet
from learning.tensors import Batch, generator
from learning.training import Training, local_update, set_mode

STEP = 0.1  # of the training between two consecutive models


def pairs_of(batch: Batch, labels: torch.Tensor, seed: int, count: int, consecutive: bool) -> Observation:
    """What the server saw of the batch at so many models: the last observation, which holds the earlier ones."""
    training, seen = Training(batch_size=len(batch)), []
    model = LeNet().build((3, 32, 32), 10, 1000 * seed)
    for index in range(count):
        if not consecutive:
            model = LeNet().build((3, 32, 32), 10, 1000 * seed + index)
        elif index:
            moved = LeNet().build((3, 32, 32), 10, 0)
            gradients = seen[-1].update.parameters
            with torch.no_grad():
                for name, parameter in moved.named_parameters():
                    parameter.copy_(model.get_parameter(name) - STEP * gradients[name])
            model = moved
        update = local_update(set_mode(model, training), batch, training, generator(0))
        seen.append(Observation(index, 0, model, update, training, len(batch), (3, 32, 32), 10, Granted(labels=labels)))
    return replace(seen[-1], earlier=tuple(seen[:-1]))


def cases(pictures: Pictures, seed: int) -> Iterator[tuple[str, Observation, Batch]]:
    rng = generator("matching pairs", seed)
    order = torch.randperm(len(pictures.test), generator=rng)
    labels = pictures.test.labels[order]
    other, same = order[labels != labels[0]][0], order[labels == labels[0]][1]
    two = pictures.test.batch(torch.stack([order[0], other]))
    alike = pictures.test.batch(torch.stack([order[0], same]))
    for count in (1, 2, 4):
        yield f"{count} independent", pairs_of(two, two.labels, seed, count, False), two
    yield "2 consecutive", pairs_of(two, two.labels, seed, 2, True), two
    wrong = torch.stack([two.labels[0], (two.labels[1] + 1) % 10])
    for count in (1, 2):
        yield f"{count}, one wrong label", pairs_of(two, wrong, seed, count, False), two
        yield f"{count}, one class", pairs_of(alike, alike.labels, seed, count, False), alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=600)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    attack = GengImages(labels=GivenLabels(), iterations=settings.iterations)
    scores: dict[str, list[float]] = {}
    for seed in range(settings.seeds):
        for name, observation, batch in cases(pictures_of(CIFAR10()), seed):
            found = attack.reconstruct(observation, generator("start", seed))
            assert found.images is not None
            quality, evaluated = decibels(found.images, batch.images), len(found.history) - 1
            scores.setdefault(name, []).append(quality)
            print(f"seed {seed} {name:20s} {quality:6.1f} dB, loss {found.loss:.1e} after {evaluated} iterations", flush=True)
    for name, found in scores.items():
        print(f"{name:20s} {interval(found)}")


if __name__ == "__main__":
    main()
