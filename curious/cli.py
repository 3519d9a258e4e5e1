"""The command `curious`."""

import contextlib
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
def deploy(
    study: Annotated[str, typer.Argument(help="A shipped study's name, or the path of a TOML where the server app runs.")],
    superlink: Annotated[
        str | None, typer.Option("--superlink", help="A connection of Flower's config.toml; its default one without this.")
    ] = None,
    out: Annotated[str, typer.Option("--out", help="The run's folder where the server app runs.")] = "",
    set_: SET = None,
) -> None:
    """Runs a study on Flower's deployment runtime, over real SuperNodes, and waits for its end.

    Exit codes: 0 all is well; 1 the run failed, or a client or an attack did, which the report lists; 2 the input is wrong;
    130 interrupted, and the run on the SuperLink stopped.
    """
    from curious.deployment import deploy as deployed
    from curious.supervisor import INTERRUPTED
    from learning.catalogue import SettingsError

    try:
        completed = deployed(
            {"study": study, "out": out, "set": "; ".join(set_ or [])},
            superlink,
            lambda text: errors.print(text, highlight=False, markup=False, soft_wrap=True),
        )
    except SettingsError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(0 if completed else 1)


@app.command()
def tensorboard(
    run_dir: RUN_DIR,
    out: Annotated[Path | None, typer.Option("--out", help="Where to; RUN_DIR/tensorboard without this.")] = None,
) -> None:
    """Writes a run's curves as TensorBoard's events, and goes on until the run is over. Look: `tensorboard --logdir DIR`."""
    from curious.events import Events
    from learning.catalogue import SettingsError

    folder = run_dir / "tensorboard" if out is None else out
    try:
        with Events(run_dir, folder) as events, contextlib.suppress(KeyboardInterrupt):
            events.follow()
    except SettingsError as error:
        _refuse(str(error))
    console.print(f"tensorboard --logdir {folder}", soft_wrap=True, markup=False)


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
def watch(
    run_dir: RUN_DIR,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 is any that is free.")] = 8642,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="Another name to answer to, as behind a proxy."),
    ] = None,
) -> None:
    """Shows the report of a run in the browser while the run goes on, on this machine alone. Ctrl-C ends it."""
    from curious.watch import Watch
    from learning.catalogue import SettingsError

    try:
        server = Watch(run_dir, port, host or ())
    except SettingsError as error:
        _refuse(str(error))
    console.print(f"{run_dir} at {server.address} (Ctrl-C ends this, and not the run)", soft_wrap=True, markup=False)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


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
def audit(
    model: Annotated[str, typer.Option("--model", help="module:function that builds your model, found from this folder.")],
    update: Annotated[Path, typer.Option("--update", help="What a client sent: safetensors, or PyTorch's, by parameter name.")],
    input_shape: Annotated[str, typer.Option("--input-shape", help="Channels, height, width of the model's input: 3,32,32.")],
    classes: Annotated[int, typer.Option("--classes", min=2, help="Number of classes.")],
    examples: Annotated[int, typer.Option("--examples", min=1, help="How many examples the client used.")],
    sent: Annotated[
        Path | None, typer.Option("--sent", help="The weights that the client was sent; without it, those that --model builds.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="What the update is: gradient, delta, or weights (that came back).")
    ] = "gradient",
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the client's SGD (delta, weights).")] = 0.1,
    momentum: Annotated[float, typer.Option("--momentum", help="Of the client's SGD (delta, weights).")] = 0.0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Of a local step; 0 is all examples.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Local epochs (delta, weights).")] = 1,
    batch_norm: Annotated[str, typer.Option("--batch-norm", help="Mode of BatchNorm at the client: train or eval.")] = "train",
    mean: Annotated[str, typer.Option("--mean", help="Mean that your pictures are normalised by, per channel: .5,.5,.5")] = "",
    std: Annotated[str, typer.Option("--std", help="Deviation that your pictures are normalised by, per channel.")] = "",
    attacks: Annotated[
        Path | None, typer.Option("--attacks", help="A TOML with [[attacks]] instead of the usual ones.")
    ] = None,
    page: Annotated[Path, typer.Option("--page", help="Where to write the page.")] = Path("audit.html"),
) -> None:
    """Audits one update of your own model: does it fit, what does it give away, and will it be exact? Writes a page."""
    from curious.audit import Normalized, model_from
    from curious.audit import audit as audited
    from learning.catalogue import SettingsError
    from learning.tensors import load_state, read_checkpoint
    from learning.training import Training
    from studies.config import read_campaign

    try:
        shape, means, deviations = (
            _numbers(*pair) for pair in (("--input-shape", input_shape), ("--mean", mean), ("--std", std))
        )
        if len(shape) != 3 or any(side < 1 or side != int(side) for side in shape):
            raise SettingsError(f"--input-shape {input_shape}: should be channels,height,width, like 3,32,32")
        if len(means) != len(deviations) or len(means) not in (0, 1, int(shape[0])) or not all(d > 0 for d in deviations):
            raise SettingsError(f"--mean {mean} --std {std}: give both, one number or one per channel, deviations above zero")
        if kind not in ("gradient", "delta", "weights"):
            raise SettingsError(f"--kind {kind}: should be gradient, delta or weights")
        network = model_from(model)
        if sent is not None:
            load_state(network, read_checkpoint(sent))
        if means:
            network = Normalized(network, means, deviations)
        order: dict[str, Any] = {"shared": "gradient" if kind == "gradient" else "delta", "batch_size": batch_size or examples}
        order |= {"batch_norm": batch_norm}
        if kind != "gradient":
            order |= {"learning_rate": learning_rate, "momentum": momentum, "epochs": epochs}
        chosen = {named.name: named.attack for named in read_campaign(attacks).attacks} if attacks else None
        found = audited(
            network,
            read_checkpoint(update),
            image_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            classes=classes,
            examples=examples,
            kind=kind,
            training=Training(**order),
            attacks=chosen,
        )
        found.write_page(page)
    except (SettingsError, ValueError, OSError) as error:
        _refuse(str(error))
    for sentence in found.misfits:
        errors.print(f"does not fit: {sentence}", style="yellow", markup=False, soft_wrap=True)
    for attack, said in found.forecasts.items():
        console.print(f"forecast of {attack}: {said.probability:.0%}: {said.sentence}", soft_wrap=True, markup=False)
    for line in found.lines:
        console.print(f"{line.attack}: {line.status}: {line.told}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"page {page}", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(3 if any(line.status == "failed" for line in found.lines) else 0)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    from learning.catalogue import SettingsError

    try:
        return tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise SettingsError(f"{option} {text}: should be numbers with commas between them") from None


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
