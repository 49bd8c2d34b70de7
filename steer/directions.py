"""A factor as t = g(<u, z>), as it is used and kept (section 2.2 of Plumerault et al. 2020)."""

from __future__ import annotations

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

#: Knots of g: 101 on [-5, 5], as in the authors' code.
KNOTS = np.linspace(-5, 5, 101)
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

    def density(self, t: Any) -> Array:
        """Density of the factor under the prior (equation 6): the generator's bias."""
        coordinate = self.g_inverse(t)
        piece = np.searchsorted(self.knots, coordinate) - 1
        return norm.pdf(coordinate) / self.slopes[np.clip(piece, 0, len(self.slopes) - 1)]

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
        what `artefact` writes."""
        try:
            return cls._of(artefact)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"expected a direction as fit-direction writes it, something is missing ({error})."
            ) from error

    @classmethod
    def _of(cls, artefact: Artefact) -> Direction:
        facts = dict(artefact.made["direction"])
        arrays: dict[str, Any] = {name: t.numpy() for name, t in artefact.tensors.items()}
        made = {k: v for k, v in artefact.made.items() if k not in ("generator", "direction")}
        facts["span"] = tuple(facts["span"])
        # JSON has no NaN
        facts["quality"] = {k: np.nan if v is None else v for k, v in facts["quality"].items()}
        return cls(**facts, **arrays, generator=artefact.made["generator"], made=made)


def _extrapolated(x: Array, knots: Array, values: Array, slopes: Array) -> Array:
    inside = np.interp(x, knots, values)
    below, above = np.minimum(x - knots[0], 0), np.maximum(x - knots[-1], 0)
    return inside + below * slopes[0] + above * slopes[-1]
