"""Data sets of pictures whose properties are set: made in parts, resumable, of any length."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steer.batches import drawn
from steer.disk import fsync_folder, make_folder, write_atomically
from steer.errors import SteerError
from steer.files import Artefact, save, shard_path
from steer.images import to_png
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
    for the values; a part is kept by `resume` where its pictures are as they were written. `report`
    is told how many items are done and the share of pictures that were reached. Under torchrun each
    process makes the parts of its rank, as with `resume`, and the last puts them together; the
    others return None.

    Raises InputError where the folder holds what is not ours, a set made otherwise, or, without
    `resume`, an unfinished one; MachineError where the disk has no room.

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
    planned = {**made, "measure": recipe.finder, "items_in_a_part": min(shard, recipe.n)}
    place, pictures = Place(Path(folder)), recipe.n * len(recipe.steps)
    place.refuse_another_set(made)
    if resume and place.is_finished(pictures):
        return place.manifest
    place.require_room(pictures)
    done = place.begin(recipe, planned, shard, resume)
    try:
        for index in range(rank, count, world):
            items = range(index * shard, min((index + 1) * shard, recipe.n))
            if index not in done and place.is_ours(planned):
                tensors = _part(recipe, items, place.folder, report)
                if place.is_ours(planned):
                    part = Artefact(KIND, tensors, {**planned, "shard": index})
                    save(part, shard_path(place.parts, index, count))
            report(items.stop, "")
    except SteerError:
        place.withdraw()
        raise
    parts = place.all_parts(count, planned)
    if parts is None:
        return place.put_together_by_another(made)
    rows = list(rows_of(recipe, parts.tensors))
    manifest = manifest_of(recipe, rows, parts.tensors, made)
    if not place.is_ours(planned):
        return place.put_together_by_another(made)
    return place.end(rows, manifest)


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
        return _write(recipe, z, files)
    moved = control(
        recipe.generator, z, asked, recipe.directions, find=recipe.find, exact=recipe.exact,
        tolerance=recipe.tolerance, batch=recipe.batch, memory=recipe.plant,
    )  # fmt: skip
    return {
        "asked": packed(moved.asked),
        **_write(recipe, moved.z, files),
        "status": moved.status,
        "evaluations": moved.evaluations,
    }


def _write(recipe: Recipe, z: Tensor, files: Sequence[Path]) -> dict[str, Tensor]:
    """Pictures of codes [m, width] in files; their checksums [m, 32] and what is measured on them
    [m, k]."""
    for folder in {file.parent for file in files}:
        make_folder(folder)
    first = 0
    sums: list[list[int]] = []
    with ThreadPoolExecutor(WRITERS) as writers:
        for pictures in drawn(recipe.generator, z, lambda pictures: pictures, recipe.batch):
            last = first + len(pictures)
            sums += writers.map(_write_picture, files[first:last], pictures.cpu())
            first = last
    measured = recipe.plant(z) if recipe.plant is not None else torch.empty(len(z), 0)
    return {"measured": packed(measured), "sha256": torch.tensor(sums, dtype=torch.uint8)}


def _write_picture(file: Path, picture: Tensor) -> list[int]:
    """A picture in a file; the file's SHA-256."""
    data = to_png(picture)
    write_atomically(file, data)
    return list(hashlib.sha256(data).digest())


def _share_reached(rows: dict[str, Tensor]) -> str:
    """For the bar."""
    if "status" not in rows:
        return ""
    return f"{(rows['status'] == Status.REACHED).double().mean():.1%} reached"
