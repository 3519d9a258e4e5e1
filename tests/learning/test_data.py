"""Pictures, and the pure function that says which of them a client uses."""

import socket

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from learning.data import (
    CIFAR10,
    CIFAR100,
    DATA,
    MNIST,
    ClientData,
    Data,
    Digits,
    FashionMNIST,
    ImageFolder,
    Pictures,
    client_batch,
    client_parts,
    pictures_of,
    public_examples,
)
from learning.partitions import IID, Dirichlet, Shards

DIGITS = ClientData(data=Digits(), partition=IID(), clients=10, examples=8)


def rows(pictures: torch.Tensor) -> list[bytes]:
    return [picture.numpy().tobytes() for picture in pictures]


def check(pictures: Pictures, shape: tuple[int, int, int], classes: int) -> None:
    """What every data set promises."""
    assert pictures.image_shape == shape
    assert pictures.classes == classes
    for part in (pictures.train, pictures.test):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.long
        assert part.images.shape == (len(part), *shape)
        assert len(part) > 0
        assert int(part.labels.min()) >= 0
        assert int(part.labels.max()) < classes
        batch = part.batch(torch.arange(len(part))[:50])
        assert batch.images.dtype == torch.float32
        assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1


def without_network(monkeypatch) -> list[object]:
    """Lets every attempt at the network fail, and says which there were."""
    attempts: list[object] = []

    def refused(*arguments: object, **_: object):
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    return attempts


def test_digits_have_their_shape_range_and_classes():
    pictures = pictures_of(Digits())
    check(pictures, (1, 8, 8), 10)
    assert (len(pictures.train), len(pictures.test)) == (1438, 359)
    assert int(pictures.train.images.max()) == 255
    assert set(pictures.train.labels.tolist()) == set(pictures.test.labels.tolist()) == set(range(10))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    theirs = sorted(zip((images / 16).round(2).tolist(), labels.tolist(), strict=True))
    pictures = pictures_of(Digits())
    both = [pictures.train.batch(np.arange(1438)), pictures.test.batch(np.arange(359))]
    ours = [
        (((image * 16).round() / 16).double().numpy().round(2).ravel().tolist(), int(label))
        for batch in both
        for image, label in zip(batch.images, batch.labels, strict=True)
    ]
    assert sorted(ours) == theirs


def test_the_split_is_disjoint_complete_and_deterministic():
    one, again = Digits().load(), Digits().load()
    assert torch.equal(one.train.images, again.train.images)
    assert torch.equal(one.test.labels, again.test.labels)
    train, test = rows(one.train.images), rows(one.test.images)
    assert len(set(train) | set(test)) == 1797, "all digits differ, and none is lost"
    assert not set(train) & set(test)


def test_a_data_set_is_read_once_a_process():
    assert pictures_of(Digits()) is pictures_of(Digits())


def test_a_clients_batch_is_a_pure_function(untouched_random_state):
    one, again = client_batch(DIGITS, 3, 7, seed=1), client_batch(DIGITS, 3, 7, seed=1)
    client_parts.cache_clear()
    later = client_batch(DIGITS, 3, 7, seed=1)
    for other in (again, later):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    one.images.zero_()
    assert torch.equal(client_batch(DIGITS, 3, 7, seed=1).images, again.images), "what the client does to its batch stays there"


@pytest.mark.parametrize(("client", "round", "seed"), [(4, 7, 1), (3, 8, 1), (3, 7, 2), (7, 3, 1)])
def test_another_client_round_or_seed_uses_other_pictures(client, round, seed):
    assert not torch.equal(client_batch(DIGITS, 3, 7, 1).images, client_batch(DIGITS, client, round, seed).images)


def test_which_of_its_pictures_a_client_draws_differs_between_clients_and_rounds():
    """Clients' pictures differ anyhow; their places in the clients' parts have to differ too."""
    data = ClientData(data=Digits(), partition=IID(), clients=10, examples=8)
    drawn = set()
    for client in range(10):
        held = rows(pictures_of(Digits()).train.batch(client_parts(data, 0)[client]).images)
        for round in range(10):
            drawn.add(tuple(held.index(picture) for picture in rows(client_batch(data, client, round, 0).images)))
    assert len(drawn) == 100


