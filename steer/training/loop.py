"""The one training loop: data, steps, log, pictures, checkpoints, resume."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from steer.datasets import Dataset
from steer.disk import make_folder, read_whole, save_json, write_atomically
from steer.errors import InputError, SteerError
from steer.images import write_png
from steer.training.team import Noise, Team

STATE = "training.pt"
OPTIONS = "options.json"
LOG = "stats.jsonl"
#: Pictures of the data that an objective sees when it is exported.
EXPORT_PICTURES = 2048
#: Written last: a folder that has it holds a finished run.
CARD = "README.md"
#: What torch.load raises on bytes that it did not write.
TORCH_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, AttributeError),
    *(TypeError, AssertionError, struct.error, OSError),
)


class Objective(Protocol):
    """What is trained, and how one step of it goes; one file of this folder for each."""

    #: By name, those that `step` steps.
    optimisers: dict[str, torch.optim.Adam]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained, on the device that pictures are moved to."""
        ...

    def step(self, pictures: Tensor, step: int, noise: Noise) -> dict[str, float]:
        """One update on real pictures [B, C, H, W]; returns what to log."""
        ...

    def preview(self, pictures: Tensor) -> Tensor:
        """A picture [3, H, W] that shows how far it is."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        ...

    def export(self, folder: Path, options: dict[str, Any], pictures: Callable[[], Tensor]) -> None:
        """Writes the generator as a folder that `--model` loads; `pictures` draws some of the
        data."""
        ...


def train(
    objective: Objective,
    dataset: Dataset,
    folder: Path,
    options: dict[str, Any],
    *,
    steps: int,
    batch: int,
    seed: int = 0,
    every: int = 1000,
    resume: bool = False,
    report: Callable[[int, dict[str, float]], None] = lambda step, stats: None,
    team: Team | None = None,
    bf16: bool = False,
) -> Path:
    """Trains for `steps` batches and writes the generator's folder, which it returns.

    Every `every` steps it logs a line to `stats.jsonl`, draws `preview.png` and saves what a
    resumed run needs. The batch and the noise of a step depend on `seed` and the step alone, so a
    resumed run ends with the bytes of an uninterrupted one (same machine, same thread count).

    Each process of `team` steps on its part of every batch, down the mean of all gradients; the
    first one writes. With `bf16` networks compute in that precision where torch's autocast has
    them, and losses and weights stay in float32.

    A folder holds a run from its first checkpoint on: what died before has nothing to go on with,
    and gives way to the next run, whatever its options.

    Raises InputError when the processes cannot share a batch evenly, or the folder holds a run with
    other options, one and not `resume`, or a
    model that was not trained here; SteerError when the loss is no longer finite (the last
    checkpoint, if there is one, stays).
    """
    team = team or Team(str(next(objective.parameters()).device))
    team.part(torch.arange(batch))  # refused before anything is written
    start = _prepare(objective, folder, options, resume, team)
    if start is None:
        return folder
    for optimiser in objective.optimisers.values():
        team.join(optimiser)
    since = time.perf_counter()
    for step, pictures in batches(dataset, range(start, steps), batch, seed, team):
        # no cache: a step uses weights again after it has changed them
        with torch.autocast(team.device.type, torch.bfloat16, bf16, cache_enabled=False):
            stats = objective.step(pictures, step, team.noise(seed * 1_000_003 + step))
        stats = team.mean(stats)
        _require_finite(stats, step + 1, folder)
        report(step + 1, stats)
        if team.leads and ((step + 1) % every == 0 or step + 1 == steps):
            _require_finite(_largest(objective), step + 1, folder)
            rate = (step + 1 - start) / (time.perf_counter() - since)
            _log(folder, {"step": step + 1, "steps_per_second": round(rate, 2), **stats})
            write_png(folder / "preview.png", objective.preview(pictures[:10]))
            _checkpoint(objective, folder, step + 1)
    if team.leads:
        seen = batch_indices(dataset, 0, EXPORT_PICTURES, seed)
        objective.export(folder, options, lambda: dataset.pictures(seen).to(team.device))
        (folder / STATE).unlink(missing_ok=True)
    team.wait()
    return folder


def batches(
    dataset: Dataset, steps: range, batch: int, seed: int, team: Team
) -> Iterator[tuple[int, Tensor]]:
    """Steps and this process's pictures [B, C, H, W] of each, drawn while the step before runs."""

    def drawn(step: int) -> Tensor:
        return dataset.pictures(team.part(batch_indices(dataset, step, batch, seed)))

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(drawn, steps.start)
        for step in steps:
            pictures = coming.result().to(team.device)
            if step + 1 < steps.stop:
                coming = ahead.submit(drawn, step + 1)
            yield step, pictures


