"""The folder of a data set: what an earlier run left there, and what is not ours to replace."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steer.disk import disk_error, make_folder, read_whole, save_json, write_atomically
from steer.errors import InputError
from steer.files import Artefact, finished_shards, load, refuse_other_options
from steer.images import SUFFIXES
from steer.populate.recipe import Recipe
from steer.registry import first_few

KIND = "pictures"
#: Of a set that is not whole yet: its parts, and what they will make.
PARTS, PLAN = ".parts", "plan.json"
MANIFEST, METADATA = "manifest.json", "metadata.jsonl"
#: What pictures are called: the item, and the step of a traversal.
PICTURE = re.compile(r"(\d{7,})(-\d{3,})?\.png")
#: Files that were being written.
BESIDE = re.compile(r"\.[0-9a-f]{16}\.tmp")
#: What torchvision's ImageFolder takes for a picture.
TAKEN = (*SUFFIXES, ".bmp", ".pgm", ".ppm")
#: The least that a file takes on most disks.
BLOCK = 4096


class Place:
    """The folder of a set: what an earlier run left there.

    Several processes may begin at once: the names are read before the plan, which each writes
    before anything else. Raises InputError where it holds what is not ours to replace, or pictures
    and folders that would count as part of the set.
    """

    def __init__(self, folder: Path):
        self.folder, self.parts = folder, folder / PARTS
        self.names = list(_names_in(folder))
        self.plan = _description(self.parts / PLAN)
        self.manifest = None if self.plan else _description(folder / MANIFEST)
        earlier = self.plan or self.manifest or {"classes": [], "items": 0}
        self.classes, self.items = set(earlier["classes"]), int(earlier["items"])
        self.held = Counter(item for name in self.names if (item := self.item(name)) is not None)
        strangers = sorted(name for name in self.names if self._is_strange(name))
        if strangers:
            raise InputError(
                f"expected an empty folder or an earlier data set, {folder} holds "
                f"{first_few(strangers)}: name another folder."
            )

    def item(self, name: str) -> int | None:
        """The item whose picture an earlier run wrote under this name."""
        head, _, tail = name.rpartition("/")
        found = PICTURE.fullmatch(tail)
        if not found or head not in self.classes:
            return None
        return int(found[1]) if int(found[1]) < self.items else None

    def _is_strange(self, name: str) -> bool:
        if name == METADATA:
            return not (self.plan or self.manifest)
        if name.endswith("/"):
            return name.rstrip("/") not in {PARTS, *self.classes}
        return name.lower().endswith(TAKEN) and self.item(name) is None

    def finished(self, made: Mapping[str, Any], pictures: int) -> dict[str, Any] | None:
        """The manifest of a set with all its pictures; InputError where it was made otherwise."""
        if self.manifest is None:
            return None
        refuse_other_options(self.folder, self.manifest["made"], made, "this run")
        if self.held.total() < pictures:
            return None
        shutil.rmtree(self.parts, ignore_errors=True)  # of a run that was killed at its very end
        return self.manifest

    def require_room(self, pictures: int) -> None:
        """InputError where the disk cannot hold so many files."""
        path = self.folder.absolute()
        ground = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(ground).free
        if (pictures - self.held.total()) * BLOCK > free:
            raise InputError(
                f"expected no more pictures than fit on the disk, {pictures} do not fit into "
                f"the {free / 1e9:.1f} GB free for {self.folder}."
            )

    def begin(
        self, recipe: Recipe, planned: Mapping[str, Any], shard: int, resume: bool
    ) -> set[int]:
        """The parts that are whole; the plan of a set that is begun anew, in place of a finished
        one. InputError for an unfinished set without `resume`, or with it one made otherwise."""
        parts = [name for name in self.names if name.startswith(f"{PARTS}/shard-")]
        if resume and self.plan:
            refuse_other_options(self.folder, self.plan["made"], planned, "this run")
            done = finished_shards(self.parts, math.ceil(recipe.n / shard), planned)
            return done - {i // shard for i in range(recipe.n) if self.held[i] < len(recipe.steps)}
        if self.plan and parts:
            raise InputError(
                f"{self.folder} holds {len(parts)} parts of an unfinished data set: pass --resume "
                "to go on with them, or name another folder."
            )
        _remove(self.folder / name for name in parts)
        make_folder(self.parts)
        # what is left of the earlier set is told by this plan, and goes at the end
        classes, items = sorted({*self.classes, *recipe.classes}), max(recipe.n, self.items)
        save_json(self.parts / PLAN, {"classes": classes, "items": items, "made": planned})
        _remove(self.folder / name for name in (MANIFEST, METADATA) if name in self.names)
        return set()

    def all_parts(self, count: int, planned: Mapping[str, Any]) -> Artefact | None:
        """All parts joined; None where other processes have yet to make some, or one has already
        put them together and removed them."""
        try:
            if len(finished_shards(self.parts, count, planned)) < count:
                return None
            return load(self.parts, KIND)
        except InputError:
            if (self.parts / PLAN).exists():
                raise
            return None

    def put_together_by_another(self) -> dict[str, Any] | None:
        """The manifest, where another process was the last."""
        if (self.parts / PLAN).exists():
            return None
        shutil.rmtree(self.parts, ignore_errors=True)
        return _description(self.folder / MANIFEST)

    def end(self, rows: Sequence[dict[str, Any]], manifest: dict[str, Any]) -> dict[str, Any]:
        """Write what is said of the set; what else an earlier run left goes, and the parts."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(self.folder / METADATA, lines.encode())
        files = {row["file_name"] for row in rows}
        stale = [n for n in self.names if self.item(n) is not None and n not in files]
        halves = [n for n in self.names if BESIDE.fullmatch(n.rpartition("/")[2])]
        _remove(self.folder / name for name in stale + halves)
        _remove_empty(self.folder / name for name in self.names if name.endswith("/"))
        save_json(self.folder / MANIFEST, manifest)
        _remove([self.parts / PLAN])
        shutil.rmtree(self.parts, ignore_errors=True)
        return manifest


def _names_in(folder: Path) -> Iterator[str]:
    """What lies in a folder and in the folders in it, whose names end in a slash."""
    if not folder.exists():
        return
    try:
        for entry in os.scandir(folder):
            if not entry.is_dir():
                yield entry.name
                continue
            yield f"{entry.name}/"
            for inner in os.scandir(entry):
                yield f"{entry.name}/{inner.name}" + "/" * inner.is_dir()
    except OSError as error:
        raise disk_error("read", folder, error) from error


def _description(path: Path) -> dict[str, Any] | None:
    """A plan or a manifest of ours, if there is one."""
    if not path.exists():
        return None
    try:
        found = json.loads(read_whole(path))
        is_ours = isinstance(found["items"], int) and isinstance(found["made"], dict)
        if not (is_ours and all(isinstance(name, str) for name in found["classes"])):
            raise ValueError("other types")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"expected the manifest of an earlier render at {path}, it cannot be read: remove it "
            "or name another folder."
        ) from error
    return dict(found)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error("remove", path, error) from error


def _remove_empty(folders: Iterable[Path]) -> None:
    """ImageFolder would ask for the pictures of a class that has a folder."""
    for folder in folders:
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()
