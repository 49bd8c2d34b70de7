"""steer trajectories: latent codes that follow a transform."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options
from steer.cli.options import Batch, Device, Json, Model, Quiet, Resume, Seed

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
Steps = Annotated[int, typer.Option("--steps", help="Evaluations for each target.")]
Loss = Annotated[str, typer.Option("--loss", help="NAME:WEIGHT+... of the reconstruction.")]
Sigma = Annotated[float | None, typer.Option("--sigma", help="Blur of blurred-mse, in pixels.")]
Constraint = Annotated[str, typer.Option("--constraint", help="ball or none.")]


def command(
    transform: TransformName,
    model: Model = "sprites",
    starts: Starts = 64,
    extent: Extent = None,
    points: Points = 5,
    steps: Steps = 20,
    naive: Annotated[
        bool, typer.Option("--naive", help="Start every target from z_0 (to compare).")
    ] = False,
    loss: Loss = "blurred-mse",
    sigma: Sigma = None,
    constraint: Constraint = "ball",
    shard: Annotated[int, typer.Option(min=1, help="Starts in a file of their own.")] = 64,
    batch: Batch = 32,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File, or a folder for the shards.")
    ] = Path("trajectories.safetensors"),
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the codes of transformed pictures (Algorithm 1 of Plumerault et al. 2020).

    Example: steer trajectories --transform translate-x --starts 64 -o t.safetensors
    """
    from steer.errors import InputError
    from steer.files import how_made, load, save
    from steer.trajectories import follow_in_shards

    how = follow_options(
        transform, extent, points, steps, loss, sigma, constraint, seed, naive=naive
    )
    whole = out.suffix == ".safetensors"
    if whole and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(f"expected a folder for -o with several processes, got {out}.")
    if whole:
        options.save_or_pipe(str(out))
    generator = options.open_generator(model, device)
    made = how_made("trajectories", generator.identity(), seed=seed, starts=starts, **how.facts)
    folder = out.with_name(out.name + ".parts") if whole else out
    with options.progress(f"following {transform}", starts * points, quiet) as bar:
        follow_in_shards(
            generator, how, starts, folder, made,
            shard=shard, batch=batch, resume=resume, report=bar,
        )  # fmt: skip
    if whole:
        save(load(folder, "trajectories"), out)
        shutil.rmtree(folder)
    if json_:
        options.print_json({"trajectories": str(out), **made})


def follow_options(
    transform: str,
    extent: float | None,
    points: int,
    steps: int,
    loss: str,
    sigma: float | None,
    constraint: str,
    seed: int,
    naive: bool = False,
) -> Follow:
    """How a transform is followed, from the command line's words."""
    from dataclasses import replace

    from steer.trajectories import Follow

    how = Follow(transform, extent, points, steps, naive)
    search = replace(how.search, loss=loss, sigma=sigma, constraint=constraint, seed=seed)
    return replace(how, search=search)
