"""Wanted distributions of a factor, as text: `uniform(-0.3, 0.3)`, mixtures joined by `+`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from steer.errors import InputError
from steer.registry import unknown

Array = NDArray[np.float64]
#: Name to parameters and maker.
SHAPES = {
    "uniform": ("low, high", lambda low, high: stats.uniform(low, high - low)),
    "normal": ("mean, sd", stats.norm),
    "triangular": (
        "low, mode, high",
        lambda low, mode, high: stats.triang((mode - low) / (high - low), low, high - low),
    ),
}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
TERM = re.compile(rf"\s*(?:({NUMBER})\s*\*\s*)?([a-z]+)\s*\(([^()]*)\)\s*")


@dataclass(frozen=True)
class Mixture:
    """Weighted sum of distributions with a quantile function.

    >>> both = parse_distribution("0.5*normal(-0.2, 0.01) + 0.5*normal(0.2, 0.01)")
    >>> both.quantile([0.25, 0.75]).round(3).tolist()
    [-0.2, 0.2]
    """

    weights: tuple[float, ...]
    parts: tuple[Any, ...]

    def cdf(self, x: Any) -> Array:
        """Cumulative probability of values, any shape."""
        return sum(
            w * p.cdf(np.asarray(x, float)) for w, p in zip(self.weights, self.parts, strict=True)
        )

    def quantile(self, probability: Any) -> Array:
        """Values below which a probability lies, any shape."""
        if len(self.parts) == 1:
            return self.parts[0].ppf(probability)
        grid, cumulative = self._table
        return np.interp(probability, cumulative, grid)

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        # each part's own quantiles, so that a narrow part far from a wide one is resolved too
        share = np.clip(np.linspace(0, 1, 10001), 1e-9, 1 - 1e-9)
        grid = np.unique(np.concatenate([part.ppf(share) for part in self.parts]))
        return grid, self.cdf(grid)


def parse_distribution(text: str) -> Mixture:
    """The distribution that `text` names.

    Raises InputError for unknown names, parameters that make no distribution, and bad syntax.
    """
    terms, at = [], 0
    while at < len(text):
        found = TERM.match(text, at)
        if not found:
            break
        terms.append(found.groups())
        at = found.end()
        if at < len(text) and text[at] == "+":
            at += 1
            continue
        break
    if not terms or at < len(text) or text.rstrip().endswith("+"):
        raise InputError(
            f"expected a distribution such as uniform(-0.3, 0.3) or 0.5*normal(-0.2, 0.05) + "
            f"0.5*normal(0.2, 0.05), got {text!r}."
        )
    weights = np.array([float(weight or 1) for weight, _, _ in terms])
    if not (weights > 0).all() or not np.isfinite(weights.sum()):
        raise InputError(f"expected finite weights above 0 in the distribution {text!r}.")
    parts = tuple(_part(name, numbers, text) for _, name, numbers in terms)
    return Mixture(tuple(weights / weights.sum()), parts)


def _part(name: str, numbers: str, text: str) -> Any:
    if name not in SHAPES:
        raise unknown("distribution", name, SHAPES)
    signature, make = SHAPES[name]
    fields = [field.strip() for field in numbers.split(",")]
    wanted = len(signature.split(","))
    if len(fields) != wanted or not all(re.fullmatch(NUMBER, field) for field in fields):
        raise InputError(f"expected {name}({signature}), got {name}({numbers}) in {text!r}.")
    values = [float(field) for field in fields]
    with np.errstate(all="ignore"):
        part = make(*values) if name == "normal" or values[0] < values[-1] else None
        exists = part is not None and np.isfinite(part.ppf(0.5))
    if not exists:
        raise InputError(f"{name}({numbers}) is no distribution: expected {signature} in order.")
    return part
