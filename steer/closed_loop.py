"""Closed-loop search for codes whose measured properties are at exact values, item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from steer.batches import drawn
from steer.directions import Direction
from steer.errors import InputError
from steer.generators.base import Generator
from steer.images import quantise
from steer.measures import Measure

#: Coordinates that are looked through, and the stride of the search for a crossing.
REACH = 4.5
STRIDE = 0.25
#: The search goes on to this share of a property's tolerance.
MARGIN = 0.2
Array = NDArray[np.float64]


def place(z: Tensor, directions: Sequence[Direction], coordinates: Array) -> Tensor:
    """The nearest codes [n, width] whose coordinates on the directions are `coordinates` [n, k].

    For one direction this is z - <z, u> u + alpha u; for several the smallest change in their span.

    >>> u = Direction("translate-x", "width", np.array([1.0, 0.0]), np.full(100, 0.1))
    >>> place(torch.tensor([[5.0, 2.0]]), [u], np.array([[0.5]])).tolist()
    [[0.5, 2.0]]
    """
    if any(len(d.u) > z.shape[1] for d in directions):
        longest = max(len(d.u) for d in directions)
        raise InputError(f"expected codes of {longest} numbers or more, got {list(z.shape)}.")
    # a coordinate counts standard deviations of the prior; what follows z (the class) stays
    basis = torch.from_numpy(np.stack([d.u / d.std for d in directions])).to(z.device)
    basis = pad(basis, (0, z.shape[1] - basis.shape[1]))
    wanted = torch.from_numpy(np.asarray(coordinates, float)).to(z.device)
    change = wanted - z.double() @ basis.T
    return (z.double() + change @ torch.linalg.pinv(basis @ basis.T) @ basis).to(z.dtype)


class Plant:
    """A generator seen through a measure: codes to what the written picture will show."""

    def __init__(self, generator: Generator, names: Sequence[str], find: str, batch: int = 64):
        self.generator, self.batch = generator, batch
        self.measure = Measure(names, find)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """Measured values [n, k] of codes [n, d], on the picture as an 8-bit file holds it."""
        if not len(z):
            return torch.empty(0, len(self.measure.names), dtype=torch.float64)
        return torch.cat(list(drawn(self.generator, z, self.measured, self.batch)))

    def measured(self, pictures: Tensor) -> Tensor:
        """Measured values [b, k] of pictures [b, C, H, W], as an 8-bit file holds them."""
        # a finder with weights works where the pictures are; no other device than CUDA has float64
        seen = quantise(pictures)
        return self.measure(seen if seen.is_cuda else seen.cpu()).cpu()

    def tolerances(self, given: float | Mapping[str, float] | None = None) -> Tensor:
        """What counts as exact [k]: `given` for all, or by name; else each property's own.

        Raises InputError for one number for several units, a name that is not measured here, and
        anything that is not above 0.
        """
        own = {p.name: p.tolerance for p in self.measure.properties}
        if given is not None and not isinstance(given, Mapping):
            units = {p.unit for p in self.measure.properties}
            if len(units) > 1:
                raise InputError(
                    f"expected a tolerance for each of {', '.join(own)}, as their units differ, "
                    f"got {given:g} for all."
                )
            given = dict.fromkeys(own, given)
        for name, value in (given or {}).items():
            if name not in own:
                raise InputError(f"expected a tolerance of {', '.join(own)}, got one of {name}.")
            if not 0 < value < math.inf:
                raise InputError(f"expected a tolerance above 0 for {name}, got {value:g}.")
        own |= given or {}
        return torch.tensor([own[name] for name in self.measure.names], dtype=torch.float64)

    def error(self, measured: Tensor, wanted: Tensor) -> Tensor:
        """Measured minus wanted [n, k], wrapped where a property is periodic."""
        properties = self.measure.properties
        columns = [p.difference(measured[:, j], wanted[:, j]) for j, p in enumerate(properties)]
        return torch.stack(columns, 1)


def solve(
    plant: Plant,
    z: Tensor,
    directions: Sequence[Direction],
    wanted: Tensor,
    guess: Array,
    tolerances: Tensor,
) -> tuple[Tensor, Tensor]:
    """Codes [n, d] nearest in measure to `wanted` [n, k], and forward passes spent [n].

    One direction: the crossing of the measured value nearest to the item's own coordinate is
    bracketed, then narrowed, so the move is the smallest that reaches the value. Several: a damped
    Newton iteration on the measured Jacobian in the span of the directions, from `guess` [n, k].
    Items without an object, and items that get no nearer, stay where they are.
    """
    problem = _Problem(plant, z, directions, wanted, tolerances)
    if len(directions) == 1:
        _bracket(problem)
    else:
        _newton(problem, guess)
    moved = (problem.best != problem.own).any(1) & ~problem.lost
    codes = z.clone()
    codes[moved] = place(z[moved], directions, problem.best[moved].numpy())
    return codes, problem.evaluations


class _Problem:
    """Items on their way to their targets: evaluates coordinates, remembers each item's best."""

    def __init__(
        self,
        plant: Plant,
        z: Tensor,
        directions: Sequence[Direction],
        want: Tensor,
        tolerances: Tensor,
    ):
        self.plant, self.z, self.directions = plant, z, directions
        self.want, self.tolerances = want, tolerances
        self.own = torch.from_numpy(np.stack([d.coordinate(z) for d in directions], 1))
        self.best = self.own.clone()
        self.size = torch.full((len(z),), math.inf, dtype=torch.float64)
        self.evaluations = torch.zeros(len(z), dtype=torch.long)
        self.origin = self.error(torch.arange(len(z)), self.own)
        self.lost = self.origin.isnan().any(1)

    def error(self, items: Tensor, coordinates: Tensor) -> Tensor:
        """Signed errors [b, k] of items [b] at coordinates [b, k], in tolerances."""
        codes = place(self.z[items], self.directions, coordinates.numpy())
        error = self.plant.error(self.plant(codes), self.want[items]) / self.tolerances
        size = error.abs().amax(1).nan_to_num(math.inf)
        self.evaluations.index_add_(0, items, torch.ones_like(items))
        # an item may stand several times in one call: its smallest error is kept
        order = size.argsort(descending=True)
        better = order[size[order] < self.size[items[order]]]
        self.best[items[better]] = coordinates[better]
        self.size[items[better]] = size[better]
        return error

    def change(self, errors: Tensor, before: Tensor) -> Tensor:
        """Differences of errors [b, k], wrapped where a property is periodic."""
        unit = self.tolerances
        return self.plant.error(errors * unit, before * unit) / unit

    @property
    def open(self) -> Tensor:
        """Items [m] that have an object and are not at their target yet."""
        return ((self.size > MARGIN) & ~self.lost).nonzero()[:, 0]


