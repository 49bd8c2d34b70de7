"""steer evaluate: how well directions control what is in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Directions,
    Json,
    Measure,
    Noise,
    OptionalModel,
    Quiet,
    Seed,
    Space,
    Truncation,
)
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.evaluation import Evaluation

NAME = "evaluate"


def command(
    direction: Directions = [],  # noqa: B006
    model: OptionalModel = None,
    n: Annotated[int, typer.Option("-n", min=8, help="Codes to measure on.")] = 256,
    values: Annotated[
        str | None, typer.Option("--values", help="Values to ask for, joined by commas.")
    ] = None,
    measure: Measure = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
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
    from steer.disk import make_folder
    from steer.evaluation import evaluate
    from steer.files import how_made

    if out is not None and str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    asked = None
    if values is not None:
        asked = [options.number(text, "--values") for text in values.split(",")]
    generator = options.open_generator(
        model, device, options.first_direction(direction),
        classes=class_, truncation=truncation, noise=noise, space=space,
    )  # fmt: skip
    names = direction or sorted(generator.directions)
    if not names:
        raise InputError(f"expected --direction: {generator.name} comes with none.")
    known = [options.open_direction(text, generator) for text in names]
    if out is not None:
        make_folder(out)
    with options.progress("evaluating", len(known), quiet) as bar:
        found = evaluate(
            generator, known, measure,
            samples=n, values=asked, seed=seed, batch=batch, report=bar,
        )  # fmt: skip
    made = how_made(
        "evaluate", generator.identity(), seed=seed, samples=n, values=asked, directions=names
    )
    summary = {"rows": found.table(), "made": made}
    if out is not None:
        _save(found, summary, out)
    if json_:
        options.print_json(summary)
    else:
        _print(found.table())


def _save(found: Evaluation, summary: dict[str, Any], out: Path) -> None:
    from steer.disk import save_json
    from steer.plots import save_all

    save_json(out / "evaluation.json", summary)
    save_all(found, out)


def _print(rows: list[dict[str, Any]]) -> None:
    """A table for each direction: what was asked, and how near the measured values came."""
    for row in rows:
        r2 = row["quality"].get("held_out_r2", float("nan"))
        lines = [
            [a["loop"], *map(_number, (a["value"], a["rms"], a["rms_reached"])),
             *map(_percent, (a["reached"], a["no_object"])), _number(a["evaluations"])]
            for a in row["accuracy"]
        ]  # fmt: skip
        headings = ("loop", "asked", "rms", "rms of reached", "reached", "no object", "passes")
        title = f"{row['direction']} ({row['unit']}): R^2 held out {r2:.3f}"
        if row["monotone"] is None:
            title += ", not measured"
        options.print_table(lines, headings, title)
        if row["norms"]:
            norms = [(part, _number(norm)) for part, norm in row["norms"].items()]
            options.print_table(norms, ("part of the code", "squared norm of u"))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
