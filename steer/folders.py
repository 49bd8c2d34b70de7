"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from steer.disk import disk_error, fsync_folder, make_folder
from steer.errors import InputError
from steer.hub import CONFIG_NAMES, choose_weights
from steer.registry import first_few


def check_place(folder: Path) -> None:
    """InputError where there can be no folder: a pipe, a file's place, or no permission."""
    if str(folder) == "-":
        raise InputError("expected a folder, got -: a folder goes through no pipe.")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder, {folder} is a file.")
    ground = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(ground, os.W_OK):
        raise InputError(f"cannot write {folder}: no permission.")


def check_target(folder: Path, names: Collection[str]) -> None:
    """InputError unless a folder is free, or holds nothing but an earlier version of the files
    called `names` (relative to it), weights or a configuration among them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_target(Path(folder), ["config.json", "model.safetensors"])
    ...     (Path(folder) / "notes.txt").touch()
    ...     check_target(Path(folder), ["config.json", "model.safetensors"])
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected an empty folder ... holds notes.txt.
    """
    check_place(folder)
    expected = f"expected an empty folder or an earlier version of the same, {folder}"
    held = set()
    for name in _files_in(folder):
        if name not in names:
            raise InputError(f"{expected} holds {name}.")
        held.add(name)
    if held and not held & {*CONFIG_NAMES, choose_weights(names, str(folder))}:
        raise InputError(f"{expected} holds {first_few(sorted(held))}.")


def check_same(folder: Path, sha256: str | None, earlier: str | None) -> None:
    """InputError unless a folder is free, or what it holds was made `earlier` of the weights of
    that SHA-256.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_same(Path(folder), "ab12", None)
    """
    if any(_files_in(folder)) and (sha256 is None or sha256 != earlier):
        raise InputError(
            f"expected an empty folder or an earlier version of the same, {folder} holds another "
            "model or somebody's own files: name another folder, or remove it first."
        )


def _files_in(folder: Path) -> Iterator[str]:
    """Every file below a folder, by its name from there."""
    try:
        for path in folder.rglob("*"):
            if not path.is_dir():
                yield path.relative_to(folder).as_posix()
    except OSError as error:
        raise disk_error("read", folder, error) from error


@contextmanager
def filled_beside(folder: Path) -> Iterator[Path]:
    """A hidden folder beside to write into; when the block ends well, its files are those of
    `folder`, with the weights last. Raises what `disk_error` makes of a failing disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     with filled_beside(Path(home) / "new") as beside:
    ...         (beside / "model.safetensors").touch()
    ...     [path.relative_to(home).as_posix() for path in Path(home).rglob("*")]
    ['new', 'new/model.safetensors']
    """
    folder = folder.resolve()
    beside = folder.parent / f".{secrets.token_hex(8)}.tmp"
    make_folder(folder.parent)
    try:
        make_folder(beside)
        yield beside
        try:
            _move(beside, folder)
        except OSError as error:
            raise disk_error("write", folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _move(beside: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(beside, folder)
        fsync_folder(folder.parent)
        return
    names = list(_files_in(beside))
    weights = choose_weights(names, str(folder))
    # no moment at which old weights lie beside a new configuration
    (folder / weights).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: name == weights):
        make_folder((folder / name).parent)
        os.replace(beside / name, folder / name)
    fsync_folder(folder)