@given(st.integers(0, 9), st.integers(0, 1000), st.integers(0, 5), st.integers(1, 200))
def test_a_batch_is_drawn_without_replacement_from_the_clients_part(client, round, seed, examples):
    data = ClientData(data=Digits(), partition=IID(), clients=10, examples=examples)
    part = client_parts(data, seed)[client]
    held = pictures_of(Digits()).train.batch(part)
    batch = client_batch(data, client, round, seed)
    drawn, own = rows(batch.images), dict(zip(rows(held.images), held.labels.tolist(), strict=True))
    assert len(drawn) == len(set(drawn)) == min(examples, len(part))
    assert [own[picture] for picture in drawn] == batch.labels.tolist(), "its own pictures, each with its label"


def test_repeated_examples_are_a_client_s_own_and_the_same_in_every_round():
    data = ClientData(data=Digits(), partition=IID(), clients=10, examples=8, repeated=True)
    batches = [rows(client_batch(data, client, round, 0).images) for client in range(10) for round in (1, 2, 7)]
    assert all(batches[i] == batches[i - i % 3] for i in range(30))
    assert len({picture for batch in batches for picture in batch}) == 80


def test_zero_examples_are_the_whole_part():
    data = ClientData(data=Digits(), partition=Dirichlet(alpha=0.1), clients=5)
    for client, part in enumerate(client_parts(data, 0)):
        assert len(client_batch(data, client, 1, 0)) == len(part)


def test_the_number_of_examples_does_not_move_the_partition():
    few, many = (ClientData(data=Digits(), partition=Shards(), clients=10, examples=n) for n in (1, 100))
    assert all(np.array_equal(a, b) for a, b in zip(client_parts(few, 3), client_parts(many, 3), strict=True))


def test_all_examples_of_a_part_are_drawn_in_time():
    data = ClientData(data=Digits(), partition=IID(), clients=100, examples=4)
    seen = {picture for round in range(30) for picture in rows(client_batch(data, 0, round, 0).images)}
    assert len(seen) == len(client_parts(data, 0)[0])


def test_a_partition_that_leaves_a_client_empty_is_refused():
    data = ClientData(data=Digits(), partition=IID(), clients=1439)
    with pytest.raises(ValueError, match=r"1439 clients cannot share 1438 training examples: lower federation\.clients"):
        client_parts(data, 0)


def test_public_examples_come_from_the_test_set_only():
    pictures = pictures_of(Digits())
    public = public_examples(Digits(), 50, seed=3)
    tests = set(rows(pictures.test.batch(np.arange(359)).images))
    assert len(public) == 50 == len(set(rows(public.images)))
    assert set(rows(public.images)) <= tests
    assert torch.equal(public_examples(Digits(), 50, seed=3).images, public.images)
    assert not torch.equal(public_examples(Digits(), 50, seed=4).images, public.images)
    assert len(public_examples(Digits(), 10**6, seed=3)) == 359


def folder(root, classes: dict[str, int], mode: str = "RGB", size: tuple[int, int] = (20, 12)):
    """Tiny PNGs, one folder a class."""
    rng = np.random.default_rng(len(str(root)))
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            shape = (*size, 3) if mode == "RGB" else size
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.mark.parametrize("tests", ["test", "val"])
def test_a_folder_with_a_split_of_its_own_keeps_it(tmp_path, tests):
    folder(tmp_path / "train", {"cat": 3, "dog": 4})
    folder(tmp_path / tests, {"cat": 1, "dog": 1})
    pictures = ImageFolder(root=str(tmp_path), size=12).load()
    check(pictures, (3, 12, 12), 2)
    assert pictures.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert pictures.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("inside", ["images", "train", "val", "test", ""])
