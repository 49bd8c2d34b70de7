"""What the commands that train have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.datasets import Dataset
    from steer.training.loop import Objective
    from steer.training.team import Team


@dataclass(frozen=True)
class Run:
    """Where a training writes, and what it says meanwhile."""

    folder: Path
    every: int
    resume: bool
    quiet: bool
    json_: bool
    team: Team

    def train(
        self,
        objective: Objective,
        dataset: Dataset,
        left_out: list[InputError],
        chosen: dict[str, Any],
        judge: Callable[[int, dict[str, float]], None] = lambda step, stats: None,
    ) -> None:
        """Trains, with a bar, and says what came of it; status 3 where pictures were left out.
        `judge` is told each step's numbers, and may end the run by an error."""
        from steer.training.loop import STATE, train

        for reason in left_out if self.team.leads else []:
            options.note(f"left out: {reason}")
        silent = self.quiet or not self.team.leads

        def report(step: int, stats: dict[str, float]) -> None:
            bar(step, next(iter(stats.values())))
            judge(step, stats)

        with progress("training", chosen["steps"], silent, self.folder / STATE) as bar:
            train(
                objective, dataset, self.folder, chosen,
                steps=chosen["steps"], batch=chosen["batch"], seed=chosen["seed"],
                every=self.every, resume=self.resume, team=self.team, bf16=chosen["bf16"],
                report=report,
            )  # fmt: skip
        if self.json_ and self.team.leads:
            reasons = [str(reason) for reason in left_out]
            options.print_json({"model": str(self.folder), "left_out": reasons, **chosen})
        if left_out:
            raise typer.Exit(3)


def open_data(
    context: typer.Context, data: str, size: int, channels: int
) -> tuple[Dataset, list[InputError]]:
    """The pictures, and why some of a folder or zip cannot be read; InputError for sizes given with
    a procedural set."""
    from steer.datasets import is_procedural, open_dataset

    if is_procedural(data):
        beside = f"with the procedural set {data}, whose pictures have a shape of their own"
        refuse_given(context, ("size", "channels"), beside)
    left_out: list[InputError] = []
    return open_dataset(data, size, channels, left_out.append), left_out


def require_folder(out: str | Path) -> Path:
    """The folder that a model is written to; InputError for a pipe."""
    if str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    return Path(out)


def require_finite(values: dict[str, float]) -> None:
    """InputError for numbers by flag that are infinite or none."""
    for flag, value in values.items():
        if not math.isfinite(value):
            name = flag.replace("_", "-")
            raise InputError(f"expected a finite number for --{name}, got {value}.")
