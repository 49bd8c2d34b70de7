"""How near control comes to a stated value, and what the move costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.batches import affordable, in_batches
from steer.bench import Bench
from steer.closed_loop import Plant, place, solve
from steer.directions import Direction
from steer.disk import plain
from steer.errors import InputError
from steer.generators.base import Generator
from steer.images import quantise
from steer.knobs import FARTHEST, Status
from steer.losses import Error

Array = NDArray[np.float64]


@dataclass
class Costs:
    """What moves take along, item by item.

    `distance` [n] is how far the coordinate on u went, in standard deviations of the prior.
    `changes` [n] are those of every other property, in its own unit (NaN where it is not found),
    `spread` their standard deviations under the prior. `perceptual` [n] is the distance between the
    pictures before and after, by the name of the network that judged (NaN: not looked at).
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


def accuracy(bench: Bench, direction: Direction, value: float, loop: str) -> Accuracy:
    """The codes of the bench taken to a value of the direction's property, "open" or "closed".

    As `steer.knobs.control` does it, but what the bench has measured is not measured again. Raises
    InputError for a value that the direction does not come near.
    """
    z, plant = bench.z, bench.plant(direction.name)
    asked = torch.full((len(z), 1), value, dtype=torch.float64)
    guess = _guess(plant, direction, asked)
    tolerances = plant.tolerances()
    codes, spent = place(z, [direction], guess), torch.zeros(len(z), dtype=torch.long)
    if loop == "closed":
        codes, spent = solve(plant, z, [direction], asked, guess, tolerances)
    measured = plant(codes)
    error = plant.error(measured, asked)
    status = torch.where(error.abs() <= tolerances, int(Status.REACHED), int(_MISSED[loop]))
    status = torch.where(measured.isnan(), int(Status.NO_OBJECT), status)[:, 0]
    costs = _costs(bench, direction, codes, status == Status.REACHED)
    return Accuracy(
        loop, value, error[:, 0].numpy(), measured[:, 0].numpy(), status.numpy(),
        (spent + 2).numpy(), codes, costs,
    )  # fmt: skip


_MISSED = {"open": Status.OFF, "closed": Status.UNREACHABLE}


def _guess(plant: Plant, direction: Direction, asked: Tensor) -> Array:
    """Coordinates [n, 1] at which g puts values [n, 1]."""
    above = plant.error(asked, torch.full_like(asked, direction.constant or 0.0))
    guess = direction.g_inverse(above.numpy())
    if not (np.abs(guess) <= FARTHEST).all():
        raise InputError(
            f"expected values of {direction.name} that its direction can go to, "
            f"{asked[0].item():g} lies over {FARTHEST:g} standard deviations of the prior away."
        )
    return guess


def _costs(bench: Bench, direction: Direction, codes: Tensor, items: Tensor) -> Costs:
    """What moving to `codes` takes along; pictures are compared for `items` [n] alone."""
    memory, z = bench.memory, bench.z
    distance = np.abs(direction.coordinate(codes) - direction.coordinate(z))
    moves = memory.error(memory(codes), bench.before).T.numpy()
    others = [name for name in bench.names if name != direction.name]
    perceptual = {name: np.full(len(z), np.nan) for name in bench.extractors}
    for name, apart in bench.extractors.items():
        perceptual[name][items] = perceptual_distances(
            memory.generator, z[items], codes[items], apart, memory.batch
        )
    return Costs(
        distance,
        {name: moves[bench.names.index(name)] for name in others},
        {name: float(bench.spread[bench.names.index(name)]) for name in others},
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
