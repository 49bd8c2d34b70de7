"""What torch.save and pickle.dump wrote, as data: nothing is imported or called, and only the
tensors that are asked for are read."""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections.abc import Mapping, Set
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

import torch
from torch import Tensor

from steer.disk import SIGNATURES, looks_like
from steer.errors import InputError
from steer.tensors import (
    DTYPES,
    MOST_DIMS,
    Stored,
    damage_told,
    file_size,
    read_numbers,
    zip_entries,
)
from steer.unpickle import PERSISTENT, Budget, Call, Global, Place, shown, unpickle

ARRAY_DTYPE = re.compile(r"[<>=|][fiub]\d{1,2}")  # NumPy parses, even evaluates, longer ones
# as torch.save names them
STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch CharStorage": torch.int8,
    "torch ShortStorage": torch.int16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch.storage UntypedStorage": torch.uint8,
}
# the first two of the pickles with which torch.save began files before its zip format
LEGACY = (0x1950A86A20F9469CFC6C, 1001)

TENSOR = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"}
PARAMETER = {"torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"}
FROM_BYTES = "torch.storage _load_from_bytes"
ARRAY = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
# how protocols before 3 keep bytes: as text, which the machine does not leave in the file
BYTES_AS_TEXT = "_codecs encode"
SCALAR = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
MAKERS = TENSOR | PARAMETER | ARRAY | SCALAR
# things that stand beside weights and are never asked for
BYSTANDERS = {
    *("builtins set", "__builtin__ set", "argparse Namespace", BYTES_AS_TEXT),
    *("torch Size", "torch device", "torch ComplexFloatStorage", "numpy ndarray", "numpy dtype"),
    *(str(dtype).replace(".", " ") for dtype in DTYPES.values()),
}
ALLOWED = MAKERS | BYSTANDERS | {FROM_BYTES} | STORAGES.keys()
DICTS = {"collections OrderedDict"}
# files whose first bytes mean something to a pickle machine too
OTHERS = {"empty", *SIGNATURES.values()} - {SIGNATURES[b"PK"]}


def _type_name(kind: type) -> str:
    return {Place: "bytes", Global: "class"}.get(kind, kind.__name__.lower())


