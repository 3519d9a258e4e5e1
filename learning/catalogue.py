"""Settings that check themselves, and catalogues that name them.

Everything that a study can choose (an attack, a defense, a model, a data set, a partition) is a frozen dataclass whose
fields are its settings, and stands in a catalogue: a dict from the name used in TOML to the class. A TOML table's `name`
picks the class, its other keys are the fields.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
import pydantic_core
from pydantic import Field

C = TypeVar("C")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class SettingsError(ValueError):
    """A setting is wrong. The message names the value, the place and the remedy, one fault a line."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[C]) -> type[C]:
    """Makes a class a frozen dataclass, keyword only, that refuses unknown keys and wrong types at construction."""
    config = pydantic.ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    return pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)  # pyright: ignore[reportReturnType]


def choices(wrong: object, names: list[str]) -> str:
    """The remedy for a wrong name: the nearest right one if there is one, and all of them."""
    near = difflib.get_close_matches(str(wrong), names, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{meant}choices: {', '.join(names)}"


def build(catalogue: Mapping[str, type[C]], table: object) -> C:
    """An instance of the class that `table["name"]` picks from the catalogue, with the other keys as its fields.

    A bare string is short for `{name = "..."}`. Raises `SettingsError`.
    """
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, Mapping):
        raise SettingsError(f"{table!r} should be a name or a table with a `name`; {choices('', list(catalogue))}")
    name = table.get("name")
    if not isinstance(name, str) or name not in catalogue:
        said = "has no `name`" if name is None else f"name = {name!r} is not known"
        raise SettingsError(f"{said}; {choices(name, list(catalogue))}")
    fields = {key: value for key, value in table.items() if key != "name"}
    try:
        return catalogue[name](**fields)
    except pydantic.ValidationError as error:
        raise SettingsError(describe(error, [field.name for field in dataclasses.fields(catalogue[name])])) from None  # pyright: ignore[reportArgumentType]


def chosen_from(catalogue: Mapping[str, type[C]]) -> Callable[[Any], C]:
    """A pydantic validator that builds a value from a TOML table and leaves an instance as it is."""

    def validate(value: Any) -> C:
        return value if isinstance(value, tuple(catalogue.values())) else build(catalogue, value)

    return validate


def name_of(catalogue: Mapping[str, type], value: object) -> str:
    """The name under which the catalogue holds the value's class."""
    return next(name for name, cls in catalogue.items() if type(value) is cls)


def describe(error: pydantic.ValidationError, fields: list[str] | None = None) -> str:
    """pydantic's findings in the project's form: `place = value: what is wrong; remedy`, one a line."""
    return "\n".join(_line(fault, fields or []) for fault in error.errors(include_url=False))


def _line(fault: pydantic_core.ErrorDetails, fields: list[str]) -> str:
    parts: list[str] = []
    for part in fault["loc"]:
        if isinstance(part, int):
            parts[-1:] = [f"{parts[-1]}[{part}]" if parts else f"[{part}]"]
        elif not (part[:1].isupper() or "[" in part or "-" in part):  # pydantic's own tags of union members
            parts.append(part)
    place = ".".join(parts)
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        return "\n".join(_join(place, line) for line in str(cause).splitlines())
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place}: unknown key" + (f"; {choices(parts[-1], fields)}" if fields else "")
    if fault["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{place}: missing; add this key"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place} = {_short(fault['input'])}: {message}" if place else message


def _join(place: str, line: str) -> str:
    if not place:
        return line
    head = line.split(" ", 1)[0]
    inner = head.rstrip(":").replace(".", "").replace("_", "").replace("[", "").replace("]", "").isalnum()
    nested = inner and (line[len(head) :].startswith(" = ") or head.endswith(":"))
    return f"{place}.{line}" if nested else f"{place}: {line}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
