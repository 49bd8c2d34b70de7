"""Properties and values of the command line: what is to be set, by which directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steer.cli import options
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.directions import Direction
    from steer.generators import Generator
    from steer.knobs import Setting


def parse_tolerance(texts: list[str]) -> float | dict[str, float] | None:
    """One number for all properties, or numbers by name."""
    if not any("=" in text for text in texts):
        numbers = [options.number(text, "--tolerance") for text in texts]
        if len(numbers) > 1:
            raise InputError(f"expected one --tolerance, or NAME=VALUE each, got {numbers}.")
        return numbers[0] if numbers else None
    pairs = options.assignments(texts, "--tolerance")
    return {name: options.number(value, f"--tolerance {name}") for name, value in pairs}


def parse_settings(set_: list[str], shift: list[str], distribution: list[str]) -> list[Setting]:
    """What --set, --shift and --distribution say, each property once."""
    from steer.distributions import parse_distribution
    from steer.knobs import Setting

    settings = [
        Setting(name, mode, options.number(value, f"--{mode} {name}"))
        for mode, texts in (("set", set_), ("shift", shift))
        for name, value in options.assignments(texts, f"--{mode}")
    ] + [
        Setting(name, "distribution", parse_distribution(value))
        for name, value in options.assignments(distribution, "--distribution")
    ]
    names = [s.name for s in settings]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"expected one value for {name}, got {names.count(name)}.")
    return settings


def directions_for(
    given: list[Direction], settings: list[Setting], generator: Generator
) -> dict[str, Direction]:
    """Directions by the property they move: those given, then the generator's own.

    InputError for a setting that none of them moves.
    """
    from steer.knobs import direction_for, mover
    from steer.measures import properties
    from steer.registry import unknown
    from steer.transforms import transforms

    known: dict[str, Direction] = {}
    for direction in given:
        if direction.name in known:
            raise InputError(f"expected one direction of {direction.name}, got two.")
        known[direction.name] = direction
    names = {*known, *generator.directions, *properties.names(), *transforms.names()}
    for setting in settings:
        name = mover(setting.name)
        if name not in known and name in generator.directions:
            known[name] = options.open_direction(name, generator)
        if setting.name not in names:
            raise unknown("property", setting.name, names)
        direction_for(setting.name, known)
    return known


def traversed(given: list[Direction], settings: list[Setting], asked: bool) -> Direction | None:
    """The direction of the traversal: the one that no setting uses."""
    from steer.knobs import mover

    used = {mover(setting.name) for setting in settings}
    free = [direction for direction in given if direction.name not in used]
    if not free and asked:
        raise InputError("expected --direction for the traversal that --from and --to name.")
    if len(free) > 1:
        names = ", ".join(direction.name for direction in free)
        raise InputError(f"expected one direction to go along, got {names}.")
    return free[0] if free else None
