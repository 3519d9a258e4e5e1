"""The compose file's profile `deployment` on loopback: its commands as processes, over TLS, with a study handed to them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from studies.config import read_plan
from studies.ledger import Ledger
from tests.federations import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
SMALL = [
    "seeds=[0]",
    'defenses=["none"]',
    "federation.clients=2",
    "federation.clients_per_round=2",
    "federation.rounds=1",
    'record.rounds="all"',
    "attacks.inverting-gradients.iterations=20",
    "federation.timeout=150",
    "resources.engine=inline",
]


@dataclass
class Deployment:
    """Where it is, the port of its SuperLink, the environment of all its processes, and those that were started."""

    folder: Path
    port: int
    environment: dict[str, str]
    started: dict[str, subprocess.Popen] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)

    def start(self, service: str, *more: str) -> None:
        with (self.folder / f"{service}.log").open("ab") as log:
            words = [*self.here(SERVICES[service]["command"]), *more]
            self.started[service] = subprocess.Popen(words, stdout=log, stderr=log, env=self.environment, cwd=self.folder)

    def start_nodes(self) -> None:
        for number, own in enumerate(self.ports):
            self.start(f"supernode-{number}", f"--port={own}")  # a container has one to itself

    def stop_nodes(self) -> None:
        nodes = [process for service, process in self.started.items() if service.startswith("supernode")]
        for process in nodes:
            process.terminate()
        for process in nodes:
            process.wait(60)

    def here(self, words: list[str], certificates: str = "ours") -> list[str]:
        """A command of the compose file, with this machine's places for the containers'."""
        places = {"/certificates": str(self.folder / certificates), "superlink:8000": f"127.0.0.1:{self.port}"}
        places |= {"8000": str(self.port), "0.0.0.0": "127.0.0.1", "$$": "$"}
        for theirs, ours in places.items():
            words = [word.replace(theirs, ours) for word in words]
        return words

    def call(self, words: list[str], **more: str) -> tuple[int, str]:
        """The exit code of a command that ends by itself, and all that it said."""
        said = subprocess.run(words, capture_output=True, text=True, env=self.environment | more, cwd=ROOT, timeout=400)
        return said.returncode, said.stdout + said.stderr

    def deploy(self, out: Path, *changes: str, certificates: str = "ours") -> tuple[int, str]:
        """The compose file's service `deploy`, to its end."""
        words, environment = self.deployed(out, *changes, certificates=certificates)
        return self.call(words, **environment)

    def deployed(self, out: Path, *changes: str, certificates: str = "ours") -> tuple[list[str], dict[str, str]]:
        """The command of that service, and its environment."""
        home = {"FLWR_HOME": str(self.folder / "caller")}
        asked = {"STUDY": "quick", "OUT": str(out), "SET": "; ".join([*SMALL, *changes])}
        return self.here(SERVICES["deploy"]["command"], certificates), self.environment | home | asked

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


def lives(process: psutil.Process) -> bool:
    """Whether it still runs: what has ended, and waits for init to take note, does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


def test_flwr_run_in_the_checkout_simulates_the_study_and_makes_the_report(tmp_path):
    """Flower's own command and its own Ray, in which the attack workers find a place; nothing is asked but what is shared."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= dict.fromkeys(("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"), "1")
    environment |= {"FLWR_HOME": str(tmp_path / "flwr"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    out, config = tmp_path / "run", tmp_path / "run.toml"
    asked = {"study": "quick", "out": str(out), "set": "; ".join([*SMALL[:-1], "resources.workers=1"])}
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in asked.items()))
    here = Deployment(tmp_path, 0, environment)
    try:
        code, said = here.call(["flwr", "run", str(ROOT), "--run-config", str(config), "--stream"])
        assert code == 0, said
        assert f"report {out / 'report.html'}" in said
    finally:
        for process in here.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
    with Ledger(out, write=False) as ledger:
        counts = ledger.counts()
        digest = ledger.digest()
    assert (counts["failed clients"], counts["failed attacks"]) == (0, 0)
    alone = tmp_path / "alone"
    changes = [word for change in SMALL for word in ("--set", change)]
    code, said = here.call(
        [sys.executable, "-m", "curious", "run", str(ROOT / "studies" / "quick.toml"), "--out", str(alone), *changes]
    )
    assert code == 0, said
    with Ledger(alone, write=False) as ledger:
        assert ledger.digest() == digest


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    port, *ports = free_ports(3)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"FLWR_HOME": str(folder / "flwr"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment |= dict.fromkeys(("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"), "1")
    environment |= {"FLWR_TELEMETRY_ENABLED": "0", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    deployment = Deployment(folder, port, environment, ports=ports)
    for certificates in ("ours", "foreign"):
        code, said = deployment.call(deployment.here(SERVICES["certificates"]["command"], certificates))
        assert code == 0, said
    try:
        deployment.start("superlink")
        healthy = deployment.here(SERVICES["superlink"]["healthcheck"]["test"][1:])
        wait_for(lambda: deployment.call(healthy)[0] == 0, deployment)
        deployment.start_nodes()
        yield deployment
    finally:
        deployment.stop_nodes()
        if superlink := deployment.started.get("superlink"):
            superlink.terminate()
            superlink.wait(60)
        left = [process for process in psutil.wait_procs(deployment.processes(), timeout=60)[1] if lives(process)]
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
    raw = read_plan(ROOT / "studies" / "quick.toml", SMALL).raw
    with run(tmp_path / "simulated", raw) as simulated, Ledger(out, write=False) as deployed:
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


def _interruptible() -> None:
    """As from a terminal: a job in the background, as these tests may be, ignores the signal, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_it_stops_the_run_and_the_next_one_goes_on(deployment, tmp_path):
    out = tmp_path / "run"
    words, environment = deployment.deployed(out, "federation.rounds=400")
    log = tmp_path / "said"
    with log.open("wb") as file:
        call = subprocess.Popen(words, stdout=file, stderr=file, env=environment, cwd=ROOT, preexec_fn=_interruptible)
    wait_for(lambda: (out / "ledger.sqlite").exists(), deployment)
    call.send_signal(signal.SIGINT)
    assert call.wait(120) == 130, log.read_text()
    assert "stopped; what it recorded stays" in log.read_text()
    code, said = deployment.deploy(tmp_path / "next")
    if "start them anew" in said:  # stopped at a moment that Flower's SuperNodes do not bear (`ask_clients`): as it says, then
        deployment.stop_nodes()
        deployment.start_nodes()
        code, said = deployment.deploy(tmp_path / "next")
    assert (code, "finished:completed" in said) == (0, True), said + deployment.told()


def test_a_superlink_that_another_authority_vouches_for_is_refused(deployment, tmp_path):
    code, said = deployment.deploy(tmp_path / "run", certificates="foreign")
    assert code == 2, said
    assert "Connection to the SuperLink is unavailable" in said
    assert "Traceback" not in said
