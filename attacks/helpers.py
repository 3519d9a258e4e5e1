"""Parts of one attack's work, done by its worker alone or with the helpers that it has (`resources.helpers`).

An attack says what its parts are; who does them is the pool's business.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Helpers(ABC):
    """Other workers of the same attack; `count` of them. One that is lost costs time and nothing else.

    Work is a function of a module. `given`, its first arguments, travels once for as long as it is the same object.
    """

    count: int

    @abstractmethod
    def call(self, work: Callable[..., Any], given: tuple[Any, ...], each: Sequence[Any]) -> list[Any]:
        """What `work(*given, part)` returns for every one of the parts, of which there are `count` + 1 at most."""

    @abstractmethod
    def turns(self, work: Callable[..., Any], given: tuple[Any, ...], part: Callable[[], Any]) -> Iterator[list[Any]]:
        """Turn by turn, without end, what `work(*given, part())` returns here and from every helper.

        Helpers are given their parts a turn ahead, so that they never wait for an answer.
        """


class Nobody(Helpers):
    """No helpers: the worker does all there is."""

    count = 0

    def call(self, work: Callable[..., Any], given: tuple[Any, ...], each: Sequence[Any]) -> list[Any]:
        return [work(*given, part) for part in each]

    def turns(self, work: Callable[..., Any], given: tuple[Any, ...], part: Callable[[], Any]) -> Iterator[list[Any]]:
        while True:
            yield [work(*given, part())]


_NOBODY = Nobody()
_HELPERS: ContextVar[Helpers] = ContextVar("helpers", default=_NOBODY)


def helpers() -> Helpers:
    """Those of the attack that runs here."""
    return _HELPERS.get()


@contextmanager
def with_helpers(own: Helpers) -> Iterator[None]:
    """What runs inside has these helpers."""
    token = _HELPERS.set(own)
    try:
        yield
    finally:
        _HELPERS.reset(token)
