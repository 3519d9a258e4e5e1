"""The command `curious`."""

import csv
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from curious.supervisor import supervise

app = typer.Typer(
    help="A federation whose server is honest but curious: what do shared gradients leak, and what hides it?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

OUT = Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/NAME by default.")]
SET = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides a key of the TOML, like federation.rounds=1.")
]
WORKERS = Annotated[int | None, typer.Option("--workers", min=1, help="Number of attack workers.")]
ADDRESS = Annotated[str | None, typer.Option("--address", envvar="RAY_ADDRESS", help="Address of a running Ray cluster.")]
RUN_DIR = Annotated[Path, typer.Argument(help="The folder of a run.")]


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study's TOML.")],
    out: OUT = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one.")] = False,
    workers: WORKERS = None,
    address: ADDRESS = None,
    set_: SET = None,
) -> None:
    """Trains a study's federations, attacks every recorded update, and writes the report.

    Exit codes: 0 all is well; 1 the run broke off; 2 the input is wrong; 3 the run is complete, and some clients or
    attacks failed, which the report lists; 130 interrupted.
    """
    task = {"kind": "run", "study": str(study), "out": None if out is None else str(out), "resume": resume}
    _work(task | {"overrides": _overrides(set_, workers), "address": address})


@app.command()
def attack(
    run_dir: RUN_DIR,
    attacks: Annotated[Path, typer.Argument(help="A TOML with [[attacks]] and, if need be, [granted] and [resources].")],
    workers: WORKERS = None,
    address: ADDRESS = None,
    set_: SET = None,
) -> None:
    """Attacks a recorded federation again, without training. Exit codes as of `run`."""
    task = {"kind": "attack", "study": str(attacks), "out": str(run_dir), "resume": True}
    _work(task | {"overrides": _overrides(set_, workers), "address": address})


@app.command()
def report(run_dir: RUN_DIR) -> None:
    """Writes report.html and results.csv of a run anew, finished or not."""
    from learning.catalogue import SettingsError
    from studies.ledger import Ledger
    from studies.report import write_report

    try:
        with Ledger(run_dir, write=False) as ledger:
            console.print(str(write_report(ledger)), soft_wrap=True, markup=False)
    except (SettingsError, ValueError) as error:
        _refuse(str(error))


@app.command()
def check(study: Annotated[Path, typer.Argument(help="The study's TOML.")], set_: SET = None) -> None:
    """Says what would run: cells, attacks, sizes, and what the attacker is granted."""
    from curious.describe import describe_plan
    from learning.catalogue import SettingsError
    from studies.config import read_plan
    from studies.preparation import prepare

    try:
        plan = read_plan(study, set_)
        prepare(plan)
    except SettingsError as error:
        _refuse(str(error))
    describe_plan(plan, console)


@app.command()
def catalogue() -> None:
    """Lists attacks, defenses, models, data and partitions, each with its settings, defaults and paper."""
    from curious.describe import describe_catalogues

    describe_catalogues(console)


def main() -> None:
    """The command's entry point."""
    app()


def _overrides(given: list[str] | None, workers: int | None) -> list[str]:
    return [*(given or []), *([] if workers is None else [f"resources.workers={workers}"])]


def _refuse(text: str) -> NoReturn:
    errors.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def _work(task: dict[str, Any]) -> None:
    code, last = supervise(task, errors)
    if last is not None:
        report_path = Path(last["report"])
        _print_results(report_path.with_name("results.csv"))
        counts = last["counts"]
        failed = {name: counts[name] for name in ("failed clients", "failed attacks") if counts[name]}
        if failed:
            words = " and ".join(f"{number} {name}" for name, number in failed.items())
            errors.print(f"{words}: the report lists them with their reasons.", style="yellow")
        console.print(f"ledger {last['digest'][:16]}", highlight=False)
        console.print(f"report {report_path}", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(code)


def _print_results(path: Path) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    wide = console.width >= 110
    table = Table(title=f"What leaked: means over victims{', with 95 % intervals' if wide else ' (intervals: see the report)'}")
    settings = any(line["setting"] for line in lines)
    for heading in (["setting"] if settings else []) + ["defense", "accuracy", "attack"]:
        table.add_column(heading, justify="right" if heading == "accuracy" else "left")
    for heading in ("updates", "labels right", "PSNR dB", "SSIM"):
        table.add_column(heading, justify="right")
    before: tuple[str, str] | None = None
    for line in lines:
        here = (line["setting"], line["defense"])
        first = here != before
        head = ([line["setting"]] if settings else []) + [line["defense"], _mean(line, "accuracy", 100, " %", 0, wide)]
        told = line["ok"] if line["ok"] == line["victims"] else f"{line['ok']} of {line['victims']}"
        shown = [
            _mean(line, "label_accuracy", 100, " %", 0, wide),
            _mean(line, "psnr", 1, "", 1, wide),
            _mean(line, "ssim", 1, "", 2, wide),
        ]
        if first and before is not None:
            table.add_section()
        table.add_row(*(head if first else [""] * len(head)), line["attack"], told, *shown)
        before = here
    console.print(table)


def _mean(line: dict[str, str], metric: str, scale: float, unit: str, digits: int, wide: bool) -> str:
    if not line[metric]:
        return "–"
    mean = f"{float(line[metric]) * scale:.{digits}f}{unit}"
    if not wide or not line[f"{metric} low"]:
        return mean
    low, high = (f"{float(line[f'{metric} {bound}']) * scale:.{digits}f}" for bound in ("low", "high"))
    return f"{mean} ({low}, {high})"
