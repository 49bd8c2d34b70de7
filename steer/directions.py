"""A factor as t = g(<u, z>), as it is used and kept (section 2.2 of Plumerault et al. 2020)."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from steer.errors import InputError
from steer.files import Artefact
from steer.generators.base import LatentSpace

#: Knots of g: 101 on [-5, 5], as in the authors' code.
KNOTS = np.linspace(-5, 5, 101)
#: Numbers of a file that are larger, or closer to 0, overflow in what is computed with them.
LARGEST = 1e12
BETWEEN = f"between {1 / LARGEST:g} and {LARGEST:g}"
#: How far the norm of a file's u may be from 1.
OFF_UNIT = 1e-3
#: Characters of a name, which pictures of an evaluation are called by.
LONGEST = 100
Array = NDArray[np.float64]


@dataclass
class Direction:
    """u and g of one factor, and how well they hold.

    `u` [d] has norm 1; `std` is the standard deviation of <u, z> under the prior, in which
    coordinates are counted: 1 for a normal prior. `slopes` [K - 1] are those of g between `knots`
    [K]; g(0) = 0, and beyond the knots g goes on straight. `span` holds the coordinates that the
    fit has seen (its 1 % and 99 % quantiles). `quality` holds the held-out figures. `constant` is
    c, the mean measured value at coordinate 0, and `response` the measured mean and standard
    deviation at each of `alphas` (equal to None until `steer.calibration.calibrate` has filled
    them).

    >>> straight = Direction("translate-x", "width", np.array([0.6, 0.8]), np.full(100, 0.25))
    >>> straight.g(np.array([-6.0, 0.0, 2.0])).tolist()
    [-1.5, 0.0, 0.5]
    >>> straight.g_inverse(0.5).round(6).item()
    2.0
    """

    name: str
    unit: str
    u: Array
    slopes: Array
    span: tuple[float, float] = (-3.0, 3.0)
    quality: dict[str, float] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    find: str | None = None
    constant: float | None = None
    std: float = 1.0
    alphas: Array | None = None
    response: Array | None = None
    made: dict[str, Any] = field(default_factory=dict)
    knots: Array = field(default_factory=lambda: KNOTS)

    @cached_property
    def values(self) -> Array:
        """g at the knots [K]."""
        rising = np.concatenate([[0.0], np.cumsum(self.slopes * np.diff(self.knots))])
        return rising - np.interp(0.0, self.knots, rising)

    def g(self, coordinate: Any) -> Array:
        """t of coordinates <u, z>, any shape (equation 8)."""
        return _extrapolated(np.asarray(coordinate, float), self.knots, self.values, self.slopes)

    def g_inverse(self, t: Any) -> Array:
        """Coordinates at which g is t."""
        t = np.asarray(t, float)
        return _extrapolated(t, self.values, self.knots, 1 / self.slopes)

    def coordinate(self, z: Tensor) -> Array:
        """<u, z> [n] of codes [n, d or more], in standard deviations of the prior."""
        return z[:, : len(self.u)].double().cpu().numpy() @ self.u / self.std

    def check_fits(self, latent: LatentSpace) -> None:
        """InputError where u has more or fewer numbers than codes have."""
        if len(self.u) != latent.dim:
            raise InputError(
                f"expected a direction of {latent.dim} numbers, as the generator's codes have, "
                f"that of {self.name} has {len(self.u)}."
            )

    def spread(self, latent: LatentSpace) -> float:
        """Standard deviation of the coordinate under the prior: 1, but less where `std` is more
        than the true one (`LatentSpace.std_along`). At least 1e-6, so that a density exists.
        InputError as `check_fits` raises it.

        >>> across = Direction("zoom", "log2", np.array([0.6, 0.8]), np.ones(100), std=2.0)
        >>> across.spread(LatentSpace(2))
        0.5
        """
        self.check_fits(latent)
        weight = self.u[None] / self.std
        return max(float(np.sqrt(latent.covariance(weight)[0, 0])), 1e-6)

    def density(self, t: Any, spread: float = 1.0) -> Array:
        """Density of the factor under the prior (equation 6), in which coordinates are normal with
        the standard deviation `spread`: the generator's bias."""
        coordinate = self.g_inverse(t)
        piece = np.clip(np.searchsorted(self.knots, coordinate) - 1, 0, len(self.slopes) - 1)
        return norm.pdf(coordinate, scale=spread) / self.slopes[piece]

    def artefact(self) -> Artefact:
        """The direction as it is saved."""
        arrays = {
            "u": self.u,
            "slopes": self.slopes,
            "knots": self.knots,
            "alphas": self.alphas,
            "response": self.response,
        }
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in arrays.items()
            if array is not None
        }
        made = {**self.made, "generator": self.generator, "direction": self.facts}
        return Artefact("direction", tensors, made)

    @property
    def facts(self) -> dict[str, Any]:
        """All but the arrays."""
        return {
            "name": self.name,
            "unit": self.unit,
            "span": list(self.span),
            "quality": self.quality,
            "find": self.find,
            "constant": self.constant,
            "std": self.std,
        }

    @classmethod
    def of(cls, artefact: Artefact) -> Direction:
        """The direction that an artefact of kind "direction" holds; InputError where it lacks
        what `artefact` writes, or holds what cannot be."""
        try:
            direction = cls._of(artefact)
            wrong = next((check for check in _checks(direction) if not check[0]), None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"expected a direction as fit-direction writes it, something is missing ({error})."
            ) from error
        if wrong:
            name, got = map(reprlib.repr, (direction.name, wrong[2]))
            raise InputError(f"expected a direction with {wrong[1]}, {name} has {got}.")
        return direction

    @classmethod
    def _of(cls, artefact: Artefact) -> Direction:
        facts = dict(artefact.made["direction"])
        arrays: dict[str, Any] = {
            name: (t.double() if t.is_floating_point() else t).numpy()
            for name, t in artefact.tensors.items()
        }
        made = {k: v for k, v in artefact.made.items() if k not in ("generator", "direction")}
        facts["span"] = tuple(facts["span"])
        # JSON has no NaN
        facts["quality"] = {k: np.nan if v is None else v for k, v in facts["quality"].items()}
        return cls(**facts, **arrays, generator=artefact.made["generator"], made=made)


