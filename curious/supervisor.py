"""Watches the process that works: shows how far it is, ends it on Ctrl-C, and leaves nothing behind."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from curious.child import LOST

INTERRUPTED = 130
MOST_LOSSES = 8  # of clients with the machine or process that they ran on; what is lost after that counts as failed
PR_SET_CHILD_SUBREAPER = 36


def supervise(task: dict[str, Any], console: Console) -> tuple[int, dict[str, Any] | None]:
    """Runs the task in a process of its own. Returns the exit code and what the process said at its end, if it came to it.

    Wrong input and crashes are printed in words. On Ctrl-C the process and all its descendants are killed, which a ledger
    survives. A process that lost clients with a machine of the cluster is followed by another one, on the machines that remain.
    """
    _adopt_orphans()
    for _ in range(MOST_LOSSES):
        code, last = _supervised(task | {"patient": True}, console)
        if code != LOST:
            return code, last
        console.print(
            "Clients were lost with the machine or process that they ran on; going on with what remains.", style="yellow"
        )
        task |= {"resume": True}
    return _supervised(task | {"patient": False}, console)


def _supervised(task: dict[str, Any], console: Console) -> tuple[int, dict[str, Any] | None]:
    with _scratch() as scratch, tempfile.TemporaryFile() as errors:
        environment = os.environ | {"CURIOUS_SCRATCH": scratch, "PYTHONPATH": _python_path()}
        child = subprocess.Popen(
            [sys.executable, "-m", "curious.child", json.dumps(task)],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            last = _follow(child, console)
            code = child.wait()
        except KeyboardInterrupt:
            _kill_descendants()
            console.print("Interrupted. The ledger is whole; go on with --resume.", style="yellow")
            return INTERRUPTED, None
        finally:
            _kill_descendants()
        if last.get("event") in ("wrong", "crashed"):
            console.print(last["text"], style="red", markup=False, highlight=False, soft_wrap=True)
            return code, None
        if code == LOST:
            return code, None
        if last.get("event") != "finished":
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip().splitlines()
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            console.print(
                f"The working process ended unexpectedly ({ended}). {text[-1] if text else ''}", style="red", markup=False
            )
            if folder := last.get("folder"):
                console.print(
                    f"What it printed is in {folder}/log.txt; the ledger is whole: go on with --resume.", markup=False
                )
            return code if code > 0 else 1, None
        return code, last


def _follow(child: "subprocess.Popen[bytes]", console: Console) -> dict[str, Any]:
    """Shows progress until the process has said its last word, which is returned."""
    said: list[dict[str, Any]] = []
    over = threading.Event()

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                said.append(json.loads(line))
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, transient=True) as progress:
        starting = progress.add_task("starting", total=None)
        bars: dict[str, Any] = {}
        while not over.wait(0.25):
            started = next((event for event in said if event["event"] == "started"), None)
            if started is None:
                continue
            if not bars:
                progress.remove_task(starting)
                bars = {name: progress.add_task(name, total=total) for name, total in started["total"].items()}
            for name, count in _counts(Path(started["folder"])).items():
                progress.update(bars[name], completed=count)
    return {key: value for event in said for key, value in event.items()}


def _counts(folder: Path) -> dict[str, int]:
    queries = {"rounds": "SELECT COUNT(*) FROM rounds WHERE round > 0", "attacks": "SELECT COUNT(*) FROM results"}
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True, timeout=1)) as database:
            return {name: database.execute(query).fetchone()[0] for name, query in queries.items()}
    except sqlite3.Error:
        return {}  # busy for a moment


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for Ray's sockets and logs: a short path, because sockets' paths may not be long."""
    folder = tempfile.mkdtemp(prefix="curious-", dir="/tmp" if Path("/tmp").is_dir() else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _python_path() -> str:
    return os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _adopt_orphans() -> None:
    """On Linux, descendants whose parent dies become children of this process, so that none is missed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    for _ in range(20):
        descendants = psutil.Process().children(recursive=True)
        if not descendants:
            return
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=0.5)
