"""The study `quick` as a user runs it, with Ray: killed, interrupted, a worker killed, clients and attacks that fail."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from studies.ledger import Ledger

QUICK = Path(__file__).parents[2] / "studies" / "quick.toml"
SHRUNKEN = ["seeds=[0]", "federation.rounds=2", 'record.rounds="all"', "attacks.inverting-gradients.iterations=60"]
KILLS = int(os.environ.get("CURIOUS_KILLS", "2"))  # `CURIOUS_KILLS=10 CURIOUS_WHOLE=1` for ten kills of the whole study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def started(out: Path, *more: str) -> "subprocess.Popen[str]":
    changes = [] if os.environ.get("CURIOUS_WHOLE") else [part for change in SHRUNKEN for part in ("--set", change)]
    command = [sys.executable, "-m", "curious", "run", str(QUICK), "--out", str(out), "--resume", *changes, *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests run in the background inherit it ignored
    )  # fmt: skip


def finished(out: Path, *more: str) -> tuple[int, str, str]:
    process = started(out, *more)
    told, complained = process.communicate(timeout=900)
    return process.returncode, told, complained


def contents(out: Path) -> tuple[str, dict[str, int]]:
    with Ledger(out, write=False) as ledger:
        return ledger.digest(), ledger.counts()


def has_results(out: Path, number: int) -> bool:
    try:
        with sqlite3.connect(f"file:{out / 'ledger.sqlite'}?mode=ro", uri=True) as database:
            return database.execute("SELECT COUNT(*) FROM results").fetchone()[0] >= number
    except sqlite3.Error:
        return False


def wait_for(condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs: its folder's contents, what it printed, and how long it took."""
    out, begin = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    code, told, complained = finished(out)
    assert code == 0, complained
    return *contents(out), told, complained, time.monotonic() - begin


def test_a_run_prints_its_results_and_no_noise(whole):
    _, counts, told, complained, _ = whole
    assert counts["failed clients"] == counts["failed attacks"] == 0
    assert "What leaked" in told
    assert "report.html" in told
    for noise in ("WARNING", "INFO", "FutureWarning", "Traceback", "ray::", "telemetry", "usage stats"):
        assert noise not in told + complained


def test_a_second_run_has_the_same_ledger(whole, tmp_path):
    code, _, complained = finished(tmp_path / "run", "--workers", "2")
    assert code == 0, complained
    assert contents(tmp_path / "run")[0] == whole[0]


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_run_goes_on_to_the_same_ledger(whole, tmp_path, kill):
    out, draw = tmp_path / "run", random.Random(1000 + kill)
    process = started(out)
    time.sleep(draw.uniform(0.05, 0.95) * whole[4])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, complained = finished(out)
    assert code == 0, complained
    digest, counts = contents(out)
    assert counts == whole[1]
    assert digest == whole[0]


def ours() -> set[int]:
    """The processes that belong to a run, wherever they hang in the tree."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "curious.child" in words or "ray::" in words or "/curious-" in words:
            found.add(process.pid)
    return found


def test_ctrl_c_ends_a_run_within_five_seconds_and_leaves_nothing(whole, tmp_path):
    before, folders = ours(), set(Path("/tmp").glob("curious-*"))
    process = started(tmp_path / "run")
    wait_for(lambda: has_results(tmp_path / "run", 3))
    assert len(ours() - before) > 3
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=60)
    assert time.monotonic() - begin < 5
    assert process.returncode == 130
    assert "--resume" in complained
    assert "Traceback" not in complained
    assert ours() - before == set()
    assert set(Path("/tmp").glob("curious-*")) - folders == set()
    assert finished(tmp_path / "run")[0] == 0
    assert contents(tmp_path / "run")[0] == whole[0]


def test_a_killed_attack_worker_is_replaced_and_its_attack_tried_again(whole, tmp_path):
    process = started(tmp_path / "run")
    wait_for(lambda: has_results(tmp_path / "run", 3))
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if " ".join(child.cmdline()).startswith("ray::Worker")
    ]
    assert len(workers) == 1
    workers[0].kill()
    _, complained = process.communicate(timeout=600)
    assert process.returncode == 0, complained
    assert contents(tmp_path / "run") == whole[:2]


def test_failing_clients_are_recorded_and_the_exit_code_says_so(tmp_path):
    code, told, complained = finished(tmp_path / "run", "--set", "defenses.strong noise.std=1e39")
    assert code == 3
    assert "failed clients" in complained
    assert "report.html" in told
    with Ledger(tmp_path / "run", write=False) as ledger:
        failures = ledger.failures()
        noisy = {cell.index for cell in ledger.plan.cells if cell.defense.name == "strong noise"}
        assert {failure.victim.cell for failure in failures} == noisy
        assert all("not finite" in failure.reason for failure in failures)
        assert {victim.cell for victim in ledger.observations()} == {cell.index for cell in ledger.plan.cells} - noisy


def test_an_attack_that_is_given_up_is_recorded_and_the_exit_code_says_so(tmp_path):
    more = ("--set", "resources.timeout=20", "--set", "attacks.inverting-gradients.iterations=1000000")
    code, _, complained = finished(
        tmp_path / "run",
        *more,
        "--set",
        'defenses=["none"]',
        "--set",
        "federation.rounds=1",
        "--set",
        "federation.clients_per_round=1",
    )
    assert code == 3, complained
    assert "1 failed attacks" in complained
    with Ledger(tmp_path / "run", write=False) as ledger:
        failed = [result for result in ledger.results() if result.status == "failed"]
        assert [result.attack for result in failed] == ["inverting-gradients"]
        assert "raise resources.timeout" in failed[0].reason
