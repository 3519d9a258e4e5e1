"""The report stands alone, says what the ledger says, escapes what it is given, and is there at any time of a run."""

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import lxml.html
import pytest
import torch

from attacks import Reconstruction
from attacks.exact.forecast import Forecast
from learning.data import pictures_of
from learning.tensors import Batch, Update
from studies.attacking import gallery, truth
from studies.config import Grants, make_plan, read_plan
from studies.evidence import Evidence, Point
from studies.knowing import knowledge
from studies.ledger import Failure, Ledger, Result, Round, Victim
from studies.report import write_report
from studies.scores import score
from studies.wording import MINUS

HOSTILE = "<script>alert('x')</script> & \"quotes\" </details> {{ 7 * 7 }}"
RAW: dict[str, Any] = {
    "name": "small, 100%=odd_name",
    "description": HOSTILE,
    "seeds": [0, 1],
    "data": "digits",
    "model": {"name": "mlp", "width": 4},
    "training": {"batch_size": 3},
    "federation": {"clients": 4, "clients_per_round": 2, "rounds": 2},
    "granted": {"public": 20, "labels": True},
    "defenses": [
        {
            "as": "clip, then noise",
            "chain": [{"name": "norm-clipping", "max_norm": 1.0}, {"name": "gaussian-noise", "std": 0.1}],
        },
        "none",
    ],
    "attacks": [
        "idlg",
        {"name": "inverting-gradients", "as": "ig 100%=a_b", "iterations": 2},
        {"name": "inverting-gradients", "as": "told", "labels": "given"},
        "mean",
        "null",
    ],
}
TOML = f"# {HOSTILE}\nname = 'small'\n"


def created(folder: Path, raw: dict[str, Any] = RAW, toml: str = TOML) -> Ledger:
    return Ledger.create(folder, make_plan(raw), toml, {"python": "3.11 <b>", "versions": {"flwr": "1.0"}})


def attack(ledger: Ledger, victim: Victim, name: str, strength: float, *, images: bool = True, labels: bool = True) -> None:
    """A result as the real loop makes it: truth mixed with noise, in another order."""
    cell = ledger.plan.cells[victim.cell]
    true = truth(cell, victim)
    rng = torch.Generator().manual_seed(victim.client + 10 * victim.round + 100 * victim.cell)
    mixed = strength * true.images + (1 - strength) * torch.rand(true.images.shape, generator=rng)
    absent = min(set(range(10)) - set(true.labels.tolist()))
    guessed = true.labels if strength > 0.5 else torch.full_like(true.labels, absent)
    found = Reconstruction(
        images=mixed.flip(0) if images else None,
        labels=torch.nn.functional.one_hot(guessed, 10).float() if labels else None,
    )
    scores = score(found, true, pictures_of(cell.study.data).classes, gallery(cell, Grants(public=20))).row()
    ledger.record_result(Result(victim, name, "ok", "", scores, None, 0.25), found)


def filled(folder: Path, raw: dict[str, Any] = RAW, toml: str = TOML, strength: float = 0.9) -> Ledger:
    ledger = created(folder, raw, toml)
    for cell in ledger.plan.cells:
        for round in range(3):
            ledger.finish_round(Round(cell.index, round, 0.1 + 0.2 * round + 0.01 * cell.seed, 1.0))
        for round, client in cell.recorded():
            victim = Victim(cell.index, round, client)
            ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
            ledger.record_result(Result(victim, "idlg", "not applicable", f"one example {HOSTILE}", {}, None, 0.0), None)
            attack(ledger, victim, "ig 100%=a_b", strength if not cell.defense.chain else 0.0)
            attack(ledger, victim, "told", 0.95)
            attack(ledger, victim, "mean", 0.4)
            attack(ledger, victim, "null", 0.0)
    return ledger


def page_of(ledger: Ledger) -> str:
    path = write_report(ledger)
    assert path == ledger.folder / "report.html"
    assert (ledger.folder / "results.csv").exists()
    return path.read_text(encoding="utf-8")


