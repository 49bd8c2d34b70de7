"""steer compare: ways to find one direction, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Json,
    Measure,
    Model,
    Noise,
    Quiet,
    Seed,
    Space,
    Truncation,
)
from steer.errors import InputError

NAME = "compare"


def command(
    transform: Annotated[
        str, typer.Option("--transform", "-t", help="What the direction is of: translate-x ...")
    ] = "translate-x",
    model: Model = "sprites",
    methods: Annotated[
        str, typer.Option("--methods", help="Names joined by commas; all of them by default.")
    ] = "",
    starts: Annotated[int, typer.Option(min=4, help="Codes followed by trajectory.")] = 64,
    samples: Annotated[int, typer.Option(min=8, help="Codes the other methods measure.")] = 256,
    n: Annotated[int, typer.Option("-n", min=8, help="Codes to judge on.")] = 64,
    measure: Measure = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the directions and the table.")
    ] = None,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a direction by several methods and judge all of them on the same codes.

    r2 is that of g on held-out codes; open and closed are the root mean square of the measured
    value less the one asked for, over five values and, closed, the items that reached them; std is
    that of the measured value at one coordinate; leakage the mean move of the other properties for
    a move by one standard deviation, in theirs; evaluations are pictures made to find it.

    Example: steer compare --transform translate-x -o report/
    """
    from steer.disk import make_folder, save_json
    from steer.files import how_made, save
    from steer.rivals import compare
    from steer.rivals import methods as known

    if out is not None and str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    names = methods.split(",") if methods else ["trajectory", *known.names()]
    names = [name.strip() for name in names]
    for name in names:
        if name != "trajectory":
            known.get(name)
    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    if out is not None:
        make_folder(out)
    rows = []
    with options.progress(f"comparing {transform}", len(names), quiet) as bar:
        for done, name in enumerate(names):
            bar(done, name)
            found = compare(
                generator, name, transform, starts=starts, samples=samples, judged_on=n,
                find=measure, seed=seed, batch=batch,
            )  # fmt: skip
            rows.append(found.row)
            if out is not None:
                save(found.direction.artefact(), out / f"{name}.safetensors")
    made = how_made("compare", generator.identity(), seed=seed, transform=transform, n=n,
                    methods=names, starts=starts, samples=samples, measure=measure)  # fmt: skip
    if out is not None:
        save_json(out / "compare.json", {"rows": rows, "made": made})
    if json_:
        options.print_json({"rows": rows, "made": made})
    else:
        lines = [[_cell(value) for value in row.values()] for row in rows]
        options.print_table(lines, list(rows[0]), f"{transform} of {generator.name}")


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
