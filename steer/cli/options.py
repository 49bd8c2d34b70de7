"""Option types that commands share, and what they all do with them."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.progress import fetching, is_terminal
from steer.errors import InputError, MachineError

if TYPE_CHECKING:
    from torch import Tensor

    from steer.directions import Direction
    from steer.files import Artefact
    from steer.generators import Generator

#: Characters of a line of a table that nobody looks at in a terminal.
WIDTH = 160

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Registered name, Hub id (user/repo, user/repo@revision, user/repo:file), URL "
        "(https://host/file#sha256=HEX), file or folder.",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Generator; by default the one that the input was made with."
    ),
]
Class = Annotated[
    list[str],
    typer.Option(
        "--class",
        help="Class of a conditional generator, by name or number. Repeatable: codes take them in "
        "turn. By default those of the direction, or all, which the word all says too.",
    ),
]
Truncation = Annotated[
    float | None,
    typer.Option(
        "--truncation",
        help="How varied pictures are: up to 1 for BigGAN-deep, 0 to 2 (psi) for a StyleGAN.",
    ),
]
Noise = Annotated[
    str | None, typer.Option("--noise", help="Noise inputs of StyleGAN2: const, none or random.")
]
Space = Annotated[
    str | None,
    typer.Option("--space", help="Space of a StyleGAN's codes: z, w, or w+ (a w for each layer)."),
]
Parts = Annotated[
    str | None,
    typer.Option(
        "--parts",
        help='Parts of the code that may move: names or numbers of levels or layers, "0-3,7".',
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Same seed, same result.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Batch = Annotated[
    int,
    typer.Option(
        "--batch", min=1, help="Items worked on at once; on a CPU fewer where pictures are large."
    ),
]
Bf16 = Annotated[
    bool,
    typer.Option("--bf16", help="Networks compute in bfloat16; losses and weights in float32."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what an earlier run left.")]
Measure = Annotated[
    str | None,
    typer.Option(
        "--measure",
        help="How the object is found: intensity, background, saliency (natural pictures; "
        "saliency:FILE takes other weights), or a plugin's. By default what the direction was "
        "calibrated with, or what suits the generator.",
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


def open_generator(
    model: str | None,
    device: str,
    artefact: Artefact | None = None,
    *,
    classes: list[str] | None = None,
    truncation: float | None = None,
    noise: str | None = None,
    space: str | None = None,
) -> Generator:
    """The generator asked for, or the one that `artefact` was made with, checked to be the same.

    Settings that are not asked for are those that the artefact was made with.
    """
    from steer.generators import load, require_same, require_same_weights, with_settings

    made_with = artefact.made.get("generator", {}) if artefact else {}
    if not isinstance(made_with, dict):
        raise InputError(f"expected the generator that the input was made with, got {made_with!r}.")
    if model is None:
        model = str(made_with.get("model", "sprites"))
        _refuse_to_fetch(model)
    with fetching(model) as report:
        generator = load(model, device, say=note, report=report)
    facts = artefact.made.get("direction") if artefact else None
    own_name = facts.get("name") if isinstance(facts, dict) else None
    kind = f"the direction {own_name}" if own_name else artefact.kind if artefact else ""
    if artefact is not None:
        require_same_weights(made_with, generator, kind)
    generator = with_settings(
        generator,
        classes=None if "all" in (classes or ()) else classes or made_with.get("classes"),
        truncation=made_with.get("truncation") if truncation is None else truncation,
        noise=made_with.get("noise") if noise is None else noise,
        space=made_with.get("space", "z") if space is None else space,
    )
    if artefact is not None:
        require_same(made_with, generator, kind)
    return generator


def _refuse_to_fetch(model: str) -> None:
    """InputError for what an artefact names and this machine does not have: a stranger's file does
    not choose where we connect to."""
    from steer.generators import generators
    from steer.hub import cached

    if model not in generators and not cached(model):
        raise InputError(
            f"expected the generator {model} on this machine, which the file was made with: name "
            "it with --model to fetch it."
        )


def codes_of(artefact: Artefact, generator: Generator) -> Tensor:
    """z [n, width] of latents; InputError where they are not the generator's codes."""
    z, dim = artefact.tensors.get("z"), generator.width
    if z is None or z.dim() != 2 or not len(z) or z.shape[1] != dim or not z.is_floating_point():
        found = "none" if z is None else f"{str(z.dtype).removeprefix('torch.')} {list(z.shape)}"
        raise InputError(f"expected latents z [n, {dim}] of {generator.name}, got {found}.")
    return z.float()


