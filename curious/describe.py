"""What a study would run, and what there is to choose from, in words."""

import dataclasses
import inspect
from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.table import Table

from attacks import ATTACKS
from defenses import DEFENSES
from learning.data import DATA, client_parts, pictures_of
from learning.models import MODELS
from learning.partitions import PARTITIONS
from learning.tensors import parameters_of
from studies.config import Cell, NamedAttack, Plan, Study
from studies.forecasting import forecasts_of
from studies.preparation import initial_model

MOST_ROWS = 40


def describe_plan(plan: Plan, console: Console) -> None:
    """Prints the federations, the attacks, the sizes and the grants of a study that is prepared."""
    study = plan.study
    console.print(f"{study.name}: {study.description}", highlight=False, markup=False, soft_wrap=True)
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in plan.cells:
        groups[cell.setting, cell.defense.name].append(cell)
    settings = any(cell.axes for cell in plan.cells)
    table = Table(title="Federations")
    for heading in (["setting"] if settings else []) + ["defense", "seeds", "rounds", "updates", "parameters", "held"]:
        table.add_column(heading, justify="left" if heading in ("setting", "defense") else "right")
    for (setting, defense), cells in list(groups.items())[:MOST_ROWS]:
        first = cells[0]
        parameters = sum(tensor.numel() for tensor in parameters_of(initial_model(first)).values())
        held = [len(part) for cell in cells for part in client_parts(cell.study.client_data, cell.seed)]
        updates = sum(len(cell.recorded()) for cell in cells)
        row = (defense, len(cells), first.study.rounds, updates, f"{parameters:,}", _range(held))
        table.add_row(*([setting] if settings else []), *map(str, row))
    console.print(table)
    if len(groups) > MOST_ROWS:
        console.print(f"and {len(groups) - MOST_ROWS} more rows")
    updates = sum(len(cell.recorded()) for cell in plan.cells)
    attacks = sum(named.undergone_by(cell, *at) for named in study.attacks for cell in plan.cells for at in cell.recorded())
    lines = [
        f"{len(plan.cells)} federations; updates: recorded and attacked; held: examples a client holds.",
        *dict.fromkeys(_work(cell) for cell in plan.cells[:MOST_ROWS]),
        f"Attacks, {attacks:,} in all:",
        *(f"  {named.name}: {named.attack}{_sampled(named)}" for named in study.attacks),
        *_forecasts(plan),
        f"Granted beyond the protocol: {' and '.join(_granted(study)) or 'nothing'}.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _sampled(named: NamedAttack) -> str:
    return f", on {named.sample:.0%} of the updates" if named.sample < 1 else ""


def _work(cell: Cell) -> str:
    study, training = cell.study, cell.study.training
    shape = "x".join(map(str, pictures_of(study.data).image_shape))
    if training.shared == "gradient":
        return f"Clients share one gradient of a batch of {training.batch_size}; a picture is {shape}."
    examples = study.client_data.examples or "all their"
    number, unit = (training.steps, "local step") if training.steps else (training.epochs, "local epoch")
    work = f"{number} {unit}{'s' if number > 1 else ''}"
    return (
        f"Clients share their weights' change after {work} over {examples} examples, {training.batch_size} a step; "
        f"a picture is {shape}."
    )


def _forecasts(plan: Plan) -> list[str]:
    """What is to be expected of the exact attacks, for every defense at every point of the grid."""
    firsts = {(cell.setting, cell.defense.name): cell for cell in reversed(plan.cells)}
    lines = []
    for (setting, defense), cell in list(reversed(firsts.items()))[:MOST_ROWS]:
        for attack, forecast in forecasts_of(cell).items():
            place = f"{setting}, {defense}" if setting else defense
            lines.append(f"  {place}: {attack} {forecast.probability:.0%} ({forecast.sentence})")
    return ["Forecast that all pictures of an update come back exactly, before training:", *lines] if lines else []


def _granted(study: Study) -> list[str]:
    told = [named.name for named in study.attacks if named.knows_defense]
    return study.granted.in_words() + ([f"the client's defense, to {', '.join(told)}"] if told else [])


def _range(numbers: list[int]) -> str:
    return f"{min(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,} to {max(numbers):,}"


def describe_catalogues(console: Console) -> None:
    """Prints every catalogue: name, what it is, and its settings with their defaults."""
    for title, catalogue in (
        ("Attacks", ATTACKS),
        ("Defenses", DEFENSES),
        ("Models", MODELS),
        ("Data", DATA),
        ("Partitions", PARTITIONS),
    ):
        table = Table(title=title, show_lines=True, title_justify="left")
        table.add_column("name", no_wrap=True)
        table.add_column("settings")
        table.add_column("what it is")
        for name, cls in catalogue.items():
            table.add_row(name, "\n".join(_settings(cls)), _about(cls))
        console.print(table, markup=False, highlight=False)


def _settings(cls: type) -> list[str]:
    if not dataclasses.is_dataclass(cls):
        return []
    return [f"{field.name} = {_default(field)}" for field in dataclasses.fields(cls)]


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is dataclasses.MISSING:
        return "(required)"
    if dataclasses.is_dataclass(field.default):
        return next((f'"{name}"' for name, cls in ATTACKS.items() if type(field.default) is cls), str(field.default))
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return f'"{field.default}"' if isinstance(field.default, str) else "(none)" if field.default is None else str(field.default)


def _about(cls: type) -> str:
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    first = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    paper = module.splitlines()[0] if any(mark in module.splitlines()[0] for mark in ("arXiv", "19", "20")) else ""
    return "\n".join(filter(None, [first, paper]))
