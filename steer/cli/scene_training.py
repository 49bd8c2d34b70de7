"""The training of scene models on the command line: runs that find no objects begin anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from steer.cli import options
from steer.cli.training import Run
from steer.datasets import Dataset
from steer.errors import InputError
from steer.scenes.model import SceneModel
from steer.training.loop import OPTIONS, STATE
from steer.training.scenes import Scenes, Swallowed

#: Runs of a training that found no objects, and how far apart their seeds are.
ATTEMPTS, SEEDS_APART = 3, 1000


def train_scenes(
    run: Run, dataset: Dataset, left_out: list[InputError], sizes: dict[str, Any],
    trained: dict[str, Any],
) -> None:  # fmt: skip
    """Trains a scene model of `sizes` on pictures, `trained` as the options say."""
    channels, height, width = dataset.shape
    if channels != 3 or height != width or height % sizes["grid"] or _odd(height // sizes["grid"]):
        raise InputError(
            f"expected square pictures of 3 channels and cells of 2^k pixels, got "
            f"{list(dataset.shape)} and {sizes['grid']} cells along a side."
        )
    names = ("steps", "rate", "sigma", "object_prior", "rotation")
    for attempt in range(_attempt(run.folder) if run.resume else 0, ATTEMPTS):
        seed = trained["seed"] + attempt * SEEDS_APART
        torch.manual_seed(seed)
        model = SceneModel(height, **sizes).to(run.team.device)
        objective = Scenes(model, **{name: trained[name] for name in names})
        chosen = {"objective": "scenes", "data": dataset.name, **model.config, **trained,
                  "seed": seed, "attempt": attempt}  # fmt: skip
        try:
            run.train(objective, dataset, left_out, chosen, objective.judge)
            return
        except Swallowed as failed:
            run.team.wait()
            if run.team.leads:
                (run.folder / STATE).unlink(missing_ok=True)
            if attempt + 1 == ATTEMPTS:
                raise
            options.note(f"{failed} Beginning anew with seed {seed + SEEDS_APART}.")


def _attempt(folder: Path) -> int:
    """Which attempt an interrupted run was at."""
    try:
        attempt = json.loads((folder / OPTIONS).read_text())["attempt"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0
    return attempt if type(attempt) is int and 0 <= attempt < ATTEMPTS else 0


def _odd(cell: int) -> bool:
    """Whether a cell's side is no power of two, of 4 or more."""
    return cell < 4 or bool(cell & (cell - 1))
