"""Ways to find one direction, judged on the same codes at the same values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from steer.accuracy import root_mean_square
from steer.calibration import ALPHAS
from steer.directions import Direction
from steer.errors import InputError
from steer.evaluation import Evaluation, Measured, evaluate
from steer.fitting import fit_direction
from steer.generators.base import Generator
from steer.knobs import Status
from steer.measures import others
from steer.registry import unknown
from steer.rivals import Seen, fit_seen, look, methods
from steer.trajectories import Follow

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A method's direction and how it does.

    `r2` is that of g on held-out codes: of trajectories by `trajectory`, of values measured along
    their own line by the others, so that it compares no methods; the errors do. `open` and `closed`
    are the root mean square of the measured value less the one asked for (closed: where it was
    reached, a share `reached` of the items; `unreachable` and `no_object` are the others'), and
    `distance` the mean length of the move along u that reached it, in standard deviations of the
    prior. `std` is that of the measured value at one coordinate. `leakage` is the mean over the
    other properties (`steer.measures.others`) of a ratio: the root mean square move of each, in its
    standard deviations of the prior, over that of this property in its own. `seconds` and
    `evaluations` are time and pictures to find the direction.
    """

    method: str
    direction: Direction
    measured: Measured
    r2: float
    open: float
    closed: float
    reached: float
    unreachable: float
    no_object: float
    distance: float
    std: float
    leakage: float
    seconds: float
    evaluations: int

    @property
    def row(self) -> dict[str, float | str]:
        """All that fits in a table, by name."""
        left_out = ("direction", "measured")
        return {name: value for name, value in vars(self).items() if name not in left_out}


def known_methods() -> list[str]:
    """What `compare` knows: `trajectory`, and the names of `methods`."""
    return ["trajectory", *methods.names()]


def require_methods(names: Sequence[str]) -> None:
    """InputError for a name that is not of `known_methods`."""
    for name in names:
        if name not in known_methods():
            raise unknown("method", name, known_methods())


def compare(
    generator: Generator,
    names: Sequence[str],
    transform: str,
    *,
    starts: int = 64,
    samples: int = 256,
    judged_on: int = 64,
    values: Sequence[float] | None = None,
    find: str | None = None,
    seed: int = 0,
    batch: int = 64,
    keep: Callable[[str, Direction], None] = lambda name, direction: None,
    report: Callable[[float, str], None] = lambda done, what: None,
) -> list[Compared]:
    """The direction of a transform by `trajectory` and by methods of `methods`, all judged on
    `judged_on` codes that they were not found with, and on the same `values`: by default five over
    the middle 95 % of what is measured on codes of the prior.

    `keep` is given each direction when it is found, and `report` told how many are found and judged
    out of twice the number of methods. What the methods measure in common is measured once, and
    counted for each that uses it.

    Raises InputError for a property that is not measurable, and what finding it raises.
    """
    require_methods(names)
    with _counted(generator) as common:
        seen = look(generator, transform, find=find, samples=samples, seed=seed, batch=batch)
    find = find or seen.plant.measure.find.name
    found, costs = [], []
    for done, name in enumerate(names):
        report(done, name)
        with _counted(generator) as cost:
            if name == "trajectory":
                direction = fit_direction(
                    generator, transform,
                    starts=starts, find=find, samples=samples, seed=seed, batch=batch,
                )  # fmt: skip
            else:
                direction = fit_seen(
                    seen, name, Follow(transform), seed,
                    lambda at, done=done, name=name: report(done + at / len(ALPHAS), name),  # type: ignore[misc]
                )  # fmt: skip
                cost.pictures += common.pictures
                cost.seconds += common.seconds
        keep(name, direction)
        found.append(direction)
        costs.append(cost)
    judged = evaluate(
        generator, found,
        samples=judged_on, values=_asked(seen) if values is None else values,
        seed=seed + 1, batch=batch, report=lambda done, _: report(len(names) + done, "judging"),
    )  # fmt: skip
    return [_compared(name, judged, i, costs[i]) for i, name in enumerate(names)]


def _asked(seen: Seen, count: int = 5) -> list[float]:
    """Values over the middle 95 % of what was measured."""
    low, high = np.nanquantile(seen.values, [0.025, 0.975])
    return np.linspace(low, high, count).tolist()


def _compared(method: str, judged: Evaluation, i: int, cost: _Cost) -> Compared:
    direction, measured = judged.directions[i], judged.measured[i]
    if measured is None:
        raise InputError(
            f"expected {direction.name} to be found at coordinate 0 of {method}, it never is."
        )
    closed = [one for one in measured.accuracy if one.loop == "closed"]
    relative = dict(zip(judged.names, judged.relative[i], strict=True))
    besides = [relative[n] for n in others(judged.names, direction.name)]

    def share(status: Status) -> float:
        return float(np.mean([one.share(status) for one in closed]))

    def where_reached(what: str) -> Array:
        return np.concatenate([getattr(one, what)[one.reached] for one in closed])

    distance = where_reached("distance")
    missed = [one.error for one in measured.accuracy if one.loop == "open"]
    return Compared(
        method,
        direction,
        measured,
        r2=direction.quality["held_out_r2"],
        open=root_mean_square(np.concatenate(missed)),
        closed=root_mean_square(where_reached("error")),
        reached=share(Status.REACHED),
        unreachable=share(Status.UNREACHABLE),
        no_object=share(Status.NO_OBJECT),
        distance=float(distance.mean()) if len(distance) else np.nan,
        std=float(np.nanmean(measured.response[:, 1])),
        leakage=float(np.nanmean(besides) / relative[direction.name]),
        seconds=cost.seconds,
        evaluations=cost.pictures,
    )


@dataclass
class _Cost:
    """Pictures that a generator made, and seconds that passed."""

    pictures: int = 0
    seconds: float = 0.0


@contextmanager
def _counted(generator: Generator) -> Iterator[_Cost]:
    """What the block costs."""
    cost, start = _Cost(), time.perf_counter()

    def count(module: nn.Module, arguments: tuple, pictures: Tensor) -> None:
        cost.pictures += len(pictures)

    hook = generator.register_forward_hook(count)
    try:
        yield cost
    finally:
        hook.remove()
        cost.seconds += time.perf_counter() - start
