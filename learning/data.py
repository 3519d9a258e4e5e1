"""Pictures with labels, and the pure function that says which of them a client uses in which round.

Attacks may not import this module, nor anything that imports it: here is the truth that they try to restore.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from torch.nn import functional

from learning.catalogue import Count, Index, chosen_from, settings
from learning.partitions import PARTITIONS, Partition
from learning.tensors import Batch, derived_seed, generator


@dataclass(frozen=True)
class Pictures:
    """A whole data set in memory: `train` is what clients hold, `test` measures accuracy and is public."""

    train: "Examples"
    test: "Examples"
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class Examples:
    """Pictures as bytes (0 to 255), `(examples, channels, height, width)`, with their labels."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray | Tensor) -> Batch:
        chosen = torch.as_tensor(indices)
        return Batch(self.images[chosen].float() / 255, self.labels[chosen])


class Data(ABC):
    """A data set that a study can name."""

    @abstractmethod
    def load(self) -> Pictures:
        """All pictures in memory. Raises `ValueError` that says where it looked if they are not to be had."""


@settings
class Digits(Data):
    """The 1,797 handwritten digits inside scikit-learn, 8x8 grey (UCI ML Optical Recognition, 1998). No download."""

    def load(self) -> Pictures:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pictures = (torch.tensor(images).reshape(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
        return _split(Examples(pictures, torch.tensor(labels, dtype=torch.long)), classes=10)


@settings
class MNIST(Data):
    """MNIST: 60,000 and 10,000 digits, 28x28 grey (LeCun et al. 1998), by torchvision."""

    def load(self) -> Pictures:
        return _torchvision("MNIST", classes=10)


@settings
class FashionMNIST(Data):
    """Fashion-MNIST: 60,000 and 10,000 articles, 28x28 grey (Xiao et al. 2017), by torchvision."""

    def load(self) -> Pictures:
        return _torchvision("FashionMNIST", classes=10)


@settings
class CIFAR10(Data):
    """CIFAR-10: 32x32 colour, 10 classes (Krizhevsky 2009), from a folder `cifar10/{train,test}` or by torchvision."""

    def load(self) -> Pictures:
        if (data_folder() / "cifar10").is_dir():
            return _folders(data_folder() / "cifar10", size=32)
        return _torchvision("CIFAR10", classes=10)


@settings
class CIFAR100(Data):
    """CIFAR-100: 32x32 colour, 100 classes (Krizhevsky 2009), from a folder `cifar100/images` or by torchvision."""

    def load(self) -> Pictures:
        if (data_folder() / "cifar100").is_dir():
            return _folders(data_folder() / "cifar100", size=32)
        return _torchvision("CIFAR100", classes=100)


@settings
class ImageFolder(Data):
    """Any folder of pictures, one sub-folder a class; or with `train` and `test` (or `val`) folders above the classes.

    `root`: the folder; a relative path is looked for in `CURIOUS_DATA`. `size`: pictures are resized and cut to this many
    pixels a side.
    """

    root: str
    size: Annotated[int, Field(ge=1, le=4096)] = 32

    def load(self) -> Pictures:
        return _folders(data_folder() / self.root, size=self.size)


DATA: dict[str, type[Data]] = {
    "digits": Digits,
    "mnist": MNIST,
    "fashion-mnist": FashionMNIST,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "image-folder": ImageFolder,
}


def data_folder() -> Path:
    """Where pictures are looked for and downloaded to: the environment's `CURIOUS_DATA`, else `.data` in this folder."""
    return Path(os.environ.get("CURIOUS_DATA", ".data"))


@lru_cache(maxsize=4)
def pictures_of(data: Data) -> Pictures:
    """The data set, read once a process."""
    return data.load()


@settings
class ClientData:
    """What the clients hold: the data set, how it is split, and how many examples a client uses in a round.

    `examples`: number of examples of a client's round; the client's whole part where it is 0. `repeated`: they are the same
    in every round.
    """

    data: Annotated[Data, BeforeValidator(chosen_from(DATA))]
    partition: Annotated[Partition, BeforeValidator(chosen_from(PARTITIONS))]
    clients: Count
    examples: Index = 0
    repeated: bool = False


@lru_cache(maxsize=16)
def client_parts(data: ClientData, seed: int) -> tuple[np.ndarray, ...]:
    """The training set's indices of every client. Raises `ValueError` if a client would hold too few examples."""
    labels = pictures_of(data.data).train.labels.numpy()
    rng = np.random.default_rng(derived_seed(seed, "partition"))
    return tuple(data.partition.split(labels, data.clients, rng))


def client_batch(data: ClientData, client: int, round: int, seed: int) -> Batch:
    """The examples that a client uses in a round: drawn without replacement from its part; all of them if it holds fewer.

    A pure function: the client calls it to train, and scoring calls it again to learn the truth, so that no truth ever
    has to travel.
    """
    part = client_parts(data, seed)[client]
    rng = generator(seed, "batch", client, 0 if data.repeated else round)
    drawn = torch.randperm(len(part), generator=rng)[: data.examples or None]
    return pictures_of(data.data).train.batch(part[drawn.numpy()])


@lru_cache(maxsize=4)
def public_examples(data: Data, count: int, seed: int, skip: int = 0) -> Batch:
    """`count` examples of the public test set, drawn by the seed: what a study may grant to an attacker.

    `skip`: how many of those so drawn come before them; fewer than `count` are left where the set ends.
    """
    test = pictures_of(data).test
    return test.batch(torch.randperm(len(test), generator=generator(seed, "public"))[skip : skip + count])


def _split(examples: Examples, classes: int) -> Pictures:
    """Every fifth example is for testing; sets that come without a split of their own need this."""
    if len(examples) < 5:
        raise ValueError(f"{len(examples)} pictures are too few to split into training and test: give at least 5")
    order = torch.randperm(len(examples), generator=generator("train and test"))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return Pictures(
        Examples(examples.images[train], examples.labels[train]),
        Examples(examples.images[test], examples.labels[test]),
        classes,
    )


def _torchvision(name: str, classes: int) -> Pictures:
    import torchvision

    def part(train: bool) -> Examples:
        found = getattr(torchvision.datasets, name)(data_folder(), train=train, download=False)
        images, labels = torch.as_tensor(found.data), torch.as_tensor(found.targets)
        return Examples(images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous(), labels)

    unreadable = (RuntimeError, OSError, ValueError, AssertionError)  # missing, or empty, or cut short
    try:
        test = part(train=False)
    except unreadable:
        try:
            getattr(torchvision.datasets, name)(data_folder(), train=True, download=True)
            test = part(train=False)
        except unreadable as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{name} is not in '{data_folder()}' and cannot be downloaded ({reason}): set CURIOUS_DATA to a folder that "
                f"torchvision reads, or use the data set 'digits', which needs neither"
            ) from None
    try:
        return Pictures(part(train=True), test, classes)
    except unreadable:  # only the test files are there: split those
        return _split(test, classes)


def _folders(root: Path, size: int) -> Pictures:
    import torchvision

    def part(folder: Path) -> tuple[Examples, list[str]]:
        try:
            found = torchvision.datasets.ImageFolder(str(folder))
            images = torch.stack([_picture(picture, size) for picture, _ in found])
        except (OSError, ValueError) as error:  # a picture that cannot be read is an OSError as well
            raise ValueError(f"'{folder}' is not a folder of pictures, one sub-folder a class ({error})") from None
        return Examples(images, torch.tensor(found.targets)), found.classes

    if not root.is_dir():
        raise ValueError(f"there is no folder '{root}': give an absolute path, or one inside CURIOUS_DATA")
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if (root / "train").is_dir() and tests:
        (train, classes), (test, test_classes) = part(root / "train"), part(tests[0])
        if classes != test_classes:
            raise ValueError(
                f"'{root / 'train'}' and '{tests[0]}' hold different classes ({len(classes)} and {len(test_classes)} folders): "
                f"give both the same folders"
            )
        return Pictures(train, test, len(classes))
    only = next((root / name for name in ("images", "train", "val", "test") if (root / name).is_dir()), root)
    examples, classes = part(only)
    return _split(examples, len(classes))


def _picture(picture: object, size: int) -> Tensor:
    array = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # ImageFolder loads RGB
    height, width = array.shape[1:]
    if height == width == size:
        return array
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    resized = functional.interpolate(array[None].float(), target, mode="bilinear", antialias=True)[0]
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return resized[:, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)
