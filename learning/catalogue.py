"""Settings that check themselves, and catalogues that name them.

Everything that a study can choose (an attack, a defense, a model, a data set, a partition) is a frozen dataclass whose
fields are its settings, and stands in a catalogue: a dict from the name used in TOML to the class. A TOML table's `name`
picks the class, its other keys are the fields.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias, TypeVar, cast, dataclass_transform

import pydantic
import pydantic_core
from pydantic import Field

C = TypeVar("C")
Path: TypeAlias = tuple[int | str, ...]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Index = Annotated[int, Field(ge=0, le=2**31 - 1)]


_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_PLACE = re.compile(r"""([\w.\[\]-]|'[^']*'|"[^"]*")+( = |: )""")


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
        raise SettingsError(f"{said}; {choices(name or '', list(catalogue))}")
    fields = {key: value for key, value in table.items() if key != "name"}
    try:
        return catalogue[name](**fields)
    except pydantic.ValidationError as error:
        raise SettingsError(describe(error, catalogue[name], fields)) from None


def chosen_from(catalogue: Mapping[str, type[C]]) -> Callable[[Any], C]:
    """A pydantic validator that builds a value from a TOML table and leaves an instance as it is."""

    def validate(value: Any) -> C:
        return value if isinstance(value, tuple(catalogue.values())) else build(catalogue, value)

    return validate


def name_of(catalogue: Mapping[str, type], value: object) -> str:
    """The name under which the catalogue holds the value's class."""
    return next(name for name, cls in catalogue.items() if type(value) is cls)


def placed(place: str, error: SettingsError) -> SettingsError:
    """The same faults, seen from outside: `place` is put before each line's own place."""
    lines = str(error).splitlines()
    return SettingsError("\n".join(f"{place}.{line}" if _PLACE.match(line) else f"{place}: {line}" for line in lines))


def table_of(catalogue: Mapping[str, type], value: object) -> dict[str, Any]:
    """The table from which `build` would make the value, with every field that is not None; the way back of `build`."""
    table: dict[str, Any] = {"name": name_of(catalogue, value)}
    for field in dataclasses.fields(value):  # pyright: ignore[reportArgumentType]
        part = getattr(value, field.name)
        if part is not None:
            table[field.name] = table_of(catalogue, part) if type(part) in catalogue.values() else part
    return table


def describe(error: pydantic.ValidationError, cls: type, given: Mapping[str, Any]) -> str:
    """pydantic's findings about `cls(**given)` in the project's form: `place = value should be ...; remedy`, one fault a line.

    Where a value fits no member of a union, pydantic finds one fault for each member. They become one line; if the value
    is of one member's kind and only wrong further inside, that is what is told.
    """
    located = [(*_path(fault, given), fault) for fault in error.errors(include_url=False)]
    entered = {union for path, union, _ in located if union is not None and len(path) > len(union)}
    faults: dict[Path, list[pydantic_core.ErrorDetails]] = {}
    for path, union, fault in located:
        if union not in entered or len(path) > len(union or ()):
            faults.setdefault(path, []).append(fault)
    return "\n".join(_line(path, found, cls) for path, found in faults.items())


def _path(fault: pydantic_core.ErrorDetails, given: object) -> tuple[Path, Path | None]:
    """Where the fault is, without pydantic's tags of union members, which nobody wrote; and where the first union is."""
    path: Path = ()
    union: Path | None = None
    for index, part in enumerate(fault["loc"]):
        last = index == len(fault["loc"]) - 1
        inside = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int)
        if inside:
            path, given = (*path, part), cast(Any, given)[part]
        elif isinstance(given, Mapping) and last and fault["type"] in _MISSING:
            path = (*path, part)
        elif union is None:
            union = path
    return path, union


def _line(path: Path, faults: list[pydantic_core.ErrorDetails], cls: type) -> str:
    place = ""
    for part in path:
        key = f"[{part}]" if isinstance(part, int) else part if re.fullmatch(r"[\w-]+", part) else repr(part)
        place += f".{key}" if place and isinstance(part, str) else key
    cause = faults[0].get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        return str(placed(place, cause)) if place else str(cause)
    if faults[0]["type"] in _MISSING:
        return f"{place}: missing; add this key"
    if faults[0]["type"] in _UNKNOWN:
        keys = _keys(cls, path[:-1])
        return f"{place}: unknown key; {choices(path[-1], keys) if keys else 'there is nothing to set here'}"
    wrong = _wrong(faults[0]) + "".join(f" or {_wrong(other).removeprefix('should be ')}" for other in faults[1:])
    value = f"{place} = {_short(faults[0]['input'])}" if place else ""
    return f"{value} {wrong}" if value and wrong.startswith("should ") else f"{value}: {wrong}" if value else wrong


def _wrong(fault: pydantic_core.ErrorDetails) -> str:
    """What is wrong with a value, in the words of TOML where pydantic's are Python's."""
    if fault["type"] in ("model_type", "dataclass_type", "dataclass_exact_type", "dict_type"):
        return "should be a table"
    if fault["type"] == "list_type":
        return "should be a list"
    if fault["type"] == "too_short":
        return f"should have at least {fault.get('ctx', {})['min_length']} item"
    return fault["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)


def _keys(cls: object, path: Path) -> list[str]:
    """The keys of the settings that stand at that place in `cls`; none if no settings do."""
    for part in path:
        field = getattr(cls, "__pydantic_fields__", {}).get(part)
        cls = field.annotation if field else None
    return list(getattr(cls, "__pydantic_fields__", {}))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
