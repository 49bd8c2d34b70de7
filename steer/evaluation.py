"""What a direction does to measured pictures (section 3.1 of Plumerault et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ks_1samp, norm
from torch import Tensor

from steer.accuracy import Accuracy, Bench, accuracy, root_mean_square
from steer.calibration import ALPHAS, calibrate, choose_measure, measured_at, response_of
from steer.closed_loop import place
from steer.directions import Direction
from steer.disk import plain
from steer.distributions import Mixture, parse_distribution
from steer.errors import InputError
from steer.generators.base import Generator, LatentSpace
from steer.holding import Held, hold, middle
from steer.losses import Error, perceptual
from steer.measures import Measure, Property, properties

__all__ = ["Accuracy", "Evaluation", "Held", "Measured", "evaluate", "root_mean_square"]

#: Quantiles that are reported of every measured distribution.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Half of the difference of coordinates over which leakage is measured.
STEP = 0.25
Array = NDArray[np.float64]
Report = Callable[[float, float], None]


@dataclass
class Measured:
    """What one measurable direction does to its own property.

    `values` [A, n] are measured at each of `alphas` [A], `prior` [n] before the codes are placed
    (NaN: not found; a periodic property is within half a period of c). `ks` is the distance of
    `prior` from g(N(0, spread^2)) + c, `spread` that of the coordinate; `accuracy` has one entry
    for each stated value and loop.
    """

    direction: Direction
    alphas: Array
    values: Array
    prior: Array
    ks: float
    spread: float = 1.0
    accuracy: list[Accuracy] = field(default_factory=list)

    @property
    def factor(self) -> Property:
        """The property that is measured."""
        return properties.get(self.direction.name)

    @property
    def response(self) -> Array:
        """Mean, standard deviation and share found [A, 3]; NaN where nothing is found."""
        seen = ~np.isnan(self.values).all(axis=1)
        response = np.zeros((len(self.alphas), 3))
        response[:, :2] = np.nan
        response[seen] = response_of(self.factor, self.values[seen], self.alphas[seen])
        return response

    def unwrapped(self) -> Array:
        """`values`, those of a periodic property within half a period of their row's mean."""
        mean = self.response[:, :1]
        return mean + self.factor.difference(*map(torch.from_numpy, (self.values, mean))).numpy()

    @property
    def monotone(self) -> bool:
        """Whether the mean rises from each alpha to the next. A fall is said, never reversed."""
        mean = self.response[:, 0]
        return bool((np.diff(mean[~np.isnan(mean)]) > 0).all())

    def density(self, values: Any) -> Array:
        """Modelled density of measured values under the prior (equation 6)."""
        above = np.asarray(values, float) - self.direction.constant
        return self.direction.density(above, self.spread)

    def cumulative(self, values: Any) -> Array:
        """Modelled share of the prior under measured values: Phi(g^-1(value - c))."""
        above = np.asarray(values, float) - self.direction.constant
        return norm.cdf(self.direction.g_inverse(above), scale=self.spread)

    def histogram(self, bins: int = 20) -> list[dict[str, float]]:
        """Densities of the property under the prior, as measured and as modelled, bin by bin."""
        found = self.prior[~np.isnan(self.prior)]
        counted, edges = np.histogram(found, bins, density=True)
        modelled = np.diff(self.cumulative(edges)) / np.diff(edges)
        return [
            {"from": float(a), "to": float(b), "measured": float(c), "modelled": float(m)}
            for a, b, c, m in zip(edges[:-1], edges[1:], counted, modelled, strict=True)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The distribution at each alpha."""
        quantiles = [_quantiles(row) for row in self.unwrapped()]
        return [
            plain({"alpha": a, "mean": m, "std": s, "found": f, **q})
            for a, (m, s, f), q in zip(self.alphas, self.response, quantiles, strict=True)
        ]


@dataclass
class Evaluation:
    """Directions measured on one generator.

    `measured` has one entry for each of `directions`, None where it is not measurable. `leakage`
    [D, P] is how much each direction moves each property of `names` per unit of its own t;
    `leakage_rms` [D, P] is the root mean square of that over the items, in which moves of both
    signs do not cancel, and `relative` [D, P] the same with t and the property counted in their
    standard deviations under the prior. `norms` are the squared norms of u in each part of a
    hierarchical code, `z` [n, width] the codes that all of it was measured on, `held` what moves
    with other properties held came to, where that was asked.
    """

    directions: list[Direction]
    measured: list[Measured | None]
    names: list[str]
    leakage: Array
    leakage_rms: Array
    relative: Array
    norms: list[dict[str, float]]
    z: Tensor
    held: list[list[Held]] = field(default_factory=list)

    def table(self) -> list[dict[str, Any]]:
        """One row of plain values for each direction; None stands for what cannot be measured."""
        return [self._row(i) for i in range(len(self.directions))]

    def _row(self, i: int) -> dict[str, Any]:
        direction, measured = self.directions[i], self.measured[i]
        kinds = {"mean": self.leakage, "rms": self.leakage_rms, "relative": self.relative}
        return {
            "direction": direction.name,
            "unit": direction.unit,
            "find": direction.find,
            "constant": direction.constant,
            "quality": direction.quality,
            "monotone": measured.monotone if measured else None,
            "ks": measured.ks if measured else None,
            "response": measured.rows() if measured else [],
            "density": measured.histogram() if measured else [],
            "accuracy": [one.row() for one in measured.accuracy] if measured else [],
            "leakage": {
                name: {kind: plain(moves[i, j]) for kind, moves in kinds.items()}
                for j, name in enumerate(self.names)
            },
            "norms": self.norms[i],
            "held": [one.row() for one in self.held[i]] if self.held else [],
        }


def evaluate(
    generator: Generator,
    directions: Sequence[Direction],
    find: str | None = None,
    *,
    samples: int = 256,
    values: Sequence[float] | None = None,
    seed: int = 1,
    batch: int = 64,
    exact: bool = True,
    backbone: str | None = None,
    held: bool = False,
    report: Report = lambda done, error: None,
) -> Evaluation:
    """Measure what directions do, on codes drawn from the prior.

    A direction that has not been calibrated with `find` (None: its own) is calibrated first.
    Control is tried at `values` of every direction's property, or at 5 over the range that 95 % of
    the prior covers; without `exact` in open loop only. With `backbone` (`steer.losses.perceptual`)
    the pictures before and after are compared too. `held` takes each direction to two of its values
    again with the properties of the others held, which costs more than all the rest. `report` is
    told how many directions are done, counted again when they are held, with the share of the
    current one, and the last root mean square error of control.

    Raises InputError for `values` of a direction that is not measurable, for `held` without two
    measurable directions or without `exact`, and as `steer.losses.perceptual` does.

    >>> from steer.generators import Generator, LatentSpace, PictureShape
    >>> class Grey(Generator):
    ...     def forward(self, z):
    ...         return (0.5 + 0.1 * z[:, :1, None, None]).expand(-1, *self.picture)
    >>> lighter = Direction("brightness", "luminance", np.array([1.0, 0.0]), np.full(100, 0.1))
    >>> found = evaluate(Grey(LatentSpace(2), PictureShape(1, 8, 8)), [lighter], samples=8)
    >>> row = found.table()[0]
    >>> row["monotone"], round(row["leakage"]["brightness"]["mean"], 1)
    (True, 1.0)
    """
    _refuse_values_of_unmeasurable(directions, values)
    if held:
        _refuse_to_hold(directions, exact)
    extractors = _extractors(generator, backbone)
    z = generator.sample(samples, seed)
    names = measurable(generator)
    benches: dict[str, Bench] = {}
    ready, measured, leakage, used = [], [], [], []
    for i, direction in enumerate(directions):

        def said(share: float, error: float, i: int = i) -> None:
            report(i + share, error)

        direction, seeing = _ready(generator, direction, find, samples, batch)
        if seeing not in benches:
            benches[seeing] = Bench(generator, z, names, seeing, batch, extractors)
        bench = benches[seeing]
        ready.append(direction)
        used.append(bench)
        measured.append(_measure(bench, direction, values, exact, said))
        leakage.append(_leakage(bench, direction))
        bench.forget()
        report(i + 1, np.nan)
    norms = [part_norms(direction, generator.latent) for direction in ready]
    mean, rms, relative = np.stack(leakage, axis=1)
    found = Evaluation(ready, measured, names, mean, rms, relative, norms, z)
    if held:
        found.held = _hold(found, used, report)
    return found


def _extractors(generator: Generator, backbone: str | None) -> dict[str, Error]:
    """The perceptual distance of a backbone by its name, or nothing."""
    if backbone is None:
        return {}
    distance = perceptual(generator.picture.height, generator.device, backbone)
    return {distance.name: distance}


def _refuse_to_hold(directions: Sequence[Direction], exact: bool) -> None:
    there = sorted({d.name for d in directions if d.name in properties})
    if not exact or len(there) < 2:
        raise InputError(
            "expected directions of two or more measurable properties, in closed loop, to hold "
            f"some while others move, got {', '.join(there) or 'none'}"
            f"{'' if exact else ' in open loop'}."
        )


def _hold(found: Evaluation, benches: Sequence[Bench], report: Report) -> list[list[Held]]:
    """For each direction two of its moves again, with the properties of the others held."""
    known = {m.direction.name: m.direction for m in found.measured if m}
    results: list[list[Held]] = []
    for i, measured in enumerate(found.measured):
        results.append(_held(measured, benches[i], known) if measured else [])
        report(len(found.directions) + i + 1, np.nan)
    return results


def _held(measured: Measured, bench: Bench, known: Mapping[str, Direction]) -> list[Held]:
    direction = measured.direction
    others = {name: d for name, d in known.items() if name != direction.name}
    closed = {one.value: one for one in measured.accuracy if one.loop == "closed"}
    return [
        held
        for value in middle(list(closed))
        for held in hold(bench, direction, closed[value], others)
    ]


def _refuse_values_of_unmeasurable(
    directions: Sequence[Direction], values: Sequence[float] | None
) -> None:
    unmeasurable = [d.name for d in directions if d.name not in properties]
    if values is not None and unmeasurable:
        raise InputError(
            f"expected values for measurable directions alone, got {', '.join(unmeasurable)}; "
            f"measurable are {', '.join(properties.names())}."
        )


def measurable(generator: Generator) -> list[str]:
    """Properties that the generator's pictures can have: grey ones have no colour."""
    grey = torch.zeros(1, *generator.picture)

    def fits(name: str) -> bool:
        try:
            Measure([name])(grey)
        except InputError:
            return False
        return True

    return [name for name in properties.names() if fits(name)]


def part_norms(direction: Direction, latent: LatentSpace) -> dict[str, float]:
    """Squared norm of u in each part of a hierarchical code; they add up to 1.

    >>> direction = Direction("zoom", "log2", np.array([0.6, 0.0, 0.8]), np.ones(100))
    >>> part_norms(direction, LatentSpace(3, {"coarse": 1, "fine": 2}))
    {'coarse': 0.36, 'fine': 0.64...}
    """
    ends = np.cumsum(list(latent.parts.values())).tolist()
    return {
        name: float(np.sum(direction.u[end - length : end] ** 2))
        for (name, length), end in zip(latent.parts.items(), ends, strict=True)
    }


def ks_distance(values: Any, distribution: Mixture) -> float:
    """Kolmogorov-Smirnov distance of values (NaN left out) from a distribution: 0 to 1.

    >>> round(ks_distance([0.25, 0.75, np.nan], parse_distribution("uniform(0, 1)")), 6)
    0.25
    """
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        raise InputError("expected measured values to compare with a distribution, got none.")
    return float(ks_1samp(values, distribution.cdf, method="asymp").statistic)


def _ready(
    generator: Generator, direction: Direction, find: str | None, samples: int, batch: int
) -> tuple[Direction, str]:
    """The direction, calibrated with the finder that is asked for, and that finder."""
    find = find or direction.find or choose_measure(generator)
    if direction.constant is None or direction.find != find:
        direction = calibrate(generator, direction, find, samples, batch=batch)
    return direction, find


def _measure(
    bench: Bench,
    direction: Direction,
    values: Sequence[float] | None,
    exact: bool,
    report: Report,
) -> Measured | None:
    """The direction's own property: at each alpha, under the prior, and at stated values."""
    if direction.constant is None or direction.find is None:
        return None
    plant = bench.plant(direction.name)
    at_alphas = measured_at(plant, bench.z, direction, ALPHAS)
    prior = plant(bench.z)
    above = plant.error(prior, torch.full_like(prior, direction.constant))[:, 0].numpy()
    # distances of distributions do not change when both go through g^-1 and Phi
    spread = direction.spread(plant.generator.latent)
    shares = norm.cdf(direction.g_inverse(above), scale=spread)
    ks = ks_distance(shares, parse_distribution("uniform(0, 1)"))
    found = Measured(direction, ALPHAS, at_alphas, direction.constant + above, ks, spread)
    values = list(values or _covered(found))
    loops = ("open", "closed") if exact else ("open",)
    for i, (value, loop) in enumerate((v, loop) for v in values for loop in loops):
        found.accuracy.append(accuracy(bench, direction, float(value), loop))
        rms = root_mean_square(found.accuracy[-1].error)
        report((i + 1) / (1 + len(values) * len(loops)), rms)
    return found


def _covered(found: Measured, count: int = 5) -> list[float]:
    """Values over the range of the mean response within 2 of coordinate 0, to a hundredth of the
    steps between them."""
    mean = found.response[np.abs(found.alphas) <= 2, 0]
    values, step = np.linspace(np.nanmin(mean), np.nanmax(mean), count, retstep=True)
    digits = 2 - math.floor(math.log10(step)) if step else 6
    return (np.round(values, digits) + 0.0).tolist()  # + 0.0: 0 has no minus


def _leakage(bench: Bench, direction: Direction) -> Array:
    """Moves of every property per unit of t [3, P]: mean, root mean square, and that relative to
    the standard deviations under the prior.

    Central differences over `2 * STEP` of the coordinate around each item's own. Items count by the
    square of their change of t (least squares through 0), so that those where g is flat, whose t
    hardly changes, do not drown the others.
    """
    z, memory = bench.z, bench.memory
    own = direction.coordinate(z)[:, None]
    ahead, behind = (memory(place(z, [direction], own + side * STEP)) for side in (1, -1))
    moves = memory.error(ahead, behind).numpy()
    change = direction.g(own + STEP) - direction.g(own - STEP)
    weight = np.where(np.isnan(moves), 0.0, change**2)
    slope = np.where(np.isnan(moves), 0.0, moves) / change
    total = np.where(weight.any(axis=0), weight.sum(axis=0), np.nan)
    mean, rms = (weight * slope).sum(0) / total, np.sqrt((weight * slope**2).sum(0) / total)
    return np.stack([mean, rms, rms * direction.g(own).std() / bench.spread])


def _quantiles(values: Array) -> dict[str, float]:
    found = values[~np.isnan(values)]
    numbers = np.quantile(found, QUANTILES) if len(found) else [np.nan] * len(QUANTILES)
    return {f"q{100 * q:02.0f}": float(x) for q, x in zip(QUANTILES, numbers, strict=True)}
