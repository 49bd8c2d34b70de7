"""Numbers of weights files, read straight from the open file into memory of their own.

Nothing is mapped: a mapped file that shrinks kills the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any, BinaryIO

import torch
from torch import Tensor

from steer.disk import disk_error, looks_like, require_file
from steer.errors import InputError
from steer.unpickle import Place, shown

MOST_HEADER = 1 << 23  # bytes of a safetensors header or a zip directory, each 10 times as large
MOST_ENTRIES = 50_000  # of a zip archive; a large language model has some 1000
MOST_DIMS = 16
CHUNK = 1 << 20
GAP = 1 << 16  # bytes between numbers in a zip, to be hashed at once
# as safetensors names them
DTYPES = {
    **{"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64},
    **{"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}
# what readers of pickles, zip archives, NumPy and torch raise on bytes that make no sense to them
DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, RuntimeError, OverflowError),
    *(AssertionError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


@contextmanager
def damage_told(file: BinaryIO, expected: str, where: str) -> Iterator[None]:
    """What reading a file that makes no sense raises, as one sentence that says what it is."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"expected {expected}, {where} is {_looks(file)}.") from error
    except OSError as error:
        raise disk_error("read", where, error) from error


def _looks(file: BinaryIO) -> str:
    file.seek(0)
    like = looks_like(file.read(1024))
    if like in {"a zip archive", "a Python pickle"}:
        like += " that is truncated, damaged or holds more than tensors (nothing in it was run)"
    return like


class HashedFile(FileIO):
    """An open file that hashes what is read of it, each byte once, while that goes on in its order.

    >>> import io, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = open(f"{folder}/a", "wb").write(b"abc")
    ...     with HashedFile(f"{folder}/a") as hashed, io.BufferedReader(hashed) as file:
    ...         file.read(2), hashed.digest() == hashlib.sha256(b"abc").hexdigest()
    (b'ab', True)
    """

    def __init__(self, path: str | os.PathLike[str]):
        require_file(path)
        super().__init__(path, "rb")
        self._sha256 = hashlib.sha256()
        self._hashed = 0  # bytes, from the beginning

    def readinto(self, buffer: Any) -> int:
        """As a file's."""
        start = self.tell()
        if 0 < start - self._hashed <= GAP:
            self._hash_up_to(start)
        got = super().readinto(buffer)
        if start <= self._hashed < start + got:
            self._sha256.update(memoryview(buffer)[self._hashed - start : got])
            self._hashed = start + got
        return got

    def digest(self) -> str:
        """The SHA-256 of the whole file, the rest of which is read for it."""
        self._hash_up_to(file_size(self))
        return self._sha256.hexdigest()

    def _hash_up_to(self, end: int) -> None:
        self.seek(self._hashed)
        while data := self.read(min(CHUNK, end - self._hashed)):
            self._sha256.update(data)
            self._hashed += len(data)
        self.seek(end)


def file_size(file: BinaryIO) -> int:
    """Bytes in an open file."""
    return file.seek(0, 2)


def read_numbers(file: BinaryIO, place: Place, dtype: torch.dtype) -> Tensor:
    """The bytes at a place of the file as a flat tensor; EOFError where the file ends before."""
    count, rest = divmod(place.length, dtype.itemsize)
    if rest or place.end > file_size(file):
        raise EOFError("numbers beyond the file")
    numbers = torch.empty(count, dtype=dtype)
    file.seek(place.offset)
    view = numbers.view(torch.uint8).numpy().data
    while view:
        got = file.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the file ended while it was read")
        view = view[got:]
    return numbers


# --- safetensors ---


