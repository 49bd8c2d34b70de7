"""Option types that commands share, and what they all do with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.errors import InputError

if TYPE_CHECKING:
    from steer.directions import Direction
    from steer.files import Artefact
    from steer.generators import Generator

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Registered name, Hub id (user/repo, user/repo@revision, user/repo:file), file or "
        "folder.",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Generator; by default the one that the input was made with."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same result.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Items worked on at once.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what an earlier run left.")]
Measure = Annotated[
    str | None,
    typer.Option(
        "--measure",
        help="How the object is found: intensity, background, or a plugin's. By default what the "
        "direction was calibrated with, or what suits the generator.",
    ),
]
Directions = Annotated[
    list[str],
    typer.Option(
        "--direction",
        "-d",
        help="Direction file, or the name of one that comes with the generator. Repeatable.",
    ),
]


def open_generator(model: str | None, device: str, artefact: Artefact | None = None) -> Generator:
    """The generator asked for, or the one that `artefact` was made with, checked to be the same."""
    from steer.generators import load, require_same

    made_with = artefact.made.get("generator", {}) if artefact else {}
    generator = load(model or made_with.get("model") or "sprites", device)
    if artefact is not None:
        require_same(made_with, generator, artefact.kind)
    return generator


def open_direction(text: str, generator: Generator) -> Direction:
    """The direction of a file, or one that comes with the generator by name."""
    from steer.directions import Direction
    from steer.files import load
    from steer.generators import require_same
    from steer.registry import unknown

    own = generator.directions
    if text in own:
        return Direction.of(load(own[text], "direction"))
    if not Path(text).exists() and "." not in text and "/" not in text:
        raise unknown(f"direction of {generator.name}", text, own)
    direction = Direction.of(load(text, "direction"))
    require_same(direction.generator, generator, f"the direction {direction.name}")
    return direction


def assignments(texts: list[str], option: str) -> list[tuple[str, str]]:
    """NAME=VALUE pairs; InputError for anything else or a name given twice.

    >>> assignments(["translate-x=0.2"], "--set")
    [('translate-x', '0.2')]
    """
    pairs: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise InputError(f"expected NAME=VALUE after {option}, got {text!r}.")
        if name.strip() in dict(pairs):
            raise InputError(f"expected each name once after {option}, got {name.strip()} twice.")
        pairs.append((name.strip(), value.strip()))
    return pairs


def number(text: str, where: str) -> float:
    """A finite number; InputError says where it was expected."""
    import math

    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"expected a number for {where}, got {text!r}.")
    return value


def print_json(summary: dict[str, Any]) -> None:
    """One JSON object on standard output; what is not finite becomes null."""
    from steer.files import plain

    print(json.dumps(plain(summary), sort_keys=True))


def refuse_json_on_stdout(json_: bool, out: str) -> None:
    """--json and an artefact cannot share standard output."""
    if json_ and out == "-":
        raise InputError("expected -o FILE with --json: standard output holds only one of the two.")


def save_or_pipe(out: str | None) -> str:
    """Where an artefact goes: -o, or a pipe when standard output is one; InputError on a terminal.

    A file's folder is checked before the work that fills it.
    """
    if out is None and sys.stdout.isatty():
        raise InputError("expected -o FILE, or standard output to go to a pipe or a file.")
    if out is not None and out != "-" and not Path(out).absolute().parent.is_dir():
        raise InputError(f"expected a folder to write {out} into, {Path(out).parent} is none.")
    return out or "-"


@contextmanager
def progress(title: str, total: int, quiet: bool) -> Iterator[Any]:
    """A bar on stderr, silent when that is no terminal: call it with (done, what the error is)."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, value: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    value_column = TextColumn("{task.fields[value]}")
    with Progress(*columns, value_column, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, value="")
        yield lambda done, value: bar.update(task, completed=done, value=f"{value:.3g}")
