"""The command line: one file per command, and the one place where errors become messages."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

from steer import __version__
from steer.cli import (
    bench,
    compare,
    convert,
    decompose,
    embed,
    evaluate,
    fit_direction,
    fit_encoder,
    invert,
    models,
    options,
    progress,
    pull,
    push,
    render,
    sample,
    score,
    show,
    train_avae,
    train_vae,
    trajectories,
)
from steer.errors import SteerError, out_of_memory

# typer may carry its own copy of click: its exceptions are reached through typer alone
_CommandLineError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="steer",
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
    fit_encoder,
    render,
    evaluate,
    compare,
    score,
    embed,
    show,
    decompose,
    train_avae,
    train_vae,
    convert,
    push,
    pull,
    bench,
):
    app.command(module.NAME)(module.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"steer {__version__}")
        raise typer.Exit


@app.callback()
def _shared(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Knobs on pretrained image generators: invert a picture, find the direction of a property,
    set it to an exact value.

    Example: steer render --direction translate-x -o walk.png
    """


def main() -> NoReturn:
    """Entry point: runs the command and ends the process with its status.

    0 done; 1 the environment failed; 2 the user's mistake; 3 some inputs could not be used and the
    others were done; 130 or 143 interrupted. `--debug` anywhere shows the traceback.
    """
    # a thread for each second processor: with one for each, small batches wait for each other
    # (2 processors: 92 s against 33 s for the same fit-direction)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    arguments = [a for a in sys.argv[1:] if a != "--debug"] or ["--help"]
    progress.interruptible()
    try:
        status = app(arguments, prog_name="steer", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has gone: nothing more to say, and nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except progress.Interrupted as stop:
        _end(str(stop), stop.status)
    except (SteerError, _CommandLineError) as error:
        _end(_sentence(error), getattr(error, "exit_status", 2))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        _end("out of memory: a smaller --batch may fit.", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _sentence(error: BaseException) -> str:
    text = error.format_message() if isinstance(error, _CommandLineError) else str(error)
    came = getattr(error.__cause__, "errors", None)
    if isinstance(error, _CommandLineError) and callable(came):
        text = f"{text.rstrip('.')}, got {came()[0]['input']!r}"
    text = " ".join(text.split())
    return text if text.endswith((".", "?")) else f"{text}."


def _end(sentence: str, status: int) -> NoReturn:
    """Ends the process from within the handling of an error."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    options.note(sentence)
    sys.exit(status)
