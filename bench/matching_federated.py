"""How well pictures come back from a client's local steps (FedAvg): mean PSNR and its 95 % interval, one line a batch.

    CURIOUS_DATA=.data python -m bench.matching_federated few --batches 10
    CURIOUS_DATA=.data python -m bench.matching_federated epochs --batches 10

`few`: four CIFAR-10 pictures of different classes and four local steps on all of them, at the learning rate and with the weight
of total variation of `breaching`'s notebook on the same work (20.8 dB after 24,000 iterations on ResNet-18, four steps on two
pictures each in an order that is given); here an untrained ConvNet in eval mode, its width shrunken from 64 to `--width`.
`--of` says how many a step takes: then the client's order is not told.

`epochs`: fifty MNIST pictures, ten epochs of ten steps on five each, an MLP: the work of Dimitrov et al. (2022) on FEMNIST,
where their method restores over 45 % and matching without simulation under 10 %. A picture counts as restored from 19 dB.

The labels are given, sorted. Models, pictures and starts differ from line to line; nothing is chosen. The last line of a method
is the mean with its 95 % interval by Student's t over the batches. One thread.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch

from attacks import Attack, Granted, Observation
from attacks.labels import GivenLabels
from attacks.matching import SME, Dimitrov, InvertingGradients
from bench.matching import interval
from learning.data import CIFAR10, MNIST, pictures_of
from learning.models import MLP, ConvNet
from learning.tensors import Batch, generator
from learning.training import Training, local_update, set_mode
from studies.scores import score

RESTORED = 19.0  # dB


def observed(asked: argparse.Namespace) -> Iterator[tuple[Observation, Batch]]:
    """What the server sees of every client, and the client's pictures."""
    few = asked.work == "few"
    pictures = pictures_of(CIFAR10() if few else MNIST())
    if few:
        training = Training(shared="delta", batch_size=asked.of, steps=4, learning_rate=0.001)
    else:
        training = Training(shared="delta", batch_size=5, epochs=10, learning_rate=0.01)
    for index in range(asked.batches):
        order = torch.randperm(len(pictures.test), generator=generator("matching federated", index))
        first = [order[pictures.test.labels[order] == label][0] for label in torch.randperm(10, generator=generator(index))]
        batch = pictures.test.batch(torch.stack(first[:4]) if few else order[:50])
        architecture = ConvNet(width=asked.width) if few else MLP(width=100)
        model = set_mode(architecture.build(pictures.image_shape, 10, index), training)
        update = local_update(model, batch, training, generator("client", index))
        granted = Granted(labels=batch.labels.sort().values)
        yield Observation(0, 0, model, update, training, len(batch), pictures.image_shape, 10, granted), batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["few", "epochs"])
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--width", type=int, default=8, help="of the ConvNet")
    parser.add_argument("--of", type=int, default=4, help="pictures that one of the few steps takes")
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--total-variation", type=float, default=0.004)
    parser.add_argument("--methods", nargs="+", default=["inverting-gradients", "dimitrov", "sme"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    weight = asked.total_variation
    methods: dict[str, Attack] = {
        "inverting-gradients": InvertingGradients(labels=GivenLabels(), iterations=asked.iterations, total_variation=weight),
        "dimitrov": Dimitrov(labels=GivenLabels(), iterations=asked.iterations, total_variation=weight),
        "sme": SME(labels=GivenLabels(), iterations=asked.iterations, total_variation=weight),
    }
    for name in asked.methods:
        means, shares = [], []
        for index, (observation, batch) in enumerate(observed(asked)):
            begin = time.process_time()
            found = methods[name].reconstruct(observation, generator("start", index))
            seconds = time.process_time() - begin
            psnr = score(found, batch, 10).psnr
            assert psnr is not None
            means.append(float(np.mean(psnr)))
            shares.append(100 * float(np.mean([value >= RESTORED for value in psnr])))
            print(
                f"{name} batch {index}: {means[-1]:.2f} dB, {shares[-1]:.0f} % from {RESTORED:.0f} dB, loss {found.loss:.3g}, "
                f"{seconds:.0f} s",
                flush=True,
            )
        print(f"{name}: {interval(means)}; from {RESTORED:.0f} dB {interval(shares, '%')}", flush=True)


if __name__ == "__main__":
    main()
