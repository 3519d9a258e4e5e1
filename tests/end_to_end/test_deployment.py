"""Flower's deployment runtime on loopback: a SuperLink, two SuperNodes and the command, processes of their own, over TLS."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from curious.certificates import write_certificates
from studies.config import read_plan
from studies.ledger import Ledger
from tests.federations import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
QUICK = Path(__file__).parents[2] / "studies" / "quick.toml"
SMALL = [
    "seeds=[0]",
    'defenses=["none"]',
    "federation.clients=2",
    "federation.clients_per_round=2",
    "federation.rounds=1",
    'record.rounds="all"',
    "attacks.inverting-gradients.iterations=20",
    "resources.engine=inline",
]


@dataclass
class Deployment:
    """Where it is, the environment of all its processes, and what each of them prints."""

    folder: Path
    environment: dict[str, str]

    def deploy(self, out: Path, *changes: str, superlink: str = "ours") -> tuple[int, str]:
        """`curious deploy` to its end: the exit code, and all that it said."""
        command = [sys.executable, "-m", "curious", "deploy", "quick", "--superlink", superlink, "--out", str(out)]
        command += [part for change in (*SMALL, *changes) for part in ("--set", change)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd=QUICK.parents[1], timeout=400)
        return done.returncode, done.stdout + done.stderr

    def told(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def processes(self) -> list[psutil.Process]:
        """Whatever runs with this deployment's own home of Flower, children's children too."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLWR_HOME") == self.environment["FLWR_HOME"]:
                    found.append(process)
        return found


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    link, *nodes = free_ports(3)
    write_certificates(folder / "ours")
    write_certificates(folder / "foreign")
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        "".join(
            f'[superlink.{name}]\naddress = "127.0.0.1:{link}"\nroot-certificates = "{folder / name / "ca.crt"}"\n'
            for name in ("ours", "foreign")
        )
    )
    quiet = ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= dict(setting.split("=") for setting in quiet)
    environment |= {"FLWR_HOME": str(folder / "flwr"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # the SuperLink finds its parts there
    deployment = Deployment(folder, environment)
    own = folder / "ours"
    tls = ["--ssl-ca-certfile", own / "ca.crt", "--ssl-certfile", own / "server.pem", "--ssl-keyfile", own / "server.key"]
    commands = {"superlink": [BIN / "flower-superlink", "--host", "127.0.0.1", "--port", link, *tls]}
    for number, port in enumerate(nodes):
        commands[f"supernode-{number}"] = [
            *(BIN / "flower-supernode", "--superlink", f"127.0.0.1:{link}", "--root-certificates", own / "ca.crt"),
            *("--host", "127.0.0.1", "--port", port, *tls, "--node-config", f"partition-id={number} num-partitions=2"),
        ]
    started = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                words = [str(word) for word in command]
                started.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=folder))
        wait_for(lambda: deployment.told().count("Activated node_id") == 2, deployment)
        yield deployment
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)
        left = psutil.wait_procs(deployment.processes(), timeout=60)[1]
        for process in left:
            process.kill()
    assert left == []


def wait_for(condition, deployment: Deployment, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, deployment.told()
        time.sleep(0.2)


def test_a_study_on_supernodes_has_the_ledger_of_a_simulation_and_a_report(deployment, tmp_path):
    out = tmp_path / "run"
    code, said = deployment.deploy(out)
    assert (code, "finished:completed" in said) == (0, True), said + deployment.told()
    assert (out / "report.html").stat().st_size > 10_000
    with run(tmp_path / "simulated", read_plan(QUICK, SMALL).raw) as simulated, Ledger(out, write=False) as deployed:
        assert deployed.counts() == simulated.counts()
        assert deployed.counts()["results"] == 10
        assert deployed.digest() == simulated.digest()


def test_a_client_that_fails_is_in_the_report_and_the_exit_code_says_so(deployment, tmp_path):
    out = tmp_path / "run"
    code, said = deployment.deploy(out, 'defenses=[{name="gaussian-noise", std=1e39}]')
    assert code == 1, said
    assert "finished:failed" in said
    assert "2 failed clients; the report lists them with their reasons" in said
    assert "not finite" in (out / "report.html").read_text()


def test_a_study_that_is_wrong_fails_in_words(deployment, tmp_path):
    code, said = deployment.deploy(tmp_path / "run", "federation.rounds=0")
    assert code == 1, said
    assert "federation.rounds = 0" in said
    assert "Traceback" not in said


def test_a_superlink_that_another_authority_vouches_for_is_refused(deployment, tmp_path):
    code, said = deployment.deploy(tmp_path / "run", superlink="foreign")
    assert code == 2, said
    assert "Connection to the SuperLink is unavailable" in said
    assert "Traceback" not in said
