"""NVIDIA's network pickles, read as data: nothing in them is imported, compiled or called.

The pickle machine is given nothing but Python's own containers and stubs of ours that record what
they were called with; what the stubs stand for is worked out afterwards, within limits.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steer.disk import looks_like
from steer.errors import InputError

MOST_OPCODES = 1_000_000  # of one pickle; StyleGAN2-ADA at 1024 x 1024 has 40,000
MOST_TUPLES = 20_000  # hash() of 150,000 nested ones overflows the C stack; that has 5,300
MOST_PARTS = 20_000  # modules, tensors and arguments of one network; StyleGAN3 has some 400
HEADER = 1000  # bytes before the numbers of a storage; torch writes some 350
LARGEST = 2**64  # of the integers: wider ones can be chosen to collide as keys of a dict
NAME = re.compile(r"[\w/-]{1,100}")
DTYPE = re.compile(r"[<>=|][fiub]\d{1,2}")
# of the process-wide extension registry, and of buffers outside the pickle
REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
# the magic number with which torch.save began files before its zip format
LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
}
# what the pickle machine, torch.load and NumPy raise on bytes that make no sense to them
DAMAGE = (
    *(pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError),
    *(RuntimeError, OverflowError, AssertionError, struct.error, OSError),
)


@dataclass
class Network:
    """A network as it lay in a pickle.

    `kind` is "torch" (StyleGAN2-ADA-PyTorch, StyleGAN3) or "tensorflow" (StyleGAN2), `class_name`
    the class or the building function; `state` maps names to tensors on the CPU: dotted ones as
    torch's `state_dict` gives them, or TensorFlow's with slashes ("mapping/Dense0/weight"), in
    TensorFlow's layout.
    """

    kind: str
    class_name: str
    init_args: tuple[Any, ...]
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]


def read_pickle(
    data: bytes, where: str, wanted: Collection[str] | None = None
) -> dict[str, Network]:
    """The networks of a pickle under their keys ("G", "D", "G_ema"), as data; `where` names it.

    Only the `wanted` keys are read where they are given. The three networks of TensorFlow's
    StyleGAN2 come as G, D and G_ema. Python code in the file is neither compiled nor kept. Tensors
    that share a storage still do. Values are not checked to be finite.

    Raises InputError in one sentence where the file is damaged, holds something else, or would
    call anything beyond what NVIDIA's networks need.

    >>> read_pickle(pickle.dumps({"G_ema": print}), "bad.pkl")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected a network pickle of NVIDIA's, bad.pkl is a pickle that calls \
builtins.print: refused, and nothing of it was run.
    """
    try:
        stream = io.BytesIO(data)
        _scan(stream, where)
        stream.seek(0)
        networks = _top_level(_Unpickler(stream, where).load(), where)
        decoder = _Decoder(where, budget=len(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on the storages of its older files
            return {
                key: decoder.network(stub)
                for key, stub in networks.items()
                if wanted is None or key in wanted
            }
    except DAMAGE as error:
        like = looks_like(data)
        if like == "a Python pickle":
            like += " that is damaged or of another layout (nothing in it was run)"
        raise InputError(f"expected a network pickle of NVIDIA's, {where} is {like}.") from error


def _top_level(loaded: Any, where: str) -> dict[str, _Stub]:
    """The networks right inside what was pickled; the other things beside them are left out."""
    if isinstance(loaded, tuple) and len(loaded) == 3:
        loaded = dict(zip(("G", "D", "G_ema"), loaded, strict=True))
    if not isinstance(loaded, dict):
        raise InputError(
            f"expected a dict of networks, {where} holds a {type(loaded).__name__.strip('_')}."
        )
    found: dict[str, _Stub] = {
        str(key): value for key, value in loaded.items() if isinstance(value, _Module | _Graph)
    }
    if not found:
        keys = ", ".join(_shown(str(key)) for key in list(loaded)[:8]) or "nothing"
        raise InputError(f"expected networks (G, D, G_ema) in {where}, found {keys}.")
    return found


def _shown(text: str) -> str:
    """Text of a stranger's, short and without control characters."""
    return ascii(text[:80])[1:-1]


# --- the pickle machine: it makes containers and stubs, nothing else ---


class _Stub:
    """What an allowed global makes: it records its arguments and its state, and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Any:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        """What BUILD calls; without it, it would set attributes by name."""
        self.state = state


class _Dict(_Stub):
    """A plain dict, empty: made from another one, it could be copied without end."""

    def __new__(cls) -> Any:
        return {}


class _Set(_Stub):
    """Called with at most a list."""


class _Module(_Stub):
    """Called with a dict that holds "class_name" and "state", the `__dict__` of a module."""


class _Graph(_Stub):
    """TensorFlow's; its state is a dict with "variables" (name and array) and "components"."""


