"""TensorBoard's events of a run hold what its ledger holds, and nothing of a round whose attacks are not done."""

import statistics

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from curious.cli import app
from curious.events import Events, facts
from learning.catalogue import SettingsError
from tests.federations import changed, run


def curves(folder):
    """By folder and tag: the rounds and values that TensorBoard reads."""
    found = {}
    for path in sorted(folder.iterdir()):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found[path.name, tag] = [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
    return found


def test_every_curve_is_there_with_its_values(tmp_path):
    ledger = run(tmp_path / "run", changed(attacks=["ilrg", {"name": "null", "sample": 0.5}]))
    folder = tmp_path / "run" / "tensorboard"
    for _ in range(2):  # a second call writes the same anew, not twice
        assert CliRunner().invoke(app, ["tensorboard", str(tmp_path / "run")]).exit_code == 0
        found = curves(folder)
        assert {name for name, _ in found} == {"0000 none, seed 0", "0001 gaussian-noise, seed 0"}
        accuracy = [(row.round, pytest.approx(row.accuracy)) for row in ledger.rounds(0) if row.accuracy is not None]
        assert found["0000 none, seed 0", "model/accuracy"] == accuracy
        labels = [
            r.scores["label_accuracy"]
            for r in ledger.results()
            if r.attack == "ilrg" and r.victim.cell == r.victim.round - 1 == 0
        ]
        assert found["0000 none, seed 0", "ilrg/labels right"][0] == (1, pytest.approx(statistics.fmean(labels)))
    ledger.close()


def test_a_round_whose_attacks_are_not_done_has_no_point_yet(tmp_path):
    ledger = run(tmp_path / "run", changed(attacks=["ilrg"], defenses=["none"]))
    whole = [fact for fact in facts(ledger) if fact.tag.startswith("ilrg")]
    assert {fact.round for fact in whole} == {1, 2}
    ledger._database.execute("DELETE FROM results WHERE rowid = (SELECT rowid FROM results WHERE round = 2 LIMIT 1)")
    ledger._database.commit()
    assert {fact.round for fact in facts(ledger) if fact.tag.startswith("ilrg")} == {1}
    with Events(tmp_path / "run", tmp_path / "events") as events:
        assert not events.look()
    ledger.close()
    run(tmp_path / "run", changed(attacks=["ilrg"], defenses=["none"])).close()
    with Events(tmp_path / "run", tmp_path / "events") as events:
        assert events.look()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="holds no run"):
        Events(tmp_path, tmp_path / "events")