def batch_indices(dataset: Dataset, step: int, batch: int, seed: int) -> Tensor:
    """Indices [batch] of a step: fresh ones of an infinite set, shuffled epochs of a finite one."""
    places = torch.arange(step * batch, (step + 1) * batch)
    if dataset.size is None:
        return places + (seed % 2**23 << 40)  # 63 bits hold no more
    epochs = places // dataset.size
    indices = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        chosen = epochs == epoch
        shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(dataset.size, generator=shuffle)
        indices[chosen] = order[places[chosen] % dataset.size]
    return indices


def _prepare(
    objective: Objective, folder: Path, options: dict[str, Any], resume: bool, team: Team
) -> int | None:
    """Makes or takes up the run's folder; the step to go on from, None where it has ended."""
    finished, begun = (folder / CARD).exists(), (folder / STATE).exists()
    if finished or begun:
        _require_same(folder, options, resume)
    if finished and not begun:
        return None
    step = 0
    if begun:
        step = _taken_up(objective, folder)
    team.wait()  # until all have read what is there
    if team.leads:
        make_folder(folder)
        save_json(folder / OPTIONS, options)
        _cut_log(folder, step)
    return step


def _require_same(folder: Path, options: dict[str, Any], resume: bool) -> None:
    """InputError where the run in the folder is not the one to go on with."""
    if not (folder / OPTIONS).exists():
        raise InputError(
            f"{folder} holds a model or a {CARD} but no {OPTIONS} of a training run: name another "
            "folder."
        )
    if not resume:
        raise InputError(
            f"{folder} already holds a training run: pass --resume to go on with it, or name "
            "another folder."
        )
    before = _options_of(folder)
    if other := [k for k in sorted({*before, *options}) if before.get(k) != options.get(k)]:
        raise InputError(
            f"{folder} was begun with other options ({', '.join(other)}): expected the same."
        )


def _options_of(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_whole(folder / OPTIONS)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / OPTIONS} is damaged: expected the run's options.") from error


def _taken_up(objective: Objective, folder: Path) -> int:
    """The step of the checkpoint, with which the objective goes on."""
    data = io.BytesIO(read_whole(folder / STATE))
    try:
        saved = torch.load(data, map_location="cpu", weights_only=True)
        objective.load_state_dict(saved["objective"])
        return int(saved["step"])
    except TORCH_ERRORS as error:
        raise InputError(
            f"{folder / STATE} is damaged: delete it to begin this run anew."
        ) from error


def _checkpoint(objective: Objective, folder: Path, step: int) -> None:
    buffer = io.BytesIO()
    torch.save({"step": step, "objective": objective.state_dict()}, buffer)
    write_atomically(folder / STATE, buffer.getvalue())


def _require_finite(stats: dict[str, float], step: int, folder: Path) -> None:
    bad = [name for name, value in stats.items() if not math.isfinite(value)]
    if bad:
        kept = (
            f"the last checkpoint is kept in {folder}"
            if (folder / STATE).exists()
            else "there was no checkpoint yet"
        )
        raise SteerError(
            f"training diverged: {', '.join(bad)} is not finite at step {step}; {kept}."
        )


def _largest(objective: Objective) -> dict[str, float]:
    """The largest weight, NaN where one is: a step's loss is of the weights before it."""
    largest = torch.stack([weight.detach().abs().max() for weight in objective.parameters()])
    return {"a weight": largest.max().item()}


def _log(folder: Path, row: dict[str, float]) -> None:
    with (folder / LOG).open("a") as log:
        log.write(json.dumps(row) + "\n")


def _cut_log(folder: Path, step: int) -> None:
    """Drops lines that an interrupted run wrote after its last checkpoint."""
    text = read_whole(folder / LOG).decode() if (folder / LOG).exists() else ""
    # a killed run may leave half a line at the end, which is of a later step
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    try:
        kept = [line for line in lines if json.loads(line)["step"] <= step]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{folder / LOG} is damaged: expected the log of a run, delete it to go on without."
        ) from error
    write_atomically(folder / LOG, "".join(kept).encode())
