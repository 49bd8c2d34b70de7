"""steer compare: ways to find one direction, in one table."""

from __future__ import annotations

import json
import math
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
from steer.cli.progress import progress
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
    values: Annotated[
        str | None,
        typer.Option(
            "--values",
            help="Values to ask for, joined by commas; by default five over the middle 95 % of "
            "what is measured on codes of the prior.",
        ),
    ] = None,
    measure: Measure = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the directions, compare.json and .png."),
    ] = None,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a direction by several methods and judge all of them on the same codes and values.

    open and closed are the root mean square of the measured value less the one asked for, closed
    of the items that reached it; distance is how far those moved along u. reached, unreachable and
    no object are shares of all items, closed. These compare methods; r2 does not: it is that of g
    on held-out trajectories for trajectory, of values measured along their own line for the others.

    std is that of the measured value at one coordinate; leakage the mean over the other properties
    of the root mean square move of each, in standard deviations of the prior, over that of this
    one; seconds and evaluations (pictures made) are those of finding the direction by this method
    alone.

    Example: steer compare --transform translate-x -o report/
    """
    from steer.comparison import compare, known_methods, require_methods
    from steer.directions import Direction
    from steer.disk import make_folder, save_json
    from steer.files import how_made, save

    if out is not None and str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    asked = None
    if values is not None:
        asked = [options.number(text, "--values") for text in values.split(",")]
    names = methods.split(",") if methods else known_methods()
    names = [name.strip() for name in names]
    require_methods(names)
    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    if out is not None:
        make_folder(out)

    def keep(name: str, direction: Direction) -> None:
        if out is not None:
            save(direction.artefact(), out / f"{name}.safetensors")

    with progress(
        f"comparing {transform}", 2 * len(names), quiet, partial=out, resumes=False
    ) as bar:
        found = compare(
            generator, names, transform, starts=starts, samples=samples, judged_on=n, values=asked,
            find=measure, seed=seed, batch=batch, keep=keep, report=bar,
        )  # fmt: skip
    rows = [one.row for one in found]
    made = how_made("compare", generator.identity(), seed=seed, transform=transform, n=n,
                    methods=names, starts=starts, samples=samples, measure=measure,
                    values=asked)  # fmt: skip
    if out is not None:
        from steer.plots import comparison_figure, save_figure

        for name in _earlier(out) - set(names):
            (out / f"{name}.safetensors").unlink(missing_ok=True)
        save_json(out / "compare.json", {"rows": rows, "made": made})
        save_figure(comparison_figure(found), out / "compare.png")
    if json_:
        options.print_json({"rows": rows, "made": made})
    else:
        lines = [[_cell(value) for value in row.values()] for row in rows]
        headings = [name.replace("_", " ") for name in rows[0]]
        options.print_table(lines, headings, f"{transform} of {generator.name}")


def _earlier(out: Path) -> set[str]:
    """The methods of an earlier comparison in a folder; none where there is none of ours."""
    from steer.comparison import known_methods

    try:
        before = json.loads((out / "compare.json").read_bytes())
        ours = before["made"]["command"] == NAME
        return {row["method"] for row in before["rows"]} & set(known_methods()) if ours else set()
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _cell(value: float | int | str) -> str:
    if isinstance(value, float):
        return "none" if math.isnan(value) else f"{value:.3g}"
    return value if isinstance(value, str) else f"{value:,}"
