"""Bars on a terminal, and work that is interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO


def is_terminal(stream: TextIO) -> bool:
    """Whether a person is at the other end."""
    return stream.isatty()


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. No KeyboardInterrupt: typer would answer that one by itself."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number
        self.partial: Path | None = None
        self.resumes = True

    def __str__(self) -> str:
        if self.partial is None or not self.partial.exists():
            return "interrupted; nothing was written."
        on = ", --resume goes on with it" if self.resumes else ""
        return f"interrupted; what was done lies in {self.partial}{on}."


def interruptible() -> None:
    """From now on SIGINT and SIGTERM raise `Interrupted`, where they are not ignored."""

    def stop(number: int, frame: object) -> NoReturn:
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


Report = Callable[[float, Any], None]


@contextmanager
def progress(
    title: str, total: float, quiet: bool, partial: Path | None = None, resumes: bool = True
) -> Iterator[Report]:
    """A bar on stderr, silent when that is no terminal: call it with what is done, and the error
    there or what comes next. `partial` is where what interrupted work has done lies; a later run
    goes on with it where it `resumes`."""
    try:
        with _bar(title, total) if is_terminal(sys.stderr) and not quiet else _silence() as report:
            yield report
    except Interrupted as stop:
        stop.partial, stop.resumes = partial, resumes
        raise


@contextmanager
def fetching(model: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of megabytes that appears with the first bytes of a download, in a terminal."""
    with ExitStack() as stack:
        bar: list[Report] = []

        def report(done: int, total: int | None) -> None:
            if not bar:
                size = (total or 0) / 1e6
                bar.append(stack.enter_context(progress(f"fetching {model}", size, quiet=False)))
            bar[0](done / 1e6, "MB")

        yield report


@contextmanager
def _silence() -> Iterator[Report]:
    yield lambda done, value: None


@contextmanager
def _bar(title: str, total: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:g}/{task.total:g}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[value]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, value="", rate="")

        def report(done: float, value: Any) -> None:
            speed = bar.tasks[task].speed
            bar.update(
                task,
                completed=round(done, 2),
                rate=f"{speed:.3g}/s" if speed else "",
                value=f"{value:.3g}" if isinstance(value, float) else value,
            )

        yield report
