"""The folder of a data set: what an earlier run left there, and what is not ours to replace."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from steer.disk import (
    disk_error,
    fsync_folder,
    make_folder,
    read_whole,
    save_json,
    write_atomically,
)
from steer.errors import InputError, MachineError
from steer.files import (
    SHARD_NAME,
    Artefact,
    finished_shards,
    load,
    refuse_other_options,
    shard_path,
)
from steer.images import SUFFIXES
from steer.populate.outcome import rows_of
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

    Several processes may begin at once: the names are read before the plan, which one of them
    writes before anything else. Raises InputError where it holds what is not ours to replace, or
    pictures and folders that would count as part of the set.
    """

    def __init__(self, folder: Path):
        self.folder, self.parts, self.is_mine = folder, folder / PARTS, False
        self.names = list(_names_in(folder))
        self.plan = _description(self.parts / PLAN)
        self.manifest = None if self.plan else _description(folder / MANIFEST)
        earlier = self.plan or self.manifest or {"classes": [], "items": 0}
        self.classes, self.items = set(earlier["classes"]), int(earlier["items"])
        self.held = Counter(item for name in self.names if (item := self.item(name)) is not None)
        self.shards = [n for n in self.names if n.startswith(f"{PARTS}/shard-")]
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
        if name == f"{PARTS}/":
            return self.parts.is_symlink()
        if name.endswith("/"):
            return name.rstrip("/") not in self.classes
        if name.startswith(f"{PARTS}/"):
            return not (_is_of_parts(Path(name)) and (self.plan or self._is_left(name)))
        return name.lower().endswith(TAKEN) and self.item(name) is None

    def _is_left(self, name: str) -> bool:
        """Whether a file among the parts, where there is no plan, is of a run that was killed or is
        at its very end: still being written, a part, or gone by now."""
        path = self.folder / name
        if BESIDE.fullmatch(path.name):
            return True
        try:
            return load(path).kind == KIND
        except InputError:
            return not path.exists()

    def refuse_another_set(self, made: Mapping[str, Any]) -> None:
        """InputError where the folder holds a finished set that was made otherwise."""
        if self.manifest is not None:
            refuse_other_options(self.folder, self.manifest["made"], made, "this run")

    def is_finished(self, pictures: int) -> bool:
        """Whether a set is there with so many pictures, each as it was written."""
        if self.manifest is None or METADATA not in self.names or (self.parts / PLAN).exists():
            return False
        try:
            rows = [json.loads(line) for line in read_whole(self.folder / METADATA).splitlines()]
            if len(rows) != pictures or not all(map(self._is_whole, rows)):
                return False
        except (ValueError, TypeError, KeyError):
            return False
        self._clear()  # of a run that was killed at its very end
        return True

    def _is_whole(self, row: Mapping[str, Any]) -> bool:
        """Whether the picture of a row of the metadata is as it was written."""
        path = self.folder / row["file_name"]
        return path.is_file() and hashlib.sha256(read_whole(path)).hexdigest() == row["sha256"]

    def require_room(self, pictures: int) -> None:
        """MachineError where the disk cannot hold the pictures that are not there yet."""
        path = self.folder.absolute()
        ground = next(each for each in (path, *path.parents) if each.exists())
        missing, free = pictures - self.held.total(), shutil.disk_usage(ground).free
        if missing * BLOCK > free:
            raise MachineError(
                f"expected room for {missing} more pictures, {missing * BLOCK / 1e6:.1f} MB or "
                f"more, the disk of {self.folder} has {free / 1e6:.1f} MB free."
            )

    def begin(
        self, recipe: Recipe, planned: Mapping[str, Any], shard: int, resume: bool
    ) -> set[int]:
        """The parts that are whole; none of a set that is begun anew, whose plan is then written.
        InputError for an unfinished set without `resume`, or with it one made otherwise."""
        if self.plan is None and self._plan(recipe, planned):
            return set()
        if not resume:
            raise InputError(
                f"{self.folder} holds {len(self.shards)} parts of an unfinished data set: pass "
                "--resume to go on with them, name another folder, or remove this one."
            )
        return self._whole_parts(recipe, planned, shard) if self.is_ours(planned) else set()

    def _plan(self, recipe: Recipe, planned: Mapping[str, Any]) -> bool:
        """Write the plan of a set that is begun anew, in place of a finished one; False where
        another process was first."""
        make_folder(self.parts)
        # what is left of the earlier set is told by this plan, and goes at the end
        classes, items = sorted({*self.classes, *recipe.classes}), max(recipe.n, self.items)
        plan = {"classes": classes, "items": items, "made": planned}
        if not _create_json(self.parts / PLAN, plan):
            return False
        described = [name for name in (MANIFEST, METADATA) if name in self.names]
        _remove(self.folder / name for name in self.shards + described)
        self.is_mine = True
        return True

    def withdraw(self) -> None:
        """Take the plan back that this process wrote, where no picture came of it."""
        if self.is_mine and not any(
            PICTURE.fullmatch(Path(n).name) for n in _names_in(self.folder)
        ):
            _remove([self.parts / PLAN])
            self._clear()

    def is_ours(self, planned: Mapping[str, Any]) -> bool:
        """Whether the set is still being made; False where another process has ended it.
        InputError where another run makes its own set here."""
        plan = _description(self.parts / PLAN)
        if plan is None:
            return False
        refuse_other_options(self.folder, plan["made"], planned, "this run")
        return True

    def _whole_parts(self, recipe: Recipe, planned: Mapping[str, Any], shard: int) -> set[int]:
        """The parts whose pictures are as they were written; the others are removed."""
        count = math.ceil(recipe.n / shard)
        whole = set()
        for index in finished_shards(self.parts, count, planned):
            path = shard_path(self.parts, index, count)
            if all(map(self._is_whole, rows_of(recipe, load(path).tensors, index * shard))):
                whole.add(index)
            else:
                _remove([path])
        return whole

    def all_parts(self, count: int, planned: Mapping[str, Any]) -> Artefact | None:
        """All parts joined; None where other processes have yet to make some, or one has already
        put them together and removed them."""
        if not self.is_ours(planned):
            return None
        try:
            if len(finished_shards(self.parts, count, planned)) < count:
                return None
            return load(self.parts, KIND)
        except InputError:
            if (self.parts / PLAN).exists():
                raise
            return None

    def put_together_by_another(self, made: Mapping[str, Any]) -> dict[str, Any] | None:
        """The manifest, where another process was the last; MachineError where there is none."""
        if (self.parts / PLAN).exists():
            return None
        self._clear()
        self.manifest = _description(self.folder / MANIFEST)
        if self.manifest is None:
            raise MachineError(
                f"expected the plan of this run in {self.parts}, it was removed: begin anew."
            )
        self.refuse_another_set(made)
        return self.manifest

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
        self._clear()
        return manifest

    def _clear(self) -> None:
        """Remove the parts, once there is no plan."""
        _remove(path for path in self.parts.glob("*") if _is_of_parts(path))
        with suppress(OSError):  # another process did, or a file that is not ours was put there
            self.parts.rmdir()


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


def _is_of_parts(path: Path) -> bool:
    """Whether a name among the parts is one that we give."""
    return path.name == PLAN or bool(SHARD_NAME.fullmatch(path.name) or BESIDE.fullmatch(path.name))


def _create_json(path: Path, value: Any) -> bool:
    """Write JSON, whole, where nothing lies yet; False where something does."""
    beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
    save_json(beside, value)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without links, such as exFAT
        if path.exists():
            return False
        save_json(path, value)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


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
