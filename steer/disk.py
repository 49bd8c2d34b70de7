"""Bytes and JSON on disk and on pipes: whole or not at all, and every failure a sentence."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steer.errors import InputError, MachineError, SteerError

NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
ENDLESS = {
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
NOT_A_NAME = {errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST}
SIGNATURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x93NUMPY": "a NumPy array",
    b"PK": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer instead of the file (run git lfs pull)",
}


def disk_error(doing: str, path: str | Path, error: OSError) -> SteerError:
    """What an OSError met while `doing` ("read", "write") something means to the user.

    >>> disk_error("write", "a.png", OSError(errno.ENOSPC, "No space left on device"))
    MachineError('cannot write a.png: No space left on device.')
    """
    if error.errno in NOT_ALLOWED:
        return InputError(f"cannot {doing} {path}: no permission ({error.strerror}).")
    if error.errno == errno.EISDIR:
        return InputError(f"cannot {doing} {path}: expected a file, it is a folder.")
    if error.errno == errno.ENOTDIR:
        above = next((each for each in Path(path).parents if each.exists()), path)
        return InputError(f"cannot {doing} {path}: {above} is a file, no folder.")
    if error.errno == errno.ENOENT:
        missing = f"the folder {Path(path).parent}" if doing == "write" else "it"
        return InputError(f"cannot {doing} {path}: {missing} does not exist.")
    if error.errno in NOT_A_NAME:
        return InputError(f"cannot {doing} {path}: {error.strerror}.")
    return MachineError(f"cannot {doing} {path}: {error.strerror or error}.")


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, and durably.

    Written beside under a hidden name, fsynced, renamed, and the folder fsynced; the hidden file is
    removed on any failure. A link is followed; a device or a named pipe is written straight, since
    a rename would replace it.

    Raises InputError where the place cannot be written (no such folder, a folder of that name, no
    permission) and MachineError where the disk fails.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a.txt", b"hello")
    ...     [(entry.name, entry.read_bytes()) for entry in Path(folder).iterdir()]
    [('a.txt', b'hello')]
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _write_beside_and_rename(Path(os.path.realpath(path)), data)
    except OSError as error:
        raise disk_error("write", path, error) from error


def _write_beside_and_rename(path: Path, data: bytes) -> None:
    beside = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """What was renamed in a folder lasts from here on; raises what `disk_error` makes of errors."""
    if os.name != "posix":  # Windows opens no folder for fsync
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_error("write", folder, error) from error


def make_folder(folder: Path) -> None:
    """A folder and its parents, where they are not there yet."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error("make", folder, error) from error


def cache_folder() -> Path:
    """Where downloads and what is estimated once are kept: $STEER_HOME, or ~/.cache/steer."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.environ.get("STEER_HOME") or os.path.join(home, "steer")).expanduser()


@contextmanager
def in_the_cache(doing: str, place: Path) -> Iterator[None]:
    """What goes wrong in a place that no argument of a command named is the machine's failure.

    >>> with in_the_cache("write", Path("cache/net.pt")):
    ...     raise PermissionError(errno.EACCES, "Permission denied")
    Traceback (most recent call last):
        ...
    steer.errors.MachineError: cannot write cache/net.pt: no permission (Permission denied).
    """
    try:
        yield
    except OSError as error:
        raise MachineError(str(disk_error(doing, place, error))) from error


def require_file(path: str | os.PathLike[str]) -> None:
    """InputError where a path is a device, a pipe or a socket: reading it may never end.

    >>> require_file(os.devnull)
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected a file, /dev/null is a device.
    """
    try:
        kind = ENDLESS.get(stat.S_IFMT(os.stat(path).st_mode))
    except OSError as error:
        raise disk_error("read", os.fspath(path), error) from error
    if kind:
        raise InputError(f"expected a file, {path} is {kind}.")


def printable(text: str) -> str:
    r"""Text of a stranger's whose control characters, which a terminal obeys, are told instead.

    >>> printable("fine\x1b[2J")
    'fine\\x1b[2J'
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def read_whole(path: Path) -> bytes:
    """A file's bytes, read once into memory of our own (a mapped file that shrinks would kill us).

    Raises InputError where it is missing, a folder or forbidden, MachineError where the disk fails.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise disk_error("read", path, error) from error


def write_stdout(data: bytes) -> None:
    """Put `data` on the pipe; InputError where standard output is a terminal or closed."""
    if sys.stdout is None or sys.stdout.isatty():
        raise InputError(
            "expected standard output to be a pipe or a file, it is a terminal: "
            "name a file instead of - or add '> FILE'."
        )
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        # Python flushes again on its way out and would complain a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise MachineError("standard output was closed before everything was written.") from error
    except OSError as error:
        raise disk_error("write", "standard output", error) from error


def read_stdin() -> bytes:
    """All of the pipe; InputError where standard input is a terminal, closed or empty."""
    expected = "expected what the command before the pipe wrote on standard input"
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(f"{expected}, it is a terminal: pipe one in or name a file.")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise disk_error("read", "standard input", error) from error
    if not data:
        raise InputError(f"{expected}, it is empty: did the command before the pipe fail?")
    return data


def looks_like(data: bytes) -> str:
    """What the first bytes of a file say it is, for error messages.

    >>> looks_like(b"<!DOCTYPE html><html>"), looks_like(b"hello"), looks_like(b"")
    ('an HTML page', 'text', 'empty')
    """
    if not data:
        return "empty"
    for signature, name in SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 100_000_000:
        return "a truncated or damaged safetensors file"
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05":
        return "a Python pickle"
    return _looks_like_text(data[:512])


def _looks_like_text(start: bytes) -> str:
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").lower()
    if text.startswith(("<!doctype html", "<html", "<head")):
        return "an HTML page"
    if text.startswith(("{", "[")):
        return "JSON text"
    readable = sum(character.isprintable() or character.isspace() for character in text)
    if "\x00" not in text and "\ufffd" not in text[:-3] and readable == len(text):
        return "text"
    return "unknown binary data"


# --- JSON ---


def save_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all, with sorted keys; what is not finite becomes null.

    Paths become text; tensors, arrays and their scalars become numbers and lists.
    """
    text = json.dumps(plain(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings, by their names joined with dots.

    >>> flat({"made": {"seed": 0, "options": {"steps": 50}}})
    {'made.seed': 0, 'made.options.steps': 50}
    """
    leaves: dict[str, Any] = {}
    for name, value in nested.items():
        is_branch = isinstance(value, Mapping)
        leaves |= flat(value, f"{prefix}{name}.") if is_branch else {prefix + name: value}
    return leaves


def plain(value: Any) -> Any:
    """The same value as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    raise TypeError(f"no JSON for {type(value).__name__}: {value!r}")
