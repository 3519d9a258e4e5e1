"""iLRG's published table of untrained models, and every other restoration beside it.

    CURIOUS_DATA=.data python -m bench.labels_published              about six minutes on one core, without ImageNet
    CURIOUS_DATA=.data python -m bench.labels_published --imagenet   VGG-16 and ResNet-50 at 224 pixels: half an hour more
    CURIOUS_DATA=.data python -m bench.labels_published --quick      one initialisation, two batches: a minute

Five initialisations, `--batches` of each (one for ImageNet); eval mode, and train mode where the model has BatchNorm. Models
and normalisation are the published ones (MNIST's mean .1307 and deviation .3081; ResNet with a 3x3 stem and no pooling at 224
pixels, 1,000 classes); the row "own normalisation" is this project's. CIFAR-100 and ImageNet pictures are few here (2,400 and
160 in the training part), and are drawn with replacement where a batch is larger than the set. At 224 pixels the methods that
ask noise pictures use 8 and not 64. Columns: LeAcc LnAcc IRec and the share of batches whose counts are all right; a refusal
counts as an empty answer. Beside iLRG stands what its authors' logs say of one initialisation, our LnAcc minus theirs, and
how much LnAcc differs from one initialisation to another (the standard deviation of their means).
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from attacks.attack import Attack
from attacks.controls import Null
from attacks.labels import ILRG, LLG, RLG, AutoLabels, GengLabels, GradInversionLabels, RankOneLabels
from bench.labels import Counted, attempted, drawn, mean_of, observed, scored
from learning.data import CIFAR100, MNIST, Data, ImageFolder, pictures_of
from learning.models import MLP, VGG16, Architecture, LeNet5, Normalize, ResNet18, ResNet50
from learning.tensors import seeded
from learning.training import Training

METHODS: dict[str, Attack] = {
    "ilrg": ILRG(), "ilrg-non-negative": ILRG(solver="non-negative"), "rank-one": RankOneLabels(), "geng": GengLabels(),
    "geng-weights": GengLabels(form="weights"), "auto": AutoLabels(), "llg": LLG(), "llg-model": LLG(knowledge="model"),
    "gradinversion-labels": GradInversionLabels(), "rlg": RLG(), "null": Null(),
}  # fmt: skip
AT_224: dict[str, Attack] = {
    "ilrg": ILRG(), "rank-one": RankOneLabels(), "geng": GengLabels(dummies=8), "auto": AutoLabels(dummies=8), "null": Null(),
}  # fmt: skip
RLG_BATCHES, RLG_LARGEST = 4, 24  # a linear program for every class
PUBLISHED = {  # LeAcc, LnAcc, IRec
    ("FCN-3 MNIST", 24): (1.0, 0.994, None), ("FCN-3 MNIST", 32): (0.982, 0.804, 0.975),
    ("FCN-3 MNIST", 64): (0.998, 0.598, 0.957), ("FCN-3 MNIST", 128): (1.0, 0.386, 0.963),
    ("LeNet-5 CIFAR-100", 24): (1.0, 1.0, None), ("LeNet-5 CIFAR-100", 128): (1.0, 1.0, 1.0),
    ("LeNet-5 CIFAR-100", 256): (1.0, 0.997, 1.0), ("LeNet-5 CIFAR-100", 512): (1.0, 0.960, 1.0),
    ("LeNet-5 CIFAR-100", 1024): (1.0, 0.851, 0.992), ("LeNet-5 SiLU CIFAR-100", 24): (1.0, 1.0, None),
    ("LeNet-5 leaky CIFAR-100", 24): (1.0, 1.0, None), ("VGG-16 ImageNet", 24): (1.0, 1.0, None),
    ("ResNet-50 ImageNet", 24): (1.0, 1.0, None), ("ResNet-18 CIFAR-100", 24): (1.0, 1.0, 1.0),
}  # fmt: skip


def published_mlp(classes: int, seed: int) -> nn.Module:
    """FCN-3 behind MNIST's own normalisation."""
    model = MLP(width=300, depth=2).build((1, 28, 28), classes, seed)
    model.normalize = Normalize(0.1307, 0.3081)
    return model


