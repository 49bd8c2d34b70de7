"""From trajectories to a calibrated direction that can be kept: what `steer fit-direction` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from steer.directions import Direction, Pairs, fit
from steer.evaluation import calibrate
from steer.files import how_made, load
from steer.generators.base import Generator
from steer.trajectories import Follow, Trajectories, follow
from steer.transforms import transforms


def fit_direction(
    generator: Generator,
    transform: str | Follow,
    trajectories: Trajectories | None = None,
    *,
    starts: int = 64,
    seed: int = 0,
    find: str | None = None,
    samples: int = 256,
    batch: int = 32,
    source: dict[str, Any] | None = None,
    **options: Any,
) -> Direction:
    """The direction of a transform on a generator, calibrated by a measure.

    Without `trajectories` the transform is followed first, from `starts` codes. `options` are those
    of `steer.directions.fit`; `source` is what the direction records of where trajectories came
    from. Raises InputError for a transform that is not known, and where too few starts are left.
    """
    how = transform
    if not isinstance(how, Follow):
        how = Follow(how)
        how = replace(how, search=replace(how.search, seed=seed))
    if trajectories is None:
        trajectories = follow(generator, how, starts, batch=batch)
        source = {**how.facts, "starts": starts}
    warp = transforms.get(how.transform)
    direction = fit(warp.name, warp.unit, Pairs.of(trajectories), seed=seed, **options)
    direction.generator = generator.identity()
    direction = calibrate(generator, direction, find, samples=samples, seed=seed)
    direction.made = how_made(
        "fit-direction", seed=seed, trajectories=source, samples=samples, **options
    )
    return direction


def open_direction(path: str | Path) -> Direction:
    """The direction in a file. Raises InputError where it holds none."""
    return Direction.of(load(path, "direction"))
