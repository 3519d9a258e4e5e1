"""Rows, curves and the CSV of a run, against hand counts."""

import csv
from pathlib import Path

import pytest

from studies.config import make_plan
from studies.ledger import Ledger, Result, Round, Victim
from studies.summary import curves, rows, write_csv

RAW = {
    "name": "small",
    "seeds": [0, 1],
    "data": "digits",
    "model": "mlp",
    "defenses": ["none", {"name": "gaussian-noise", "std": 0.1}],
    "attacks": ["ilrg", {"name": "inverting-gradients", "as": "ig"}, "null"],
}


def result(cell: int, client: int, attack: str, status: str = "ok", reason: str = "", **scores: object) -> Result:
    return Result(Victim(cell, 1, client), attack, status, reason, scores, None, 0.5)


@pytest.fixture
def ledger(tmp_path):
    """Cells 0 and 1 are without a defense, with seeds 0 and 1; cells 2 and 3 are under noise."""
    with Ledger.create(tmp_path / "run", make_plan(RAW), "name = 'small'", {}) as made:
        for found in (
            result(2, 0, "ig", "failed", "it broke"),
            result(0, 0, "ig", psnr=[10.0, 20.0], label_accuracy=1.0),
            result(0, 1, "ig", psnr=[30.0, 40.0, 50.0], label_accuracy=0.5),
            result(1, 0, "ig", psnr=[20.0], label_accuracy=0.0),
            result(1, 1, "ig", "not applicable", "no bias"),
            result(0, 0, "ilrg", label_accuracy=1.0),
        ):
            made.record_result(found, None)
        made.finish_round(Round(0, 0, 0.1, 2.0))
        made.finish_round(Round(0, 1, None, None))
        made.finish_round(Round(0, 2, 0.5, 1.0))
        made.finish_round(Round(1, 2, 0.7, 1.0))
        yield made


def test_a_row_is_one_attack_of_one_setting_under_one_defense_in_the_study_s_order(ledger):
    assert [(row.setting, row.defense, row.attack) for row in rows(ledger)] == [
        ("", "none", "ilrg"),
        ("", "none", "ig"),
        ("", "gaussian-noise", "ig"),
    ]


def test_a_victim_counts_once_however_many_pictures_it_has(ledger):
    row = rows(ledger)[1]
    assert row.scores["psnr"].mean == pytest.approx((15 + 40 + 20) / 3)
    assert row.scores["psnr"].victims == 3
    assert row.medians["psnr"] == 25.0  # of 10, 20, 20, 30, 40, 50
    assert row.scores["label_accuracy"].mean == pytest.approx(0.5)
    assert "ssim" not in row.scores


def test_what_did_not_work_is_counted_with_its_reason_and_has_no_score(ledger):
    row, failed = rows(ledger)[1:]
    assert row.statuses == {"ok": 3, "not applicable": 1}
    assert row.reasons == {"no bias": 1}
    assert failed.statuses == {"failed": 1}
    assert failed.scores == {}


def test_a_curve_has_a_value_per_seed_and_measured_round(ledger):
    bare, noisy = curves(ledger)
    assert bare.accuracy == {0: [0.1], 2: [0.5, 0.7]}
    assert bare.last is not None
    assert bare.last.mean == pytest.approx(0.6)
    assert noisy.accuracy == {}
    assert noisy.last is None


def test_the_csv_has_a_line_for_every_row(ledger, tmp_path):
    path = tmp_path / "results.csv"
    write_csv(ledger, path)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["attack"] for line in lines] == ["ilrg", "ig", "ig"]
    line = lines[1]
    assert (line["victims"], line["ok"], line["not applicable"], line["failed"]) == ("4", "3", "1", "0")
    assert float(line["psnr"]) == pytest.approx(25.0)
    assert float(line["psnr low"]) <= 25.0 <= float(line["psnr high"])
    assert line["psnr median"] == "25"
    assert line["ssim"] == ""
    assert line["reasons"] == "no bias"
    assert float(line["accuracy"]) == pytest.approx(0.6)
    assert lines[2]["accuracy"] == ""


def test_an_empty_run_has_a_csv_of_headings(tmp_path):
    with Ledger.create(tmp_path / "run", make_plan(RAW), "", {}) as empty:
        assert rows(empty) == []
        write_csv(empty, Path(tmp_path / "results.csv"))
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1