def published_resnet50(classes: int, seed: int) -> nn.Module:
    """ResNet-50 with CIFAR's stem at 224 pixels: a 3x3 convolution of stride one, and no pooling behind it."""
    model = ResNet50().build((3, 224, 224), classes, seed)
    network = model.get_submodule("network")
    with seeded(seed):
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()
    return model


def built(architecture: Architecture, shape: tuple[int, int, int]) -> Callable[[int, int], nn.Module]:
    return lambda classes, seed: architecture.build(shape, classes, seed)


def row(
    name: str,
    build: Callable[[int, int], nn.Module],
    data: Data,
    size: int,
    mode: str,
    methods: dict[str, Attack],
    settings: argparse.Namespace,
) -> None:
    """One line for each method: means over initialisations and batches."""
    training = Training(batch_norm="train" if mode == "train" else "eval")
    pictures = pictures_of(data)
    classes = 1000 if isinstance(data, ImageFolder) else pictures.classes
    scores: dict[str, list[Counted]] = {n: [] for n in methods if n != "rlg" or size <= RLG_LARGEST}
    for seed in range(settings.initialisations):
        model = build(classes, seed)
        for index in range(1 if isinstance(data, ImageFolder) else settings.batches):
            batch = drawn(pictures.train, size, "published", name, seed, index)
            observation = observed(model, batch, classes, training, seed=index, whole="FCN" in name)
            for method, found in scores.items():
                if method == "rlg" and index >= RLG_BATCHES:
                    continue
                answer = attempted(methods[method], observation, method, seed, index)
                found.append(scored(answer, batch.labels, classes))
    for method, found in scores.items():
        beside = ""
        if method == "ilrg" and (published := PUBLISHED.get((name, size))):
            ours = sum(score.classes for score in found) / len(found)
            known = " ".join("-" if value is None else f"{value:.3f}" for value in published)
            each = torch.tensor([score.classes for score in found]).reshape(settings.initialisations, -1).mean(1)
            spread = f", {each.std():.3f} from one initialisation to another" if len(each) > 1 else ""
            beside = f"   (published: {known}; LnAcc {ours - published[1]:+.3f}{spread})"
        print(f"{name:28} {mode:5} K={size:<5} {method:22} {mean_of(found)}{beside}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--initialisations", type=int, default=5)
    parser.add_argument("--imagenet", action="store_true", help="only the rows of ImageNet pictures")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--modes", nargs="*", default=["eval", "train"], help="of BatchNorm")
    parser.add_argument("--sizes", type=int, nargs="*", help="batches of these sizes alone")
    settings = parser.parse_args()
    if settings.quick:
        settings.initialisations, settings.batches = 1, 2
    torch.set_num_threads(1)
    digits, hundred, large = MNIST(), CIFAR100(), ImageFolder(root="imagenet200", size=224)
    grey, small, wide = (1, 28, 28), (3, 32, 32), (3, 224, 224)
    rows = [
        ("FCN-3 MNIST", published_mlp, digits, (24, 32, 64, 128), ("eval",)),
        ("FCN-3 MNIST own normalisation", built(MLP(width=300, depth=2), grey), digits, (24, 32, 64, 128), ("eval",)),
        ("LeNet-5 CIFAR-100", built(LeNet5(), small), hundred, (24, 128, 256, 512, 1024, 4096), ("eval",)),
        ("LeNet-5 leaky CIFAR-100", built(LeNet5(activation="leaky-relu"), small), hundred, (24,), ("eval",)),
        ("LeNet-5 SiLU CIFAR-100", built(LeNet5(activation="silu"), small), hundred, (24,), ("eval",)),
        ("ResNet-18 CIFAR-100", built(ResNet18(), small), hundred, (24,), ("eval", "train")),
    ]
    if settings.imagenet:
        rows = [
            ("VGG-16 ImageNet", built(VGG16(), wide), large, (24,), ("eval", "train")),
            ("ResNet-50 ImageNet", published_resnet50, large, (24,), ("eval", "train")),
        ]
    for name, build, data, sizes, modes in rows:
        if settings.only not in name:
            continue
        for size in sizes:
            if settings.sizes and size not in settings.sizes:
                continue
            for mode in (mode for mode in modes if mode in settings.modes):
                row(name, build, data, size, mode, AT_224 if settings.imagenet else METHODS, settings)


if __name__ == "__main__":
    main()
