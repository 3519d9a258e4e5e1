"""A study on Flower's deployment runtime: `flwr run` of this checkout, with an exit code that tells what became of the run."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learning.catalogue import SettingsError

APP = Path(__file__).parent.parent
LOOKS = 3.0  # seconds between two questions


def deploy(run_config: Mapping[str, str], superlink: str | None, say: Callable[[str], None]) -> bool:
    """Hands the app to a SuperLink and waits for the end of the run. Returns whether it was completed without a failure.

    `superlink`: a connection of Flower's `config.toml`; the default one where None. `say` is told every change of the run's
    state. Interrupted, it stops the run on the SuperLink, too. Raises `SettingsError` where that cannot be asked, or refuses.
    """
    if not (APP / "pyproject.toml").exists():
        raise SettingsError(
            f"'{APP}' is no checkout: Flower needs the app's pyproject.toml; call this from a checkout of Curious"
        )
    connection = [] if superlink is None else [superlink]
    with tempfile.TemporaryDirectory() as folder:  # on the command line Flower takes no quotes within quotes
        config = Path(folder) / "run.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items()), encoding="utf-8")
        run = _asked(["run", str(APP), *connection, "--run-config", str(config)])["run-id"]
    try:
        return _end_of(run, connection, say) == "finished:completed"
    except KeyboardInterrupt:
        _asked(["stop", run, *connection])
        say(f"run {run}: stopped; what it recorded stays in its folder, and the same call goes on with it")
        raise


def _end_of(run: str, connection: list[str], say: Callable[[str], None]) -> str:
    """How a run ended, in Flower's words; `say` is told every change of its state until then."""
    said = ""
    while not said.startswith("finished"):
        if said:
            time.sleep(LOOKS)
        found = _asked(["list", *connection, "--run-id", run])["runs"][0]
        if found["status"] != said:
            said = found["status"]
            details = found.get("status-details", "N/A")
            say(f"run {run}: {said}" + (f" ({details})" if details not in ("N/A", "") else ""))
    return said


def _asked(arguments: list[str]) -> Any:
    """What Flower's command answers, as it says it in JSON."""
    command = [sys.executable, "-W", "ignore", "-m", "flwr.cli.app", *arguments, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        raise SettingsError(f"flwr {arguments[0]} said: {(done.stderr or done.stdout).strip() or 'nothing'}") from None
    if not answer.get("success"):
        raise SettingsError(f"flwr {arguments[0]} said: {answer.get('error-message', answer)}")
    return answer
