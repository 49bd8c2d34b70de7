"""steer push: a generator's folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer.cli import options
from steer.cli.options import Json, Quiet

NAME = "push"


def command(
    folder: Annotated[Path, typer.Argument(help="Folder that convert, pull or train-vae wrote.")],
    repo: Annotated[str, typer.Argument(help="Where to, user/name; made where it is not there.")],
    private: Annotated[
        bool, typer.Option("--private", help="Nobody else sees it, where it is made now.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, made where it is not there.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a generator with its card and its directions to the Hub.

    It is loaded first; nothing else that lies in the folder is sent. Log in with 'hf auth login'.

    Example: steer push my-generator user/my-generator --private
    """
    from huggingface_hub.utils import disable_progress_bars

    from steer.sharing import push

    if quiet:
        disable_progress_bars()
    sent = push(folder, repo, private, revision)
    if json_:
        options.print_json(sent)
