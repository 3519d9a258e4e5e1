"""SPEAR as published, step by step, beside `spear` and `spear-plus`: seconds for the same batches, in one run, one thread.

    CURIOUS_DATA=.data python -m bench.exact_speed --batches 5

The transcription (Dimitrov et al., NeurIPS 2024, algorithm 1) has float64 throughout: submatrices of the left factor by the
thousand, the null vector of each by its singular vectors, the share of zeros that it must have, copies dropped, the greedy
choice by the sparsity matching coefficient as soon as there are enough, the scale from the bias gradient. A batch counts as
exact when every picture's mean squared error is below 1e-6.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from attacks import Observation
from attacks.directions.layers import tail
from attacks.exact import Spear, SpearPlus
from attacks.exact.forecast import EXACT
from attacks.exact.spear import fewest_zeros
from bench.labels import drawn
from learning.data import CIFAR10, pictures_of
from learning.models import MLP
from learning.tensors import Batch, generator
from learning.training import Training, local_update
from studies.scores import squared_errors

AT_ONCE, ZERO, SAME = 10_000, 1e-7, 1 - 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[4, 6, 8, 10])
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="after which an attack gives up")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rivals: dict[str, Callable[[Observation, torch.Generator], Tensor | None]] = {
        "transcription": lambda seen, rng: transcribed(seen, chosen.seconds, rng),
        "spear": lambda seen, rng: Spear(seconds=chosen.seconds).reconstruct(seen, rng).images,
        "spear-plus": lambda seen, rng: SpearPlus(seconds=chosen.seconds).reconstruct(seen, rng).images,
    }
    for size in chosen.sizes:
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        exact = dict.fromkeys(rivals, 0)
        for index in range(chosen.batches):
            batch, observation = observed(size, chosen.width, index)
            for name, attack in rivals.items():
                began = time.perf_counter()
                images = attack(observation, generator("speed", index))
                seconds[name].append(time.perf_counter() - began)
                exact[name] += images is not None and bool((squared_errors(batch.images, images).amin(1) < EXACT).all())
        base = statistics.median(seconds["transcription"])
        for name, times in seconds.items():
            middle = statistics.median(times)
            print(
                f"b={size} {name}: median {middle:.3f} s, {base / middle:.1f} times as fast as the transcription; "
                f"exact {exact[name]} of {chosen.batches}",
                flush=True,
            )


def observed(size: int, width: int, index: int) -> tuple[Batch, Observation]:
    pictures = pictures_of(CIFAR10())
    batch = drawn(pictures.train, size, "exact speed", size, index)
    batch = Batch(batch.images.double(), batch.labels)
    model = MLP(width=width).build(pictures.image_shape, pictures.classes, index).double()
    update = local_update(model, batch, Training(), generator("client", index))
    return batch, Observation(
        round=0, client=0, model=model, update=update, training=Training(), examples=size,
        image_shape=pictures.image_shape, classes=pictures.classes,
    )  # fmt: skip


def transcribed(observation: Observation, seconds: float, rng: torch.Generator) -> Tensor | None:
    """The batch's pictures by the published procedure; None where it did not find them in time."""
    end = tail(observation)
    layer = end.layers[0]
    assert layer.bias is not None
    weights, biases = layer.gradient[:, :-1], layer.gradient[:, -1]
    left, values, right = torch.linalg.svd(weights, full_matrices=False)
    rank = int((values > 1e-10 * values[0]).sum())
    left, right = left[:, :rank] * values[:rank], right[:rank]
    live = left.norm(dim=1) > 1e-12 * left.norm()
    needed, units = fewest_zeros(int(live.sum()), rank), live.nonzero().flatten()
    pool: list[Tensor] = []
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        picks = units[torch.rand(AT_ONCE, len(units), generator=rng).argsort(1)[:, : rank - 1]]
        vectors = torch.linalg.svd(left[picks], full_matrices=True)[2][:, -1]
        zeros = ((left[units] @ vectors.T).abs() < ZERO * left[units].norm(dim=1, keepdim=True)).sum(0)
        for vector in vectors[zeros >= needed]:
            if any(float((vector @ other).abs()) > SAME for other in pool):
                continue
            pool.append(vector)
            if len(pool) >= rank:
                found = _greedy(pool, left, right, biases, layer.weight, layer.bias, units)
                if found is not None:
                    return end.pictures(found, observation.image_shape)
    return None


def _greedy(
    pool: list[Tensor], left: Tensor, right: Tensor, biases: Tensor, weight: Tensor, bias: Tensor, units: Tensor
) -> Tensor | None:
    """The inputs of the independent choice whose zeros fit all activations; None where no choice does."""
    order = sorted(pool, key=lambda vector: -int((left[units] @ vector).abs().lt(ZERO).sum()))
    chosen: list[Tensor] = []
    for vector in order:
        if torch.linalg.matrix_rank(torch.stack([*chosen, vector])) == len(chosen) + 1:
            chosen.append(vector)
    chosen = chosen[: left.shape[1]]
    if len(chosen) < left.shape[1]:
        return None
    best, inputs = _matching(chosen, left, right, biases, weight, bias, units)
    for vector in pool:
        for place in range(len(chosen)):
            swapped = [*chosen[:place], vector, *chosen[place + 1 :]]
            if torch.linalg.matrix_rank(torch.stack(swapped)) < len(swapped):
                continue
            score, other = _matching(swapped, left, right, biases, weight, bias, units)
            if score > best:
                best, chosen, inputs = score, swapped, other
        if best == 1:
            break
    return inputs if best == 1 else None


def _matching(
    chosen: list[Tensor], left: Tensor, right: Tensor, biases: Tensor, weight: Tensor, bias: Tensor, units: Tensor
) -> tuple[float, Tensor]:
    """The sparsity matching coefficient of a choice, and its inputs."""
    directions = torch.stack(chosen, 1)
    scales = torch.linalg.solve(directions, torch.linalg.lstsq(left, biases[:, None]).solution[:, 0])
    directions = directions * scales
    inputs = torch.linalg.solve(directions, right)
    opened = inputs @ weight[units].T + bias[units] > 0
    slopes = (left[units] @ directions).abs() > ZERO * left[units].norm(dim=1, keepdim=True) * directions.norm(dim=0)
    return float((opened == slopes.T).double().mean()), inputs


if __name__ == "__main__":
    main()
