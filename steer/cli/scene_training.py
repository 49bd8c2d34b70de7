"""What `steer decompose --train` trains, by objective: data, network and losses."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.training import Run, open_data, require_finite
from steer.datasets import Dataset, Resized, WithTruth
from steer.errors import InputError
from steer.registry import unknown
from steer.scenes.bfvae import BFVAE
from steer.scenes.model import SceneModel
from steer.scenes.said import SAID
from steer.scenes.stored import Model
from steer.training.bfvae import Both, Masked
from steer.training.loop import OPTIONS, STATE
from steer.training.said import Said
from steer.training.scenes import Scenes, Swallowed

#: By objective, the network and the losses; what they do not take has no effect there.
OBJECTIVES: dict[str, tuple[type[Model], Callable[..., Any]]] = {
    "scenes": (SceneModel, Scenes),
    "said": (SAID, Said),
    "bfvae": (BFVAE, Both),
}
#: What options are called where they go.
RENAMED = {"boxes": "most"}
#: Of a scene model, what was found to do best, where nothing is given.
BEST: dict[str, Any] = {"grid": 8, "most": 1}
#: Runs of a training that found no objects, and how far apart their seeds are.
ATTEMPTS, SEEDS_APART = 3, 1000


def train_scenes(
    context: typer.Context, run: Run, objective: str, data: str, size: int,
    given: dict[str, Any], how: dict[str, Any],
) -> None:  # fmt: skip
    """Trains a model by `objective` on `data`; `given` are the values of options that not every
    objective has, None for its own, and `how` are the others."""
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    network, losses = OBJECTIVES[objective]
    of_network, of_losses = (inspect.signature(each).parameters for each in (network, losses))
    names = {name: RENAMED.get(name, name) for name in given}
    without = tuple(n for n, own in names.items() if own not in of_network | of_losses)
    refuse_given(context, without, f"for the objective {objective}")
    if not given["turns"]:
        refuse_given(context, ("rotation",), "without --turns")
    chosen = {names[n]: value for n, value in given.items() if value is not None}
    require_finite({n: v for n, v in chosen.items() if isinstance(v, float)})
    sizes = BEST if network is SceneModel else {}
    sizes = {**sizes, **{name: value for name, value in chosen.items() if name in of_network}}
    weights = {name: chosen.get(name, of_losses[name].default)
               for name in names.values() if name in of_losses}  # fmt: skip
    dataset, left_out = open_data(context, data, size, 3)
    dataset = prepared(dataset, objective, size)
    for attempt in range(_attempt(run.folder) if run.resume else 0, ATTEMPTS):
        seed = how["seed"] + attempt * SEEDS_APART
        torch.manual_seed(seed)
        model = network(side=dataset.shape[1], **sizes).to(run.team.device)
        learner = losses(model, steps=how["steps"], **weights)
        made = {"objective": objective, "data": dataset.name, **model.config, **weights, **how,
                "seed": seed, "attempt": attempt}  # fmt: skip
        try:
            judge = learner.judge if isinstance(learner, Scenes) else _never
            run.train(learner, dataset, left_out, made, judge)
            return
        except Swallowed as failed:
            run.team.wait()
            if run.team.leads:
                (run.folder / STATE).unlink(missing_ok=True)
            run.team.wait()
            if attempt + 1 == ATTEMPTS:
                raise
            if run.team.leads:
                options.note(f"{failed} Beginning anew with seed {seed + SEEDS_APART}.")


def prepared(dataset: Dataset, objective: str, size: int) -> Dataset:
    """The data as a network takes it: square, 3 channels, and with masks for a bfvae; sets whose
    objects are known are resized for that. InputError where it cannot be had."""
    channels, height, width = dataset.shape
    if isinstance(dataset, WithTruth) and (channels != 3 or height & (height - 1)):
        dataset = Resized(dataset, size)
    channels, height, width = dataset.shape
    if channels != 3 or height != width:
        raise InputError(
            f"expected square pictures of 3 channels, {dataset.name} has {list(dataset.shape)}."
        )
    if objective != "bfvae":
        return dataset
    if not isinstance(dataset, WithTruth):
        raise InputError(
            f"expected a set whose objects are known for the objective bfvae, got {dataset.name}."
        )
    return Masked(dataset)


def _never(step: int, stats: dict[str, float]) -> None:
    """Other objectives say nothing of objects."""


def _attempt(folder: Path) -> int:
    """Which attempt an interrupted run was at."""
    try:
        attempt = json.loads((folder / OPTIONS).read_text())["attempt"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0
    return attempt if type(attempt) is int and 0 <= attempt < ATTEMPTS else 0
