"""The compose file's cluster on loopback: the commands of its head, a worker and the study, as processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.end_to_end.test_deployment import free_ports
from tests.end_to_end.test_processes import contents, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
LOOPBACK = "--node-ip-address=127.0.0.1"
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths must be short; what the study's own machine leaves there is stopped."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:
            for process in processes_of(name):
                with contextlib.suppress(psutil.Error):
                    process.kill()


def processes_of(temporary: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == temporary:
                found.append(process)
    return found


def test_its_head_worker_and_study_leave_the_ledger_that_a_run_without_a_cluster_leaves(tmp_path, temporary):
    (port,) = free_ports(1)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment |= {"RAY_TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    asked = {"STUDY": str(ROOT / "studies" / "quick.toml"), "OUT": str(tmp_path / "cluster"), "WORKERS": "1"}

    def here(words: list[str]) -> list[str]:
        places = {"head:6379": f"127.0.0.1:{port}", "6379": str(port), "$$": "$", "ray start ": f"ray start {LOOPBACK} "}
        for theirs, ours in places.items():
            words = [word.replace(theirs, ours) for word in words]
        return words

    started: list[subprocess.Popen] = []

    def start(service: str, *more: str) -> None:
        with (tmp_path / f"{service}.log").open("wb") as log:
            words = [*here(SERVICES[service]["command"]), LOOPBACK, *more]
            started.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=tmp_path))

    try:
        start("head", "--num-cpus=0")
        healthy = here(SERVICES["head"]["healthcheck"]["test"][1:])
        wait_for(lambda: subprocess.run(healthy, env=environment, capture_output=True, timeout=60).returncode == 0)
        start("worker", "--num-cpus=2")
        # In one place two that start at once get in each other's way.
        wait_for(lambda: b"Ray runtime started" in (tmp_path / "worker.log").read_bytes())
        said = subprocess.run(
            here(SERVICES["study"]["command"]), env=environment | asked, cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert said.returncode == 0, said.stdout + said.stderr
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(60)
    assert (tmp_path / "cluster" / "report.html").stat().st_size > 10_000
    alone = ["curious", "run", asked["STUDY"], "--out", str(tmp_path / "alone"), "--set", "resources.engine=inline"]
    said = subprocess.run(alone, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
