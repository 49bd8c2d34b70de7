"""How near control comes to a stated value, and what the move costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.batches import affordable, in_batches
from steer.calibration import response_of
from steer.closed_loop import Plant
from steer.directions import Direction
from steer.disk import plain
from steer.generators.base import Generator
from steer.images import quantise
from steer.knobs import Setting, Status, control
from steer.losses import Error
from steer.measures import others
from steer.memory import Memory

Array = NDArray[np.float64]


@dataclass
class Costs:
    """What moves take along, item by item.

    `distance` [n] is how far the coordinate on u went, in standard deviations of the prior.
    `changes` [n] are those of every other property (`steer.measures.others`), in its own unit (NaN
    where it is not found), `spread` their standard deviations under the prior. `perceptual` [n] is
    the distance between the pictures before and after, by the name of the network that judged (NaN:
    not looked at).
    """

    distance: Array
    changes: dict[str, Array]
    spread: dict[str, float]
    perceptual: dict[str, Array]

    def row(self, items: NDArray[np.bool_]) -> dict[str, Any]:
        """The costs of some of the items: means, and root mean squares of changes."""
        moved = {name: root_mean_square(change[items]) for name, change in self.changes.items()}
        return plain({
            "distance": _mean(self.distance[items]),
            "changes": {
                name: {"rms": rms, "relative": rms / self.spread[name]}
                for name, rms in moved.items()
            },
            "perceptual": {name: _mean(far[items]) for name, far in self.perceptual.items()},
        })  # fmt: skip


@dataclass
class Accuracy:
    """How near the measured property came to a stated value.

    `measured` [n], NaN where no object is found, `status` [n] (`steer.knobs.Status`), `evaluations`
    [n] in forward passes that `steer.knobs.control` takes, `z` [n, width] the codes after the move.
    """

    loop: str
    value: float
    error: Array
    measured: Array
    status: NDArray[np.int64]
    evaluations: NDArray[np.int64]
    z: Tensor
    costs: Costs

    def share(self, status: Status) -> float:
        """The share of the items that ended so."""
        return float((self.status == status).mean())

    @property
    def reached(self) -> NDArray[np.bool_]:
        """Which items [n] reached the value."""
        return self.status == Status.REACHED

    @property
    def distance(self) -> Array:
        """How far the coordinate on u went [n], in standard deviations of the prior."""
        return self.costs.distance

    @property
    def failed(self) -> list[tuple[int, float]]:
        """Items that did not reach the value: index and nearest value (NaN: no object)."""
        return [(int(item), float(self.measured[item])) for item in np.flatnonzero(~self.reached)]

    def row(self) -> dict[str, Any]:
        """What tables say: `rms` is over the items with an object; `rms_reached` and the costs are
        over those that reached the value, None where none did."""
        return plain({
            "loop": self.loop,
            "value": self.value,
            "rms": root_mean_square(self.error),
            "rms_reached": root_mean_square(self.error[self.reached]),
            **{status.name.lower(): self.share(status) for status in Status},
            "evaluations": self.evaluations.mean(),
            **self.costs.row(self.reached),
            "failed": self.failed,
        })  # fmt: skip


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
        self.z, self.extractors = z, dict(extractors or {})
        self.before = self.memory(z)

    def plant(self, name: str) -> Plant:
        """What measures one property; InputError for one that is not there."""
        return self.memory.of([name])

    def forget(self) -> None:
        """Forget all codes but `z`."""
        self.memory.forget(but=self.z)

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


def accuracy(bench: Bench, direction: Direction, value: float, loop: str) -> Accuracy:
    """The codes of the bench taken to a value of the direction's property, "open" or "closed".

    Raises InputError for a value that the direction does not come near.
    """
    name = direction.name
    done = control(
        bench.memory.generator,
        bench.z,
        [Setting(name, "set", value)],
        {name: direction},
        exact=loop == "closed",
        memory=bench.memory,
    )
    error = bench.plant(name).error(done.measured, done.asked)[:, 0].numpy()
    costs = _costs(bench, direction, done.z, done.status == Status.REACHED)
    return Accuracy(
        loop, value, error, done.measured[:, 0].numpy(), done.status.numpy(),
        done.evaluations.numpy(), done.z, costs,
    )  # fmt: skip


def _costs(bench: Bench, direction: Direction, codes: Tensor, items: Tensor) -> Costs:
    """What moving to `codes` takes along; pictures are compared for `items` [n] alone."""
    memory, z = bench.memory, bench.z
    distance = np.abs(direction.coordinate(codes) - direction.coordinate(z))
    moves = memory.error(memory(codes), bench.before).T.numpy()
    besides = others(bench.names, direction.name)
    perceptual = {name: np.full(len(z), np.nan) for name in bench.extractors}
    for name, apart in bench.extractors.items():
        perceptual[name][items] = perceptual_distances(
            memory.generator, z[items], codes[items], apart, memory.batch
        )
    return Costs(
        distance,
        {name: moves[bench.names.index(name)] for name in besides},
        {name: float(bench.spread[bench.names.index(name)]) for name in besides},
        perceptual,
    )


@torch.no_grad()
def perceptual_distances(
    generator: Generator, before: Tensor, after: Tensor, distance: Error, batch: int = 64
) -> Array:
    """Distances [n] between the pictures of codes [n, width] before and after, in 8 bits."""

    def apart(items: range) -> Tensor:
        part = slice(items.start, items.stop)
        a, b = (quantise(generator(z[part].to(generator.device))) for z in (before, after))
        return distance(a, b, None).double().cpu()

    size = affordable(generator, batch, copies=2)
    found = list(in_batches(apart, len(before), size))
    return torch.cat(found).numpy() if found else np.empty(0)


def root_mean_square(error: Array) -> float:
    """Of the values that are not NaN; NaN where there is none."""
    error = error[~np.isnan(error)]
    return float(np.sqrt(np.mean(error**2))) if len(error) else math.nan


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan
