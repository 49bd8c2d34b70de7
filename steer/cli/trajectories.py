"""steer trajectories: latent codes that follow a transform."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Json,
    Model,
    Noise,
    Parts,
    Quiet,
    Resume,
    Seed,
    Space,
    Truncation,
)
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.trajectories import Follow

NAME = "trajectories"

TransformName = Annotated[
    str, typer.Option("--transform", "-t", help="What is done to the picture: translate-x ...")
]
Starts = Annotated[int, typer.Option("--starts", min=1, help="How many pictures to follow.")]
Extent = Annotated[
    float | None, typer.Option("--extent", help="T, the largest shift on each side, in its unit.")
]
Points = Annotated[int, typer.Option("--points", help="Targets on each side.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Evaluations for each target.")]
Loss = Annotated[str, typer.Option("--loss", help="NAME:WEIGHT+... of the reconstruction.")]
Sigma = Annotated[float | None, typer.Option("--sigma", help="Blur of blurred-mse, in pixels.")]
Constraint = Annotated[str, typer.Option("--constraint", help="ball or none.")]


def command(
    transform: TransformName = "translate-x",
    model: Model = "sprites",
    starts: Starts = 64,
    extent: Extent = None,
    points: Points = 5,
    steps: Steps = None,
    naive: Annotated[
        bool, typer.Option("--naive", help="Start every target from z_0 (to compare).")
    ] = False,
    loss: Loss = "blurred-mse",
    sigma: Sigma = None,
    constraint: Constraint = "ball",
    parts: Parts = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    shard: Annotated[int, typer.Option(min=1, help="Starts in a file of their own.")] = 64,
    batch: Batch = 32,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="File, a folder for the shards, or - for a pipe."),
    ] = None,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the codes of transformed pictures (Algorithm 1 of Plumerault et al. 2020).

    Example: steer trajectories --transform translate-x --starts 64 -o t.safetensors
    """
    target = _target(out)
    options.refuse_json_on_stdout(json_, target)
    from steer.files import how_made, is_done, load, save
    from steer.trajectories import follow_in_shards

    how = follow_options(
        transform, extent, points, steps, loss, sigma, constraint, seed, parts, naive=naive
    )
    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    how = how.settled(generator)
    made = how_made("trajectories", generator.identity(), seed=seed, starts=starts, **how.facts)
    whole = target.endswith(".safetensors")
    with _shards(target, whole) as folder:
        if not (resume and whole and is_done(Path(target), made)):
            partial = None if target == "-" else folder
            title = f"following {transform}"
            with progress(title, starts * points, quiet, partial) as bar:
                follow_in_shards(
                    generator, how, starts, folder, made,
                    shard=shard, batch=batch, resume=resume, report=bar,
                )  # fmt: skip
            if whole or target == "-":
                save(replace(load(folder, "trajectories"), made=made), target)
    if json_:
        options.print_json({"trajectories": target, **made})


def _target(out: str | None) -> str:
    """A file, a folder or a pipe; InputError where several processes would write one file."""
    named = not out or out == "-" or out.endswith(".safetensors")
    if named and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(f"expected a folder for -o with several processes, got {out}.")
    if named:
        return options.save_or_pipe(out, "trajectories.safetensors")
    return str(out)


@contextmanager
def _shards(target: str, whole: bool) -> Iterator[Path]:
    """The folder of the shards: passing for a pipe, beside a file until that is whole, or -o."""
    if target == "-":
        with TemporaryDirectory() as passing:
            yield Path(passing)
    elif whole:
        beside = Path(target + ".parts")
        yield beside
        shutil.rmtree(beside, ignore_errors=True)
    else:
        yield Path(target)


def follow_options(
    transform: str,
    extent: float | None,
    points: int,
    steps: int | None,
    loss: str,
    sigma: float | None,
    constraint: str,
    seed: int,
    parts: str | None = None,
    naive: bool = False,
) -> Follow:
    """How a transform is followed, from the command line's words."""
    from steer.trajectories import Follow

    how = Follow(transform, extent, points, steps, naive, parts=options.parts_of(parts))
    search = replace(how.search, loss=loss, sigma=sigma, constraint=constraint, seed=seed)
    return replace(how, search=search)
