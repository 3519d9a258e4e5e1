"""The process that does the work of `curious run` and `curious attack`; the command itself only watches it.

It gets its task as JSON in its one argument, and says what happens as lines of JSON on its standard output; whatever Flower,
Ray or a library print goes into the run's `log.txt`. It ends itself when its parent is gone.
"""

import json
import os
import shlex
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn, TextIO

PROMPT = {  # set before Flower and Ray are imported: both call home, and talk, unless told otherwise
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

WRONG_INPUT, CRASHED, WITH_FAILURES, LOST = 2, 1, 3, 75  # lost: with a machine or process; another child may go on


def main() -> int:
    """Does the task of the command line's one argument. Returns the exit code: see `docs` of `curious run`."""
    os.environ |= {name: os.environ.get(name, value) for name, value in PROMPT.items()}
    _end_with(os.getppid())
    task = json.loads(sys.argv[1])
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        return _work(task, events)
    except Exception as error:
        from learning.catalogue import SettingsError

        if isinstance(error, SettingsError):
            _say(events, "wrong", text=str(error))
            return WRONG_INPUT
        traceback.print_exc()
        _say(events, "crashed", text=f"{type(error).__name__}: {error}")
        return CRASHED


def _work(task: dict[str, Any], events: TextIO) -> int:
    warnings.simplefilter("ignore")
    from studies.report import write_report

    with _opened(task, events) as (ledger, resources):
        counts = ledger.counts()
        total = {
            "rounds": sum(cell.study.rounds for cell in ledger.plan.cells),
            "attacks": ledger.expected(),
        }
        _say(events, "started", folder=str(ledger.folder), total=total, done=counts, name=ledger.plan.study.name)
        log = os.open(ledger.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if task["kind"] == "run":
            from curious.simulation import simulate

            simulate(ledger, resources, task["address"], on_loss=_lost if task["patient"] else None)
        else:
            from server.app import attack_all

            no_training = threading.Event()
            no_training.set()
            attack_all(ledger, resources, no_training, task["address"])
        report = write_report(ledger)
        counts = ledger.counts()
        failed = counts["failed clients"] + counts["failed attacks"]
        _say(events, "finished", report=str(report), counts=counts, digest=ledger.digest())
        return WITH_FAILURES if failed else 0


def _lost(reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    os._exit(LOST)


def _opened(task: dict[str, Any], events: TextIO) -> Any:
    from contextlib import contextmanager

    from learning.catalogue import SettingsError
    from studies.config import check_earlier, read_campaign, read_plan
    from studies.ledger import Ledger
    from studies.preparation import prepare, prepare_scores
    from studies.provenance import environment

    study, overrides = Path(task["study"]), task["overrides"]

    @contextmanager
    def run() -> Any:
        plan = read_plan(study, overrides)
        folder = Path(task["out"] or f"runs/{plan.study.name}")
        prepare(plan)
        if not (folder / "ledger.sqlite").exists():
            ledger = Ledger.create(folder, plan, _as_run(study, overrides), environment())
        elif not task["resume"]:
            raise SettingsError(
                f"'{folder}' holds a run already; go on with it with --resume, or give another folder with --out"
            )
        else:
            ledger = Ledger(folder, write=True)
            if different := ledger.plan.differs_from(plan):
                ledger.close()
                raise SettingsError(
                    f"'{folder}' holds a run of another study (it differs in: {', '.join(different)}); give another "
                    f"folder with --out, or run the study that it was begun with"
                )
        with ledger:
            yield ledger, plan.study.resources

    @contextmanager
    def attack() -> Any:
        campaign = read_campaign(study, overrides)
        with Ledger(Path(task["out"]), write=True) as ledger:
            if not ledger.observations():
                raise SettingsError(f"'{task['out']}' holds no recorded update to attack; run its study first")
            for cell in ledger.plan.cells:
                check_earlier(campaign.granted, cell.study.federation)
            prepare_scores(ledger.plan)
            ledger.add_attacks(campaign.attacks, campaign.granted)
            yield ledger, campaign.resources

    return run() if task["kind"] == "run" else attack()


def _as_run(study: Path, overrides: list[str]) -> str:
    """The study's TOML, under a comment that says how it was called, so that the copy in the run's folder repeats the run."""
    said = "".join(f" --set {shlex.quote(override)}" for override in overrides)
    return f"# as run: curious run {study.name}{said}\n" + study.read_text(encoding="utf-8-sig")


def _say(events: TextIO, event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), file=events, flush=True)


def _end_with(parent: int) -> None:
    """Ends this process and all that it started as soon as its parent is another one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        import psutil

        for process in psutil.Process().children(recursive=True):
            process.kill()
        os._exit(CRASHED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whatever threads of Flower or Ray still wait for something have nothing left to do
