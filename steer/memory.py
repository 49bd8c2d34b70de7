"""A plant that remembers: no code is measured twice."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from steer.closed_loop import Plant
from steer.errors import InputError
from steer.generators.base import Generator
from steer.measures import Measure


class Memory(Plant):
    """A plant that measures no code twice: all its properties come from one look at a picture.

    >>> from steer.generators import load
    >>> memory = Memory(load(device="cpu"), ["translate-x", "zoom"], "background")
    >>> memory(torch.zeros(2, 10)).shape, len(memory)
    (torch.Size([2, 2]), 1)
    """

    def __init__(self, generator: Generator, names: Sequence[str], find: str, batch: int = 64):
        super().__init__(generator, names, find, batch)
        self._known: dict[bytes, Tensor] = {}
        # these need no object to be found, which can take longer than all the rest
        quick = [p.name for p in self.measure.properties if p.needs == "picture"]
        self._quick = Memory(generator, quick, find, batch) if 0 < len(quick) < len(names) else None

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, z: Tensor) -> Tensor:
        keys = _keys(z)
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        measured = super().__call__(z[list(new.values())])
        self._known |= zip(new, measured, strict=True)
        return torch.stack([self._known[key] for key in keys]) if keys else measured

    def forget(self, but: Tensor) -> None:
        """Keep what is known of the codes `but` [n, width] alone."""
        self._known = {key: self._known[key] for key in _keys(but) if key in self._known}
        if self._quick is not None:
            self._quick.forget(but)

    def of(self, names: Sequence[str]) -> Plant:
        """The same plant seen through some of its properties, measured the quickest way.

        Raises InputError for one that it does not have.
        """
        for name in names:
            if name not in self.measure.names:
                there = ", ".join(self.measure.names)
                raise InputError(f"expected one of {there} of these pictures, got {name}.")
        if self._quick is not None and set(names) <= set(self._quick.measure.names):
            return self._quick.of(names)
        return _Columns(self, names)


class _Columns(Plant):
    """Some of the properties that a memory measures."""

    def __init__(self, memory: Memory, names: Sequence[str]):
        self.generator, self.batch, self.memory = memory.generator, memory.batch, memory
        self.measure = Measure(names, memory.measure.find)
        self.columns = [memory.measure.names.index(name) for name in names]

    def __call__(self, z: Tensor) -> Tensor:
        return self.memory(z)[:, self.columns]


def _keys(z: Tensor) -> list[bytes]:
    """What tells codes [n, width] apart."""
    return [blake2b(row.tobytes(), digest_size=16).digest() for row in z.detach().cpu().numpy()]