def checked(page: str) -> lxml.html.HtmlElement:
    """What holds of every page."""
    tree = lxml.html.document_fromstring(page)
    assert tree.get("lang") == "en"
    assert not tree.xpath("//script | //link | //iframe | //object | //embed | //base")
    for name in ("src", "href", "{http://www.w3.org/1999/xlink}href", "xlink:href", "srcset", "poster"):
        for value in tree.xpath(f"//@*[name() = '{name}']"):
            assert value.startswith(("data:image/png;base64,", "#")), value
    assert not re.search(r"url\((?!#)|@import", page)
    assert not tree.xpath("//@*[starts-with(name(), 'on')]")
    assert all(picture.get("alt") for picture in tree.xpath("//img"))
    assert all(drawing.get("aria-label") for drawing in tree.xpath("//*[local-name() = 'svg']"))
    ids = tree.xpath("//@id")
    assert len(ids) == len(set(ids))
    assert {value.removeprefix("#") for value in tree.xpath("//a/@href")} <= set(ids)
    for reference in re.findall(r"url\(#([^)]+)\)", page):
        assert reference in ids
    for table in tree.xpath("//table[not(@class='pictures')]"):
        assert table.xpath("./caption")
        assert len({sum(int(cell.get("colspan", 1)) for cell in row) for row in table.xpath(".//tr")}) == 1, (
            table.text_content()
        )
        assert all(heading.get("scope") in ("col", "row") for heading in table.xpath(".//th"))
    assert all(len(tree.xpath(f"//{landmark}")) == 1 for landmark in ("header", "nav", "main", "footer"))
    optional = ("What knowing the defense is worth", "What assumptions are worth", "Exact pictures by setting and state")
    assert [heading for h2 in tree.xpath("//h2") if (heading := h2.text_content()) not in optional] == [
        "The finding",
        "Results",
        "Labels by method and state",
        "Pictures",
        "Accuracy beside leakage",
        "Failures",
        "Threat model and limits",
        "How to repeat it",
    ]
    return tree


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """A finished run's ledger, and its page; not to be written to."""
    with filled(tmp_path_factory.mktemp("whole") / "run") as ledger:
        page = page_of(ledger)
        yield ledger, page, checked(page)


def text_of(tree: lxml.html.HtmlElement) -> str:
    return " ".join(tree.text_content().split())


def section(tree: lxml.html.HtmlElement, name: str) -> str:
    return text_of(tree.xpath(f"//section[@id='{name}']")[0])


def test_the_page_stands_alone_and_names_everything(whole):
    ledger, page, tree = whole
    told = text_of(tree)
    for name in (*ledger.attacks(), *(defense.name for defense in ledger.plan.study.defenses), ledger.plan.study.name):
        assert name in told
    assert ledger.digest() in told
    assert "<script" not in page
    assert len(page) < 1_000_000


def test_what_the_study_says_is_escaped(tmp_path):
    with filled(tmp_path / "run") as ledger:
        ledger.record_failure(Failure(Victim(0, 1, 3), HOSTILE))
        ledger.record_result(Result(Victim(0, 1, 3), "told", "failed", HOSTILE, {}, None, 0.1), None)
        page = page_of(ledger)
    assert "<script" not in page
    assert "alert('x')" not in page
    tree = checked(page)
    assert " ".join(HOSTILE.split()) in section(tree, "repeat")
    assert HOSTILE in section(tree, "failures")
    assert HOSTILE in section(tree, "results")
    assert "3.11 <b>" in section(tree, "repeat")


