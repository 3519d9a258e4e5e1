"""Victims of one round by Inverting Gradients, together beside one after the other: CPU time in one run, with one thread.

    python -m bench.matching_together

Random pictures and untrained models. `at once` is how many the attack takes by its own choice; the other numbers say whether
that is a good one. The pictures found are compared with those found alone.
"""

import argparse
import itertools
import time

import torch

from attacks import Granted, Observation
from attacks.labels import GivenLabels
from attacks.matching import InvertingGradients
from learning.models import MLP, Architecture, LeNet
from learning.tensors import Batch, generator
from learning.training import Training, local_update, set_mode

MODELS: dict[str, tuple[Architecture, tuple[int, int, int]]] = {
    "LeNet, 8 x 8": (LeNet(), (1, 8, 8)),
    "LeNet, 28 x 28": (LeNet(), (1, 28, 28)),
    "LeNet, 3 x 32 x 32": (LeNet(), (3, 32, 32)),
    "MLP, 28 x 28": (MLP(), (1, 28, 28)),
}
VICTIMS, ROUNDS = 8, 3


def observed(architecture: Architecture, shape: tuple[int, int, int], size: int) -> list[Observation]:
    training = Training()
    model = set_mode(architecture.build(shape, 10, 0), training)
    found = []
    for client in range(VICTIMS):
        rng = generator("picture", client)
        batch = Batch(torch.rand(size, *shape, generator=rng), torch.randint(0, 10, (size,), generator=rng))
        update = local_update(model, batch, training, generator(0))
        found.append(Observation(0, client, model, update, training, size, shape, 10, Granted(labels=batch.labels)))
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    attack = InvertingGradients(labels=GivenLabels(), iterations=200)
    for (name, (architecture, shape)), size in itertools.product(MODELS.items(), (1, 4)):
        victims = observed(architecture, shape, size)
        own = attack.at_once(victims[0])
        groups = sorted({1, 2, 4, 8, min(own, VICTIMS)})
        times = {group: [] for group in groups}
        found = {}
        for _, group in itertools.product(range(ROUNDS), groups):
            begin = time.process_time()
            pictures = []
            for first in range(0, VICTIMS, group):
                several = victims[first : first + group]
                rngs = [generator("start", one.client) for one in several]
                pictures += [one.images for one in attack.reconstruct_all(several, rngs)]
            times[group].append(time.process_time() - begin)
            found[group] = pictures
        alone = sorted(times[1])[ROUNDS // 2]
        ratios = ", ".join(f"{group}: {alone / sorted(times[group])[ROUNDS // 2]:.2f}" for group in groups[1:])
        apart = max(float((one - other).abs().max()) for one, other in zip(found[min(own, VICTIMS)], found[1], strict=True))
        print(
            f"{name}, batch of {size}: {own} at once; times faster, by how many: {ratios}; pixels differ by {apart:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