class _Tensor(_Stub):
    """Called with storage, offset, size, stride, whether a gradient is wanted, and hooks."""


class _Parameter(_Stub):
    """Called with a tensor, whether a gradient is wanted, and hooks."""


class _Storage(_Stub):
    """Called with the bytes that `torch.save` wrote of it."""


class _DType(_Stub):
    """Called with such as "f4"; the second part of its state is the byte order."""


class _Array(_Stub):
    """Its state is a version, the shape, a dtype, whether columns come first, and the bytes."""


class _Scalar(_Stub):
    """Called with a dtype and the bytes."""


ALLOWED: dict[tuple[str, str], type[_Stub]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Module,
    ("dnnlib.tflib.network", "Network"): _Graph,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("collections", "OrderedDict"): _Dict,
    ("builtins", "set"): _Set,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Stub,  # an argument of _reconstruct only
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, for which every global is one of ours; no module is ever looked into."""

    def __init__(self, stream: io.BytesIO, where: str) -> None:
        super().__init__(stream)
        self._where = where

    def find_class(self, module: str, name: str) -> type[_Stub]:
        if (module, name) not in ALLOWED:
            raise _refusal(self._where, f"calls {_shown(f'{module}.{name}')}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _refusal(self._where, "asks for something outside it")


def _refusal(where: str, what: str) -> InputError:
    return InputError(
        f"expected a network pickle of NVIDIA's, {where} is a pickle that {what}: "
        "refused, and nothing of it was run."
    )


def _scan(stream: io.BytesIO, where: str, largest: int = LARGEST) -> None:
    """Walk over one pickle's opcodes without running them; InputError for one that could harm.

    The unpickler clears memory up to the highest index of its memo, and reserves what a length
    claims: both are bounded here by what is really in the file.
    """
    tuples = 0
    for index, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        tuples += "TUPLE" in opcode.name
        if opcode.name in REFUSED:
            raise _refusal(where, f"uses the opcode {opcode.name}")
        if index > MOST_OPCODES or tuples > MOST_TUPLES:
            raise _refusal(where, "is longer or deeper than any network's")
        if isinstance(argument, int) and abs(argument) > largest:
            raise _refusal(where, f"names an integer of {argument.bit_length()} bits")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > index:
            raise _refusal(where, f"names place {argument} of its memo, which has {index}")


# --- what the stubs stand for ---


class _Decoder:
    """Turns the stubs of one file into tensors, none twice.

    `budget` is how many bytes of numbers there can be: a file that names the same ones again and
    again would fill the memory.
    """

    def __init__(self, where: str, budget: int) -> None:
        self._where = where
        self._budget = budget
        self._parts = 0
        self._made: dict[int, Any] = {}  # by the ids of stubs, which live in what was unpickled

    def network(self, stub: _Stub) -> Network:
        self._parts = 0
        if isinstance(stub, _Module):
            meta = self._a(dict, stub.args[0])
            inner = self._a(dict, meta["state"])
            named, args, kwargs = dict(self._torch(stub, "")), "_init_args", "_init_kwargs"
            kind, class_name = "torch", meta["class_name"]
        else:
            inner = self._a(dict, stub.state)
            named, args, kwargs = dict(self._tensorflow(stub, "")), "", "static_kwargs"
            kind, class_name = "tensorflow", inner["build_func_name"]
        return Network(
            kind,
            _shown(self._a(str, class_name)),
            self._plain(self._a(tuple, inner.get(args, ()))),
            self._plain(self._a(dict, inner.get(kwargs, {}))),
            named,
        )

    def _torch(self, module: _Stub, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """In the order of torch's own state_dict: parameters, persistent buffers, modules."""
        self._count()
        state = self._a(dict, self._a(dict, self._a(_Module, module).args[0])["state"])
        fleeting = state.get("_non_persistent_buffers_set", ())
        if isinstance(fleeting, _Set):
            fleeting = fleeting.args[0] if fleeting.args else ()
        for part in ("_parameters", "_buffers"):
            for name, value in self._a(dict, state[part]).items():
                if value is not None and not (part == "_buffers" and name in fleeting):
                    yield prefix + self._name(name), self._tensor(value)
        for name, child in self._a(dict, state["_modules"]).items():
            if child is not None:
                yield from self._torch(child, f"{prefix}{self._name(name)}.")

    def _tensorflow(self, network: _Stub, prefix: str) -> Iterator[tuple[str, Tensor]]:
        self._count()
        state = self._a(dict, self._a(_Graph, network).state)
        for name, value in self._a(list, state["variables"]):
            yield prefix + self._name(name), self._tensor(value)
        for name, child in self._a(dict, state.get("components", {})).items():
            yield from self._tensorflow(child, f"{prefix}{self._name(name)}/")

    def _plain(self, value: Any) -> Any:
        """Arguments as Python's own values, with tensors for arrays."""
        self._count()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, dict):
            return {self._a(str, name): self._plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._plain, value))
        if isinstance(value, _Scalar):
            return self._numbers(*value.args)[0].item()
        return self._tensor(value)

    def _tensor(self, stub: Any) -> Tensor:
        self._count()
        makers: dict[type, Callable[[Any], Tensor]] = {
            _Parameter: lambda stub: self._tensor(stub.args[0]),
            _Tensor: self._view,
            _Array: self._array,
            _Scalar: lambda stub: torch.from_numpy(self._numbers(*stub.args).reshape(())),
        }
        if type(stub) not in makers:
            raise self._unlike("a tensor", stub)
        return self._once(stub, makers[type(stub)])

    def _view(self, stub: _Stub) -> Tensor:
        """Some of a storage; torch refuses what lies outside, we what is larger than it."""
        storage, offset, size, stride = stub.args[:4]
        whole = self._once(self._a(_Storage, storage), self._storage)
        if math.prod(self._a(tuple, size)) > whole.numel():
            raise InputError(
                f"expected a tensor within its storage in {self._where}, one of "
                f"{_shown(str(size))} claims {whole.numel()} numbers."
            )
        return whole.as_strided(size, stride, offset)

    def _storage(self, stub: _Stub) -> Tensor:
        """A storage as a flat tensor; torch wrote it as a file of its own before its zip format."""
        data = self._spend(self._a(bytes, stub.args[0]))
        if not data.startswith(LEGACY_MAGIC):
            raise InputError(
                "expected a storage of torch's, "
                f"a tensor in {self._where} holds {looks_like(data)}."
            )
        header = io.BytesIO(data[:HEADER])
        header.seek(len(LEGACY_MAGIC))
        for _ in range(4):  # version, machine, storage, its key; then its length and its numbers
            _scan(header, f"a tensor in {self._where}", largest=HEADER + len(data))
        storage = self._load(data)
        if not isinstance(storage, torch.TypedStorage) or storage.dtype not in DTYPES:
            raise self._unlike("a storage of numbers", storage)
        numbers = storage.untyped()
        if header.tell() + 8 + numbers.nbytes() != len(data):
            raise self._unlike(f"{len(data) - header.tell() - 8} bytes of numbers", numbers)
        return torch.empty(0, dtype=storage.dtype).set_(numbers)

    def _load(self, data: bytes) -> Any:
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            forbidden = re.search(r"GLOBAL (\S+)", str(error))
            what = f"calls {_shown(forbidden[1])}" if forbidden else "is no storage"
            raise _refusal(f"a tensor in {self._where}", what) from error

    def _array(self, stub: _Stub) -> Tensor:
        _, shape, dtype, is_fortran, data = self._a(tuple, stub.state)
        numbers = torch.from_numpy(self._numbers(dtype, data))
        if is_fortran:
            return numbers.reshape(self._a(tuple, shape)[::-1]).permute(*range(len(shape))[::-1])
        return numbers.reshape(self._a(tuple, shape))

    def _numbers(self, dtype: Any, data: Any) -> np.ndarray:
        """A flat array of this machine's byte order."""
        kind = self._a(str, self._a(_DType, dtype).args[0])
        order = self._a(str, dtype.state[1]) if dtype.state else "="
        if not DTYPE.fullmatch(order + kind):  # NumPy parses, even evaluates, longer ones
            raise InputError(
                "expected numbers (NumPy's kinds f, i, u or b), "
                f"{self._where} holds an array of {_shown(order + kind)}."
            )
        numbers = np.frombuffer(self._spend(self._a(bytes, data)), order + kind)
        return numbers.astype(numbers.dtype.newbyteorder("="))

    def _once(self, stub: _Stub, make: Callable[[Any], Tensor]) -> Tensor:
        if id(stub) not in self._made:
            self._made[id(stub)] = make(stub)
        return self._made[id(stub)]

    def _a(self, kind: Any, value: Any) -> Any:
        """The value, where it is of that kind."""
        if type(value) is not kind:
            raise self._unlike(f"type {kind.__name__.strip('_')}", value)
        return value

    def _name(self, name: Any) -> str:
        if not NAME.fullmatch(self._a(str, name)):
            raise InputError(f"expected a name in {self._where}, found {_shown(name)!r}.")
        return name

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise InputError(
                f"expected at most {MOST_PARTS} parts, a network in {self._where} has more."
            )

    def _spend(self, data: bytes) -> bytes:
        self._budget -= len(data)
        if self._budget < 0:
            raise InputError(f"{self._where} repeats its numbers beyond its size: refused.")
        return data

    def _unlike(self, expected: str, value: Any) -> InputError:
        found = type(value).__name__.strip("_")
        return InputError(f"expected {expected} in a network of {self._where}, found type {found}.")
