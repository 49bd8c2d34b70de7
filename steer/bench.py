"""Codes on which directions are judged, each measured once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.calibration import response_of
from steer.closed_loop import Plant
from steer.errors import InputError
from steer.generators.base import Generator
from steer.losses import Error
from steer.measures import Measure

Array = NDArray[np.float64]


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

    def of(self, name: str) -> Plant:
        """The same plant, seen through one property; InputError for one that it does not have."""
        if name not in self.measure.names:
            there = ", ".join(self.measure.names)
            raise InputError(f"expected one of {there} of these pictures, got {name}.")
        return _Column(self, name)


class _Column(Plant):
    """One property of what a memory measures."""

    def __init__(self, memory: Memory, name: str):
        self.generator, self.batch, self.memory = memory.generator, memory.batch, memory
        self.measure = Measure([name], memory.measure.find)
        self.column = memory.measure.names.index(name)

    def __call__(self, z: Tensor) -> Tensor:
        return self.memory(z)[:, self.column, None]


def _keys(z: Tensor) -> list[bytes]:
    """What tells codes [n, width] apart."""
    return [blake2b(row.tobytes(), digest_size=16).digest() for row in z.detach().cpu().numpy()]


class Bench:
    """Codes `z` [n, width] of the prior on which directions are judged, and what measures them.

    `before` [n, P] is what they show of the properties `names`, found by `find`; `extractors` are
    perceptual distances by name.
    """

    def __init__(
        self,
        generator: Generator,
        z: Tensor,
        names: Sequence[str],
        find: str,
        batch: int = 64,
        extractors: Mapping[str, Error] | None = None,
    ):
        self.memory = Memory(generator, names, find, batch)
        # these need no object to be found, which can take longer than all the rest
        without = [p.name for p in self.memory.measure.properties if p.needs == "picture"]
        quick = [Memory(generator, without, find, batch)] if without else []
        self.memories = [*quick, self.memory]
        self.z, self.extractors = z, dict(extractors or {})
        self.before = self.memory(z)

    def plant(self, name: str) -> Plant:
        """What measures one property, the quickest way; InputError for one that is not there."""
        able = (memory for memory in self.memories if name in memory.measure.names)
        return next(able, self.memory).of(name)

    def forget(self) -> None:
        """Forget all codes but `z`."""
        for memory in self.memories:
            memory.forget(but=self.z)

    @property
    def names(self) -> list[str]:
        """The properties [P] that are measured."""
        return self.memory.measure.names

    @cached_property
    def spread(self) -> Array:
        """Standard deviation of every property [P] under the prior; NaN where it does not vary or
        is never found."""
        columns = zip(self.memory.measure.properties, self.before.T.numpy(), strict=True)
        spread = [
            response_of(prop, column[None], np.zeros(1))[0, 1]
            if not np.isnan(column).all()
            else 0.0
            for prop, column in columns
        ]
        return np.where(np.array(spread) > 0, spread, np.nan)