class _Crossings(NamedTuple):
    """Items [m] whose error changes sign between coordinates a and b."""

    items: Tensor
    a: Tensor
    error_a: Tensor
    b: Tensor
    error_b: Tensor

    @property
    def share(self) -> Tensor:
        """Where between a and b a straight line crosses 0."""
        return (self.error_a / (self.error_a - self.error_b)).nan_to_num(0.5)

    def of(self, chosen: Tensor) -> _Crossings:
        """Some of them."""
        return _Crossings(*(column[chosen] for column in self))


def _bracket(problem: _Problem) -> None:
    """One knob: outward from the item's coordinate, stride by stride on both sides, until the error
    changes sign; then narrowed. A change of sign that turns out to be a jump is passed over."""
    own, origin = problem.own[:, 0], problem.origin[:, 0]
    fronts = {side: _Front(own.clone(), own.clone(), origin.clone()) for side in (-1, 1)}
    for _ in range(math.ceil(2 * REACH / STRIDE)):
        left, right = (_advance(problem, side, front) for side, front in fronts.items())
        both = _Crossings(*(torch.cat(pair) for pair in zip(left, right, strict=True)))
        # where both sides cross, the nearer crossing goes first
        far = (both.a + both.share * (both.b - both.a) - own[both.items]).abs()
        nearest = torch.full_like(own, math.inf).scatter_reduce(0, both.items, far, "amin")
        first = far == nearest[both.items]
        _narrow(problem, both.of(first))
        _narrow(problem, both.of(~first))
        if not len(problem.open):
            break


