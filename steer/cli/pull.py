"""steer pull: a generator from the Hub into a folder."""

from __future__ import annotations

from typing import Annotated

import typer

from steer.cli import options
from steer.cli.convert import ToFolder
from steer.cli.options import Json, Quiet

NAME = "pull"


def command(
    model: Annotated[
        str, typer.Argument(help="user/repo, user/repo@revision or user/repo:file on the Hub.")
    ],
    out: ToFolder,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a generator and its directions from the Hub into a folder that is a model as well.

    Where --model has fetched it before, that is what is copied: 'hf cache rm' forgets it.

    Example: steer pull user/my-generator@v1 -o my-generator
    """
    from huggingface_hub.utils import disable_progress_bars

    from steer.sharing import pull

    if quiet:
        disable_progress_bars()
    copied = pull(model, out)
    if json_:
        options.print_json(copied)
