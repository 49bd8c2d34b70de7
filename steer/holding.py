"""One property set while others are held: how much holding takes off what they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer.accuracy import Accuracy, Bench, root_mean_square
from steer.directions import Direction
from steer.disk import plain
from steer.knobs import Setting, Status, control
from steer.measures import properties

#: Holding has done enough where a change is down to this share, or to the property's tolerance.
ENOUGH = 0.1
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Held:
    """Property `held` of a move that sets `name` to `value`.

    `alone` is its root mean square change when nothing is held, `change` when the others are, both
    in its own unit and over the same items: the share `compared` whose own property came to the
    value both ways. `reached` is the share for which all properties came to what was asked.
    """

    name: str
    value: float
    held: str
    alone: float
    change: float
    compared: float
    tolerance: float
    reached: float

    @property
    def enough(self) -> bool:
        """Whether the change is down to a tenth, or to the tolerance, whichever is larger."""
        return self.change <= max(ENOUGH * self.alone, self.tolerance)

    def row(self) -> dict[str, Any]:
        """What tables say; None stands for what no item tells."""
        known = self.compared > 0
        ratio = self.change / self.alone if self.alone else np.nan
        return plain({**vars(self), "ratio": ratio, "enough": self.enough if known else None})


def hold(
    bench: Bench, direction: Direction, alone: Accuracy, others: Mapping[str, Direction]
) -> list[Held]:
    """The closed-loop move `alone` of `direction` again, with the properties of `others` held.

    `others` are directions by the name of their property; one entry for each.
    """
    asked = [Setting(name, "shift", 0.0) for name in others]
    done = control(
        bench.memory.generator,
        bench.z,
        [Setting(direction.name, "set", alone.value), *asked],
        {direction.name: direction, **others},
        exact=True,
        memory=bench.memory,
    )
    names = [direction.name, *others]
    own, *changes = (
        properties.get(name).difference(measured, wanted).numpy()
        for name, measured, wanted in zip(names, done.measured.T, done.asked.T, strict=True)
    )
    both = alone.reached & (np.abs(own) <= properties.get(direction.name).tolerance)
    reached = float((done.status == Status.REACHED).double().mean())
    return [
        Held(direction.name, alone.value, name, *_over(both, alone.costs.changes[name], change),
             properties.get(name).tolerance, reached)
        for name, change in zip(others, changes, strict=True)
    ]  # fmt: skip


def _over(items: NDArray[np.bool_], alone: Array, held: Array) -> tuple[float, float, float]:
    """Root mean square changes of the items for which both are known, and the share of those."""
    items = items & ~np.isnan(alone) & ~np.isnan(held)
    return root_mean_square(alone[items]), root_mean_square(held[items]), float(items.mean())


def middle(values: Sequence[float]) -> list[float]:
    """Two of the values, at a quarter and three quarters of them.

    >>> middle([0.4, 0.0, 0.1, 0.2, 0.3]), middle([0.5])
    ([0.1, 0.3], [0.5])
    """
    ordered = sorted(set(values))
    last = len(ordered) - 1
    return [ordered[i] for i in sorted({round(last / 4), round(3 * last / 4)})]