def open_direction(text: str, generator: Generator) -> Direction:
    """The direction of a file, or one that comes with the generator by name."""
    from steer.directions import Direction
    from steer.files import load
    from steer.generators import require_same
    from steer.registry import unknown

    own = generator.directions
    if text in own:
        text = str(own[text])
    elif not Path(text).exists() and "." not in text and "/" not in text:
        raise unknown(f"direction of {generator.name}", text, own)
    direction = Direction.of(load(text, "direction"))
    require_same(direction.generator, generator, f"the direction {direction.name}")
    direction.check_fits(generator.latent)
    return direction


def first_direction(texts: list[str]) -> Artefact | None:
    """The first direction that is a file: what it was made with are the defaults."""
    from steer.files import load

    files = [text for text in texts if Path(text).is_file()]
    return load(files[0], "direction") if files else None


def parts_of(text: str | None) -> tuple[str, ...] | None:
    """The parts that --parts names."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


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
    from steer.disk import plain

    with _standard_output():
        print(json.dumps(plain(summary), sort_keys=True), flush=True)


def print_table(
    rows: Iterable[Sequence[str]], headings: Sequence[str] = (), title: str | None = None
) -> None:
    """A table on standard output; without headings, of keys and values."""
    from rich.console import Console
    from rich.table import Table

    from steer.disk import printable

    title = title and printable(title)
    table = Table(title=title, title_justify="left", show_header=bool(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading == headings[0])
    for row in rows:
        table.add_row(*map(printable, row))
    with _standard_output():
        width = None if is_terminal(sys.stdout) else WIDTH
        Console(markup=False, highlight=False, width=width).print(table)


@contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MachineError(f"cannot write standard output: {error.strerror}.") from error


def note(sentence: str) -> None:
    """A remark on standard error, without what a stranger's text could do to a terminal."""
    from steer.disk import printable

    print(f"steer: {printable(sentence)}", file=sys.stderr)


def note_unread_pipe() -> None:
    """A remark where standard input is a pipe and nothing says that it is to be read."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return
    if is_pipe:
        note("standard input is a pipe that is not read: - draws the latents that come through it.")


def refuse_json_on_stdout(json_: bool, out: str) -> None:
    """--json and an artefact cannot share standard output."""
    if json_ and out == "-":
        raise InputError("expected -o FILE with --json: standard output holds only one of the two.")


def save_or_pipe(out: str | None, default: str) -> str:
    """Where an artefact goes: -o, or a pipe where standard output is one, or the file `default`.

    Checked before the work that fills it, as `check_place` does: it ends as `default` does, so that
    no picture is replaced by latents.
    """
    if out is not None and not out.strip():
        raise InputError("expected a name after -o, got an empty one.")
    if out is None and is_terminal(sys.stdout):
        note(f"writing {default}")
        out = default
    if out is not None:
        check_place(out, (Path(default).suffix,))
    return "-" if out is None else out


def check_place(out: str | Path, suffixes: Sequence[str] = ()) -> None:
    """InputError where no file can be written at `out`, so that long work does not end with it.

    `suffixes` are the endings that are written; a device or a named pipe may be called anything.
    """
    if str(out) == "-":
        return
    path = Path(out).absolute()
    replaced = path.is_file() or not path.exists()
    if suffixes and replaced and path.suffix.lower() not in suffixes:
        raise InputError(f"cannot write {out}: expected a name in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {out}: the folder {Path(out).parent} does not exist.")
    if path.is_dir():
        raise InputError(f"cannot write {out}: expected a file, it is a folder.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"cannot write {out}: no permission.")
