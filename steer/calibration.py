"""The measured response of a direction, kept with it (figure 2 of Plumerault et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import circmean, circstd
from torch import Tensor

from steer.batches import drawn
from steer.closed_loop import Plant, place
from steer.directions import Direction
from steer.generators.base import Generator
from steer.measures import Property, properties

#: Coordinates at which the response of a direction is measured.
ALPHAS = np.arange(-3, 3.5, 0.5)
#: A border whose median is under this, in every channel, is black.
BLACK = 0.1
Array = NDArray[np.float64]


def choose_measure(generator: Generator) -> str:
    """The finder that suits a generator: `intensity` where its pictures have black borders.

    Asks the median of the border pixels, channel by channel, on most of 64 pictures; `background`
    finds what differs from the border's colour otherwise.

    >>> from steer.generators import Generator, LatentSpace, PictureShape
    >>> class White(Generator):
    ...     def forward(self, z):
    ...         return torch.ones(len(z), *self.picture)
    >>> choose_measure(White(LatentSpace(2), PictureShape(1, 8, 8)))
    'background'
    """
    black = torch.cat(list(drawn(generator, generator.sample(64), _black_border)))
    return "intensity" if black.float().mean() > 0.5 else "background"


def _black_border(pictures: Tensor) -> Tensor:
    """Whether the border of each of pictures [b, C, H, W] is black."""
    sides = pictures[:, :, [0, -1]].flatten(2), pictures[:, :, 1:-1, [0, -1]].flatten(2)
    return (torch.cat(sides, dim=2).median(dim=2).values < BLACK).all(dim=1)


def calibrate(
    generator: Generator,
    direction: Direction,
    find: str | None = None,
    samples: int = 256,
    seed: int = 0,
    batch: int = 64,
) -> Direction:
    """The direction with its measured response: `find`, `constant`, `alphas` and `response` filled.

    Codes drawn from the prior are placed at each coordinate alpha by z - <z, u> u + alpha u. The
    rows of `response` are the mean, the standard deviation (both circular for a periodic property)
    and the share of pictures in which the property was found, without which alphas are left out.
    `find` is chosen by `choose_measure` where it is None.

    A direction that is not measurable comes back with `find` and `constant` None.

    >>> from steer.generators import Generator, LatentSpace, PictureShape
    >>> class Grey(Generator):
    ...     def forward(self, z):
    ...         return (0.5 + 0.1 * z[:, :1, None, None]).expand(-1, *self.picture)
    >>> lighter = Direction("brightness", "luminance", np.array([1.0, 0.0]), np.full(100, 0.1))
    >>> lighter = calibrate(Grey(LatentSpace(2), PictureShape(1, 8, 8)), lighter, samples=4)
    >>> round(lighter.constant, 2), lighter.alphas[[0, -1]].tolist(), lighter.response[-1].round(2)
    (0.5, [-3.0, 3.0], array([0.8, 0. , 1. ]))
    """
    if direction.name not in properties:
        return replace(direction, find=None, constant=None, alphas=None, response=None)
    plant = Plant(generator, [direction.name], find or choose_measure(generator), batch)
    return calibrated(
        direction, plant, measured_at(plant, generator.sample(samples, seed), direction, ALPHAS)
    )


def calibrated(direction: Direction, plant: Plant, values: Array) -> Direction:
    """The direction with its response from values [A, n] that were measured at ALPHAS."""
    seen = ~np.isnan(values).all(axis=1)
    alphas = ALPHAS[seen]
    response = response_of(properties.get(direction.name), values[seen], alphas)
    at_0 = response[alphas == 0, 0]
    constant = float(at_0[0]) if len(at_0) else None
    used = plant.measure.find.name  # with the checksum of its weights, where it has any
    return replace(direction, find=used, constant=constant, alphas=alphas, response=response)


def measured_at(
    plant: Plant,
    z: Tensor,
    direction: Direction,
    alphas: Sequence | Array,
    report: Callable[[int], None] = lambda done: None,
) -> Array:
    """The measured property [A, n] of codes [n, d] placed at each coordinate; `report` is told how
    many coordinates are done."""
    rows = []
    for done, a in enumerate(alphas, start=1):
        rows.append(plant(place(z, [direction], np.full((len(z), 1), a)))[:, 0])
        report(done)
    return torch.stack(rows).numpy()


def falls(direction: Direction) -> bool:
    """Whether the measured property is less at the last coordinate than at the first: a direction
    that somebody else has signed is not turned round.

    >>> response = np.array([[0.3, 0.1, 1.0], [0.1, 0.1, 1.0]])
    >>> falls(Direction("zoom", "log2", np.ones(1), np.ones(100), response=response))
    True
    """
    response = direction.response
    return response is not None and len(response) > 1 and bool(response[-1, 0] < response[0, 0])


def response_of(prop: Property, values: Array, alphas: Array) -> Array:
    """Mean, standard deviation and share found [A, 3] of values [A, n], each row with some found.

    Means of a periodic property are unwrapped: they go on beyond half a period and do not jump.
    """
    share = 1 - np.isnan(values).mean(axis=1)
    if prop.period is None or not len(alphas):
        return np.stack([np.nanmean(values, axis=1), np.nanstd(values, axis=1), share], axis=1)
    ends = {"high": prop.period / 2, "low": -prop.period / 2, "axis": 1, "nan_policy": "omit"}
    mean = np.unwrap(circmean(values, **ends), period=prop.period)
    mean -= prop.period * np.round(mean[np.abs(alphas).argmin()] / prop.period)
    return np.stack([mean, circstd(values, **ends), share], axis=1)
