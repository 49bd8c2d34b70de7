"""Named things that plugins may add to: generators, transforms, measures, losses."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from steer.errors import InputError, SteerError

T = TypeVar("T")


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not there, with its near matches.

    >>> str(unknown("colour", "gren", ["blue", "green"]))
    "unknown colour 'gren': did you mean green? Known: blue, green."
    """
    known = sorted(known)
    if not known:
        return InputError(f"unknown {kind} {name!r}: there is none.")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return InputError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}.")


def first_few(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are.

    >>> first_few(list("abcdef"))
    'a, b, c, d and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Registry(Generic[T]):
    """Names to things of one kind. Entry points of `group` are read once, when first needed.

    A name that is taken raises; an unknown one lists near matches.

    >>> shapes = Registry[int]("shape")
    >>> shapes.register("square", 4)
    4
    >>> shapes.get("square"), shapes.names()
    (4, ['square'])
    >>> shapes.get("sqare")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: unknown shape 'sqare': did you mean square? Known: square.
    """

    def __init__(self, kind: str, group: str | None = None):
        self.kind = kind
        self.group = group
        self._entries: dict[str, Callable[[], T]] = {}
        self._loaded: dict[str, T] = {}
        self._plugins_read = group is None

    def register(self, name: str, thing: Any = None) -> Any:
        """Add `thing` under `name`; without `thing`, a decorator."""
        if thing is None:
            return lambda decorated: self.register(name, decorated)
        self._add(name, lambda: thing)
        return thing

    def get(self, name: str) -> T:
        """The thing called `name`; InputError lists near matches when there is none."""
        self._read_plugins()
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        if name not in self._loaded:
            self._loaded[name] = self._entries[name]()
        return self._loaded[name]

    def names(self) -> list[str]:
        """Every name, sorted."""
        self._read_plugins()
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        self._read_plugins()
        return name in self._entries

    def _add(self, name: str, loader: Callable[[], T]) -> None:
        if name in self._entries:
            raise SteerError(f"two {self.kind}s are called {name!r}; names must be unique.")
        self._entries[name] = loader

    def _read_plugins(self) -> None:
        if self._plugins_read or self.group is None:
            return
        self._plugins_read = True
        for point in entry_points(group=self.group):
            self._add(point.name, point.load)
