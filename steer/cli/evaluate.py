"""steer evaluate: how well directions control what is in the picture."""

from __future__ import annotations

import shlex
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
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.evaluation import Evaluation

NAME = "evaluate"


def command(
    context: typer.Context,
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
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="Network of timm that tells how far pictures before and after a move are apart: "
            "NAME, or NAME=FILE of weights.",
        ),
    ] = None,
    hold: Annotated[
        bool,
        typer.Option(
            "--hold",
            help="Take each direction to two of its values again with the properties of the others "
            "held; takes longer than all the rest.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for evaluation.json and figures.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="File for a report to look at in a browser.")
    ] = None,
    batch: Batch = 64,
    seed: Seed = 1,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure directions: error asked against measured, spread, leakage, the generator's bias.

    Without --direction, those that come with the generator. What a move costs is counted over the
    items that reached the value: the distance in standard deviations of the prior, and the property
    that changes most besides, in its standard deviations.

    Example: steer evaluate --direction translate-x --html report.html
    """
    from steer.disk import make_folder
    from steer.evaluation import evaluate
    from steer.files import how_made

    if out is not None and str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    if html is not None:
        _check_html(html)
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
    with progress("evaluating", len(known) * (1 + hold), quiet) as bar:
        found = evaluate(
            generator, known, measure,
            samples=n, values=asked, seed=seed, batch=batch, backbone=backbone, held=hold,
            report=bar,
        )  # fmt: skip
    made = how_made(
        "evaluate", generator.identity(), seed=seed, samples=n, values=asked, directions=names,
        backbone=backbone and backbone.partition("=")[0], measure=measure and from_here(measure),
        held=hold,
    )  # fmt: skip
    summary = {"rows": found.table(), "made": made}
    if out is not None:
        _save(found, summary, out)
    if html is not None:
        from steer.report import write_report

        write_report(html, found, generator, made, command_line(context))
    if json_:
        options.print_json(summary)
    else:
        _print(found.table())


def _check_html(html: Path) -> None:
    if str(html) == "-":
        raise InputError("expected a file for --html, got - for a pipe.")
    options.check_place(html, (".html",))


def command_line(context: typer.Context) -> str:
    """The command as a shell would be given it, from the options that were: files of this machine
    by their path from here, or by their name alone where they lie elsewhere."""
    words = ["steer", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        option = max(parameter.opts, key=len)
        given = context.params[str(parameter.name)]
        for value in given if isinstance(given, (list, tuple)) else [given]:
            text = from_here(str(value))
            sign = text.startswith("-")
            words += [option] if value is True else [f"{option}={text}"] if sign else [option, text]
    return shlex.join(words)


def from_here(text: str) -> str:
    """What an option was given, with a path of this machine as somebody else can be told it.

    >>> from_here("saliency:/home/me/u2netp.safetensors"), from_here("user/repo")
    ('saliency:u2netp.safetensors', 'user/repo')
    """
    before, slash, after = text.partition("/")
    is_path = slash and not after.startswith("/") and (not before or before[-1] in ":=")
    if not is_path:
        return text
    path = Path("/", after)
    here = path.is_relative_to(Path.cwd())
    return before + str(path.relative_to(Path.cwd()) if here else path.name)


def _save(found: Evaluation, summary: dict[str, Any], out: Path) -> None:
    from steer.disk import save_json
    from steer.plots import save_all

    save_json(out / "evaluation.json", summary)
    save_all(found, out)


def _print(rows: list[dict[str, Any]]) -> None:
    """Tables for each direction: what was asked, how near the measured values came, and at what
    cost."""
    for row in rows:
        r2 = row["quality"].get("held_out_r2", float("nan"))
        title = f"{row['direction']} ({row['unit']}): R^2 held out {r2:.3f}"
        if row["monotone"] is None:
            title += ", not measured"
        extractors = row["accuracy"][0]["perceptual"] if row["accuracy"] else ()
        headings = (
            "loop", "asked", "rms", "rms of reached", "reached", "unreachable", "not found",
            "passes", "distance", "changes most", *["perceptual"] * len(extractors),
        )  # fmt: skip
        title += "".join(f"; perceptual distance by {name}" for name in extractors)
        options.print_table(map(_line, row["accuracy"]), headings, title)
        if row["norms"]:
            norms = [(part, _number(norm)) for part, norm in row["norms"].items()]
            options.print_table(norms, ("part of the code", "squared norm of u"))
    _print_held([one for row in rows for one in row["held"]])


def _line(row: dict[str, Any]) -> list[str]:
    """One value and loop."""
    return [
        row["loop"],
        *map(_number, (row["value"], row["rms"], row["rms_reached"])),
        _percent(row["reached"]),
        _percent(row["unreachable"]) if row["loop"] == "closed" else "",
        _percent(row["no_object"]),
        *map(_number, (row["evaluations"], row["distance"])),
        _changed_most(row["changes"]),
        *map(_number, row["perceptual"].values()),
    ]


def _changed_most(changes: dict[str, dict[str, float | None]]) -> str:
    known = [(c["relative"], name) for name, c in changes.items() if c["relative"] is not None]
    if not known:
        return "none"
    relative, name = max(known)
    return f"{name} {relative:.2g}"


def _print_held(held: list[dict[str, Any]]) -> None:
    if not held:
        return
    numbers = ("alone", "change", "ratio", "tolerance")
    lines = [
        [one["name"], _number(one["value"]), one["held"], *(_number(one[n]) for n in numbers),
         _percent(one["reached"]), _percent(one["compared"])]
        for one in held
    ]  # fmt: skip
    headings = (
        "set", "to", "held", "changes alone", "changes held", "ratio", "tolerance", "all reached",
        "compared",
    )  # fmt: skip
    options.print_table(lines, headings, "one set, the others held")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
