"""steer render: codes to pictures, with properties set to values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import knobs, options
from steer.cli.given import refuse_given
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Directions,
    Json,
    Measure,
    Noise,
    OptionalModel,
    Quiet,
    Resume,
    Seed,
    Space,
    Truncation,
)
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from steer.directions import Direction
    from steer.files import Artefact
    from steer.generators import Generator
    from steer.knobs import Setting
    from steer.populate import Recipe
    from steer.rendering import Frame

NAME = "render"
FILMS = (".gif", ".mp4")


def command(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="LATENTS", help="Latents file, or - for a pipe.")
    ] = None,
    latents: Annotated[str | None, typer.Option("--latents", help="The same.")] = None,
    model: OptionalModel = None,
    combine: Annotated[
        str | None,
        typer.Option(
            "--combine", help="1,1,-1: each three latents become one, a + b - c, before all else."
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Codes to draw, without latents.")] = 6,
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
        list[str],
        typer.Option(
            "--tolerance",
            help="What counts as reached: a number, or NAME=VALUE for each of several units; by "
            "default the property's own.",
        ),
    ] = [],  # noqa: B006
    measure: Measure = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="grid.png, film.gif, film.mp4, folder/, - for a pipe."),
    ] = None,
    shard: Annotated[
        int, typer.Option(min=1, help="Items in a part of a folder: what an interruption may cost.")
    ] = 64,
    scene_file: Annotated[
        str | None, typer.Option("--scene", help="Scene of decompose, or - for a pipe.")
    ] = None,
    move: Annotated[
        list[str],
        typer.Option("--move", help="NUMBER:X,Y moves an object, in fractions of the sides."),
    ] = [],  # noqa: B006
    scale: Annotated[
        list[str], typer.Option("--scale", help="NUMBER:FACTOR makes an object larger.")
    ] = [],  # noqa: B006
    rotate: Annotated[
        list[str], typer.Option("--rotate", help="NUMBER:DEGREES turns it, counter-clockwise.")
    ] = [],  # noqa: B006
    depth: Annotated[
        list[str], typer.Option("--depth", help="NUMBER:AMOUNT brings it nearer, below 0 farther.")
    ] = [],  # noqa: B006
    copy: Annotated[
        list[str], typer.Option("--copy", help="NUMBER:X,Y puts it there once more.")
    ] = [],  # noqa: B006
    remove: Annotated[list[int], typer.Option("--remove", help="NUMBER takes it away.")] = [],  # noqa: B006
    resume: Resume = False,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=100, help="Of an animation.")] = 10,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw codes, with properties set to values or along a traversal of a direction.

    Without -o a pipe gets the grid as PNG. Directions that come with the generator are found by the
    names of the properties to set. A folder is a data set, of any length, that torchvision's
    ImageFolder and Hugging Face's imagefolder read; manifest.json says what came out.

    With --scene, objects are moved, scaled, rotated, brought nearer, copied and removed, in this
    order, by their numbers in the scene's file, and one picture is drawn.

    Example: steer sample -n 8 | steer render --set translate-x=0.2 --exact - > grid.png
    """
    edits = {"move": move, "scale": scale, "rotate": rotate, "depth": depth, "copy": copy}
    if scene_file is not None:
        from steer.cli.scenes import render_scene

        render_scene(context, scene_file, {**edits, "remove": remove}, out, model, device, json_)
        return
    refuse_given(context, (*edits, "remove"), "without --scene, whose objects they change")
    # parse
    if source is None and latents is None:
        options.note_unread_pipe()
    target = out if out is not None else options.save_or_pipe(None, "render.png")
    options.refuse_json_on_stdout(json_, target)
    settings = knobs.parse_settings(set_, shift, distribution)
    within = knobs.parse_tolerance(tolerance)
    terms = [] if combine is None else combine.split(",")
    weights = [options.number(term, "--combine") for term in terms]
    artefact = _latents(source, latents)
    if artefact:
        codes = ("n", "seed", "class_", "space")
        refuse_given(context, codes, "with latents, which are the codes")
    else:
        refuse_given(context, ("combine",), "without latents, whose codes it adds up")
    generator = options.open_generator(
        model, device, artefact or options.first_direction(direction),
        classes=class_, truncation=truncation, noise=noise, space=space,
    )  # fmt: skip
    given = [options.open_direction(text, generator) for text in direction]
    known = knobs.directions_for(given, settings, generator)
    along = knobs.traversed(given, settings, low is not None or high is not None)
    z = _codes(artefact, generator, weights) if artefact else None
    n = n if z is None else len(z)
    scene = _Scene(generator, artefact, weights, z, n, seed, settings, known, along)
    _refuse_without_effect(context, scene, target)
    values = scene.walk(low, high, steps)
    _prepare(target, film=along is not None)
    how = {"find": measure, "exact": exact, "tolerance": within, "batch": batch}
    made = scene.made(
        set=set_, shift=shift, distribution=distribution, traversal=values, exact=exact,
        tolerance=within, measure=measure, combine=weights or None,
    )  # fmt: skip
    # work and write
    if _is_folder(target):
        summary = _populate(scene, values, Path(target), made, shard, resume, quiet, **how)
    else:
        with progress("rendering", len(values) or 1, quiet) as bar:
            shown = scene.frames(values, report=bar, **how)
        summary = _write(shown, scene, target, fps, batch) | {"made": made}
    _warn(summary["counts"])
    if json_:
        options.print_json({"output": target, **summary})


