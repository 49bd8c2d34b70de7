"""What a data set is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from steer.directions import Direction
from steer.evaluation import measurable
from steer.generators.base import Generator
from steer.knobs import Setting, direction_for, finder_of
from steer.measures import properties
from steer.memory import Memory
from steer.rendering import asked_by_step

#: Hugging Face takes folders of these names, or with such a word in theirs, for a split.
SPLITS = re.compile(
    r"(?<![^\W\d_])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^\W\d_])"
)


@dataclass(frozen=True)
class Recipe:
    """What a data set is made of: `n` items, the codes [m, width] of which `codes` gives, moved as
    the settings ask, in each step of a traversal of the property `along` where there is one.

    `sources` names the pictures that the codes were found for; the rest is as for
    `steer.knobs.control`.
    """

    generator: Generator
    codes: Callable[[range], Tensor]
    n: int
    settings: Sequence[Setting] = ()
    directions: dict[str, Direction] = field(default_factory=dict)
    along: str | None = None
    values: Sequence[float] = ()
    sources: Sequence[str] = ()
    find: str | None = None
    exact: bool = False
    tolerance: float | Mapping[str, float] | None = None
    batch: int = 64

    @cached_property
    def steps(self) -> list[list[Setting]]:
        """What is asked in each step."""
        return asked_by_step(self.settings, self.directions, self.along, self.values)

    @property
    def asked(self) -> list[str]:
        """The properties that are set."""
        return [setting.name for setting in self.steps[0]]

    @cached_property
    def plant(self) -> Memory | None:
        """The generator with every property of its pictures; None where none is to be measured."""
        used = [direction_for(name, self.directions) for name in self.asked]
        if not any(
            name in properties and direction.constant is not None
            for name, direction in zip(self.asked, used, strict=True)
        ):
            return None
        names = measurable(self.generator)
        return Memory(self.generator, names, finder_of(used, self.find), self.batch)

    @property
    def measured(self) -> list[str]:
        """The properties that are measured."""
        return self.plant.measure.names if self.plant is not None else []

    @property
    def finder(self) -> str | None:
        """How the object is found, with the checksum of the weights where there are any."""
        return self.plant.measure.find.name if self.plant is not None else None

    @cached_property
    def classes(self) -> list[str]:
        """The folders of the pictures: one for each class, or the generator's."""
        condition = self.generator.condition
        if condition is None:
            return folder_names([self.generator.name])
        return folder_names([condition.name(i) for i in range(len(condition.codes))])

    def labels(self, z: Tensor) -> Tensor:
        """Which of `classes` [m] codes [m, width] are of."""
        condition = self.generator.condition
        if condition is None:
            return torch.zeros(len(z), dtype=torch.long)
        return condition.nearest(z[:, self.generator.latent.dim :]).cpu()

    def file(self, label: int, item: int, step: int) -> str:
        """Where a picture lies in the set's folder."""
        suffix = f"-{step:03d}" if self.along is not None else ""
        return f"{self.classes[label]}/{item:07d}{suffix}.png"


def folder_names(names: Sequence[str]) -> list[str]:
    """Names made fit for folders on any system, all different.

    >>> folder_names(["great white shark", "AC/DC", "crane", "Crane", "bullet train"])
    ['great white shark', 'AC_DC', 'crane', 'Crane-3', 'bullet Train']
    """
    fit: dict[str, str] = {}
    for i, name in enumerate(names):
        safe = re.sub(r"[^\w ,.()'+-]", "_", name)[:80].strip(" ._") or str(i)
        safe = SPLITS.sub(lambda word: word[0].capitalize(), safe)
        while safe.casefold() in fit:
            safe = f"{safe}-{i}"
        fit[safe.casefold()] = safe
    return list(fit.values())
