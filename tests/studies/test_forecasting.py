"""A study's exact attacks are forecast before it runs, and the report holds the forecast against what happened."""

import sqlite3

import pytest
from rich.console import Console

from curious.describe import describe_plan
from studies.config import make_plan
from studies.evidence import Evidence, Point
from studies.forecasting import forecast, forecasts_of
from studies.ledger import Ledger
from studies.report import write_report
from tests.federations import changed, run

EXACT = changed(
    model={"name": "mlp", "width": 100},
    defenses=["none", {"name": "gaussian-noise", "std": 0.1}],
    attacks=[{"name": "spear-plus", "as": "taken apart", "seconds": 1}, "ilrg", "null"],
)


def test_exact_attacks_are_forecast_behind_each_defense():
    plain, noisy = (forecasts_of(cell) for cell in make_plan(EXACT).cells)
    assert list(plain) == list(noisy) == ["taken apart"]
    assert plain["taken apart"].probability > 0.9
    assert noisy["taken apart"].probability == 0


def test_an_update_that_is_not_finite_is_forecast_as_not_applicable():
    raw = changed(**{**EXACT, "defenses": [{"name": "gaussian-noise", "std": 1e39}]})
    (cell,) = make_plan(raw).cells
    (found,) = forecasts_of(cell).values()
    assert found.probability == 0
    assert "not finite" in found.sentence


def test_without_exact_attacks_nothing_is_forecast():
    assert all(forecasts_of(cell) == {} for cell in make_plan(changed()).cells)


def test_a_set_too_small_for_a_stand_in_is_not_forecast():
    raw = changed(**{**EXACT, "granted": {"public": 359}})
    assert all(forecasts_of(cell) == {} for cell in make_plan(raw).cells)


def test_check_prints_them():
    console = Console(record=True, width=200)
    describe_plan(make_plan(EXACT), console)
    printed = console.export_text()
    assert "none: taken apart 9" in printed
    assert "gaussian-noise: taken apart 0% (even from the true pictures" in printed


def test_the_report_shows_what_came_of_them(tmp_path):
    ledger = run(tmp_path / "run", EXACT)
    (_, lines), (_, noisy) = Point(Evidence(ledger), "").tables
    assert lines[0].forecast is not None
    assert lines[0].whole == 1 == round(lines[0].forecast.probability)
    assert noisy[0].whole == 0
    page = write_report(ledger).read_text()
    ledger.close()
    assert "whole batches 100, forecast 9" in page


def test_forecasts_are_kept_in_the_ledger_once_and_the_report_only_reads_them(tmp_path, monkeypatch):
    raw = changed(**{**EXACT, "seeds": [0, 1]})
    ledger = run(tmp_path / "run", raw)
    kept = ledger.forecasts()
    assert [ledger.plan.cells[index].seed for index in kept] == [0, 0]
    assert kept[0] == forecasts_of(ledger.plan.cells[0])
    monkeypatch.setattr("studies.forecasting.forecasts_of", lambda cell: pytest.fail("it was forecast again"))
    for cell in ledger.plan.cells:
        forecast(ledger, cell)
    assert "forecast 9" in write_report(ledger).read_text()
    ledger.close()


def test_a_ledger_of_an_earlier_version_has_no_forecasts(tmp_path):
    run(tmp_path / "run", EXACT).close()
    with sqlite3.connect(tmp_path / "run" / "ledger.sqlite") as database:
        database.execute("DROP TABLE forecasts")
    database.close()
    with Ledger(tmp_path / "run", write=False) as ledger:
        assert ledger.forecasts() == {}
        (_, lines), _ = Point(Evidence(ledger), "").tables
    assert lines[0].forecast is None