class _Front(NamedTuple):
    """How far the search has come on one side [n]; where it last saw an object; the error there."""

    at: Tensor
    seen: Tensor
    error: Tensor


def _advance(problem: _Problem, side: int, front: _Front) -> _Crossings:
    """One stride further on one side; the changes of sign that it passed."""
    items = problem.open
    ahead = front.at[items] + side * STRIDE
    inside = (ahead.abs() <= REACH) | (ahead.abs() < front.at[items].abs())
    items, ahead = items[inside], ahead[inside]
    error = problem.error(items, ahead[:, None])[:, 0]
    before = front.error[items]
    jump = (error - before).abs() * problem.tolerances[0] > _half_turn(problem)
    crossed = (error * before <= 0) & ~jump
    found = _Crossings(items, front.seen[items], before, ahead, error).of(crossed)
    front.at[items] = ahead
    seen = ~error.isnan()
    front.seen[items[seen]], front.error[items[seen]] = ahead[seen], error[seen]
    return found


def _half_turn(problem: _Problem) -> float:
    """A change of a periodic property beyond which a sign change is its wrap, not a crossing."""
    period = problem.plant.measure.properties[0].period
    return math.inf if period is None else period / 2


def _narrow(problem: _Problem, crossings: _Crossings) -> None:
    """Bracketed root by the Illinois rule, with a bisection every third round."""
    for round_ in range(18):
        crossings = crossings.of(problem.size[crossings.items] > MARGIN)
        items, a, error_a, b, error_b = crossings
        if not len(items):
            return
        share = torch.full_like(a, 0.5) if round_ % 3 == 2 else crossings.share.clamp(0.05, 0.95)
        middle = a + share * (b - a)
        error = problem.error(items, middle[:, None])[:, 0]
        error = torch.where(error.isnan(), error_a, error)
        left = error * error_a <= 0
        # the end that stays counts half from then on, so that it moves in the end
        crossings = _Crossings(
            items,
            torch.where(left, a, middle),
            torch.where(left, error_a / 2, error),
            torch.where(left, middle, b),
            torch.where(left, error, error_b / 2),
        )


def _newton(problem: _Problem, guess: Array, rounds: int = 14) -> None:
    """Several knobs: Levenberg-Marquardt on the measured Jacobian, from where g would go."""
    k = guess.shape[1]
    items = problem.open
    at = torch.from_numpy(guess)[items].clamp(-REACH, REACH)
    error = problem.error(items, at)
    blind = error.isnan().any(1)
    at[blind], error[blind] = problem.own[items][blind], problem.origin[items][blind]
    damping = torch.full((len(items),), 1e-2, dtype=torch.float64)
    for _ in range(rounds):
        still = problem.size[items] > MARGIN
        items, at, error, damping = items[still], at[still], error[still], damping[still]
        if not len(items):
            return
        jacobian = _jacobian(problem, items, at, error)
        gram = jacobian.mT @ jacobian
        scale = torch.diagonal(gram, dim1=1, dim2=2).amax(1)
        damped = gram + (damping * scale + 1e-12)[:, None, None] * torch.eye(k, dtype=gram.dtype)
        step = torch.linalg.solve(damped, (jacobian.mT @ error[:, :, None]))[:, :, 0]
        trial = (at - step.clamp(-1, 1)).clamp(-REACH, REACH)
        found = problem.error(items, trial)
        better = found.norm(dim=1) < error.norm(dim=1)
        at = torch.where(better[:, None], trial, at)
        error = torch.where(better[:, None], found, error)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-6, 1e3)


def _jacobian(problem: _Problem, items: Tensor, at: Tensor, error: Tensor) -> Tensor:
    """Change of each error per unit of each coordinate [b, k, k], by forward differences."""
    k, h = at.shape[1], 0.1
    steps = h * torch.eye(k, dtype=at.dtype)
    ahead = (at[:, None, :] + steps).reshape(-1, k)
    change = problem.change(
        problem.error(items.repeat_interleave(k), ahead), error.repeat_interleave(k, 0)
    )
    return (change.reshape(-1, k, k) / h).nan_to_num(0.0).mT
