"""steer show: what an artefact is and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import Device, Json
from steer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from steer.files import Artefact
    from steer.generators import Generator

NAME = "show"


def command(
    file: Annotated[
        str, typer.Argument(help="Latents, trajectories, a direction or a scene; - for a pipe.")
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
    from steer.disk import flat, read_stdin, write_atomically, write_stdout
    from steer.files import load, unpack

    if out is not None:
        options.check_place(out, (".png",))
        options.refuse_json_on_stdout(json_, out)
    data = read_stdin() if file == "-" else None
    if file.lower().endswith(".json") or (data or b"").startswith(b"{"):
        from steer.cli import scenes
        from steer.scenes.scene import load_scene, parse_scene

        scene = load_scene(file) if data is None else parse_scene(data, "standard input")
        kind, summary = "scene", scenes.describe(scene)
        drawn = scenes.annotated(scene, device) if out is not None else b""
    else:
        artefact = load(file) if data is None else unpack(data, "standard input")
        kind, summary = artefact.kind, describe(artefact)
        drawn = _png(artefact, device) if out is not None else b""
    if out == "-":
        write_stdout(drawn)
        return
    if out is not None:
        write_atomically(Path(out), drawn)
    if json_:
        options.print_json(summary)
        return
    rows = [(key, _text(value)) for key, value in flat(summary).items()]
    options.print_table(rows, title=f"{file}: {kind}")


def describe(artefact: Artefact) -> dict[str, Any]:
    """Kind, tensors, what the numbers are like, and how it was made."""
    tensors = {
        name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}"
        for name, t in sorted(artefact.tensors.items())
    }
    numbers = {
        name: {"median": float(t.double().median()), "largest": float(t.double().max())}
        for name, t in sorted(artefact.tensors.items())
        if name.split(".")[0] in ("loss", "error", "evaluations") and t.numel()
    }
    return {"kind": artefact.kind, "tensors": tensors, "numbers": numbers, "made": artefact.made}


def _png(artefact: Artefact, device: str) -> bytes:
    """What can be drawn: g and the measured response, or pictures of the codes."""
    if artefact.kind == "direction":
        from steer.directions import Direction
        from steer.plots import png, response_figure

        return png(response_figure(Direction.of(artefact)))
    if artefact.kind not in ("latents", "trajectories"):
        raise InputError(
            f"expected latents, trajectories or a direction to draw, got {artefact.kind}."
        )
    from steer.images import to_png
    from steer.rendering import Frame, as_grid, draw

    generator = options.open_generator(None, device, artefact)
    if artefact.kind == "trajectories":
        return to_png(_followed(artefact, generator))
    codes = options.codes_of(artefact, generator)[:64]
    return to_png(as_grid([Frame("", draw(generator, codes))]))


def _followed(artefact: Artefact, generator: Generator) -> Tensor:
    """The first trajectories, a row each; InputError where they are none of the generator's."""
    from steer.rendering import draw
    from steer.sheets import grid

    z, shift = (artefact.tensors.get(name) for name in ("z", "shift"))
    dim = generator.width
    if (
        z is None
        or shift is None
        or not z.numel()
        or z.shape != (*shift.shape, dim)
        or z.dim() != 3
    ):
        raise InputError(
            f"expected trajectories z [n, p, {dim}] and shift [n, p] of "
            f"{generator.name}, got z {_shape(z)} and shift {_shape(shift)}."
        )
    rows = [list(draw(generator, codes)) for codes in z[:8]]
    followed = artefact.made.get("options", {}).get("transform", "an unknown transform")
    labels = [f"{value:g}" for value in shift[0].tolist()]
    return grid(rows, column_labels=labels, title=f"trajectories of {followed}")


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(list(tensor.shape))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 6:
        return ", ".join(map(str, value[:6])) + f", ... ({len(value)})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
