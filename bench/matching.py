"""One step of Inverting Gradients beside `breaching`'s, on the same gradients, in one run, with one thread.

    python -m bench.matching lenet convnet resnet18 --breaching /path/to/a/folder

Time is CPU time. Every side of every picture runs in a process of its own, so that its peak memory is its own. Work: a
160-pixel crop of scikit-learn's two photographs at 32x32, an untrained model in eval mode, its gradient, the label given.
breaching runs its preset `invertinggradients` with as many iterations as ours; "ours, equal time" gets as many as fit into
breaching's time. Pilots and tracing are in our times; what a process does once is in nobody's (PyTorch imports some of
itself at a first call): both sides make one step before the clock starts. `restarts`: ours with so many restarts at once. A
training step is one forward and backward pass of the same picture.

breaching is not a dependency. Where it is not there, only our side is measured. To have it:

    pip install --target FOLDER --no-deps breaching==0.1.2 hydra-core omegaconf "antlr4-python3-runtime==4.9.*" lpips tqdm
"""

import argparse
import importlib.util
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attacks import Granted, Observation
from attacks.labels import GivenLabels
from attacks.matching import InvertingGradients
from learning.models import Architecture, ConvNet, LeNet, ResNet18
from learning.tensors import Batch, generator
from learning.training import Training, gradient, local_update, set_mode

MODELS: dict[str, tuple[Architecture, int]] = {
    "lenet": (LeNet(), 1000),
    "convnet": (ConvNet(), 60),
    "resnet18": (ResNet18(), 20),
}
SHAPE = (3, 32, 32)


def batch_of(picture: int, size: int) -> Batch:
    """Crops of the two photographs, and random labels."""
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(image) for image in load_sample_images().images]
    random = np.random.RandomState(7 + picture)
    crops = []
    for index in range(size):
        photograph = photographs[(picture + index) % 2]
        top, left = random.randint(photograph.shape[0] - 160), random.randint(photograph.shape[1] - 160)
        crop = torch.from_numpy(photograph[top : top + 160, left : left + 160].copy()).permute(2, 0, 1).float() / 255
        crops.append(functional.interpolate(crop[None], 32, mode="bicubic", antialias=True)[0].clamp(0, 1))
    return Batch(torch.stack(crops), torch.from_numpy(random.randint(0, 10, size)))


def observed(name: str, picture: int, size: int) -> tuple[Observation, Batch]:
    batch, training = batch_of(picture, size), Training()
    model = set_mode(MODELS[name][0].build(SHAPE, 10, 0), training)
    update = local_update(model, batch, training, generator(0))
    granted = Granted(labels=batch.labels)
    return Observation(0, 0, model, update, training, size, SHAPE, 10, granted), batch


def decibels(found: Tensor, truth: Tensor) -> float:
    """Mean PSNR of the batch after the best assignment."""
    import scipy.optimize

    errors = (truth[:, None] - found[None]).square().flatten(2).mean(2).numpy()
    true, match = scipy.optimize.linear_sum_assignment(errors)
    return float(np.mean([-10 * math.log10(error) for error in errors[true, match]]))


def interval(scores: list[float], unit: str = "dB") -> str:
    """Mean and 95 % interval by Student's t over batches; of a single one there is no interval."""
    import scipy.stats

    mean, degrees = float(np.mean(scores)), len(scores) - 1
    if not degrees:
        return f"{mean:.2f} {unit}, one batch"
    reach = float(np.std(scores, ddof=1)) / len(scores) ** 0.5 * float(scipy.stats.t.ppf(0.975, degrees))
    return f"{mean:.2f} {unit}, 95 % interval {mean - reach:.2f} to {mean + reach:.2f}, {len(scores)} batches"


def ours(name: str, picture: int, size: int, iterations: int, restarts: int) -> dict[str, float]:
    observation, batch = observed(name, picture, size)
    attack = InvertingGradients(labels=GivenLabels(), iterations=iterations, restarts=restarts)
    replace(attack, iterations=1).reconstruct(observation, generator("start", picture))
    begin = time.process_time()
    found = attack.reconstruct(observation, generator("start", picture))
    seconds = time.process_time() - begin
    assert found.images is not None
    return {"seconds": seconds, "steps": len(found.history) - 1, "psnr": decibels(found.images, batch.images)}


def breaching_folder(folder: str) -> str:
    """The folder that an argument names, checked before anything is measured."""
    if not (Path(folder) / "breaching").is_dir():
        raise argparse.ArgumentTypeError(
            f"'{folder}' holds no package breaching; the head of bench/matching.py says how to have it"
        )
    return folder


