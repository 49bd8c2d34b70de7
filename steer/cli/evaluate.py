"""steer evaluate: how well directions control what is in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.options import Batch, Device, Directions, Json, Measure, Model, Quiet, Seed

NAME = "evaluate"


def command(
    direction: Directions = [],  # noqa: B006
    model: Model = "sprites",
    n: Annotated[int, typer.Option("-n", min=8, help="Codes to measure on.")] = 256,
    values: Annotated[
        str | None, typer.Option("--values", help="Values to ask for, joined by commas.")
    ] = None,
    measure: Measure = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for evaluation.json and figures.")
    ] = None,
    batch: Batch = 64,
    seed: Seed = 1,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure directions: error asked against measured, spread, leakage, the generator's bias.

    Without --direction, those that come with the generator.

    Example: steer evaluate --direction translate-x -o report/
    """
    from steer.errors import InputError
    from steer.evaluation import evaluate
    from steer.files import how_made, make_folder, save_json

    generator = options.open_generator(model, device)
    names = direction or sorted(generator.directions)
    if not names:
        raise InputError(f"expected --direction: {generator.name} comes with none.")
    given = [options.open_direction(text, generator) for text in names]
    asked = None
    if values is not None:
        asked = [options.number(text, "--values") for text in values.split(",")]
    if out is not None:
        make_folder(out)
    with options.progress("evaluating", len(given), quiet) as bar:
        found = evaluate(
            generator, given, measure,
            samples=n, values=asked, seed=seed, batch=batch, report=bar,
        )  # fmt: skip
    made = how_made(
        "evaluate", generator.identity(), seed=seed, samples=n, values=asked, directions=names
    )
    summary = {"rows": found.table(), "made": made}
    if out is not None:
        from steer.plots import save_all

        save_json(out / "evaluation.json", summary)
        save_all(found, out)
    if json_:
        options.print_json(summary)
    else:
        _print(found.table())


def _print(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    for row in rows:
        table = Table(title=str(row.get("direction", "")), show_header=False)
        for key, value in row.items():
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
        Console().print(table)