class Pickled:
    """What a file of torch.save or a plain pickle holds, as data; its tensors stay in the file.

    `root` is made of Python's containers, with a `Call` for each tensor. Raises InputError in one
    sentence where the file is damaged, or would call anything that tensors do not need.

    >>> import io
    >>> file = io.BytesIO()
    >>> torch.save({"a": torch.ones(2)}, file)
    >>> pickled = Pickled(file, "a.pt")
    >>> pickled.tensor(pickled.root["a"])
    tensor([1., 1.])
    """

    def __init__(
        self, file: BinaryIO, where: str, allowed: Set[str] = ALLOWED, dicts: Set[str] = DICTS
    ):
        self.where = where
        self._file = file
        self._globals = (allowed, dicts)
        self._size = file_size(file)
        self._pickles = Budget()  # a pickle may hold thousands, in its storages
        self._budget = self._size  # what names the same numbers often would fill the memory
        self._made: dict[Any, Tensor] = {}
        with self.damage_told():
            file.seek(0)
            like = looks_like(file.read(1024))
            file.seek(0)
            if like in OTHERS:
                raise ValueError(like)
            is_zip = like == SIGNATURES[b"PK"]
            self.root, self._storages = self._zip() if is_zip else self._stream()

    def is_tensor(self, value: Any) -> bool:
        """Whether something in it stands for a tensor of torch's."""
        return isinstance(value, Call) and value.name in TENSOR | PARAMETER

    def tensor(self, call: Any) -> Tensor:
        """The tensor that a call in `root` stands for, of torch or NumPy; those that share numbers
        still do."""
        with self.damage_told():
            return self._tensor(call)

    def damage_told(self) -> AbstractContextManager[None]:
        """What reading raises, as a sentence about the file."""
        return damage_told(self._file, "a PyTorch checkpoint", self.where)

    def unlike(self, expected: str, value: Any) -> InputError:
        """The error for something of another type than expected."""
        if isinstance(value, Call) and value.name == BYTES_AS_TEXT:
            return InputError(
                f"expected a pickle of protocol 3 or later, {self.where} is of an older one, which "
                "keeps numbers as text."
            )
        is_named = isinstance(value, Call | Global)
        found = shown(value.name.split()[-1]).strip("_") if is_named else _type_name(type(value))
        return InputError(f"expected {expected} in {self.where}, found type {found}.")

    def a(self, kind: type, value: Any) -> Any:
        """The value, where it is of that type; InputError elsewhere."""
        if type(value) is not kind:
            raise self.unlike(f"type {_type_name(kind)}", value)
        return value

    # --- files ---

    def _load(self, persistent: list[Call] | None = None) -> Any:
        return unpickle(self._file, self.where, *self._globals, persistent, self._pickles)

    def _stream(self) -> tuple[Any, dict[str, Stored]]:
        """A pickle, or the six that torch.save wrote before its zip format, then the storages."""
        root = self._load()
        if not (type(root) is int and root == LEGACY[0]):
            return root, {}
        if self._load() != LEGACY[1]:
            raise ValueError("another version of the format")
        self._load()  # the sizes of integers on the machine that wrote it
        storages: list[Call] = []
        root = self._load(storages)
        dtypes = {key: dtype for key, dtype, _ in map(self._described, storages)}
        stored = {}
        for key in self.a(list, self._load()):
            count = int.from_bytes(self._file.read(8), "little")
            place = Place(self._file.tell(), count * dtypes[self.a(str, key)].itemsize)
            if place.end > self._size:
                raise EOFError("a storage beyond the file")
            self._file.seek(place.end)
            stored[key] = Stored(place)
        return root, stored

    def _zip(self) -> tuple[Any, dict[str, Stored]]:
        entries = zip_entries(self._file, self.where)
        (main,) = (name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name))
        top = main.removesuffix("data.pkl")
        order = entries.get(f"{top}byteorder")
        if order and bytes(self._numbers(order, torch.uint8)) != sys.byteorder.encode():
            raise InputError(f"expected {sys.byteorder}-endian numbers, {self.where} has others.")
        self._check(entries[main])
        root = self._load([])
        if self._file.tell() > entries[main].place.end:
            raise ValueError("a pickle that goes on behind its entry")
        start = f"{top}data/"
        return root, {
            name.removeprefix(start): entry
            for name, entry in entries.items()
            if name.startswith(start)
        }

    def _check(self, entry: Stored) -> None:
        """Leaves the file at the entry, whose bytes match their checksum."""
        self._file.seek(entry.place.offset)
        crc32, left = 0, entry.place.length
        while left:
            data = self._file.read(min(left, 1 << 20))
            if not data:
                raise EOFError("an entry beyond the file")
            crc32, left = zlib.crc32(data, crc32), left - len(data)
        if crc32 != entry.crc32:
            raise ValueError("an entry that does not match its checksum")
        self._file.seek(entry.place.offset)

    # --- tensors ---

    def _tensor(self, call: Any) -> Tensor:
        if not (isinstance(call, Call) and call.name in MAKERS):
            raise self.unlike("a tensor", call)
        if call.name in PARAMETER:
            return self._tensor(call.args[0])
        if id(call) not in self._made:  # calls live as long as `root`
            make = self._view if call.name in TENSOR else self._array
            self._made[id(call)] = make(call)
        return self._made[id(call)]

    def _view(self, call: Call) -> Tensor:
        """Some of a storage; torch refuses what lies outside, we what is larger than it."""
        storage, offset, size, stride = call.args[:4]
        whole = self._storage(self.a(Call, storage))
        sides = [self.a(int, side) for side in self.a(tuple, size)]
        if len(sides) > MOST_DIMS or math.prod(sides) > whole.numel():
            raise InputError(
                f"expected a tensor within its storage in {self.where}, one of "
                f"{shown(str(sides))} claims {whole.numel()} numbers."
            )
        return whole.as_strided(size, stride, offset)

    def _storage(self, call: Call) -> Tensor:
        """A storage as a flat tensor."""
        if call.name == PERSISTENT:
            return self._stored(call, self._storages)
        if call.name != FROM_BYTES:
            raise self.unlike("a storage", call)
        place = self.a(Place, call.args[0])
        if place not in self._made:
            self._file.seek(place.offset)
            inner, stored = self._stream()
            if self._file.tell() != place.end:
                raise ValueError("numbers beyond the storage")
            self._made[place] = self._stored(self.a(Call, inner), stored)
        return self._made[place]

    def _stored(self, call: Call, storages: Mapping[str, Stored]) -> Tensor:
        key, dtype, count = self._described(call)
        stored = storages[key]
        if stored.place.length != count * dtype.itemsize:
            raise ValueError("a storage of another size than it says")
        return self._numbers(stored, dtype)

    def _described(self, call: Call) -> tuple[str, torch.dtype, int]:
        """Key, dtype and count of a storage by its persistent id."""
        kind, cls, key, _, count = self.a(tuple, call.args)[:5]
        if call.name != PERSISTENT or kind != "storage" or any(call.args[5:]):
            raise self.unlike("a storage", call)
        if self.a(Global, cls).name not in STORAGES:
            raise InputError(
                f"expected real numbers in {self.where}, found {shown(cls.name.split()[-1])}."
            )
        return self.a(str, key), STORAGES[cls.name], self.a(int, count)

    def _array(self, call: Call) -> Tensor:
        """An array or a scalar of NumPy's."""
        if call.name in SCALAR:
            return self._of_dtype(*call.args).reshape(())
        _, shape, dtype, is_fortran, data = self.a(tuple, call.state)
        numbers = self._of_dtype(dtype, data)
        if is_fortran:
            return numbers.reshape(self.a(tuple, shape)[::-1]).permute(*range(len(shape))[::-1])
        return numbers.reshape(self.a(tuple, shape))

    def _of_dtype(self, dtype: Any, data: Any) -> Tensor:
        """Flat numbers, in this machine's byte order."""
        kind = self.a(str, self.a(Call, dtype).args[0])
        order = self.a(str, dtype.state[1]) if dtype.state else "="
        if not ARRAY_DTYPE.fullmatch(order + kind):
            raise InputError(
                "expected numbers (NumPy's kinds f, i, u or b), "
                f"{self.where} holds an array of {shown(order + kind)}."
            )
        place = self.a(Place, data)
        if (place, order + kind) not in self._made:
            raw = self._numbers(Stored(place), torch.uint8).numpy().view(order + kind)
            native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
            self._made[place, order + kind] = torch.from_numpy(native)
        return self._made[place, order + kind]

    def _numbers(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """The numbers at a place; the same ones for those who ask again."""
        if (stored.place, dtype) not in self._made:
            self._budget -= stored.place.length
            if self._budget < 0:
                raise InputError(f"{self.where} repeats its numbers beyond its size: refused.")
            numbers = read_numbers(self._file, stored.place, dtype)
            if stored.crc32 not in (None, zlib.crc32(numbers.view(torch.uint8).numpy().data)):
                raise ValueError("numbers that do not match their checksum")
            self._made[stored.place, dtype] = numbers
        return self._made[stored.place, dtype]
