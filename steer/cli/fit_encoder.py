"""steer fit-encoder: an encoder for any generator."""

from __future__ import annotations

import math
import shutil
import time
from typing import Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import (
    Bf16,
    Class,
    Device,
    Json,
    Model,
    Noise,
    Quiet,
    Resume,
    Seed,
    Space,
    Truncation,
)
from steer.cli.training import Run

NAME = "fit-encoder"


def command(
    model: Model = "sprites",
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    backbone: Annotated[
        str, typer.Option(help="timm network, trained from nothing.")
    ] = "resnet10t",
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 1200,
    batch: Annotated[int, typer.Option(min=2, help="Pictures a batch, drawn anew.")] = 64,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate at its highest.")] = 5e-3,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    bf16: Bf16 = False,
    again: Annotated[bool, typer.Option("--again", help="In place of one fitted before.")] = False,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit an encoder to a generator, on its own pictures; no data is needed.

    It is kept beside downloads under the checksum of the generator's weights, and `invert` finds it
    there: with it a search is a tenth as long.

    Example: steer fit-encoder --model sprites --steps 200
    """
    import torch

    from steer.encoders import Encoder, place_of
    from steer.training.encoder import Codes, Encoding, gain
    from steer.training.team import Team

    team = Team(device)
    generator = options.open_generator(
        model, str(team.device), classes=class_, truncation=truncation, noise=noise, space=space
    )
    folder = place_of(generator)
    if again and team.leads:
        shutil.rmtree(folder, ignore_errors=True)
    team.wait()
    torch.manual_seed(seed)
    encoder = Encoder(generator.picture, generator.width, backbone).to(team.device)
    encoder.to(memory_format=torch.channels_last)
    chosen: dict[str, Any] = {
        "model": generator.name, "generator": generator.identity(), "backbone": backbone,
        "steps": steps, "batch": batch, "samples": steps * batch, "rate": rate, "seed": seed,
        "bf16": bf16,
    }  # fmt: skip
    start = time.perf_counter()
    run = Run(folder, every, resume, quiet, False, team)
    run.train(Encoding(generator, encoder, steps=steps, rate=rate), Codes(generator), [], chosen)
    seconds = time.perf_counter() - start
    if not team.leads:
        return
    found = gain(generator)
    pays = found.pays_from(seconds)
    if json_:
        numbers = {"evaluations": found.with_it, "without": found.without, "pays_from": pays}
        finite = {name: n if math.isfinite(n) else None for name, n in numbers.items()}
        options.print_json({"encoder": str(folder), "seconds": seconds, **finite, **chosen})
        return
    print(
        f"{steps * batch} pictures in {seconds:.0f} s; {found.without:.0f} evaluations a picture "
        f"are now {found.with_it:.0f}"
        + (f", which pays from {pays:.0f} pictures on." if math.isfinite(pays) else ": no gain.")
    )
