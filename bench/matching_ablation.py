"""What each term of GradInversion is worth: PSNR without it beside PSNR with all, on the same batches and starts.

    CURIOUS_DATA=.data python -m bench.matching_ablation --batches 10

Batches of four CIFAR-10 pictures of different classes, a narrow ConvNet whose BatchNorm normalises by the batch, and the
running statistics sent with the gradient. One line a batch, then the mean of the paired differences over the batches with its
95 % interval: positive where the term helps. One thread.
"""

import argparse
from dataclasses import replace

import torch

from attacks import Observation
from attacks.matching import GradInversion
from bench.matching import decibels, interval
from learning.data import CIFAR10, pictures_of
from learning.models import ConvNet
from learning.tensors import generator
from learning.training import Training, local_update, set_mode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=4)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    whole = GradInversion(iterations=settings.iterations, seeds=settings.seeds)
    arms = {"all": whole} | {
        f"no {term}": replace(whole, **{term: 0.0}) for term in ("total_variation", "norm", "statistics", "group")
    }
    test = pictures_of(CIFAR10()).test
    training = Training(batch_size=settings.size, batch_norm="train", buffers="sent")
    scores: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(settings.batches):
        order = torch.randperm(len(test), generator=generator("matching ablation", index))
        first = [order[test.labels[order] == label][0] for label in torch.randperm(10, generator=generator(index))]
        batch = test.batch(torch.stack(first[: settings.size]))
        sent, trained = (ConvNet(width=settings.width).build((3, 32, 32), 10, index) for _ in range(2))
        update = local_update(trained, batch, training, generator(0))
        observation = Observation(
            0, 0, set_mode(sent, training), update, training, settings.size, (3, 32, 32), 10
        )  # fmt: skip
        for name, attack in arms.items():
            found = attack.reconstruct(observation, generator("start", index))
            assert found.images is not None
            scores[name].append(decibels(found.images, batch.images))
        print(f"batch {index}: " + ", ".join(f"{name} {scores[name][-1]:.2f}" for name in arms), flush=True)
    for name in list(arms)[1:]:
        gains = [with_all - without for with_all, without in zip(scores["all"], scores[name], strict=True)]
        print(f"{name.removeprefix('no ')} is worth {interval(gains)}")


if __name__ == "__main__":
    main()