def test_a_folder_without_a_split_is_split(tmp_path, inside):
    folder(tmp_path / inside, {"cat": 6, "dog": 9})
    pictures = ImageFolder(root=str(tmp_path), size=12).load()
    check(pictures, (3, 12, 12), 2)
    assert (len(pictures.train), len(pictures.test)) == (12, 3)
    assert sorted([*pictures.train.labels.tolist(), *pictures.test.labels.tolist()]) == [0] * 6 + [1] * 9


def test_grey_pictures_are_read_in_colour(tmp_path):
    pictures = ImageFolder(root=str(folder(tmp_path, {"a": 5}, mode="L")), size=12).load()
    check(pictures, (3, 12, 12), 1)
    assert torch.equal(pictures.train.images[:, 0], pictures.train.images[:, 2])


def test_pictures_of_the_wanted_size_are_kept_to_the_last_bit(tmp_path):
    folder(tmp_path, {"a": 5}, size=(12, 12))
    pictures = ImageFolder(root=str(tmp_path), size=12).load()
    saved = {np.array(Image.open(path)).transpose(2, 0, 1).tobytes() for path in tmp_path.rglob("*.png")}
    assert {*rows(pictures.train.images), *rows(pictures.test.images)} == saved


@pytest.mark.parametrize("size", [(20, 12), (12, 20), (5, 7), (100, 3), (1, 1)])
@pytest.mark.parametrize("wanted", [1, 8, 33])
def test_pictures_of_any_size_are_brought_to_the_wanted_one(tmp_path, size, wanted):
    folder(tmp_path, {"a": 5}, size=size)
    assert ImageFolder(root=str(tmp_path), size=wanted).load().image_shape == (3, wanted, wanted)


def test_resizing_keeps_the_middle_and_the_proportions(tmp_path):
    (tmp_path / "a").mkdir()
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200  # the middle square; the sides are cut off
    for index in range(5):
        Image.fromarray(wide).save(tmp_path / "a" / f"{index}.png")
    image = ImageFolder(root=str(tmp_path), size=10).load().train.images[0]
    assert torch.equal(image, torch.full((3, 10, 10), 200, dtype=torch.uint8))


def test_resizing_agrees_with_torchvision(tmp_path):
    folder(tmp_path, {"a": 5}, size=(64, 48))
    ours = ImageFolder(root=str(tmp_path), size=16).load()
    means = {}
    for path in tmp_path.rglob("*.png"):
        picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        small = torchvision.transforms.functional.resize(picture, [16], antialias=True)
        means[path.name] = torchvision.transforms.functional.center_crop(small, [16, 16])
    for image in [*ours.train.images, *ours.test.images]:
        nearest = min(int((image.int() - theirs.int()).abs().max()) for theirs in means.values())
        assert nearest <= 1, "rounding differs by one grey level at most"


def test_a_relative_root_is_looked_for_in_the_folder_of_pictures(tmp_path, monkeypatch):
    folder(tmp_path / "mine", {"a": 5})
    monkeypatch.setenv("CURIOUS_DATA", str(tmp_path))
    assert ImageFolder(root="mine", size=12).load().classes == 1


def test_a_missing_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder '.*/gone': give an absolute path, or one inside CURIOUS_DATA"):
        ImageFolder(root=str(tmp_path / "gone")).load()


def test_a_folder_that_holds_no_pictures_is_named(tmp_path):
    for make in (lambda: None, lambda: (tmp_path / "empty class").mkdir(), lambda: (tmp_path / "a.txt").write_text("text")):
        make()
        with pytest.raises(ValueError, match=f"'{tmp_path}' is not a folder of pictures, one sub-folder a class"):
            ImageFolder(root=str(tmp_path)).load()


def test_a_file_that_is_no_picture_is_named(tmp_path):
    folder(tmp_path, {"a": 5})
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"is not a folder of pictures.*broken\.png"):
        ImageFolder(root=str(tmp_path)).load()


def test_a_picture_cut_short_is_an_error(tmp_path):
    folder(tmp_path, {"a": 5}, size=(60, 60))
    whole = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a folder of pictures"):
        ImageFolder(root=str(tmp_path)).load()


