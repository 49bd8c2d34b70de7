"""steer render: codes to pictures, with properties set to values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import Batch, Device, Directions, Json, Measure, OptionalModel, Seed

if TYPE_CHECKING:
    from steer.directions import Direction
    from steer.files import Artefact
    from steer.generators import Generator
    from steer.knobs import Setting
    from steer.rendering import Frame

NAME = "render"


def command(
    source: Annotated[
        str | None, typer.Argument(metavar="LATENTS", help="Latents file, or - for a pipe.")
    ] = None,
    latents: Annotated[str | None, typer.Option("--latents", help="The same.")] = None,
    model: OptionalModel = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Codes to draw without latents.")] = 6,
    direction: Directions = [],  # noqa: B006
    set_: Annotated[
        list[str], typer.Option("--set", help="NAME=VALUE: the measured value. Repeatable.")
    ] = [],  # noqa: B006
    shift: Annotated[
        list[str], typer.Option("--shift", help="NAME=AMOUNT from where each item is; 0 holds it.")
    ] = [],  # noqa: B006
    distribution: Annotated[
        list[str], typer.Option("--distribution", help='NAME="uniform(-0.3, 0.3)" (equation 10).')
    ] = [],  # noqa: B006
    low: Annotated[float | None, typer.Option("--from", help="Where a traversal begins.")] = None,
    high: Annotated[float | None, typer.Option("--to", help="Where it ends.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Pictures of a traversal.")] = 9,
    exact: Annotated[
        bool, typer.Option("--exact", help="Close the loop on the measured value of each item.")
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Of --exact; by default the property's own.")
    ] = None,
    measure: Measure = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="grid.png, film.gif, film.mp4, folder/, - for a pipe."),
    ] = None,
    fps: Annotated[float, typer.Option("--fps", min=0.1, help="Of an animation.")] = 10,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Draw codes, with properties set to values or along a traversal of a direction.

    Without -o a pipe gets the grid as PNG. Directions that come with the generator are found by the
    names of the properties to set.

    Example: steer sample -n 8 | steer render --set translate-x=0.2 --exact - > grid.png
    """
    target = options.save_or_pipe(out)
    options.refuse_json_on_stdout(json_, target)
    from steer.knobs import direction_for
    from steer.rendering import frames, traversal

    artefact = _latents(source, latents)
    generator = options.open_generator(model, device, artefact)
    z = artefact.tensors["z"] if artefact else generator.latent.sample(n, seed)
    settings = _settings(set_, shift, distribution)
    given = [options.open_direction(text, generator) for text in direction]
    known = _with_own(given, settings, generator)
    for one in settings:
        direction_for(one.name, known)
    along = _along(given, settings, low is not None or high is not None)
    shown = frames(
        generator, z, settings, known,
        along=along.name if along else None,
        values=traversal(along, low, high, steps) if along else (),
        find=measure, exact=exact, tolerance=tolerance, batch=batch,
    )  # fmt: skip
    made = _made(generator, artefact, known, locals())
    summary = _write(shown, target, fps, generator, z, settings, along, artefact, made)
    if json_:
        options.print_json({"output": target, **summary})


def _latents(source: str | None, latents: str | None) -> Artefact | None:
    from steer.errors import InputError
    from steer.files import load

    if source and latents:
        raise InputError(f"expected latents once, got {source} and --latents {latents}.")
    text = source or latents
    return load(text, "latents") if text else None


def _settings(set_: list[str], shift: list[str], distribution: list[str]) -> list[Setting]:
    from steer.distributions import parse_distribution
    from steer.errors import InputError
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


def _with_own(
    given: list[Direction], settings: list[Setting], generator: Generator
) -> dict[str, Direction]:
    """Directions by the property they move: those given, then the generator's own."""
    from steer.errors import InputError

    known: dict[str, Direction] = {}
    for direction in given:
        if direction.name in known:
            raise InputError(f"expected one direction of {direction.name}, got two.")
        known[direction.name] = direction
    for setting in settings:
        name = "zoom" if setting.name == "area" else setting.name
        if name not in known and name in generator.directions:
            known[name] = options.open_direction(name, generator)
    return known


def _along(given: list[Direction], settings: list[Setting], asked: bool) -> Direction | None:
    """The direction of the traversal: the first one that no setting uses."""
    from steer.errors import InputError

    used = {"zoom" if s.name == "area" else s.name for s in settings}
    free = [direction for direction in given if direction.name not in used]
    if not free and asked:
        raise InputError("expected --direction for the traversal that --from and --to name.")
    return free[0] if free else None


def _made(
    generator: Generator,
    artefact: Artefact | None,
    known: dict[str, Direction],
    asked: dict[str, Any],
) -> dict[str, Any]:
    from steer.files import how_made

    return how_made(
        "render",
        generator.identity(),
        seed=None if artefact else asked["seed"],
        latents=artefact.made if artefact else None,
        directions={name: direction.made for name, direction in known.items()} or None,
        set=asked["set_"] or None,
        shift=asked["shift"] or None,
        distribution=asked["distribution"] or None,
        exact=asked["exact"],
        tolerance=asked["tolerance"],
        measure=asked["measure"],
    )


def _write(
    shown: list[Frame],
    target: str,
    fps: float,
    generator: Generator,
    z: Any,
    settings: list[Setting],
    along: Direction | None,
    artefact: Artefact | None,
    made: dict[str, Any],
) -> dict[str, Any]:
    """Writes the frames where and as `target` says; returns the summary."""
    from steer.files import write_stdout
    from steer.images import to_png, write_png
    from steer.rendering import (
        as_grid,
        describe,
        draw,
        is_folder,
        manifest,
        write_film,
        write_folder,
    )

    names = artefact.made.get("pictures", []) if artefact else []
    if target != "-" and is_folder(target):
        return write_folder(shown, Path(target), names, made)
    if target.lower().endswith((".gif", ".mp4")):
        write_film(shown, Path(target), fps)
    else:
        title = describe(settings) or (f"{along.name}, {along.unit}" if along else "")
        originals = draw(generator, z) if settings and along is None else None
        picture = as_grid(shown, title, originals)
        if target == "-":
            write_stdout(to_png(picture))
        else:
            write_png(target, picture)
    _warn(shown)
    return manifest(shown, [[target] * len(frame.pictures) for frame in shown], names, made)


def _warn(shown: list[Frame]) -> None:
    """Says on stderr how many items did not come to where they were asked."""
    from collections import Counter

    from steer.knobs import Status

    counts = Counter(
        Status(int(status))
        for frame in shown
        if frame.controlled is not None
        for status in frame.controlled.status
    )
    for status in sorted(set(counts) - {Status.REACHED, Status.NOT_MEASURED}):
        print(f"steer: {counts[status]} of {counts.total()}: {status.message}", file=sys.stderr)
