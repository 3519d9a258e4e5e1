"""How well pictures come back from a client's local steps (FedAvg) on CIFAR-10: PSNR, one line a batch.

    CURIOUS_DATA=.data python -m bench.matching_federated --batches 5

Four test pictures of different classes, four local steps on all four of them (`--of` says how many a step takes: then the
client's order is not told), the labels given, an untrained ConvNet in eval mode, its width shrunken to `--width` (64 in the
paper). Models, pictures and starts differ from line to line; nothing is chosen. The last line of a method is the mean with
its 95 % interval by Student's t over the batches. One thread.
"""

import argparse
import time

import torch

from attacks import Attack, Granted, Observation
from attacks.labels import GivenLabels
from attacks.matching import SME, Dimitrov, InvertingGradients
from bench.matching import decibels, interval
from learning.data import CIFAR10, pictures_of
from learning.models import ConvNet
from learning.tensors import generator
from learning.training import Training, local_update, set_mode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--of", type=int, default=4, help="pictures that a local step takes")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--methods", nargs="+", default=["inverting-gradients", "dimitrov", "sme"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    methods: dict[str, Attack] = {
        "inverting-gradients": InvertingGradients(labels=GivenLabels(), iterations=asked.iterations),
        "dimitrov": Dimitrov(labels=GivenLabels(), iterations=asked.iterations),
        "sme": SME(labels=GivenLabels(), iterations=asked.iterations),
    }
    test = pictures_of(CIFAR10()).test
    training = Training(shared="delta", batch_size=asked.of, steps=asked.steps, learning_rate=asked.learning_rate)
    for name in asked.methods:
        scores = []
        for index in range(asked.batches):
            order = torch.randperm(len(test), generator=generator("matching federated", index))
            first = [order[test.labels[order] == label][0] for label in torch.randperm(10, generator=generator(index))]
            batch = test.batch(torch.stack(first[:4]))
            model = set_mode(ConvNet(width=asked.width).build((3, 32, 32), 10, index), training)
            update = local_update(model, batch, training, generator("client", index))
            granted = Granted(labels=batch.labels.sort().values)
            observation = Observation(0, 0, model, update, training, 4, (3, 32, 32), 10, granted)
            begin = time.process_time()
            found = methods[name].reconstruct(observation, generator("start", index))
            seconds = time.process_time() - begin
            assert found.images is not None
            scores.append(decibels(found.images, batch.images))
            print(f"{name} batch {index}: {scores[-1]:.2f} dB, loss {found.loss:.3g}, {seconds:.0f} s", flush=True)
        print(f"{name}: {interval(scores)}", flush=True)


if __name__ == "__main__":
    main()
