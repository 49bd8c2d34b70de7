"""steer invert: photos to latent codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.options import (
    Batch,
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
from steer.cli.progress import progress
from steer.errors import InputError

NAME = "invert"


def command(
    context: typer.Context,
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures, folders of them, or - for a pipe.")
    ],
    model: Model = "sprites",
    loss: Annotated[
        str, typer.Option("--loss", help="NAME:WEIGHT+... of blurred-mse, mse, l1, dssim, ...")
    ] = "blurred-mse",
    sigma: Annotated[float | None, typer.Option(help="Blur of blurred-mse, in pixels.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="timm network of the loss perceptual: NAME or NAME=FILE.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the search; 1: the start.")] = None,
    restarts: Annotated[int | None, typer.Option(max=512, help="Starts tried per picture.")] = None,
    start: Annotated[str, typer.Option(help="auto, encoder or prior.")] = "auto",
    rate: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    final_rate: Annotated[float | None, typer.Option(help="Learning rate at the end.")] = None,
    constraint: Annotated[str, typer.Option(help="ball or none.")] = "ball",
    class_: Class = [],  # noqa: B006
    condition: Annotated[
        str,
        typer.Option(
            help="What stands for the class: fixed, free (searched for too), or auto: free "
            "without --class."
        ),
    ] = "auto",
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    tolerance: Annotated[float | None, typer.Option(help="Loss at which a picture ends.")] = None,
    align: Annotated[str, typer.Option(help="crop or letterbox to the generator's size.")] = "crop",
    batch: Batch = 32,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="Latents file, or - for a pipe.")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="PNG of the pictures beside their reconstructions.")
    ] = None,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the latent codes of pictures (equations 1 to 3 of Plumerault et al. 2020).

    Pictures that cannot be read are named on stderr, the others are done, and the status is 3.

    Example: steer invert photo.png --preview preview.png -o z.safetensors
    """
    target = options.save_or_pipe(out, "latents.safetensors")
    options.refuse_json_on_stdout(json_, target)
    if preview is not None:
        options.check_place(preview, (".png",))
        if "-" in pictures:
            raise InputError("expected picture files for --preview, got a pipe.")
    from steer.files import save
    from steer.images import find_images, write_png
    from steer.inversion import Search
    from steer.photos import invert_photos, partial_path, preview_of

    given = {
        "steps": steps,
        "restarts": restarts,
        "rate": rate,
        "final_rate": final_rate,
        "tolerance": tolerance,
    }
    search = Search(
        loss=loss,
        sigma=sigma,
        backbone=backbone,
        start=start,
        constraint=constraint,
        condition=condition,
        seed=seed,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    piped = [Path(text) for text in pictures if text == "-"]
    paths = piped + find_images(text for text in pictures if text != "-")
    _refuse_one_file_for_two(paths, target, preview)
    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    if generator.condition is None:
        beside = f"for {generator.name}, whose codes of {generator.space} carry no class"
        refuse_given(context, ("condition",), beside)
    partial = None if target == "-" else partial_path(Path(target))
    with progress("inverting", len(paths), quiet, partial) as bar:
        done = invert_photos(
            generator, paths, search,
            align=align, batch=batch, out=None if target == "-" else Path(target),
            resume=resume, report=bar,
        )  # fmt: skip
    for reason in done.failed.values():
        options.note(f"left out: {reason}")
    if target == "-":
        save(done.artefact, target)
    if preview is not None:
        write_png(preview, preview_of(generator, done, align))
    if json_:
        options.print_json({"latents": target, **done.summary(generator.condition)})
    if done.failed:
        raise typer.Exit(3)


def _refuse_one_file_for_two(paths: list[Path], target: str, preview: Path | None) -> None:
    """InputError where an output would replace a picture, or the other output."""
    taken = {path.resolve() for path in paths if str(path) != "-"}
    for out in (Path(target) if target != "-" else None, preview):
        if out is None:
            continue
        if out.resolve() in taken:
            raise InputError(f"cannot write {out}: expected a name that nothing else here has.")
        taken.add(out.resolve())
