"""steer show: what an artefact is and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import Device, Json

if TYPE_CHECKING:
    from steer.files import Artefact

NAME = "show"


def command(
    file: Annotated[
        str, typer.Argument(help="Latents, trajectories or a direction; - for a pipe.")
    ],
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="PNG of what can be drawn, or - for a pipe.")
    ] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Print what an artefact holds and how it was made, and draw it.

    Example: steer show translate-x.safetensors -o translate-x.png
    """
    from steer.files import load, write_atomically, write_stdout

    if out is not None:
        options.check_place(out, (".png",))
        options.refuse_json_on_stdout(json_, out)
    artefact = load(file)
    if out is not None:
        drawn = _png(artefact, device)
        if out == "-":
            write_stdout(drawn)
            return
        write_atomically(Path(out), drawn)
    summary = describe(artefact)
    if json_:
        options.print_json(summary)
        return
    rows = [(key, _text(value)) for key, value in _flat(summary).items()]
    options.print_table(rows, title=f"{file}: {artefact.kind}")


def describe(artefact: Artefact) -> dict[str, Any]:
    """Kind, tensors, what the numbers are like, and how it was made."""
    tensors = {
        name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}"
        for name, t in artefact.tensors.items()
    }
    numbers = {
        name: {"median": float(t.double().median()), "largest": float(t.double().max())}
        for name, t in artefact.tensors.items()
        if name.split(".")[0] in ("loss", "error", "evaluations") and t.numel()
    }
    return {"kind": artefact.kind, "tensors": tensors, "numbers": numbers, "made": artefact.made}


def _png(artefact: Artefact, device: str) -> bytes:
    """What can be drawn: g and the measured response, or pictures of the codes."""
    if artefact.kind == "direction":
        from steer.directions import Direction
        from steer.plots import png, response_figure

        return png(response_figure(Direction.of(artefact)))
    from steer.images import grid, to_png
    from steer.rendering import Frame, as_grid, draw

    generator = options.open_generator(None, device, artefact)
    if artefact.kind == "latents":
        return to_png(
            as_grid([Frame("", draw(generator, options.codes_of(artefact, generator)[:64]))])
        )
    z, shift = artefact.tensors["z"][:8], artefact.tensors["shift"][0].tolist()
    rows = [list(draw(generator, codes)) for codes in z]
    title = f"trajectories of {artefact.made['options']['transform']}"
    return to_png(grid(rows, column_labels=[f"{s:g}" for s in shift], title=title))


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 6:
        return ", ".join(map(str, value[:6])) + f", ... ({len(value)})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
