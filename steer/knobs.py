"""Properties at wanted values: open loop by g, closed loop on the measure itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from steer.closed_loop import Plant, place, solve
from steer.directions import Direction
from steer.distributions import Mixture
from steer.errors import InputError
from steer.generators.base import Generator
from steer.measures import properties

__all__ = ["Controlled", "Setting", "Status", "control", "place"]

Array = NDArray[np.float64]
#: No code is placed further out than this: a generator gives no numbers there.
FARTHEST = 1e6


class Status(IntEnum):
    """How control of one item ended, judged on its measured values."""

    REACHED = 0
    UNREACHABLE = 1
    NO_OBJECT = 2
    OFF = 3
    NOT_MEASURED = 4

    @property
    def message(self) -> str:
        """What manifests say."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.REACHED: "reached",
    Status.UNREACHABLE: "unreachable, nearest value given",
    Status.NO_OBJECT: "no object found",
    Status.OFF: "off by more than the tolerance (open loop)",
    Status.NOT_MEASURED: "not measurable",
}


@dataclass(frozen=True)
class Setting:
    """What is asked of one property.

    `value` is a number to set it to (`set`), an amount to move each item by from where it is
    (`shift`), a wanted distribution (`distribution`), or, for what cannot be measured, the value of
    g to place each item at (`place`).
    """

    name: str
    mode: str
    value: float | Mixture


@dataclass
class Controlled:
    """Per item: codes [n, d]; asked and measured values [n, k] of the settings, NaN where there is
    no object or no measure; status [n]; evaluations [n], forward passes of the generator."""

    z: Tensor
    asked: Tensor
    measured: Tensor
    status: Tensor
    evaluations: Tensor


def direction_for(name: str, directions: dict[str, Direction]) -> Direction:
    """The direction that moves property `name`: its own, and zoom's for area.

    Raises InputError, naming the directions there are, where none does.
    """
    via = "zoom" if name == "area" else name
    if via not in directions:
        there = ", ".join(sorted(directions)) or "none"
        raise InputError(f"expected a direction of {via} to move {name}, given: {there}.")
    return directions[via]


def control(
    generator: Generator,
    z: Tensor,
    settings: Sequence[Setting],
    directions: dict[str, Direction],
    *,
    find: str | None = None,
    exact: bool = False,
    tolerance: float | None = None,
    batch: int = 64,
) -> Controlled:
    """Codes [n, d] moved so that the pictures show what the settings ask.

    Open loop goes through g + c for values and distributions, through differences of g for shifts.
    `exact` closes the loop: each item's measured values are brought to the target within
    `tolerance` (None: each property's own), or reported as unreachable with the nearest value.
    Values are measured on pictures as an 8-bit file holds them, by the finder `find` (None: the one
    that the first direction was calibrated with).

    Raises InputError where a property has no direction, or is not measurable and must be.
    """
    knobs = [_Knob(s, direction_for(s.name, directions), exact) for s in settings]
    used = [knob.direction for knob in knobs]
    if not all(knob.measurable for knob in knobs):
        codes = place(z, used, np.stack([knob.coordinate(z) for knob in knobs], 1))
        blank = torch.full((len(z), len(knobs)), torch.nan, dtype=torch.float64)
        status = torch.full((len(z),), int(Status.NOT_MEASURED))
        return Controlled(codes, blank, blank.clone(), status, torch.zeros_like(status))
    finder = find or next((d.find for d in used if d.find), None) or "background"
    plant = Plant(generator, [s.name for s in settings], finder, batch)
    tolerances = plant.tolerances(tolerance)
    origin = plant(z)
    asked = torch.stack([knob.target(z, origin[:, j]) for j, knob in enumerate(knobs)], 1)
    guess = np.stack([knob.coordinate(z) for knob in knobs], 1)
    spent = torch.ones(len(z), dtype=torch.long)
    if exact:
        start = _where_distributions_go(z, knobs, guess)
        codes, more = solve(plant, start, used, asked, guess, tolerances)
        spent = spent + more
    else:
        codes = place(z, used, guess)
    measured = plant(codes)
    near = (plant.error(measured, asked).abs() <= tolerances).all(1)
    missed = Status.UNREACHABLE if exact else Status.OFF
    status = torch.where(near, int(Status.REACHED), int(missed))
    status[measured.isnan().any(1) | asked.isnan().any(1)] = int(Status.NO_OBJECT)
    return Controlled(codes, asked, measured, status, spent + 1)


