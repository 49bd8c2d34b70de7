"""steer bench: how fast searches are on this machine."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.options import Class, Device, Json, Model, Noise, Quiet, Space, Truncation
from steer.cli.progress import progress

NAME = "bench"


def command(
    model: Model = "sprites",
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of the projector's loop that is compared.")
    ] = 1000,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print how fast searches with a generator are on this machine, as ratios within one run.

    Bare passes, one picture at a time, a constant rate and a projector's loop are what searches are
    compared with. With an encoder (steer fit-encoder) it says what that spares.

    Example: steer bench --model sprites
    """
    import torch

    from steer.bench import ratios

    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    with progress("measuring", 1, quiet) as bar:
        rows = [asdict(row) for row in ratios(generator, steps, lambda what: bar(0, what))]
    where = f"{generator.device.type}, {torch.get_num_threads()} threads"
    if json_:
        shown = [{**row, "ratio": finite(row["ratio"])} for row in rows]
        options.print_json({"model": generator.name, "device": where, "ratios": shown})
        return
    cells = [[row["what"], f"{row['ratio']:.3g}", row["over"]] for row in rows]
    options.print_table(cells, [f"{generator.name} on {where}", "ratio", "over"])


def finite(number: float) -> float | None:
    """The number; None for one that JSON does not have."""
    return number if math.isfinite(number) else None