def test_too_few_pictures_to_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="4 pictures are too few to split into training and test: give at least 5"):
        ImageFolder(root=str(folder(tmp_path, {"a": 2, "b": 2}))).load()


def test_train_and_test_folders_with_different_classes_are_refused(tmp_path):
    """Each folder numbers its own classes: with one missing, label 0 would mean two things."""
    folder(tmp_path / "train", {"cat": 2, "dog": 2})
    folder(tmp_path / "test", {"dog": 2})
    with pytest.raises(ValueError, match=r"hold different classes \(2 and 1 folders\): give both the same folders"):
        ImageFolder(root=str(tmp_path)).load()


@pytest.mark.parametrize("size", [0, -1, 10_000, 2.5])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match="size"):
        ImageFolder(root="x", size=size)


@pytest.mark.parametrize("data", [MNIST(), FashionMNIST(), CIFAR10(), CIFAR100()], ids=repr)
def test_missing_pictures_without_a_network_are_an_error_with_the_remedy(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CURIOUS_DATA", str(tmp_path))
    attempts = without_network(monkeypatch)
    with pytest.raises(ValueError, match=r"is not in '.*' and cannot be downloaded .*set CURIOUS_DATA .*'digits'"):
        data.load()
    assert attempts


def mnist_files(root, name: str, train: int | None, test: int = 20) -> None:
    """The four files of an MNIST; with `train` None the training pictures are an empty file."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train or 60_000), ("t10k", test)):
        images = b"" if prefix == "train" and train is None else rng.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        head = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images if images else b"")
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(b"".join(n.to_bytes(4, "big") for n in (0x801, count)) + labels)


@pytest.mark.parametrize(("name", "data"), [("MNIST", MNIST()), ("FashionMNIST", FashionMNIST())])
def test_files_that_are_there_are_read_without_a_network(name, data, tmp_path, monkeypatch):
    mnist_files(tmp_path, name, train=30)
    monkeypatch.setenv("CURIOUS_DATA", str(tmp_path))
    attempts = without_network(monkeypatch)
    pictures = data.load()
    check(pictures, (1, 28, 28), 10)
    assert (len(pictures.train), len(pictures.test)) == (30, 20)
    assert not attempts


def test_a_folder_with_test_files_only_is_split_without_a_network(tmp_path, monkeypatch):
    mnist_files(tmp_path, "FashionMNIST", train=None)
    monkeypatch.setenv("CURIOUS_DATA", str(tmp_path))
    attempts = without_network(monkeypatch)
    pictures = FashionMNIST().load()
    check(pictures, (1, 28, 28), 10)
    assert (len(pictures.train), len(pictures.test)) == (16, 4)
    assert not attempts


def test_files_cut_short_are_not_read_as_pictures(tmp_path, monkeypatch):
    mnist_files(tmp_path, "MNIST", train=30)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    monkeypatch.setenv("CURIOUS_DATA", str(tmp_path))
    without_network(monkeypatch)
    with pytest.raises(ValueError, match="MNIST is not in"):
        MNIST().load()


@pytest.mark.parametrize(
    ("data", "file", "shape", "classes"),
    [
        (MNIST(), "MNIST/raw/t10k-images-idx3-ubyte", (1, 28, 28), 10),
        (FashionMNIST(), "FashionMNIST/raw/t10k-images-idx3-ubyte", (1, 28, 28), 10),
        (CIFAR100(), "cifar100", (3, 32, 32), 100),
        pytest.param(CIFAR10(), "cifar10", (3, 32, 32), 10, marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_the_real_pictures_have_their_shape_range_and_classes(data: Data, file, shape, classes, needed, monkeypatch):
    needed(file)
    attempts = without_network(monkeypatch)
    check(pictures_of(data), shape, classes)
    assert not attempts


def test_every_data_set_is_tested_on_real_or_made_pictures():
    assert DATA.keys() == {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder"}
