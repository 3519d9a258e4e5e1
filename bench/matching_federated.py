"""How well pictures come back from a client's local steps (FedAvg): mean PSNR and its 95 % interval, one line a batch.

    CURIOUS_DATA=.data python -m bench.matching_federated few --width 32 --methods sme --iterations 1000
    CURIOUS_DATA=.data python -m bench.matching_federated few --model resnet18 --methods sme --iterations 2000 --batches 3
    CURIOUS_DATA=.data python -m bench.matching_federated epochs --data cifar100

`few`: four CIFAR-10 pictures of different classes and four local steps on all of them, at the learning rate of `breaching`'s
notebook on the same work (20.8 dB after 24,000 iterations on ResNet-18, four steps on two
pictures each in an order that is given); here an untrained network in eval mode: ResNet-18 too, or a ConvNet whose width is
shrunken from 64 to `--width`.
`--of` says how many a step takes: then the client's order is not told. `--breaching FOLDER` runs breaching's own simulation of
the steps beside ours (see `bench/matching.py` for how to have it), which takes all pictures in each.

`epochs`: fifty pictures, ten epochs of ten steps on five each, an MLP: the work of Dimitrov et al. (2022) on FEMNIST, where
their method restores over 45 % and matching without simulation under 10 %. A picture counts as restored from 19 dB, and as
identified where it resembles its own more than any of 99 others of the test set (by chance 1 %).

The labels are given, sorted. Models, pictures and starts differ from line to line; nothing is chosen. The last line of a method
is the mean with its 95 % interval by Student's t over the batches. One thread.
"""

import argparse
import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from attacks import Attack, Granted, Observation, Reconstruction
from attacks.labels import GivenLabels
from attacks.matching import SME, Dimitrov, InvertingGradients
from bench.matching import breaching_folder, breaching_on, interval
from learning.data import CIFAR10, CIFAR100, MNIST, pictures_of
from learning.models import MLP, ConvNet, ResNet18
from learning.tensors import Batch, generator
from learning.training import Training, local_update, set_mode
from studies.scores import GALLERY, score

RESTORED = 19.0  # dB
NOTEBOOK = 0.004  # weight of total variation in breaching's notebook, in ours' units
DATA = {"mnist": MNIST(), "cifar10": CIFAR10(), "cifar100": CIFAR100()}


def observed(asked: argparse.Namespace) -> Iterator[tuple[Observation, Batch, Tensor]]:
    """What the server sees of every client, the client's pictures, and others to tell them from."""
    few = asked.work == "few"
    pictures = pictures_of(CIFAR10() if few else DATA[asked.data])
    if few:
        training = Training(shared="delta", batch_size=asked.of, steps=4, learning_rate=0.001)
    else:
        training = Training(shared="delta", batch_size=5, epochs=10, learning_rate=0.01)
    for index in range(asked.first, asked.first + asked.batches):
        order = torch.randperm(len(pictures.test), generator=generator("matching federated", index))
        classes = torch.randperm(pictures.classes, generator=generator(index))
        first = [order[pictures.test.labels[order] == label][0] for label in classes]
        taken = torch.stack(first[:4]) if few else order[:50]
        batch, rest = pictures.test.batch(taken), order[~torch.isin(order, taken)]
        networks = {"resnet18": ResNet18(), "convnet": ConvNet(width=asked.width)}
        architecture = networks[asked.model] if few else MLP(width=100)
        model = set_mode(architecture.build(pictures.image_shape, pictures.classes, index), training)
        update = local_update(model, batch, training, generator("client", index))
        granted = Granted(labels=batch.labels.sort().values)
        observation = Observation(0, 0, model, update, training, len(batch), pictures.image_shape, pictures.classes, granted)
        yield observation, batch, pictures.test.batch(rest[: GALLERY - 1]).images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["few", "epochs"])
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="batch: several processes can share the work")
    parser.add_argument("--data", choices=list(DATA), default="mnist", help="of the epochs")
    parser.add_argument("--model", choices=["convnet", "resnet18"], default="convnet", help="of the few steps")
    parser.add_argument("--width", type=int, default=8, help="of the ConvNet")
    parser.add_argument("--of", type=int, default=4, help="pictures that one of the few steps takes")
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--total-variation", type=float, help="left out, a fifth of the distance at the start")
    parser.add_argument("--methods", nargs="+", default=["inverting-gradients", "dimitrov", "sme"])
    parser.add_argument("--breaching", type=breaching_folder, help="a folder that holds breaching")
    asked = parser.parse_args()
    if asked.breaching and (asked.work, asked.of) != ("few", 4):
        parser.error("--breaching takes all pictures in every step, and so do only the `few` with --of 4: leave it out")
    torch.set_num_threads(1)
    weight = asked.total_variation
    methods: dict[str, Attack] = {
        "inverting-gradients": InvertingGradients(labels=GivenLabels(), iterations=asked.iterations, total_variation=weight),
        "dimitrov": Dimitrov(labels=GivenLabels(), iterations=asked.iterations, total_variation=weight),
        "sme": SME(labels=GivenLabels(), iterations=asked.iterations, total_variation=weight),
    }
    for name in asked.methods + ["breaching"] * bool(asked.breaching):
        means, shares, known = [], [], []
        for index, (observation, batch, others) in enumerate(observed(asked), asked.first):
            begin = time.process_time()
            if name == "breaching":
                images, seconds = breaching_on(observation, batch, asked.iterations, asked.breaching, index, NOTEBOOK)
                found = Reconstruction(images=images, loss=math.nan)
            else:
                found = methods[name].reconstruct(observation, generator("start", index))
                seconds = time.process_time() - begin
            scores = score(found, batch, observation.classes, others)
            assert scores.psnr is not None
            assert scores.identified is not None
            means.append(float(np.mean(scores.psnr)))
            shares.append(100 * float(np.mean([value >= RESTORED for value in scores.psnr])))
            known.append(100 * float(np.mean(scores.identified)))
            print(
                f"{name} batch {index}: {means[-1]:.2f} dB, {shares[-1]:.0f} % from {RESTORED:.0f} dB, {known[-1]:.0f} % "
                f"identified, loss {found.loss:.3g}, {seconds:.0f} s",
                flush=True,
            )
        print(
            f"{name}: {interval(means)}; from {RESTORED:.0f} dB {interval(shares, '%')}; identified {interval(known, '%')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