def test_the_tables_have_the_numbers_of_the_csv(whole):
    ledger, _, tree = whole
    with (ledger.folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for line in lines:
        tables = [
            t for t in tree.xpath("//table[@class='results']") if t.xpath("./caption")[0].text == f"Defense: {line['defense']}"
        ]
        (row,) = [r for r in tables[0].xpath("./tbody/tr") if r.xpath("./th")[0].text.strip() == line["attack"]]
        if not int(line["ok"]):
            refusal = row.xpath("./td[@colspan]/span")[0].text_content()
            assert " ".join(refusal.split()) == " ".join(line["reasons"].split())
            continue
        heads = [heading.text_content() for heading in tables[0].xpath("./thead/tr/th")]
        cells = dict(zip(heads[1:], row.xpath("./td"), strict=True))
        assert cells["Victims"].xpath("./span")[0].text == line["victims"] == "8"
        scales = {"Labels right, %": ("label_accuracy", 100, 1), "PSNR, dB": ("psnr", 1, 2), "SSIM": ("ssim", 1, 3)}
        for head, (metric, scale, digits) in scales.items():
            if not line[metric]:
                assert cells[head].text_content() == "–"
                continue
            assert cells[head].xpath("./span")[0].text == f"{float(line[metric]) * scale:.{digits}f}"
            interval = " to ".join(f"{float(line[f'{metric} {end}']) * scale:.{digits}f}" for end in ("low", "high"))
            assert cells[head].xpath("./small[@class='interval']")[0].text == interval


def test_what_is_identified_stands_beside_the_ceiling_of_the_defense(whole):
    """Clipping to 1 before noise of 0.1 bounds by ten deviations, and no defense bounds nothing."""
    results = section(whole[2], "results")
    noisy, bare = results.split("Defense: none")
    assert "at most 100 %" not in results
    assert "at most 100" in noisy
    assert "at most" not in bare
    assert "above its ceiling" not in results


def test_what_is_identified_above_the_ceiling_is_called_a_fault(tmp_path):
    strong = {"name": "norm-clipping", "max_norm": 1.0}, {"name": "gaussian-noise", "std": 100.0}
    raw = {**RAW, "defenses": [{"as": "hidden", "chain": list(strong)}], "seeds": [0]}
    with filled(tmp_path / "run", raw) as ledger:
        assert "above its ceiling" in section(checked(page_of(ledger)), "results")


def test_kinds_of_defense_are_compared_at_a_matched_loss_of_accuracy(tmp_path):
    def clipped(std: float) -> dict[str, Any]:
        return {
            "as": f"std {std}",
            "chain": [{"name": "norm-clipping", "max_norm": 1.0}, {"name": "gaussian-noise", "std": std}],
        }

    sign = {"as": "signs", "name": "sign"}
    raw = {**RAW, "defenses": ["none", clipped(0.1), clipped(1.0), sign], "seeds": [0]}
    with filled(tmp_path / "run", raw) as ledger:
        for cell in ledger.plan.cells:  # after the last round: std 1 costs 30 points, signs cost 4, std 0.1 none
            lost = {"std 1.0": 0.3, "signs": 0.04}.get(cell.defense.name, 0.0)
            ledger.finish_round(Round(cell.index, 3, 0.8 - lost, 1.0))
        (table,) = checked(page_of(ledger)).xpath("//table[starts-with(caption, 'Leak at matched loss')]")
    rows = {
        row.xpath("./th")[0].text: [" ".join(c.text_content().split()) for c in row.xpath("./td")]
        for row in table.xpath("./tbody/tr")
    }
    assert set(rows) == {"norm-clipping + gaussian-noise", "sign"}
    assert rows["norm-clipping + gaussian-noise"][0] == "2"
    assert [cell == "all cost more" for cell in rows["sign"][2:]] == [True, False, False]
    assert all("std 0.1" in cell for cell in rows["norm-clipping + gaussian-noise"][2:])


def test_assumptions_are_priced_against_the_reference_update_by_update(tmp_path):
    raw = {**RAW, "reference": "told", "seeds": [0], "defenses": ["none"]}
    raw["grid"] = {"state": [{"as": "untrained", "start.after_rounds": 0}, {"as": "trained", "start.after_rounds": 1}]}
    with created(tmp_path / "run", raw) as ledger:
        for cell in ledger.plan.cells:
            if cell.study.start.after_rounds:
                ledger.finish_round(Round(cell.index, 1, 0.625, 1.0))
            for round, client in cell.recorded():
                victim, trained = Victim(cell.index, round, client), cell.study.start.after_rounds
                ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
                for name, decibels in (("told", 30.0 + client - 7 * trained), ("ig 100%=a_b", 20.0 + client - 7 * trained)):
                    scores = {"psnr": [decibels] * 3, "mse": [0.1] * 3, "matches": [0, 1, 2]}
                    ledger.record_result(Result(victim, name, "ok", "", scores, None, 0.1), Reconstruction())
        (table,) = checked(page_of(ledger)).xpath("//table[caption = 'Prices of assumptions']")
    rows = [[" ".join(cell.text_content().split()) for cell in row] for row in table.xpath("./tbody/tr")]
    untrained, trained = "untrained round 1 to round 2", "trained round 2, accuracy 62.5 % to round 3"
    assert [(row[0], row[1]) for row in rows] == [
        (untrained, "ig 100%=a_b"), (untrained, "told reference"), (trained, "ig 100%=a_b"), (trained, "told"),
    ]  # fmt: skip
    assert len(rows[1][2].split()) == 1  # the reference has no price
    price = f"{MINUS}10.0 {MINUS}10.0 to {MINUS}10.0"
    assert price in rows[0][2]
    assert all("to" in row[2] for row in rows if row is not rows[1])


def test_the_page_says_how_the_model_was_trained_before_the_attacks(tmp_path):
    raw = {**RAW, "start": {"after_rounds": 1, "training": {"batch_norm": "train", "learning_rate": 0.25}}}
    with created(tmp_path / "run", raw) as ledger:
        page = checked(page_of(ledger)).text_content()
    assert "trained for 1 round of the same federation before the first attack, with shared = gradient, batch_size = 1" in page
    assert "learning_rate = 0.25" in page
    assert "batch_norm = train" in page


def test_without_a_reference_nothing_is_priced(whole):
    assert not whole[2].xpath("//section[@id = 'prices']")


def test_the_finding_says_what_came_back_and_what_a_control_scores(whole):
    told = section(whole[2], "finding")
    bare = told[told.index("Without a defense") :]
    assert "The labels of 100 % of the examples came back (95 % interval 100 to 100)" in bare
    assert "told (told the true labels), the best of 2 attacks, on 8 updates" in bare
    assert re.search(r"Pictures came back at \d+\.\d dB \(95 % interval \d+\.\d to \d+\.\d\)\. Drawn without looking", bare)
    noisy = told[: told.index("Without a defense")]
    assert noisy.startswith("The finding Under clip, then noise The labels of 0 % of the examples came back")
    assert "told" not in noisy[: noisy.index("Pictures came back")], "an attack that is given the labels restores none"


def test_the_best_attack_is_what_typically_restored_most_and_not_a_mean_of_few_exact_pictures(tmp_path):
    """Every tenth update comes back to the bit (300 dB) by one attack, all of them well by the other."""
    raw = RAW | {
        "attacks": [
            {"name": "inverting-gradients", "as": "seldom exact"},
            {"name": "inverting-gradients", "as": "always"},
            "mean",
        ],
        "defenses": ["none"],
        "federation": {"clients": 4, "clients_per_round": 2, "rounds": 10},
    }
    with created(tmp_path / "run", raw) as ledger:
        for cell in ledger.plan.cells:
            for place, (round, client) in enumerate(cell.recorded()):
                victim = Victim(cell.index, round, client)
                ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
                for name, power in (("seldom exact", float(place % 10 == 0)), ("always", 0.9), ("mean", 0.4)):
                    attack(ledger, victim, name, power, labels=False)
        evidence = Evidence(ledger)
        (setting,), (defense,) = evidence.settings, evidence.defenses
        (finding,) = Point(evidence, setting).findings
        seldom, always = (list(evidence.values(setting, defense, n, "psnr").values()) for n in ("seldom exact", "always"))
        page = checked(page_of(ledger))
    assert finding.pictures is not None
    assert finding.pictures.attack == "always"
    assert finding.pictures.verdict == "better"
    assert sum(seldom) > sum(always), "the mean alone says the same, and this shows nothing"
    assert "Data: digits. Model: mlp." in text_of(page)


@pytest.mark.parametrize(
    ("strength", "verdict"), [(0.9, "more than"), (0.4, "That is not better than"), (0.0, "That is less than")]
)
def test_the_finding_holds_the_attack_against_the_better_control(tmp_path, strength, verdict):
    raw = RAW | {
        "attacks": ["idlg", {"name": "inverting-gradients", "as": "ig 100%=a_b"}, "mean", "null"],
        "defenses": ["none"],
    }
    with created(tmp_path / "run", raw) as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                victim = Victim(cell.index, round, client)
                ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
                for name, power in (("ig 100%=a_b", strength), ("mean", 0.4), ("null", 0.0)):
                    attack(ledger, victim, name, power, labels=False)
        told = section(checked(page_of(ledger)), "finding")
    assert "No attack restored labels." in told
    assert f"{verdict} mean" in told or re.search(rf"{verdict} mean", told)


def test_the_threat_model_says_what_is_granted_to_whom(whole):
    told = section(whole[2], "threat")
    assert "the true labels and 20 public pictures with labels" in told
    assert "there is no secure aggregation" in told
    assert "iterations = 2, learning_rate = " in told
    assert "max_norm = 1" in told
    assert "has no BatchNorm" in told
    assert "of which there are 2" in told


def test_a_study_that_grants_nothing_says_so(tmp_path):
    raw = {key: value for key, value in RAW.items() if key != "granted"} | {"attacks": ["ilrg", "null"]}
    with created(tmp_path / "run", raw) as ledger:
        told = section(checked(page_of(ledger)), "threat")
    assert "What the study grants beyond that Nothing." in told


def test_pictures_are_those_of_the_best_the_median_and_the_worst_update_without_a_defense(whole):
    ledger, _, tree = whole
    means = sorted(
        (-sum(r.scores["psnr"]) / 3, ledger.plan.cells[r.victim.cell].seed, r.victim.round, r.victim.client)
        for r in ledger.results()
        if r.attack == "told" and not ledger.plan.cells[r.victim.cell].defense.chain
    )
    captions = [text_of(caption) for caption in tree.xpath("//section[@id='pictures']//figcaption")]
    expected = [
        f"{title}: client {client}, round {round}, seed {seed}"
        for title, (_, seed, round, client) in zip(("Best", "Median", "Worst"), (means[0], means[4], means[-1]), strict=True)
    ]
    assert captions[3:] == expected
    sheet = tree.xpath("//section[@id='pictures']//figure")[3]
    assert [text_of(row.xpath("./th")[0]).split(" ")[0] for row in sheet.xpath(".//tr")] == ["true", "clip,", "none", "mean"]
    assert all(len(row.xpath("./td/img")) == 3 for row in sheet.xpath(".//tr"))
    assert f"{-means[0][0]:.1f} dB" in text_of(sheet)
    assert "pixels" in sheet.xpath(".//img/@class")


def test_true_pictures_without_a_restored_one_are_shown_beside_grey(tmp_path):
    raw = RAW | {"attacks": ["dlg", "null"], "defenses": ["none"], "seeds": [0]}
    with created(tmp_path / "run", raw) as ledger:
        cell = ledger.plan.cells[0]
        victim = Victim(0, *cell.recorded()[0])
        true = truth(cell, victim)
        found = Reconstruction(images=true.images[1:2])
        ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
        ledger.record_result(Result(victim, "dlg", "ok", "", score(found, true, 10).row(), None, 0.1), found)
        tree = checked(page_of(ledger))
    assert text_of(tree.xpath("//section[@id='pictures']//figcaption")[0]).startswith("The only update")
    first, second, third = tree.xpath("//section[@id='pictures']//tr[2]/td/img/@src")
    assert first == third != second
    assert "300.0" in section(tree, "pictures")
    assert "a single update has no interval" in section(tree, "finding") or "no control was run" in section(tree, "finding")


def test_a_run_that_has_only_begun_says_how_far_it_is(tmp_path):
    with created(tmp_path / "run") as ledger:
        told = text_of(checked(page_of(ledger)))
        assert "This run is not finished. 0 of 8 rounds are over, 0 of 16 updates recorded" in told
        assert "No attack has a result yet" in told
        cell = ledger.plan.cells[0]
        victim = Victim(0, *cell.recorded()[0])
        ledger.finish_round(Round(0, 0, 0.1, 1.0))
        ledger.finish_round(Round(0, 1, 0.2, 1.0))
        ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
        attack(ledger, victim, "ig 100%=a_b", 0.9)
        told = text_of(checked(page_of(ledger)))
        assert "1 of 8 rounds are over, 1 of 16 updates recorded, 1 of 5 attacks on those done" in told


def test_a_finished_run_says_nothing_of_progress(whole):
    assert "not finished" not in whole[1]


def test_a_run_of_labels_alone_has_a_report(tmp_path):
    raw = RAW | {"attacks": ["ilrg"], "defenses": ["none"]}
    with created(tmp_path / "run", raw) as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                ledger.record_update(Victim(cell.index, round, client), Update({"w": torch.zeros(2)}), 3)
                attack(ledger, Victim(cell.index, round, client), "ilrg", 0.9, images=False)
        tree = checked(page_of(ledger))
    assert "No attack restored pictures." in section(tree, "finding")
    assert "no control was run beside it" in section(tree, "finding")
    assert "No attack but the controls has restored pictures." in section(tree, "pictures")


def test_a_run_of_failures_alone_has_a_report(tmp_path):
    with created(tmp_path / "run") as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                ledger.record_failure(Failure(Victim(cell.index, round, client), "the client raised ValueError"))
        victim = Victim(0, 1, 0)
        ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
        for name in ledger.attacks():
            ledger.record_result(Result(victim, name, "failed", "RuntimeError: no", {}, None, 0.1), None)
        told = section(checked(page_of(ledger)), "failures")
    assert "Clients that failed: 16" in told
    assert "the client raised ValueError" in told
    assert "Attacks that failed: 5" in told


def test_a_run_without_failures_says_so(whole):
    told = section(whole[2], "failures")
    assert "No client failed." in told
    assert "No attack failed." in told


def test_a_grid_has_a_heading_for_each_point_and_leaves_out_pictures_when_it_is_large(tmp_path):
    raw = RAW | {"grid": {"training.batch_size": [1, 2, 3, 4, 5, 6, 7]}, "seeds": [0]}
    with filled(tmp_path / "run", raw) as ledger:
        page = page_of(ledger)
    tree = checked(page)
    assert [heading.text for heading in tree.xpath("//section[@id='results']/h3")] == [
        c.setting for c in ledger.plan.cells[::2]
    ]
    assert "The best attack against the better control" in section(tree, "finding")
    assert "Pictures are shown for the first 6 settings" in section(tree, "pictures")
    assert "Plots are shown for the first 6 settings of 7" in section(tree, "accuracy")
    assert len(page) < 8_000_000


def test_many_tables_of_results_are_folded_but_for_the_first(tmp_path, whole):
    grid = {"training.batch_size": [1, 2, 3, 4, 5]}
    with filled(tmp_path / "run", RAW | {"seeds": [0], "grid": grid}) as ledger:
        tree = checked(page_of(ledger))
    folds = tree.xpath("//section[@id='results']//details")
    assert len(folds) == len(tree.xpath("//section[@id='results']//table")) == 10
    assert [fold.get("open") is not None for fold in folds] == [True] + [False] * 9
    assert text_of(folds[1].xpath("./summary")[0]).startswith("Defense: none at ")
    assert not checked(whole[1]).xpath("//section[@id='results']//details")


def test_data_that_is_not_at_hand_costs_the_pictures_only(tmp_path, monkeypatch):
    with filled(tmp_path / "run") as ledger:

        def missing(*_: object) -> Batch:
            raise ValueError("there is no folder 'somewhere'")

        monkeypatch.setattr("studies.report.truth", missing)
        tree = checked(page_of(ledger))
    assert "cannot be shown: there is no folder 'somewhere'." in section(tree, "pictures")
    assert "There are no pictures to show." in section(tree, "pictures")


def test_the_command_repeats_the_study_that_ran(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        "name = 'one'\ndata = 'digits'\n[model]\nname = 'mlp'\n[[attacks]]\nname = 'dlg'\n[[attacks]]\nname = 'null'\n"
    )
    asked = ["attacks.dlg.iterations=3", "training.batch_size=2", "seeds=[3, 4]", "description=It's new", "attacks.dlg.as=a b"]
    plan = read_plan(path, asked)
    with Ledger.create(tmp_path / "one", plan, path.read_text(), {}) as ledger:
        tree = checked(page_of(ledger))
        words = shlex.split(tree.xpath("//section[@id='repeat']/pre")[0].text_content())
        assert words[:5] == ["curious", "run", "one/study.toml", "--out", "one-again"]
        overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        assert read_plan(tmp_path / words[2], overrides).canonical() == ledger.plan.canonical()


def test_attacks_that_were_added_afterwards_are_told_with_their_settings(tmp_path):
    with filled(tmp_path / "run") as ledger:
        later = {"name": "dlg", "as": "later", "iterations": 7}
        ledger.add_attacks(make_plan(RAW | {"attacks": [later]}).study.attacks, Grants(public=5))
        told = section(checked(page_of(ledger)), "repeat")
    assert told.index("[[attacks]]") < told.index("[granted]")
    for line in ('name = "dlg"', 'as = "later"', "iterations = 7", "tolerance = 1e-09", "labels = false", "public = 5"):
        assert line in told


def test_the_same_ledger_gives_the_same_page(whole):
    assert page_of(whole[0]) == whole[1]


def test_labels_are_told_by_method_and_state_with_refusals_in_their_cells(tmp_path):
    with filled(tmp_path / "run", RAW | {"attacks": ["idlg", "geng", *RAW["attacks"][1:]]}) as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                victim = Victim(cell.index, round, client)
                attack(ledger, victim, "geng", 0.9 if round == 1 else 0.1, images=False)
        tree = checked(page_of(ledger))
    (table,) = tree.xpath("//section[@id='labels']//table")
    rows = [[text_of(cell) for cell in row.xpath("./th | ./td")] for row in table.xpath("./tbody/tr")]
    assert [text_of(cell) for cell in table.xpath("./thead/tr/th")] == ["State", "idlg", "geng", "mean control", "null control"]
    assert len(rows) == 4  # two defenses, two rounds
    assert rows[2][0].startswith("round 1, accuracy 10.5 %")  # the mean of both seeds, before the round
    assert rows[3][0].startswith("round 2, accuracy 30.5 %")
    assert all(row[1] == f"n. a. one example {' '.join(HOSTILE.split())}" for row in rows)
    assert [row[2].split()[0] for row in rows] == ["100.0", "0.0"] * 2
    assert "all right 100 %" in rows[0][2]
    assert len(tree.xpath("//section[@id='labels']//figure")) == 2
    drawn = text_of(tree.xpath("//section[@id='labels']//figure")[0])
    assert "geng" in drawn
    assert "null (control)" in drawn


def test_exact_pictures_are_told_by_state_and_defense_beside_their_forecast(tmp_path):
    raw = RAW | {"attacks": ["spear-plus", "linear", *RAW["attacks"]]}
    with filled(tmp_path / "run", raw) as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                victim = Victim(cell.index, round, client)
                attack(ledger, victim, "spear-plus", 1.0 if round == 1 and not cell.defense.chain else 0.5)
                ledger.record_result(Result(victim, "linear", "not applicable", "one example", {}, None, 0.0), None)
            if not cell.defense.chain:
                ledger.record_forecast(cell.index, "spear-plus", Forecast(0.97, "enough to take apart"))
        tree = checked(page_of(ledger))
    (table,) = tree.xpath("//section[@id='exact']//table")  # linear applied nowhere
    assert "spear-plus" in text_of(table.xpath("./caption")[0])
    assert [text_of(cell) for cell in table.xpath("./thead/tr/th")] == ["State", "clip, then noise", "none"]
    rows = [[text_of(cell) for cell in row.xpath("./th | ./td")] for row in table.xpath("./tbody/tr")]
    assert [row[0].split(",")[0] for row in rows] == ["round 1", "round 2"]
    assert [[cell.split()[0] for cell in row[1:]] for row in rows] == [["0.0", "100.0"], ["0.0", "0.0"]]
    assert "whole 100, forecast 97" in rows[0][2]
    assert "forecast" not in rows[1][2]


def test_more_defenses_than_states_stand_below_each_other(tmp_path):
    defenses = [*RAW["defenses"], "sign", "ternary"]
    with filled(tmp_path / "run", RAW | {"attacks": ["spear-plus", *RAW["attacks"]], "defenses": defenses}) as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                strength = 1.0 if round == 2 and cell.defense.name == "sign" else 0.5
                attack(ledger, Victim(cell.index, round, client), "spear-plus", strength)
        (table,) = checked(page_of(ledger)).xpath("//section[@id='exact']//table")
    heads = [text_of(cell).split(",")[0] for cell in table.xpath("./thead/tr/th")]
    assert heads == ["Defense", "round 1", "round 2"]
    rows = [[text_of(cell) for cell in row.xpath("./th | ./td")] for row in table.xpath("./tbody/tr")]
    assert [row[0] for row in rows] == ["clip, then noise", "none", "sign", "ternary"]
    assert [[cell.split()[0] for cell in row[1:]] for row in rows] == [["0.0"] * 2, ["0.0"] * 2, ["0.0", "100.0"], ["0.0"] * 2]


def test_what_knowing_the_defense_is_worth_is_told_of_attacks_that_differ_in_nothing_else(tmp_path):
    plain = {"name": "inverting-gradients", "iterations": 2}
    told = plain | {"knows_defense": True}
    attacks = [
        plain | {"as": "plain"},
        told | {"as": "told it"},
        told | {"as": "told it, other steps", "iterations": 3},
        "mean",
        "null",
    ]
    with created(tmp_path / "run", RAW | {"attacks": attacks}) as ledger:
        for cell in ledger.plan.cells:
            for round, client in cell.recorded():
                victim = Victim(cell.index, round, client)
                ledger.record_update(victim, Update({"w": torch.zeros(2)}), 3)
                for name, strength in (
                    ("plain", 0.6),
                    ("told it", 0.9),
                    ("told it, other steps", 0.2),
                    ("mean", 0.4),
                    ("null", 0.0),
                ):
                    attack(ledger, victim, name, strength)
        found = knowledge(Evidence(ledger))
        tree = checked(page_of(ledger))
    (pair,) = found  # nothing of the bare federation, and nothing of the attack with other settings
    assert (pair.defense, pair.plain, pair.knowing) == ("clip, then noise", "plain", "told it")
    before, after, gain = pair.worth["psnr"]
    assert after - before == pytest.approx(gain.mean)
    assert pair.better("psnr")
    assert not pair.better("label_accuracy")  # all right, told or not
    (row,) = tree.xpath("//section[@id='knowing']//tbody/tr")
    words = [text_of(cell) for cell in row.xpath("./th | ./td")]
    assert words[:2] == ["clip, then noise", "told it"]
    assert words[2].startswith(f"{before:.1f} → {after:.1f} +{gain.mean:.1f} ▲")
    assert words[4].startswith("100.0 → 100.0 +0.0 0.0 to 0.0")


def test_without_such_a_pair_nothing_is_said_of_knowing(whole):
    assert not checked(whole[1]).xpath("//section[@id='knowing']")


def test_without_an_exact_attack_there_is_no_table_of_exact_pictures(whole):
    assert not checked(whole[1]).xpath("//section[@id='exact']")


def test_a_verdict_and_an_interval_reach_the_page_and_the_table(tmp_path):
    with filled(tmp_path / "run", RAW | {"attacks": ["geng", *RAW["attacks"]]}) as ledger:
        victim = Victim(0, *ledger.plan.cells[0].recorded()[0])
        true = truth(ledger.plan.cells[0], victim)
        counts = torch.bincount(true.labels, minlength=10)
        interval = (counts - 1, torch.where(torch.arange(10) < 9, counts, counts - 1))
        found = Reconstruction(labels=torch.nn.functional.one_hot(true.labels, 10).float(), counts_interval=interval)
        scores = score(found, true, 10).row()
        assert scores["counts_covered"] == 0.9
        assert scores["counts_width"] == 0.9
        ledger.record_result(Result(victim, "geng", "ok", "labels not identifiable here: by 3.5", scores, None, 0.1), found)
        kept = ledger.reconstruction(victim, "geng").counts_interval
        assert kept is not None
        assert torch.equal(kept[0], counts - 1)
        tree = checked(page_of(ledger))
        lines = list(csv.DictReader((ledger.folder / "results.csv").read_text().splitlines()))
    assert "geng: its own verdict on 1 of 1: labels not identifiable here: by 3.5" in section(tree, "results")
    assert "covered 90 %" in section(tree, "labels")
    (line,) = [line for line in lines if line["attack"] == "geng"]
    assert (line["counts_covered"], line["reasons"]) == ("0.9", "labels not identifiable here: by 3.5")
