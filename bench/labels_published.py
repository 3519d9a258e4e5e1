"""iLRG's published table of untrained models, and every other restoration beside it.

    CURIOUS_DATA=.data python -m bench.labels_published              about four minutes on one core, without ImageNet
    CURIOUS_DATA=.data python -m bench.labels_published --imagenet   VGG-16 and ResNet-50 at 224 pixels as well

Five initialisations (1 for ImageNet), `--batches` of each; eval mode, and train mode where the model has BatchNorm. Models
and normalisation are the published ones (MNIST's mean .1307 and deviation .3081); CIFAR-100 and ImageNet pictures are few
here, and are drawn with replacement where a batch is larger than the set. Columns: LeAcc LnAcc IRec and the share of batches
whose counts are all right; a refusal counts as an empty answer. `(published)` stands where the authors' logs say.
"""

import argparse

import torch

from attacks.attack import Attack
from attacks.controls import Null
from attacks.labels import ILRG, LLG, RLG, AutoLabels, GengLabels, GradInversionLabels, RankOneLabels
from bench.labels import attempted, drawn, mean_of, observed, scored
from learning.data import CIFAR100, MNIST, ImageFolder, Pictures, pictures_of
from learning.models import MLP, VGG16, Architecture, LeNet5, Normalize, ResNet18, ResNet50
from learning.training import Training

METHODS: dict[str, Attack] = {
    "ilrg": ILRG(), "ilrg-non-negative": ILRG(solver="non-negative"), "rank-one": RankOneLabels(), "geng": GengLabels(),
    "geng-weights": GengLabels(form="weights"), "auto": AutoLabels(), "llg": LLG(), "llg-model": LLG(knowledge="model"),
    "gradinversion-labels": GradInversionLabels(), "rlg": RLG(), "null": Null(),
}  # fmt: skip
PUBLISHED = {
    ("FCN-3 MNIST", 24): "1.000 .994", ("FCN-3 MNIST", 32): ".982 .804 .975", ("FCN-3 MNIST", 64): ".998 .598 .957",
    ("FCN-3 MNIST", 128): "1.000 .386 .963", ("LeNet-5 CIFAR-100", 24): "1.000 1.000", ("LeNet-5 CIFAR-100", 128): "1 1 1",
    ("LeNet-5 CIFAR-100", 256): "1.000 .997 1.000", ("LeNet-5 CIFAR-100", 512): "1.000 .960 1.000",
    ("LeNet-5 CIFAR-100", 1024): "1.000 .851 .992", ("LeNet-5 SiLU CIFAR-100", 24): "1.000 1.000",
    ("LeNet-5 leaky CIFAR-100", 24): "1.000 1.000", ("VGG-16 ImageNet", 24): "1.000 1.000",
    ("ResNet-50 ImageNet", 24): "1.000 1.000",
}  # fmt: skip


def row(name: str, architecture: Architecture, pictures: Pictures, size: int, settings: argparse.Namespace, mode: str) -> None:
    """One line for each method: means over initialisations and batches."""
    training = Training(batch_norm="train" if mode == "train" else "eval")
    methods = {n: a for n, a in METHODS.items() if n != "rlg" or size <= 24}
    scores = {method: [] for method in methods}
    for seed in range(settings.initialisations):
        model = architecture.build(pictures.image_shape, pictures.classes, seed)
        if "MNIST" in name:
            model.normalize = Normalize(0.1307, 0.3081)
        for index in range(settings.batches):
            batch = drawn(pictures.train, size, "published", name, seed, index)
            observation = observed(model, batch, pictures.classes, training, seed=index)
            for method, attack in methods.items():
                if method == "rlg" and index >= 4:
                    continue  # a linear program for every class
                found = attempted(attack, observation, method, seed, index)
                scores[method].append(scored(found, batch.labels, pictures.classes))
    for method, found in scores.items():
        published = f"   (published: {PUBLISHED.get((name, size), 'not')})" if method == "ilrg" else ""
        print(f"{name:24} {mode:5} K={size:<5} {method:22} {mean_of(found)}{published}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--initialisations", type=int, default=5)
    parser.add_argument("--imagenet", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    digits, hundred = MNIST(), CIFAR100()
    fcn, leaky, silu = MLP(width=300, depth=2), LeNet5(activation="leaky-relu"), LeNet5(activation="silu")
    rows = [("FCN-3 MNIST", fcn, digits, (24, 32, 64, 128), ("eval",))]
    rows += [("LeNet-5 CIFAR-100", LeNet5(), hundred, (24, 128, 256, 512, 1024, 4096), ("eval",))]
    rows += [
        ("LeNet-5 leaky CIFAR-100", leaky, hundred, (24,), ("eval",)),
        ("LeNet-5 SiLU CIFAR-100", silu, hundred, (24,), ("eval",)),
    ]
    rows += [("ResNet-18 CIFAR-100", ResNet18(), hundred, (24,), ("eval", "train"))]
    if settings.imagenet:
        settings.initialisations, settings.batches = 1, min(settings.batches, 2)
        pictures = ImageFolder(root="imagenet200", size=224)
        rows = [("ResNet-50 ImageNet", ResNet50(), pictures, (24,), ("eval", "train"))]
        rows += [("VGG-16 ImageNet", VGG16(), pictures, (24,), ("eval", "train"))]
    for name, architecture, data, sizes, modes in rows:
        if settings.only not in name:
            continue
        for size in sizes:
            for mode in modes:
                row(name, architecture, pictures_of(data), size, settings, mode)


if __name__ == "__main__":
    main()
