"""How well gradient matching restores CIFAR-10 pictures from the update of an untrained LeNet: PSNR, one line a picture.

    CURIOUS_DATA=.data python -m bench.matching_quality dlg-given dlg inverting-gradients

The pictures are the first of a seeded permutation of the test set (settings were tuned on the training set); the model,
the start and the picture differ from line to line. One thread; about ten seconds a line on a laptop's core. Nothing is
chosen: every start is printed, and failures count. `--pictures` says how many (10), `--seed` shifts models and starts.
"""

import argparse
import math
import time

import torch

from attacks import Attack, Observation
from attacks.labels import IDLGLabels
from attacks.matching import DLG, InvertingGradients
from learning.data import CIFAR10, pictures_of
from learning.models import LeNet
from learning.tensors import generator
from learning.training import Training, local_update, set_mode

RUNS: dict[str, Attack] = {
    "dlg-given": DLG(labels=IDLGLabels()),
    "dlg": DLG(),
    "inverting-gradients": InvertingGradients(),
    "inverting-gradients-paper": InvertingGradients(
        decay="steps", learning_rate=0.025, signed=True, total_variation=0.1, spread=0.25
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", choices=list(RUNS))
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    pictures = pictures_of(CIFAR10())
    order = torch.randperm(len(pictures.test), generator=generator("matching quality"))
    for name in settings.runs:
        scores = []
        for position in range(settings.pictures):
            batch = pictures.test.batch(order[position : position + 1])
            training, seed = Training(), settings.seed + position
            model = set_mode(LeNet().build(pictures.image_shape, pictures.classes, seed), training)
            update = local_update(model, batch, training, generator(seed))
            observation = Observation(
                round=0, client=0, model=model, update=update, training=training, examples=1,
                image_shape=pictures.image_shape, classes=pictures.classes,
            )  # fmt: skip
            begin = time.process_time()
            found = RUNS[name].reconstruct(observation, generator("start", seed))
            seconds = time.process_time() - begin
            assert found.images is not None
            assert found.labels is not None
            scores.append(-10 * math.log10((found.images - batch.images).square().mean().item()))
            label = "right" if found.labels.argmax() == batch.labels[0] else "wrong"
            print(
                f"{name} picture {position}: {scores[-1]:.1f} dB, loss {found.loss:.2g} after {len(found.history) - 1} "
                f"iterations, label {label}, {seconds:.0f} s",
                flush=True,
            )
        reached = sum(score >= 20 for score in scores)
        print(f"{name}: mean {sum(scores) / len(scores):.1f}, least {min(scores):.1f} dB, 20 dB in {reached} of {len(scores)}")


if __name__ == "__main__":
    main()
