"""The command, in this process where it can be, and as a user calls it where it must be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curious.cli import app
from learning.catalogue import name_of
from learning.data import DATA, Digits
from studies.config import read_plan
from tests.federations import SMALL, run
from tests.studies.malformed import malformed_studies

RUNNER = CliRunner()
STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
SHRUNKEN = [
    "resources.engine=inline",
    "seeds=[0]",
    "federation.clients=3",
    "federation.clients_per_round=1",
    "federation.rounds=1",
    'record.rounds="all"',
    'record.clients="all"',
]

FEWER_POINTS = {
    "labels": [
        'grid.model=["mlp", "lenet5"]',
        'grid.partition=["iid"]',
        'grid.work=[{as="gradient of 8","training.batch_size"=8},'
        '{as="2 epochs of 8","training.shared"="delta","training.epochs"=2,"federation.examples_per_round"=8}]',
    ],
    "exact": [
        'grid.model=[{name="mlp",width=200,raw=true}]',
        'grid.work=[{as="gradient of 8","training.batch_size"=8}]',
    ],
}


def called(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "curious", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | environment,
    )


@pytest.mark.parametrize("case", list(malformed_studies()), ids=lambda case: case.name)
def test_a_malformed_study_gets_one_clear_answer(case, tmp_path):
    path = case.write(tmp_path)
    result = RUNNER.invoke(app, ["check", str(path)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert case.place in result.output.replace("\n", " "), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_malformed_study_is_refused_by_run_too(tmp_path):
    case = next(malformed_studies())
    result = called("run", str(case.write(tmp_path)), "--out", str(tmp_path / "run"))
    assert result.returncode == 2, result.stderr
    assert case.place in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not (tmp_path / "run").exists()


def test_the_catalogue_names_everything():
    result = RUNNER.invoke(app, ["catalogue"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for name in ("inverting-gradients", "ilrg", "gaussian-noise", "resnet50", "digits", "dirichlet", "(required)", "arXiv"):
        assert name in result.output


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_opens_with_what_it_is_and_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert any(line.startswith(f"#     curious run studies/{path.name}") for line in lines[:8])
    plan = read_plan(path)
    assert plan.study.name == path.stem
    assert plan.study.description


def test_check_says_what_would_run(tmp_path):
    path = next(path for path in STUDIES if path.stem == "quick")
    result = RUNNER.invoke(app, ["check", str(path)], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for words in ("8 federations", "inverting-gradients", "100 public pictures", "batch of 4", "strong noise"):
        assert words in result.output


@pytest.mark.parametrize(
    ("work", "said"),
    [("epochs = 1", "1 local epoch over"), ("epochs = 2", "2 local epochs over"), ("steps = 1", "1 local step over")],
)
def test_check_counts_the_local_work_in_the_right_number(tmp_path, work, said):
    path = tmp_path / "study.toml"
    path.write_text(f'name = "study"\ndata = "digits"\nmodel = "mlp"\n[training]\nshared = "delta"\n{work}\n')
    result = RUNNER.invoke(app, ["check", str(path)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert f"after {said}" in result.output


def test_report_of_a_folder_without_a_run_is_refused(tmp_path):
    result = RUNNER.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no run" in result.output


def test_report_is_written_anew(tmp_path):
    run(tmp_path / "run", SMALL).close()
    result = RUNNER.invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "run" / "results.csv").stat().st_size > 500


def toml_of(raw: dict) -> str:
    """Enough TOML for `SMALL`: tables as inline tables."""

    def value(item: object) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{key} = {value(part)}" for key, part in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(value, item)) + "]"
        return json.dumps(item)

    return "\n".join(f"{key} = {value(item)}" for key, item in raw.items())


def test_run_attack_and_resume_as_a_user_calls_them(tmp_path):
    study, folder = tmp_path / "small.toml", tmp_path / "run"
    study.write_text(toml_of(SMALL))
    first = called("run", str(study), "--out", str(folder), "--set", "federation.rounds=1")
    assert first.returncode == 0, first.stderr
    assert str(folder / "report.html") in first.stdout.replace("\n", "")
    assert "inverting-gradients" in first.stdout
    assert "Traceback" not in first.stderr
    digest = next(line for line in first.stdout.splitlines() if line.startswith("ledger "))

    refused = called("run", str(study), "--out", str(folder), "--set", "federation.rounds=1")
    assert refused.returncode == 2
    assert "--resume" in refused.stderr

    resumed = called("run", str(study), "--out", str(folder), "--resume", "--set", "federation.rounds=1")
    assert resumed.returncode == 0, resumed.stderr
    assert digest in resumed.stdout

    other = called("run", str(study), "--out", str(folder), "--resume")
    assert other.returncode == 2
    assert "federation" in other.stderr
    assert "--out" in other.stderr

    attacks = tmp_path / "attacks.toml"
    attacks.write_text(
        '[granted]\nlabels = true\n[resources]\nengine = "inline"\n'
        '[[attacks]]\nas = "given"\nname = "inverting-gradients"\nlabels = "given"\niterations = 2\n'
    )
    again = called("attack", str(folder), str(attacks))
    assert again.returncode == 0, again.stderr
    assert "given" in again.stdout

    attacks.write_text('[[attacks]]\nas = "given"\nname = "inverting-gradients"\niterations = 3\n')
    clash = called("attack", str(folder), str(attacks))
    assert clash.returncode == 2
    assert "run before with other settings" in clash.stderr

    attacks.write_text('attacks = ["null"]\n[granted]\nearlier = 1\n')
    fresh = called("attack", str(folder), str(attacks))
    assert fresh.returncode == 2
    assert "same_examples" in fresh.stderr

    nowhere = called("attack", str(tmp_path / "nowhere"), str(attacks))
    assert nowhere.returncode == 2
    assert "holds no run" in nowhere.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_runs_in_its_shrunken_form(path, tmp_path, needed):
    plan = read_plan(path)
    for data in {cell.study.data for cell in plan.cells} - {Digits()}:
        needed({"mnist": "MNIST", "cifar10": "cifar10", "cifar100": "cifar100"}[name_of(DATA, data)])
    shrunken = [*SHRUNKEN, "granted.public=10", "federation.test_examples=50", *FEWER_POINTS.get(path.stem, [])]
    for named in plan.study.attacks:
        shrunken += [
            f"attacks.{named.name}.{setting}={value}"
            for setting, value in {"iterations": 2, "seconds": 1}.items()
            if hasattr(named.attack, setting)
        ]
    overrides = [part for override in shrunken for part in ("--set", override)]
    result = called("run", str(path), "--out", str(tmp_path / "run"), *overrides)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "report.html").exists()