def read_safetensors(file: BinaryIO, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; `where` names it in errors.

    No name may stand twice, no byte between tensors or behind them. Raises InputError in one
    sentence.

    >>> import io, safetensors.torch
    >>> data = safetensors.torch.save({"u": torch.zeros(3)}, metadata={"by": "me"})
    >>> read_safetensors(io.BytesIO(data), "u.safetensors")
    ({'u': tensor([0., 0., 0.])}, {'by': 'me'})
    """
    with damage_told(file, "a safetensors file", where):
        start, header, metadata = _header(file)
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise InputError(
                    f"expected numbers of dtype {', '.join(DTYPES)}, {shown(name)} in {where} is "
                    f"of {shown(str(entry['dtype']))}."
                )
        return _planned(file, start, header), metadata


def _header(file: BinaryIO) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Where the numbers begin, what lies there, and the metadata."""
    size = file_size(file)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(MOST_HEADER, size - 8):
        raise ValueError("a header that is larger than its file, or than any")
    header = json.loads(file.read(length), object_pairs_hook=_distinct)
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is no text")
    return 8 + length, header, metadata


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name that stands twice")
    return made


def _planned(file: BinaryIO, start: int, header: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors, read in the order in which they lie, each right behind the last."""
    tensors = {}
    offset = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = all(type(side) is int and side >= 0 for side in (*shape, begin, end))
        if not whole or len(shape) > MOST_DIMS or begin != offset:
            raise ValueError("a shape or a place that cannot be")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError("a shape that does not fit its place")
        tensors[name] = read_numbers(file, Place(start + begin, end - begin), dtype).reshape(shape)
        offset = end
    if start + offset != file_size(file):
        raise ValueError("bytes behind the last tensor")
    return tensors


# --- zip archives ---


@dataclass(frozen=True)
class Stored:
    """Where the numbers of a storage lie, and their checksum where the file gives one."""

    place: Place
    crc32: int | None = None


class _Directory:
    """The file for what reads a zip's directory, which would read whatever a length claims."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell = file.seek, file.tell
        self._read = file.read

    def read(self, count: int = -1) -> bytes:
        """As a file's; BadZipFile where that is more than any directory."""
        if count > MOST_HEADER:
            raise zipfile.BadZipFile("a directory that is larger than any")
        return self._read(count)


def zip_entries(file: BinaryIO, where: str) -> dict[str, Stored]:
    """The places of a zip's entries by name.

    Raises InputError where one is compressed or encrypted, names a place outside the archive, or
    where there are more, or larger ones, than can be.
    """
    infos = zipfile.ZipFile(_Directory(file)).infolist()
    entries = {info.filename: info for info in infos}
    if len(infos) > MOST_ENTRIES or sum(info.file_size for info in infos) > file_size(file):
        raise _bad_zip(where, "claims more entries or bytes than it can hold")
    if len(entries) < len(infos):
        raise _bad_zip(where, "has an entry twice")
    if any(name.endswith("/constants.pkl") for name in entries):
        raise InputError(f"expected tensors only, {where} is a TorchScript program: refused.")
    for name, info in entries.items():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _bad_zip(where, "is compressed or encrypted")
        if ".." in name.split("/") or "\\" in name or name.startswith("/"):
            raise _bad_zip(where, f"has an entry outside it ({shown(name)})")
    return {name: _stored(file, info) for name, info in entries.items()}


def _bad_zip(where: str, what: str) -> InputError:
    return InputError(f"expected a PyTorch checkpoint, {where} is a zip archive that {what}.")


def _stored(file: BinaryIO, info: zipfile.ZipInfo) -> Stored:
    """Behind the entry's own header: 30 bytes, its name, and what pads it."""
    if not 0 <= info.header_offset < file_size(file):
        raise zipfile.BadZipFile("an entry beyond the file")
    file.seek(info.header_offset)
    signature, name, extra = struct.unpack("<4s22xHH", file.read(30))
    if signature != b"PK\3\4" or info.file_size != info.compress_size:
        raise zipfile.BadZipFile("no entry where the directory says")
    return Stored(Place(file.tell() + name + extra, info.file_size), info.CRC)
