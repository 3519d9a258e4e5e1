"""Cheaper ways to the slope of a matching loss. Each is taken only where it is asked for, and held against the exact slope."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Shortcut:
    """Whether a victim can be matched in a cheaper way, and is just now: only inside `used`.

    `agreeing`: cosine of its slopes and the exact ones from which it is worth going on.
    """

    there: bool
    agreeing: float
    on: bool = False

    @contextmanager
    def used(self) -> Iterator[None]:
        before, self.on = self.on, True
        try:
            yield
        finally:
            self.on = before
