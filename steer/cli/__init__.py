"""The command line: one file per command, and the one place where errors become messages."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import typer

from steer.cli import (
    evaluate,
    fit_direction,
    invert,
    models,
    render,
    sample,
    show,
    train_vae,
    trajectories,
)
from steer.errors import SteerError

# typer may carry its own copy of click: its exceptions are reached through typer alone
_CommandLineError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="steer",
    help="Knobs on pretrained image generators: invert a picture, find the direction of a "
    "property, set it to an exact value.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    models,
    sample,
    invert,
    trajectories,
    fit_direction,
    render,
    evaluate,
    show,
    train_vae,
):
    app.command(module.NAME)(module.command)


def main() -> NoReturn:
    """Entry point: runs the command and ends the process with its status.

    0 done; 1 the environment failed; 2 the user's mistake; 3 some inputs could not be used and the
    others were done; 130 or 143 interrupted. `--debug` anywhere shows the traceback.
    """
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = app(arguments, prog_name="steer", standalone_mode=False)
    except KeyboardInterrupt as interrupt:
        if debug:
            raise
        text = str(interrupt) or "interrupted."
        _end(text, 143 if text.startswith("terminated") else 130)
    except BrokenPipeError:
        # whoever read our output has gone: nothing more to say, and nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SteerError, _CommandLineError) as error:
        if debug:
            raise
        _end(_sentence(error), getattr(error, "exit_status", 2))
    except MemoryError:
        if debug:
            raise
        _end("out of memory.", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _sentence(error: BaseException) -> str:
    text = error.format_message() if isinstance(error, _CommandLineError) else str(error)
    return " ".join(text.split())


def _end(sentence: str, status: int) -> NoReturn:
    print(f"steer: {sentence}", file=sys.stderr)
    sys.exit(status)


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt("terminated.")
