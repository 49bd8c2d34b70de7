"""From trajectories to a calibrated direction that can be kept: what `steer fit-direction` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from steer.calibration import calibrate
from steer.directions import Direction
from steer.errors import InputError
from steer.files import how_made, load
from steer.generators.base import Generator
from steer.measures import finder_factory
from steer.regression import LEAST_STARTS, Pairs, check_fit, fit
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
    report: Callable[[int, float], None] = lambda done, error: None,
    **options: Any,
) -> Direction:
    """The direction of a transform on a generator, calibrated by a measure.

    Without `trajectories` the transform is followed first, from `starts` codes, and `report` told
    as by `steer.trajectories.follow`. `options` are those of `steer.regression.fit`; `source` is
    what the direction records of where trajectories came from.

    Raises InputError, before any work, for a transform or measure that is not known, too few starts
    and options that cannot be; after it, where too few starts are left.
    """
    check_fit(**options)
    if find is not None:
        finder_factory(find)
    how = transform if isinstance(transform, Follow) else _seeded(transform, seed)
    if trajectories is None:
        _require_enough(starts, how.transform)
        trajectories = follow(generator, how, starts, batch=batch, report=report)
        source = {**how.settled(generator).facts, "starts": starts}
    warp = transforms.get(how.transform)
    space = generator.latent
    pairs = Pairs.of(trajectories, space.dim)
    direction = fit(warp.name, warp.unit, pairs, seed=seed, space=space, **options)
    direction.generator = generator.identity()
    direction = calibrate(generator, direction, find, samples=samples, seed=seed, batch=batch)
    direction.made = how_made(
        "fit-direction", seed=seed, trajectories=source, samples=samples, **options
    )
    return direction


def _seeded(transform: str, seed: int) -> Follow:
    how = Follow(transform)
    return replace(how, search=replace(how.search, seed=seed))


def _require_enough(starts: int, transform: str) -> None:
    if starts < LEAST_STARTS:
        raise InputError(
            f"expected at least {LEAST_STARTS} starts to fit {transform}, got {starts}."
        )


def open_direction(path: str | Path) -> Direction:
    """The direction in a file. Raises InputError where it holds none."""
    return Direction.of(load(path, "direction"))
