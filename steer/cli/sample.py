"""steer sample: latent codes from the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options
from steer.cli.given import refuse_given, was_given
from steer.cli.options import Class, Device, Json, Model, Noise, Quiet, Seed, Space, Truncation
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from steer.generators import Generator

NAME = "sample"
MOST = 2**26  # numbers in one file: 256 MiB, and a few times that in memory
CHUNK = 10_000  # codes drawn between two movements of the bar


def command(
    context: typer.Context,
    model: Model = "sprites",
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 8,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    scenes: Annotated[
        bool, typer.Option("--scenes", help="Scenes of a scene model instead, into the folder -o.")
    ] = False,
    keep: Annotated[
        str | None, typer.Option(help="Scene whose background and objects all of them have.")
    ] = None,
    relation: Annotated[
        list[str],
        typer.Option(
            "--relation",
            help='"0 left-of 1": what objects must be to each other; also right-of, above, below, '
            "larger-than, smaller-than. Repeatable.",
        ),
    ] = [],  # noqa: B006
    seed: Seed = 0,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="Latents file, - for a pipe; folder of scenes."),
    ] = None,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw latent codes from the generator's prior, with the codes of classes where it has any; or
    scenes from that of a scene model, each as NAME.json and NAME.png.

    Example: steer sample -n 8 | steer render - > grid.png
    """
    if scenes:
        from steer.cli.scenes import sample_scenes

        refuse_given(context, ("class_", "truncation", "noise", "space"), "with --scenes")
        chosen = model if was_given(context, "model") else None
        sample_scenes(chosen, n, seed, keep, relation, out or "scenes", device, json_)
        return
    refuse_given(context, ("keep", "relation"), "without --scenes")
    target = options.save_or_pipe(out, "latents.safetensors")
    options.refuse_json_on_stdout(json_, target)
    from steer.files import Artefact, how_made, save

    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    made = how_made("sample", generator.identity(), seed=seed, n=n)
    z = _draw(generator, n, seed, quiet)
    save(Artefact("latents", {"z": z}, made), target)
    if json_:
        options.print_json({"latents": target, "n": n, "dim": generator.width, **made})


def _draw(generator: Generator, n: int, seed: int, quiet: bool) -> Tensor:
    """Codes [n, width]; InputError where they would not fit in memory."""
    import torch

    width = generator.width
    most = MOST // width
    if n > most:
        raise InputError(
            f"expected -n of at most {most} for codes of {width} numbers, got {n} "
            f"({n * width * 4 / 1e9:.3g} GB): draw parts with other seeds."
        )
    codes = []
    with progress("sampling", n, quiet or n <= CHUNK) as bar:
        for first in range(0, n, CHUNK):
            codes.append(generator.sample(min(CHUNK, n - first), seed, first))
            bar(first + len(codes[-1]), "")
    return torch.cat(codes)
