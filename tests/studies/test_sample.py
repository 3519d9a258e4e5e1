"""An attack with a sample is made on its share of the updates: the same ones behind every defense."""

import pytest

from learning.catalogue import SettingsError
from studies.config import make_plan, named_attack
from studies.report import progress, write_report
from tests.federations import changed, run

STUDY = changed(
    seeds=[0, 1],
    attacks=["ilrg", {"name": "inverting-gradients", "iterations": 2, "sample": 0.4}, {"name": "null", "sample": 0.7}],
)


def test_the_same_updates_undergo_it_behind_every_defense(tmp_path):
    ledger = run(tmp_path / "run", STUDY)
    places = {}
    for result in ledger.results():
        cell = ledger.plan.cells[result.victim.cell]
        place = (cell.seed, result.victim.round, result.victim.client)
        places.setdefault((result.attack, cell.defense.name), set()).add(place)
    every = places["ilrg", "none"]
    assert len(every) == 12
    full, some = places["inverting-gradients", "none"], places["null", "none"]
    assert full == places["inverting-gradients", "gaussian-noise"]
    assert set() < full < some < every
    known = progress(ledger)
    assert known["over"]
    assert known["results"] == known["results in all"] == ledger.expected() == 2 * (len(every) + len(full) + len(some))
    assert "inverting-gradients" in write_report(ledger).read_text()
    ledger.close()


def test_the_share_is_about_the_sample_and_the_table_keeps_it():
    attack = named_attack({"name": "ilrg", "sample": 0.3})
    cells = make_plan(changed(seeds=[0, 1, 2, 3, 4], defenses=["none"])).cells
    drawn = [attack.undergone_by(cell, round, client) for cell in cells for round in range(10) for client in range(20)]
    assert len(drawn) == 1000
    assert 0.25 < sum(drawn) / 1000 < 0.35
    assert named_attack(attack.table()) == attack
    assert "sample" not in named_attack({"name": "ilrg"}).table()


@pytest.mark.parametrize("sample", [0, -0.1, 1.1, True, "half"])
def test_what_is_no_share_is_refused(sample):
    with pytest.raises(SettingsError, match=r"sample = .* should be the share of the updates"):
        make_plan(changed(attacks=[{"name": "ilrg", "sample": sample}]))
