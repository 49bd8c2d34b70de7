"""steer render: codes to pictures, with properties set to values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options
from steer.cli.options import Batch, Device, Directions, Json, Measure, OptionalModel, Quiet, Seed
from steer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from steer.directions import Direction
    from steer.files import Artefact
    from steer.generators import Generator
    from steer.knobs import Setting
    from steer.rendering import Frame

NAME = "render"
FILMS = (".gif", ".mp4")


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
    low: Annotated[
        float | None,
        typer.Option("--from", help="Where a traversal begins."),
    ] = None,
    high: Annotated[float | None, typer.Option("--to", help="Where it ends.")] = None,
    steps: Annotated[int, typer.Option("--steps", help="Pictures of a traversal.")] = 9,
    exact: Annotated[
        bool, typer.Option("--exact", help="Close the loop on the measured value of each item.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0, help="Of --exact; by default the property's own."),
    ] = None,
    measure: Measure = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="grid.png, film.gif, film.mp4, folder/, - for a pipe."),
    ] = None,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=100, help="Of an animation.")] = 10,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw codes, with properties set to values or along a traversal of a direction.

    Without -o a pipe gets the grid as PNG. Directions that come with the generator are found by the
    names of the properties to set.

    Example: steer sample -n 8 | steer render --set translate-x=0.2 --exact - > grid.png
    """
    target = out if out is not None else options.save_or_pipe(None, "render.png")
    options.refuse_json_on_stdout(json_, target)
    from steer.files import how_made
    from steer.rendering import draw, frames, is_folder, manifest, traversal, write_folder

    settings = _settings(set_, shift, distribution)
    artefact = _latents(source, latents)
    generator = options.open_generator(model, device, artefact)
    z = options.codes_of(artefact, generator) if artefact else generator.latent.sample(n, seed)
    given = [options.open_direction(text, generator) for text in direction]
    known = _known(given, settings, generator)
    along = _along(given, settings, low is not None or high is not None)
    values = traversal(along, low, high, steps) if along else []
    _prepare(target, film=bool(along))
    with options.progress("rendering", len(values) or 1, quiet) as bar:
        shown = frames(
            generator, z, settings, known, along=along.name if along else None, values=values,
            find=measure, exact=exact, tolerance=tolerance, batch=batch, report=bar,
        )  # fmt: skip
    used = {name: one.made for name, one in known.items()}
    made = how_made(
        "render", generator.identity(), seed=None if artefact else seed,
        latents=artefact.made if artefact else None, directions=used, set=set_, shift=shift,
        distribution=distribution, traversal=values, exact=exact, tolerance=tolerance,
        measure=measure,
    )  # fmt: skip
    names = artefact.made.get("pictures", []) if artefact else []
    if target != "-" and is_folder(target):
        summary = write_folder(shown, Path(target), names, made)
    else:
        before = draw(generator, z, batch) if settings and along is None else None
        _write(shown, target, fps, _title(settings, along), before)
        summary = manifest(shown, [[target] * len(z)] * len(shown), names, made)
    _warn(shown)
    if json_:
        options.print_json({"output": target, **summary})


def _latents(source: str | None, latents: str | None) -> Artefact | None:
    if source and latents:
        raise InputError(f"expected latents once, got {source} and --latents {latents}.")
    from steer.files import load

    text = latents if source is None else source
    return None if text is None else load(text, "latents")


def _settings(set_: list[str], shift: list[str], distribution: list[str]) -> list[Setting]:
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


def _known(
    given: list[Direction], settings: list[Setting], generator: Generator
) -> dict[str, Direction]:
    """Directions by the property they move: those given, then the generator's own.

    InputError for a setting that none of them moves.
    """
    from steer.knobs import direction_for
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
        name = _mover(setting)
        if name not in known and name in generator.directions:
            known[name] = options.open_direction(name, generator)
        if setting.name not in names:
            raise unknown("property", setting.name, names)
        direction_for(setting.name, known)
    return known


def _mover(setting: Setting) -> str:
    """The direction that a setting needs."""
    return "zoom" if setting.name == "area" else setting.name


def _along(given: list[Direction], settings: list[Setting], asked: bool) -> Direction | None:
    """The direction of the traversal: the one that no setting uses."""
    used = {_mover(setting) for setting in settings}
    free = [direction for direction in given if direction.name not in used]
    if not free and asked:
        raise InputError("expected --direction for the traversal that --from and --to name.")
    if len(free) > 1:
        names = ", ".join(direction.name for direction in free)
        raise InputError(f"expected one direction to go along, got {names}.")
    return free[0] if free else None


def _prepare(target: str, film: bool) -> None:
    """InputError for a place that cannot be written, before the work; makes the folder."""
    from steer.files import make_folder
    from steer.rendering import is_folder

    if target == "-":
        return
    if is_folder(target):
        make_folder(Path(target))
        return
    options.check_place(target, (".png", *FILMS))
    if target.lower().endswith(FILMS) and not film:
        raise InputError(f"expected --direction for a traversal to animate as {target}.")


def _title(settings: list[Setting], along: Direction | None) -> str:
    from steer.rendering import describe

    return describe(settings) or (f"{along.name}, {along.unit}" if along else "")


def _write(
    shown: list[Frame], target: str, fps: float, title: str, originals: Tensor | None
) -> None:
    """The frames as a film or one labelled picture."""
    from steer.files import write_stdout
    from steer.images import to_png, write_png
    from steer.rendering import as_grid, write_film

    if target.lower().endswith(FILMS):
        write_film(shown, Path(target), fps)
    elif target == "-":
        write_stdout(to_png(as_grid(shown, title, originals)))
    else:
        write_png(target, as_grid(shown, title, originals))


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
        options.note(f"{counts[status]} of {counts.total()}: {status.message}")
