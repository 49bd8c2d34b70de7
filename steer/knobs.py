"""Properties at wanted values: open loop by g, closed loop on the measure itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from steer.measures import Property, properties
from steer.memory import Memory

__all__ = ["Controlled", "Setting", "Status", "control", "place"]

Array = NDArray[np.float64]
#: No code is placed further out than this: a generator gives no numbers there.
FARTHEST = 1e6
#: Directions are the same where a combination of their coordinates, each of variance 1, has less
#: than this; and codes of the prior do not differ along one whose coordinate itself has less.
SAME = 1e-6


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
    """Per item: codes [n, d]; asked and measured values [n, k] of the settings; status [n], judged
    on the measurable ones; evaluations [n], forward passes of the generator.

    Measured is NaN where there is no object, or no measure of the setting, of which asked then
    holds the number that was given: for a shift its amount, else the value of g."""

    z: Tensor
    asked: Tensor
    measured: Tensor
    status: Tensor
    evaluations: Tensor


def mover(name: str) -> str:
    """The name of the direction that moves property `name`.

    >>> mover("zoom"), mover("area")
    ('zoom', 'zoom')
    """
    return properties.get(name).moved_by or name if name in properties else name


def direction_for(name: str, directions: dict[str, Direction]) -> Direction:
    """The direction that moves property `name`.

    Raises InputError, naming the directions there are, where none does.
    """
    via = mover(name)
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
    tolerance: float | Mapping[str, float] | None = None,
    batch: int = 64,
    memory: Memory | None = None,
) -> Controlled:
    """Codes [n, d] moved so that the pictures show what the settings ask.

    Open loop goes through g + c for values and distributions, through differences of g for shifts.
    `exact` closes the loop: each item's measured values are brought to the target within
    `tolerance` (one number, or some by name; else each property's own), or reported as unreachable
    with the nearest value. Values are measured on pictures as an 8-bit file holds them, by the
    finder `find` (None: the one that the first direction was calibrated with), or by `memory`,
    which knows some of them already; no code is measured twice.

    Raises InputError where a property has no direction, or is not measurable and must be; for a
    direction of codes of another length; for one tolerance of several units; and for a finder or a
    tolerance where nothing can be measured.
    """
    knobs = [_Knob(s, direction_for(s.name, directions), exact) for s in settings]
    used = [knob.direction for knob in knobs]
    for direction in used:
        direction.check_fits(generator.latent)
    seen = [j for j, knob in enumerate(knobs) if knob.measurable]
    origin = torch.full((len(z), len(knobs)), torch.nan, dtype=torch.float64)
    ranks = _ranks(generator, z, knobs)
    if not seen:
        _refuse_unused(settings, find, tolerance)
        asked, guess = _aims(z, knobs, origin, ranks)
        status = torch.full((len(z),), int(Status.NOT_MEASURED))
        return Controlled(place(z, used, guess), asked, origin, status, torch.zeros_like(status))
    names = [settings[j].name for j in seen]
    if memory is None:
        memory = Memory(generator, names, finder_of(used, find), batch)
    plant = memory.of(names)
    tolerances = plant.tolerances(tolerance)
    origin[:, seen] = plant(z)
    asked, guess = _aims(z, knobs, origin, ranks)
    codes, spent = place(z, used, guess), torch.zeros(len(z), dtype=torch.long)
    if exact:
        codes, spent = _solved(plant, z, knobs, asked, guess, tolerances)
    measured = torch.full_like(origin, torch.nan)
    measured[:, seen] = plant(codes)
    status = _judged(plant, measured[:, seen], asked[:, seen], tolerances, exact)
    return Controlled(codes, asked, measured, status, spent + 2)


def finder_of(directions: Sequence[Direction], find: str | None = None) -> str:
    """How the object is found: as asked, or as the first direction that says so was calibrated."""
    return find or next((d.find for d in directions if d.find), None) or "background"


def _aims(z: Tensor, knobs: Sequence[_Knob], origin: Tensor, ranks: Array) -> tuple[Tensor, Array]:
    """What is asked [n, k] of items measured at `origin` [n, k], with `ranks` [n, k], and the
    coordinates [n, k] at which g puts it."""
    columns = list(zip(knobs, origin.unbind(1), ranks.T, strict=True))
    asked = [knob.target(at, rank) for knob, at, rank in columns]
    guess = [
        knob.coordinate(z, at, wanted) for (knob, at, _), wanted in zip(columns, asked, strict=True)
    ]
    return torch.stack(asked, 1), np.stack(guess, 1)


def _ranks(generator: Generator, z: Tensor, knobs: Sequence[_Knob]) -> Array:
    """Phi(<z, u>) [n, k], in which equations 10 and 11 take the quantiles of wanted distributions;
    NaN for other knobs.

    Directions that are not orthogonal have coordinates that depend on each other, and so would
    what is drawn by them: in their place stand those nearest to them that do not.
    """
    ranks = np.full((len(z), len(knobs)), np.nan)
    drawn = [j for j, knob in enumerate(knobs) if isinstance(knob.setting.value, Mixture)]
    if drawn:
        chosen = [knobs[j] for j in drawn]
        ranks[:, drawn] = norm.cdf(_independent(generator, z, chosen))
    return ranks


def _independent(generator: Generator, z: Tensor, knobs: Sequence[_Knob]) -> Array:
    """Coordinates [n, k] on the directions, of variance 1, times R^-1/2, R [k, k] their correlation
    under the prior: uncorrelated, and as near as can be to what they were."""
    names = " and ".join(knob.setting.name for knob in knobs)
    own = np.stack([knob.direction.coordinate(z) for knob in knobs], 1)
    weights = np.stack([knob.direction.u / knob.direction.std for knob in knobs])
    covariance = generator.latent.covariance(weights)
    variance = np.diag(covariance)
    if variance.min() < SAME:
        raise InputError(
            f"expected codes of the prior that differ along directions to draw {names} by, along "
            "one they are all the same."
        )
    std = np.sqrt(variance)
    values, vectors = np.linalg.eigh(covariance / np.outer(std, std))
    if values[0] < SAME:
        raise InputError(
            f"expected directions that differ to draw {names} independently, theirs are the same."
        )
    return own / std @ (vectors / np.sqrt(values)) @ vectors.T


def _judged(
    plant: Plant, measured: Tensor, asked: Tensor, tolerances: Tensor, exact: bool
) -> Tensor:
    """Status [n] of measured values [n, k]."""
    near = (plant.error(measured, asked).abs() <= tolerances).all(1)
    missed = Status.UNREACHABLE if exact else Status.OFF
    status = torch.where(near, int(Status.REACHED), int(missed))
    status[measured.isnan().any(1) | asked.isnan().any(1)] = int(Status.NO_OBJECT)
    return status


def _refuse_unused(
    settings: Sequence[Setting], find: str | None, tolerance: float | Mapping[str, float] | None
) -> None:
    """InputError for what says how to measure where there is nothing to."""
    if find is None and tolerance is None:
        return
    what = "a measure" if find is not None else "a tolerance"
    names = ", ".join(s.name for s in settings)
    raise InputError(f"expected a measurable property for {what}, got {names}.")


def _solved(
    plant: Plant, z: Tensor, knobs: Sequence[_Knob], asked: Tensor, guess: Array, tolerances: Tensor
) -> tuple[Tensor, Tensor]:
    """What `solve` gives. Where no object shows at the place from which an item starts, there may
    be one at the other: its own code, or where g (for distributions equation 10) takes it."""
    used = [knob.direction for knob in knobs]
    start = _where_distributions_go(z, knobs, guess)
    codes, spent = solve(plant, start, used, asked, guess, tolerances)
    lost = plant(codes).isnan().any(1) & ~asked.isnan().any(1)
    other = place(z, used, guess) if start is z else z
    again, more = solve(plant, other[lost], used, asked[lost], guess[lost.numpy()], tolerances)
    shows = ~plant(again).isnan().any(1, keepdim=True)
    codes[lost], spent[lost] = torch.where(shows, again, z[lost]), spent[lost] + more
    return codes, spent


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
        if self._property and self._property.moved_by:
            raise InputError(
                f"expected a direction of {self.direction.name} calibrated by a measure to move "
                f"{self.setting.name}, got one that is not."
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

    @property
    def amount(self) -> float:
        """How far a shift goes: the short way round where the property is periodic."""
        assert not isinstance(self.setting.value, Mixture)
        return float(self._short(np.array(self.setting.value)))

    def target(self, origin: Tensor, rank: Array) -> Tensor:
        """Values [n] asked for, in the property's unit; a shift's amount where none is measured.

        Of a wanted distribution the quantiles at `rank` [n], uniform under the prior (equation 11).
        """
        value = self.setting.value
        if isinstance(value, Mixture):
            return torch.from_numpy(value.quantile(rank))
        if self.setting.mode != "shift":
            return torch.full_like(origin, value)
        return origin + self.amount if self.measurable else torch.full_like(origin, self.amount)

    def coordinate(self, z: Tensor, origin: Tensor, asked: Tensor) -> Array:
        """Coordinates [n] at which g puts what is asked [n]: open loop, and equation 10."""
        direction = self.direction
        with np.errstate(over="ignore"):
            if self.setting.mode == "shift":
                t = direction.g(direction.coordinate(z)) + self._shift(origin)
            else:
                t = self._from_middle(asked.numpy())
            coordinate = direction.g_inverse(t)
        if not (np.abs(coordinate) <= FARTHEST).all():
            raise InputError(
                f"expected values of {self.setting.name} that its direction can go to, what was "
                f"asked lies over {FARTHEST:g} standard deviations of the prior away."
            )
        return coordinate

    def _shift(self, origin: Tensor) -> Array | float:
        """A shift in the direction's unit; nothing where that depends on an object that is not
        there."""
        prop = self._property
        if prop is None or prop.moved_by is None:
            return self.amount
        change = prop.in_movers_unit(origin + self.amount) - prop.in_movers_unit(origin)
        return change.nan_to_num(0.0).numpy()

    def _from_middle(self, wanted: Array) -> Array:
        """Values [n] less c, in the direction's unit; the short way round where it is periodic."""
        prop = self._property
        value = prop.in_movers_unit(torch.from_numpy(wanted)).numpy() if prop else wanted
        return self._short(value - (self.direction.constant or 0.0))

    def _short(self, difference: Array) -> Array:
        """Differences, the short way round where the property is periodic."""
        prop = self._property
        if prop is None:
            return difference
        return prop.difference(torch.from_numpy(difference), torch.zeros(()).double()).numpy()

    @property
    def _property(self) -> Property | None:
        """What is measured; None where nothing is known by that name."""
        name = self.setting.name
        return properties.get(name) if name in properties else None
