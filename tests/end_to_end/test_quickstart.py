"""Flower's quick-start app, wrapped by one line: what its weights give away, and what is said when something does not fit."""

import logging
import sys
from pathlib import Path
from typing import Any

import lxml.html
import pytest
import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import FedAvg

from attacks.labels import AutoLabels
from attacks.matching import FeatureInversion
from curious.auditor import Auditor, Seen
from curious.simulation import InlineGrid
from learning.messages import record_of
from learning.tensors import Batch
from learning.training import Training
from server import CuriousStrategy
from studies.scores import score

APP = Path(__file__).parents[2] / "docs" / "quickstart"
SHOWN = {"image_shape": (1, 32, 32), "classes": 10, "mean": (0.5,), "deviation": (0.5,)}
NODES = 10


@pytest.fixture
def quickstart(monkeypatch):
    """The app's modules, as Flower finds them: its folder comes first."""
    monkeypatch.syspath_prepend(str(APP))
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    import quickstart.client_app  # pyright: ignore[reportMissingImports]
    import quickstart.server_app  # pyright: ignore[reportMissingImports]
    import quickstart.task  # pyright: ignore[reportMissingImports]

    yield quickstart
    for name in [name for name in sys.modules if name.startswith("quickstart")]:
        del sys.modules[name]


def order(examples: int, rate: float = 0.1) -> dict[str, Any]:
    return {"examples": examples, "batch-size": 32, "local-epochs": 1, "learning-rate": rate}


def trained(quickstart, run: dict[str, Any], rounds: int = 1, share: float = 0.3, **asked) -> list[Seen]:
    """A federation of the app with that share of clients, and the auditor inside; `asked` changes what the auditor is told."""
    told: dict[str, Any] = {
        "model": quickstart.task.Net,
        "training": Training(
            shared="delta", batch_size=32, learning_rate=run["learning-rate"], momentum=0.9, batch_norm="train"
        ),
        "attacks": {"auto": AutoLabels()},
    }
    torch.manual_seed(1)
    with Auditor(**SHOWN | told | asked) as auditor:
        strategy = CuriousStrategy(FedAvg(fraction_train=share, fraction_evaluate=0.0), auditor)
        arrays = record_of(quickstart.task.Net().state_dict())
        grid = InlineGrid(quickstart.client_app.app, NODES, run)
        strategy.start(grid, arrays, num_rounds=rounds, train_config=ConfigRecord({"learning-rate": run["learning-rate"]}))
    return auditor.seen


def truth(quickstart, client: int, examples: int) -> Batch:
    pictures, classes = quickstart.task.load_data(client - 1, NODES, examples, 32).dataset.tensors
    return Batch(pictures * 0.5 + 0.5, classes)


@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_the_labels_of_a_whole_batch_are_in_its_weights(quickstart, rate):
    found = trained(quickstart, order(32, rate))
    assert len(found) == 3
    for seen in found:
        assert seen.found is not None
        assert seen.found.misfits == []
        (line,) = seen.found.lines
        assert line.reconstruction is not None
        assert score(line.reconstruction, truth(quickstart, seen.client, 32), 10).row()["label_accuracy"] == 1


@pytest.mark.parametrize(("told", "times"), [(0.2, 0.5), (0.05, 2.0)])
def test_a_learning_rate_that_is_not_the_clients_is_said_in_words(quickstart, told, times):
    said = Training(shared="delta", batch_size=32, learning_rate=told, momentum=0.9)
    for seen in trained(quickstart, order(4), training=said):
        assert f"does not fit: the update is {times:.2g} times what it would be" in seen.lines()[0]


def test_a_client_that_fails_and_a_model_that_is_another_are_said_in_words(quickstart):
    for seen in trained(quickstart, order(4), model=torch.nn.Flatten):
        (line,) = seen.lines()
        assert "no audit: the state does not fit the model" in line
    broken = {name: value for name, value in order(4).items() if name != "local-epochs"}
    for seen in trained(quickstart, broken | {"epochs": 1}):
        (line,) = seen.lines()
        assert "KeyError" in line


def test_no_more_updates_are_audited_than_are_asked_for(quickstart):
    assert [seen.round for seen in trained(quickstart, order(2), rounds=3, most=4)] == [1, 1, 1, 2]


@pytest.mark.slow
def test_most_pictures_are_more_like_their_own_than_like_any_other_digit(quickstart):
    """Of all clients; the pictures of one whose features are not told apart count as lost."""
    attacks = {"feature-inversion": FeatureInversion(restarts=1)}
    identified = []
    for seen in trained(quickstart, order(2), share=1.0, most=NODES, attacks=attacks):
        assert seen.found is not None
        found = seen.found.lines[0].reconstruction
        if found is not None:
            true, digits = truth(quickstart, seen.client, 2), quickstart.task.digits()[0]
            others = [not any(digit.allclose(own) for own in true.images) for digit in digits]
            row = score(found, true, 10, digits[others]).row()
            assert row["label_accuracy"] == 1
            identified += row["identified"]
    assert sum(identified) >= 0.6 * 2 * NODES


@pytest.mark.slow
def test_the_app_as_it_stands_gives_its_pictures_and_pages_away(quickstart, tmp_path, capsys):
    torch.manual_seed(1)
    run = order(2) | {"num-server-rounds": 1, "fraction-train": 0.2, "pages": str(tmp_path / "audits")}
    context = Context(1, 1, {}, RecordDict(), run)
    quickstart.server_app.main(InlineGrid(quickstart.client_app.app, NODES, run), context)
    told = capsys.readouterr().out
    assert "does not fit" not in told
    assert told.count("inverting-gradients: ok") == told.count("feature-inversion: ok") == 2
    for page in (tmp_path / "audits").iterdir():
        client = int(page.stem.rpartition("-")[2])
        true = truth(quickstart, client, 2)
        shown = lxml.html.fromstring(page.read_text())
        assert len(shown.xpath("//img")) == 4
        counts = torch.bincount(true.labels, minlength=10).tolist()
        assert ", ".join(f"{n} × class {i}" for i, n in enumerate(counts) if n) in told
