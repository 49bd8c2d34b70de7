"""Data sets of pictures whose properties are set: made in parts, resumable, of any length."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steer.batches import drawn
from steer.disk import fsync_folder, make_folder
from steer.files import Artefact, save, shard_path
from steer.images import write_png
from steer.knobs import Setting, Status, control
from steer.populate.outcome import manifest_of, packed, rows_of
from steer.populate.place import KIND, Place
from steer.populate.recipe import Recipe, folder_names

__all__ = ["Recipe", "folder_names", "populate"]

#: Pictures written at once: most of that time is waiting for the disk.
WRITERS = 8
Report = Callable[[int, str], None]


def populate(
    recipe: Recipe,
    folder: Path,
    made: dict[str, Any],
    *,
    shard: int = 64,
    resume: bool = False,
    report: Report = lambda done, said: None,
) -> dict[str, Any] | None:
    """Write the pictures of a data set, `metadata.jsonl` (Hugging Face's imagefolder) and
    `manifest.json`, which is returned: how it was made, and what came out.

    The work is done in parts of `shard` items, so that memory does not grow with their number but
    for the values; a part that is whole is kept by `resume`. `report` is told how many items are
    done and the share of pictures that were reached. Under torchrun each process makes the parts of
    its rank, as with `resume`, and the last puts them together; the others return None.

    Raises InputError where the folder holds pictures of another origin, an unfinished set without
    `resume`, or with it a set made otherwise; and where the disk has no room.

    >>> import tempfile
    >>> from steer.generators import load
    >>> generator = load(device="cpu")
    >>> recipe = Recipe(generator, lambda items: generator.sample(len(items), 0, items.start), n=2)
    >>> folder = Path(tempfile.mkdtemp())
    >>> populate(recipe, folder, made={})["classes"]
    {'sprites': 2}
    >>> sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    ['manifest.json', 'metadata.jsonl', 'sprites/0000000.png', 'sprites/0000001.png']
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    resume, count = resume or world > 1, math.ceil(recipe.n / shard)
    place, pictures = Place(Path(folder)), recipe.n * len(recipe.steps)
    if resume and (finished := place.finished(made, pictures)):
        return finished
    place.require_room(pictures)
    planned = {**made, "measure": recipe.finder, "items_in_a_part": min(shard, recipe.n)}
    done = place.begin(recipe, planned, shard, resume)
    for index in range(rank, count, world):
        items = range(index * shard, min((index + 1) * shard, recipe.n))
        if index not in done:
            tensors = _part(recipe, items, place.folder, report)
            part = Artefact(KIND, tensors, {**planned, "shard": index})
            save(part, shard_path(place.parts, index, count))
        report(items.stop, "")
    parts = place.all_parts(count, planned)
    if parts is None:
        return place.put_together_by_another()
    rows = list(rows_of(recipe, parts.tensors))
    return place.end(rows, manifest_of(recipe, rows, parts.tensors, made))


def _part(recipe: Recipe, items: range, folder: Path, report: Report) -> dict[str, Tensor]:
    """The pictures of some items, written, and the numbers that go with them."""
    z = recipe.codes(items)
    labels = recipe.labels(z)
    steps = []
    for step, asked in enumerate(recipe.steps):
        files = [
            folder / recipe.file(label, item, step)
            for label, item in zip(labels.tolist(), items, strict=True)
        ]
        steps.append(_step(recipe, z, asked, files))
        done = items.start + (step + 1) * len(items) // len(recipe.steps)
        report(done, _share_reached(steps[-1]))
    fsync_folder(folder)  # the classes' folders in it
    # the rows of an item, one for each step, follow each other
    rows = {name: torch.stack([each[name] for each in steps], 1).flatten(0, 1) for name in steps[0]}
    before = recipe.plant(z) if recipe.plant is not None else torch.empty(len(z), 0)
    if recipe.plant is not None:
        recipe.plant.forget(but=z[:0])
    return {"label": labels, "before": packed(before), **rows}


def _step(
    recipe: Recipe, z: Tensor, asked: Sequence[Setting], files: Sequence[Path]
) -> dict[str, Tensor]:
    """The pictures of codes [m, width], moved as is asked and written."""
    if not asked:
        return {"measured": packed(_write(recipe, z, files))}
    moved = control(
        recipe.generator, z, asked, recipe.directions, find=recipe.find, exact=recipe.exact,
        tolerance=recipe.tolerance, batch=recipe.batch, memory=recipe.plant,
    )  # fmt: skip
    return {
        "asked": packed(moved.asked),
        "measured": packed(_write(recipe, moved.z, files)),
        "status": moved.status,
        "evaluations": moved.evaluations,
    }


def _write(recipe: Recipe, z: Tensor, files: Sequence[Path]) -> Tensor:
    """Pictures of codes [m, width] in files; what is measured on them [m, k]."""
    for folder in {file.parent for file in files}:
        make_folder(folder)
    first = 0
    with ThreadPoolExecutor(WRITERS) as writers:
        for pictures in drawn(recipe.generator, z, lambda pictures: pictures, recipe.batch):
            last = first + len(pictures)
            list(writers.map(write_png, files[first:last], pictures.cpu()))
            first = last
    return (
        recipe.plant(z) if recipe.plant is not None else torch.empty(len(z), 0, dtype=torch.float64)
    )


def _share_reached(rows: dict[str, Tensor]) -> str:
    """For the bar."""
    if "status" not in rows:
        return ""
    return f"{(rows['status'] == Status.REACHED).double().mean():.1%} reached"