def _checks(d: Direction) -> Iterator[tuple[bool, str, Any]]:
    """Whether something holds, what it is, and what there is in its place; what comes first is
    what the rest relies on."""
    yield _is_name(d.name), f"a printable name of 1 to {LONGEST} characters without /", d.name
    yield isinstance(d.unit, str), "the name of a unit", d.unit
    yield d.find is None or isinstance(d.find, str), "the name of a finder", d.find
    yield d.constant is None or _is_number(d.constant), "a number as constant", d.constant
    yield _is_number(d.std) and d.std * LARGEST > 1, f"a std above 0, {BETWEEN}", d.std
    ends = len(d.span) == 2 and all(map(_is_number, d.span)) and d.span[0] <= d.span[1]
    yield ends, "a span of two numbers in order", d.span
    # NaN stands for a figure that could not be told
    figures = all(_is_number(value) or value != value for value in d.quality.values())
    yield figures, "numbers as its quality", d.quality
    yield isinstance(d.generator, dict), "what its generator is", d.generator
    yield from _array_checks(d)


def _array_checks(d: Direction) -> Iterator[tuple[bool, str, Any]]:
    arrays = {"u": d.u, "slopes": d.slopes, "knots": d.knots, "alphas": d.alphas}
    shapes = {name: list(array.shape) for name, array in arrays.items() if array is not None}
    yield all(len(shape) == 1 for shape in shapes.values()), "one row of numbers in each", shapes
    rows = [*arrays.values(), d.response]
    kinds = {str(array.dtype) for array in rows if array is not None}
    yield kinds == {"float64"}, "arrays of floats", sorted(kinds)
    norm_of_u = float(np.linalg.norm(d.u))
    yield abs(norm_of_u - 1) <= OFF_UNIT, "a u of norm 1", norm_of_u
    lengths = f"{len(d.slopes)} slopes, {len(d.knots)} knots"
    yield len(d.knots) == len(d.slopes) + 1 > 1, "a slope between each two knots", lengths
    rise = np.abs(d.knots).max() < LARGEST and (np.diff(d.knots) > 0).all()
    yield bool(rise), "knots that rise", d.knots.tolist()
    ends = float(d.slopes.min()), float(d.slopes.max())
    yield 1 / LARGEST < ends[0] <= ends[1] < LARGEST, f"slopes above 0, {BETWEEN}", ends
    got = None if d.response is None else d.response.shape
    wanted = None if d.alphas is None else (len(d.alphas), 3)
    yield got == wanted, f"a response of shape {wanted}", got


def _is_name(name: object) -> bool:
    fits = isinstance(name, str) and 0 < len(name.strip()) <= len(name) <= LONGEST
    return fits and str(name).isprintable() and "/" not in str(name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST


def _extrapolated(x: Array, knots: Array, values: Array, slopes: Array) -> Array:
    inside = np.interp(x, knots, values)
    below, above = np.minimum(x - knots[0], 0), np.maximum(x - knots[-1], 0)
    return inside + below * slopes[0] + above * slopes[-1]