def _where_distributions_go(z: Tensor, knobs: Sequence[_Knob], guess: Array) -> Tensor:
    """Codes from which the closed loop starts: a code drawn anew has no place of its own to stay
    near to, so that it starts where equation 10 puts it."""
    drawn = [j for j, knob in enumerate(knobs) if knob.setting.mode == "distribution"]
    if not drawn:
        return z
    return place(z, [knobs[j].direction for j in drawn], guess[:, drawn])


@dataclass
class _Knob:
    """A setting with the direction that carries it out."""

    setting: Setting
    direction: Direction
    exact: bool

    def __post_init__(self) -> None:
        if self.measurable:
            return
        if self.exact:
            raise InputError(
                f"expected a measurable property for exact control, {self.setting.name} is not."
            )
        if self.setting.mode in ("set", "distribution"):
            raise InputError(
                f"expected a direction calibrated by a measure to set {self.setting.name}, but it "
                "is not measurable: use --shift or a traversal."
            )

    @property
    def measurable(self) -> bool:
        """Whether a picture's value can be told, and the direction knows what to expect."""
        return self.setting.name in properties and self.direction.constant is not None

    def in_unit(self, value: Array) -> Array:
        """Values of the property in the direction's unit: area in zoom's."""
        if self.setting.name != "area":
            return value
        return np.log2(np.maximum(value, 1e-6)) / 2

    def target(self, z: Tensor, origin: Tensor) -> Tensor:
        """Absolute values [n] asked for, in the property's unit."""
        value = self.setting.value
        if isinstance(value, Mixture):
            return torch.from_numpy(self.drawn(z, value))
        return origin + value if self.setting.mode == "shift" else torch.full_like(origin, value)

    def drawn(self, z: Tensor, wanted: Mixture) -> Array:
        """Values [n] of a wanted distribution, in the order that the codes have on u.

        Phi(<z, u>) is uniform under the prior (equation 11); its wanted quantile is the value.
        """
        return wanted.quantile(norm.cdf(self.direction.coordinate(z)))

    def coordinate(self, z: Tensor) -> Array:
        """Coordinates [n] at which g puts what is asked: open loop, and equation 10."""
        direction, value = self.direction, self.setting.value
        with np.errstate(over="ignore"):
            if self.setting.mode == "shift":
                assert not isinstance(value, Mixture)
                t = direction.g(direction.coordinate(z)) + self._amount(value)
            else:
                wanted = (
                    self.drawn(z, value) if isinstance(value, Mixture) else np.full(len(z), value)
                )
                t = self._from_middle(wanted)
            coordinate = direction.g_inverse(t)
        if not (np.abs(coordinate) <= FARTHEST).all():
            raise InputError(
                f"expected values of {self.setting.name} that its direction can go to, what was "
                f"asked lies over {FARTHEST:g} standard deviations of the prior away."
            )
        return coordinate

    def _from_middle(self, wanted: Array) -> Array:
        """Values [n] less c, in the direction's unit; the short way round where it is periodic."""
        t = self.in_unit(wanted) - (self.direction.constant or 0.0)
        if self.setting.name not in properties:
            return t
        prop = properties.get(self.setting.name)
        return prop.difference(torch.from_numpy(t), torch.zeros(1, dtype=torch.float64)).numpy()

    def _amount(self, value: float) -> float:
        """A shift in the direction's unit; an area's is taken at the mean of the prior."""
        if self.setting.name != "area":
            return value
        middle = 4.0 ** (self.direction.constant or 0.0)
        return float(self.in_unit(np.array(middle + value)) - self.in_unit(np.array(middle)))
