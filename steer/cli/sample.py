"""steer sample: latent codes from the prior."""

from __future__ import annotations

from typing import Annotated

import typer

from steer.cli import options
from steer.cli.options import Device, Json, Model, Seed

NAME = "sample"


def command(
    model: Model = "sprites",
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 8,
    seed: Seed = 0,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="Latents file, or - for a pipe.")
    ] = None,
    device: Device = "cpu",
    json_: Json = False,
) -> None:
    """Draw latent codes from the generator's prior.

    Example: steer sample -n 8 | steer render - > grid.png
    """
    target = options.save_or_pipe(out, "latents.safetensors")
    options.refuse_json_on_stdout(json_, target)
    from steer.files import Artefact, how_made, save

    generator = options.open_generator(model, device)
    made = how_made("sample", generator.identity(), seed=seed, n=n)
    save(Artefact("latents", {"z": generator.latent.sample(n, seed)}, made), target)
    if json_:
        options.print_json({"latents": target, "n": n, "dim": generator.latent.dim, **made})