@dataclass
class _Scene:
    """What is to be drawn: `n` codes, given or drawn, with settings, along a direction or not."""

    generator: Generator
    artefact: Artefact | None
    weights: list[float]
    given: Tensor | None
    n: int
    seed: int
    settings: list[Setting]
    known: dict[str, Direction]
    along: Direction | None

    def codes(self, items: range) -> Tensor:
        """Codes [m, width] of some items."""
        if self.given is None:
            return self.generator.sample(len(items), self.seed, items.start)
        return self.given[items.start : items.stop]

    @property
    def z(self) -> Tensor:
        """All codes [n, width]."""
        return self.codes(range(self.n))

    def walk(self, low: float | None, high: float | None, steps: int) -> list[float]:
        """The values of the traversal, if there is one."""
        from steer.rendering import traversal

        return traversal(self.along, low, high, steps) if self.along else []

    def frames(self, values: list[float], **how: Any) -> list[Frame]:
        """The pictures."""
        from steer.rendering import frames

        return frames(
            self.generator, self.z, self.settings, self.known,
            along=self.along_name, values=values, **how,
        )  # fmt: skip

    def recipe(self, values: list[float], **how: Any) -> Recipe:
        """The same as a data set."""
        from steer.populate import Recipe

        return Recipe(
            self.generator, self.codes, self.n, self.settings, self.known,
            self.along_name, values, self.names, **how,
        )  # fmt: skip

    def made(self, **asked: Any) -> dict[str, Any]:
        """How the pictures came about."""
        from hashlib import sha256

        from steer.files import how_made, pack

        inputs = {name: one.artefact() for name, one in self.known.items()}
        inputs |= {"latents": self.artefact} if self.artefact else {}
        return how_made(
            "render", self.generator.identity(), seed=None if self.artefact else self.seed,
            n=self.n, latents=self.artefact.made if self.artefact else None,
            directions={name: one.made for name, one in self.known.items()},
            sha256={name: sha256(pack(one)).hexdigest() for name, one in inputs.items()}, **asked,
        )  # fmt: skip

    @property
    def along_name(self) -> str | None:
        """The property that a traversal goes along."""
        return self.along.name if self.along else None

    @property
    def names(self) -> list[str]:
        """The pictures that the codes were found for."""
        from steer.rendering import combined

        names = self.artefact.made.get("pictures", []) if self.artefact else []
        return combined(names, self.weights) if self.weights else names

    @property
    def title(self) -> str:
        from steer.rendering import describe

        walk = f"{self.along.name}, {self.along.unit}" if self.along else ""
        return describe(self.settings) or walk


