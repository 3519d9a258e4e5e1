"""How the report says things: numbers, plurals, places, settings and what a class is."""

import dataclasses
import inspect
import re
from collections.abc import Mapping

from markupsafe import Markup

from attacks import ATTACKS, LABELS, Attack
from defenses import DEFENSES, Defense
from learning.catalogue import name_of

MINUS = "\N{MINUS SIGN}"


def at(setting: str) -> str:
    return f" at {setting}" if setting else ""


def plural(count: int, word: str) -> str:
    if word == "more":
        return f"{count:,} {'is' if count == 1 else 'are'}"
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def code(text: str) -> Markup:
    """The text with what stands in backticks as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def number(value: float, digits: int = 2) -> str:
    """A number with that many digits behind the point, its minus a real one; never a negative zero."""
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    text = number(value, digits)
    return text if text.startswith(MINUS) else f"+{text}"


def percent(value: float, digits: int = 1) -> str:
    """A share as per cent, without the sign; whole numbers without a point."""
    return number(value * 100, digits).removesuffix("." + "0" * digits) if digits else number(value * 100, 0)


def along(value: float, top: float) -> float:
    """Where on a line from zero to `top` a value stands, in per cent of its length: at its end if it is larger."""
    return round(min(value / top, 1.0) * 100, 2)


def settings_of(value: object) -> list[tuple[str, str]]:
    """Every field with its value, those that were left at their defaults too."""
    assert dataclasses.is_dataclass(value)
    return [(field.name, said(getattr(value, field.name))) for field in dataclasses.fields(value)]


def said(value: object) -> str:
    if isinstance(value, Attack | Defense):
        catalogue: Mapping[str, type] = (ATTACKS | LABELS) if isinstance(value, Attack) else DEFENSES
        inner = ", ".join(f"{key} = {said}" for key, said in settings_of(value))
        return name_of(catalogue, value) + (f" ({inner})" if inner else "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(said(item) for item in value) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def about_of(cls: type) -> str:
    """The first sentence of what the class says of itself, and the paper that its file names."""
    words = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.])\s+(?=[A-Z])", words)[0]
    file = (inspect.getdoc(inspect.getmodule(cls)) or "").split("\n")[0]
    return f"{sentence} Source: {file}" if re.search(r"\b(19|20)\d\d\b", file) else sentence