def breaching_on(
    observation: Observation, batch: Batch, iterations: int, folder: str, seed: int, variation: float | None = None
) -> tuple[Tensor, float]:
    """What breaching's preset `invertinggradients` makes of an observation whose labels it is given, and its CPU seconds.

    `variation`: the weight of total variation, in ours' units: pixels, where breaching's are normalised; else the preset's.
    Local steps take all examples.
    """
    import warnings

    warnings.filterwarnings("ignore")
    sys.path.append(folder)
    from breaching.attacks import prepare_attack  # pyright: ignore[reportMissingImports]
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]

    behind = observation.model.get_submodule("network")  # breaching normalises by itself
    presets = Path(sys.modules["breaching"].__file__ or "").parent / "config" / "attack"
    files = ["_default_optimization_attack.yaml", "invertinggradients.yaml"]
    config: Any = OmegaConf.merge(*[OmegaConf.load(presets / file) for file in files])
    config.optim.callback = 10**9
    setup = {"device": torch.device("cpu"), "dtype": torch.float}
    mean, deviation, channels = 0.5, 0.25, observation.image_shape[0]
    if variation is not None:
        config.regularization.total_variation.scale = deviation * variation
    metadata = SimpleNamespace(
        shape=observation.image_shape, modality="vision", classes=observation.classes,
        mean=[mean] * channels, std=[deviation] * channels,
    )  # fmt: skip
    parameters = [parameter.detach() for parameter in behind.parameters()]
    sent = [{"parameters": parameters, "buffers": list(behind.buffers()), "metadata": metadata}]
    steps, rate = observation.steps, observation.training.learning_rate
    local = {"lr": rate, "steps": steps, "data_per_step": len(batch.labels), "labels": [batch.labels] * steps}
    known = {
        "num_data_points": len(batch.labels), "labels": batch.labels,
        "local_hyperparams": local if steps > 1 else None, "data_key": "images",
    }  # fmt: skip
    shared = [{"gradients": list(observation.update.parameters.values()), "buffers": None, "metadata": known}]
    found, seconds = {}, math.inf
    for config.optim.max_iterations in (1, iterations):
        attacker = prepare_attack(behind, torch.nn.CrossEntropyLoss(), config, setup)
        torch.manual_seed(seed)
        begin = time.process_time()
        found, _ = attacker.reconstruct(sent, shared, {})
        seconds = time.process_time() - begin
    return found["data"] * deviation + mean, seconds


def theirs(name: str, picture: int, size: int, iterations: int, folder: str) -> dict[str, float]:
    observation, batch = observed(name, picture, size)
    found, seconds = breaching_on(observation, batch, iterations, folder, 100 + picture)
    return {"seconds": seconds, "steps": iterations, "psnr": decibels(found, batch.images)}


def training_step(name: str, size: int) -> float:
    """CPU milliseconds of one plain training step, the median of some."""
    observation, batch = observed(name, 0, size)
    times = []
    for _ in range(20):
        begin = time.process_time()
        gradient(observation.model, batch)
        times.append(time.process_time() - begin)
    return 1e3 * sorted(times)[10]


def measured(side: str, *words: object) -> dict[str, float]:
    """What a process of its own finds."""
    call = [sys.executable, "-m", "bench.matching", "--measure", side, *map(str, words)]
    said = subprocess.run(call, capture_output=True, text=True, check=False)
    if said.returncode:
        raise SystemExit(said.stderr)
    return json.loads(said.stdout.splitlines()[-1])


def measure(side: str, name: str, words: list[str]) -> None:
    torch.set_num_threads(1)
    picture, size, iterations = (int(word) for word in words[:3])
    if side == "theirs":
        found = theirs(name, picture, size, iterations, words[3])
    else:
        found = ours(name, picture, size, iterations, restarts=int(words[3]))
    print(json.dumps(found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    if "--measure" in sys.argv:
        place = sys.argv.index("--measure")
        measure(sys.argv[place + 1], sys.argv[place + 2], sys.argv[place + 3 :])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=list(MODELS))
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=0, help="also so many restarts at once")
    parser.add_argument("--equal-time", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--breaching", type=breaching_folder, help="a folder that holds breaching, if Python does not find it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    there = bool(asked.breaching) or importlib.util.find_spec("breaching") is not None
    if not there:
        print("breaching is not there, and only our side is measured; to have it, see the head of this file")
    for name in asked.models:
        iterations, size = asked.iterations or MODELS[name][1], asked.batch
        plain = training_step(name, size)
        ratios, rows = [], []
        for picture in range(asked.pictures):
            mine = measured("ours", name, picture, size, iterations, 1)
            line = {"ours": mine}
            if there:
                other = measured("theirs", name, picture, size, iterations, asked.breaching or ".")
                line["breaching"] = other
                if asked.equal_time:
                    longer = max(1, int(iterations * other["seconds"] / mine["seconds"]))
                    line["ours, equal time"] = measured("ours", name, picture, size, longer, 1)
                ratios.append(mine["seconds"] / other["seconds"])
            if asked.restarts:
                line["restarts"] = measured("ours", name, picture, size, iterations, asked.restarts)
            rows.append(line)
            for side, found in line.items():
                step = 1e3 * found["seconds"] / max(found["steps"], 1)
                print(
                    f"{name} b{size} picture {picture} {side:18s} {found['steps']:5.0f} steps {step:8.2f} cpu ms/step "
                    f"({step / plain:5.1f} training steps) {found['seconds']:7.1f} s {found['psnr']:6.2f} dB "
                    f"{found['memory']:5.0f} MB",
                    flush=True,
                )
        for side in rows[0]:
            print(f"{name} b{size} mean {side:18s} {np.mean([row[side]['psnr'] for row in rows]):6.2f} dB")
        if ratios:
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{name} b{size} ours / breaching, cpu time a step: {np.median(ratios):.2f} ({each})")
        if asked.restarts and there:
            gains = [asked.restarts * row["breaching"]["seconds"] / row["restarts"]["seconds"] for row in rows]
            print(f"{name} b{size} {asked.restarts} restarts: {np.median(gains):.1f} times breaching's throughput")


if __name__ == "__main__":
    main()
