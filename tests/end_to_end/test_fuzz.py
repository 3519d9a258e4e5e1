"""Damaged inputs for every reader, a thousand in the slow tier: each is read, or refused in words, soon, and left as it is."""

import io
import random
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from learning.catalogue import SettingsError
from learning.models import MLP
from learning.tensors import parameters_of, read_checkpoint, read_tensors
from studies.config import read_campaign, read_plan
from studies.ledger import Ledger
from tests.federations import changed, run

MUTANTS = pytest.mark.parametrize("mutants", [100, pytest.param(1000, marks=pytest.mark.slow)])
SECONDS = 5.0  # for one input on a busy machine
STUDIES = Path(__file__).parents[2] / "studies"
PIECES = [*(bytes([byte]) for byte in b'\x00\xff[]{"=\n.'), b"-1", b"1e309", b"nan", b"true", b"[[attacks]]\n", b"9" * 40]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The data with one to six faults: a bit flipped, a stretch cut out, doubled, moved or overwritten; an end missing."""
    for _ in range(draw.randint(1, 6)):
        if not data:
            break
        begin = draw.randrange(len(data))
        end = min(len(data), begin + draw.choice([1, 1, 4, 20, 200]))
        piece = draw.choice(PIECES)
        fault = draw.randrange(7)
        if fault == 0:
            data = data[:begin] + bytes([data[begin] ^ (1 << draw.randrange(8))]) + data[begin + 1 :]
        elif fault == 1:
            data = data[:begin] + data[end:]
        elif fault == 2:
            data = data[:end] + data[begin:end] + data[end:]
        elif fault == 3:
            place = draw.randrange(len(data))
            data = data[:place] + data[begin:end] + data[place:]
        elif fault == 4:
            data = data[:begin] + piece + data[begin + len(piece) :]
        elif fault == 5:
            data = data[:begin] + piece + data[begin:]
        elif draw.random() < 0.2:
            data = data[:begin]
    return data


def read_or_refused(read, path: Path, data: bytes, refusals) -> str:
    """Whether the input was "read" or "refused". Whatever else is raised fails the test."""
    path.write_bytes(data)
    begin = time.monotonic()
    said = ""
    try:
        read(path)
    except refusals as error:
        said = str(error) or "nothing"
    assert time.monotonic() - begin < SECONDS
    assert path.read_bytes() == data
    assert said != "nothing"
    return "refused" if said else "read"


def tensors_file(as_pytorch: bool) -> bytes:
    tensors = parameters_of(MLP(width=4).build((1, 4, 4), 3, seed=0))
    if not as_pytorch:
        return safetensors.torch.save(tensors)
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


READERS = {
    "a study": ("study.toml", (STUDIES / "quick.toml").read_bytes, read_plan, SettingsError),
    "attacks": (
        "attacks.toml",
        lambda: b'[granted]\nlabels = true\n[[attacks]]\nname = "inverting-gradients"\nlabels = "given"\niterations = 2\n',
        read_campaign,
        SettingsError,
    ),
    "an update in safetensors": ("update.safetensors", lambda: tensors_file(False), read_tensors, ValueError),
    "an update of PyTorch's": ("update.pt", lambda: tensors_file(True), read_checkpoint, ValueError),
}


@MUTANTS
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_words(tmp_path, name, mutants):
    file, sound, read, refusals = READERS[name]
    draw, data = random.Random(name), sound()
    assert read_or_refused(read, tmp_path / file, data, refusals) == "read"
    outcomes = [read_or_refused(read, tmp_path / file, damaged(data, draw), refusals) for _ in range(mutants)]
    assert outcomes.count("refused") > mutants / 10


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "run"
    run(folder, changed(attacks=["ilrg", "null"], federation={"rounds": 1})).close()
    return folder


def everything(path: Path) -> None:
    """Reads a ledger through, as the report and the watcher do."""
    with Ledger(path.parent, write=False) as ledger:
        ledger.counts()
        ledger.rounds()
        ledger.failures()
        ledger.observations()
        ledger.attacks()
        ledger.results()
        ledger.pending(10)
        ledger.digest()


@MUTANTS
def test_a_damaged_ledger_is_read_or_refused_in_words(sound_run, tmp_path, mutants):
    draw, data = random.Random("ledger"), (sound_run / "ledger.sqlite").read_bytes()
    path = tmp_path / "ledger.sqlite"
    assert read_or_refused(everything, path, data, SettingsError) == "read"
    outcomes = [read_or_refused(everything, path, damaged(data, draw), SettingsError) for _ in range(mutants)]
    assert outcomes.count("refused") > mutants / 10