def _latents(source: str | None, latents: str | None) -> Artefact | None:
    if source and latents:
        raise InputError(f"expected latents once, got {source} and --latents {latents}.")
    from steer.files import load

    text = latents if source is None else source
    return None if text is None else load(text, "latents")


def _codes(artefact: Artefact, generator: Generator, weights: list[float]) -> Tensor:
    """Codes [n, width] of latents, each as many as there are weights combined to one."""
    from steer.rendering import combine

    codes = options.codes_of(artefact, generator)
    return combine(codes, weights, generator.latent.dim) if weights else codes


def _refuse_without_effect(context: typer.Context, scene: _Scene, target: str) -> None:
    """InputError for options that do nothing beside the others."""
    if scene.along is None:
        refuse_given(context, ("steps",), "without a traversal, which takes a --direction")
        if not scene.settings:
            refuse_given(context, ("exact", "tolerance", "measure"), "where nothing is set")
    if not _is_film(target):
        refuse_given(context, ("fps",), f"for {target}, which is no animation")
    if not _is_folder(target):
        refuse_given(context, ("shard", "resume"), f"for {target}, which is no folder")


def _is_folder(target: str) -> bool:
    from steer.rendering import is_folder

    return target != "-" and is_folder(target)


def _is_film(target: str) -> bool:
    return target.lower().endswith(FILMS) and not _is_folder(target)


def _prepare(target: str, film: bool) -> None:
    """InputError for a file that cannot be written, before the work."""
    if target == "-" or _is_folder(target):
        return
    options.check_place(target, (".png", *FILMS))
    if _is_film(target) and not film:
        raise InputError(f"expected --direction for a traversal to animate as {target}.")


def _populate(
    scene: _Scene, values: list[float], folder: Path, made: dict[str, Any],
    shard: int, resume: bool, quiet: bool, **how: Any,
) -> dict[str, Any]:  # fmt: skip
    """The pictures as a data set; what its manifest says."""
    from steer.populate import populate

    recipe = scene.recipe(values, **how)
    with progress("rendering", scene.n, quiet, folder) as bar:
        manifest = populate(recipe, folder, made, shard=shard, resume=resume, report=bar)
    # under torchrun the last process tells
    return {"counts": {}, "made": made} if manifest is None else {"counts": {}, **manifest}


def _write(
    shown: list[Frame], scene: _Scene, target: str, fps: float, batch: int
) -> dict[str, Any]:
    """The frames as a film or one labelled picture; what came out."""
    from collections import Counter

    from steer.rendering import outcomes, write_film

    if _is_film(target):
        write_film(shown, Path(target), fps)
    else:
        _write_grid(shown, scene, target, batch)
    items = outcomes(shown, scene.names)
    return {"items": items, "counts": Counter(i["status"] for i in items if "status" in i)}


def _write_grid(shown: list[Frame], scene: _Scene, target: str, batch: int) -> None:
    """One labelled picture; what was set stands under what was there before."""
    from steer.disk import write_stdout
    from steer.images import to_png, write_png
    from steer.rendering import as_grid, draw

    moved = scene.settings and scene.along is None
    before = draw(scene.generator, scene.z, batch) if moved else None
    picture = as_grid(shown, scene.title, before)
    if target == "-":
        write_stdout(to_png(picture))
    else:
        write_png(target, picture)


def _warn(counts: Mapping[str, int]) -> None:
    """Says on stderr how many pictures did not come to where they were asked."""
    from steer.knobs import Status

    for status in sorted(set(Status) - {Status.REACHED, Status.NOT_MEASURED}):
        if counts.get(status.message):
            options.note(f"{counts[status.message]} of {sum(counts.values())}: {status.message}")
