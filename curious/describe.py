"""What a study would run, and what there is to choose from, in words."""

import dataclasses
import inspect
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from attacks import ATTACKS
from defenses import DEFENSES
from learning.data import DATA, client_parts, pictures_of
from learning.models import MODELS
from learning.partitions import PARTITIONS
from learning.tensors import parameters_of
from studies.config import Plan
from studies.preparation import initial_model


def describe_plan(plan: Plan, console: Console) -> None:
    """Prints the cells, the attacks, the sizes and the grants of a study that is prepared."""
    study = plan.study
    console.print(f"{study.name}: {study.description}", highlight=False, markup=False)
    table = Table(title="Federations")
    for heading in ("cell", "setting", "defense", "seed", "rounds", "updates attacked", "parameters", "examples a client"):
        table.add_column(heading, justify="left" if heading in ("setting", "defense") else "right")
    attacked = 0
    for cell in plan.cells[:40]:
        parameters = sum(tensor.numel() for tensor in parameters_of(initial_model(cell)).values())
        held = [len(part) for part in client_parts(cell.study.client_data, cell.seed)]
        sizes = f"{min(held)}" if min(held) == max(held) else f"{min(held)} to {max(held)}"
        row = (cell.index, cell.setting or "–", cell.defense.name, cell.seed, cell.study.rounds, len(cell.recorded()))
        table.add_row(*map(str, row), f"{parameters:,}", sizes)
    attacked = sum(len(cell.recorded()) for cell in plan.cells)
    console.print(table)
    if len(plan.cells) > 40:
        console.print(f"and {len(plan.cells) - 40} more federations")
    shape = "x".join(map(str, pictures_of(study.data).image_shape))
    pixels = math.prod(pictures_of(study.data).image_shape)
    training = study.training
    work = "one gradient of a batch" if training.shared == "gradient" else "the weights' change after local SGD"
    console.print(f"Clients share {work} of {training.batch_size}; a picture is {shape}, {pixels} numbers.", highlight=False)
    listed = ", ".join(named.name for named in study.attacks) or "none"
    total = attacked * len(study.attacks)
    console.print(f"Attacks: {listed}; {attacked} updates, {total} attacks.", highlight=False, markup=False)
    granted = [
        text for given, text in ((study.granted.labels, "the true labels"), (study.granted.public, "public pictures")) if given
    ]
    console.print(f"Granted beyond the protocol: {' and '.join(granted) or 'nothing'}.", highlight=False)


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
