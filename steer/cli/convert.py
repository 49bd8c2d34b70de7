"""steer convert: a checkpoint of any kind as a folder of this project's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.options import Json

NAME = "convert"
ToFolder = Annotated[
    Path,
    typer.Option(
        "-o", "--out", help="Folder, new, empty or holding an earlier version of the same."
    ),
]


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="Registered name, Hub id (user/repo, user/repo@revision, user/repo:file), URL, "
            "file or folder."
        ),
    ],
    out: ToFolder,
    json_: Json = False,
) -> None:
    """Write a generator as config.json, model.safetensors and a card, with the same pictures.

    Example: steer convert network-snapshot.pkl -o my-generator
    """
    from steer.conversion import convert

    made = convert(model, out, options.note)
    if json_:
        options.print_json(made)
