"""NVIDIA's network pickles, read as data: nothing in them is imported, compiled or called."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from torch import Tensor

from steer.errors import InputError
from steer.torch_files import ALLOWED, DICTS, Pickled
from steer.unpickle import Call, shown

MOST_PARTS = 20_000  # modules, tensors and arguments of one network; StyleGAN3 has some 400
LONGEST = 200  # of a text or an array among the arguments; a filter has 12 numbers
NAME = re.compile(r"[\w/-]{1,100}")
MODULE = "torch_utils.persistence _reconstruct_persistent_obj"
GRAPH = "dnnlib.tflib.network Network"
KINDS = {MODULE: "torch", GRAPH: "tensorflow"}


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


def open_pickle(file: BinaryIO, where: str) -> Pickled:
    """A file of torch.save or pickle.dump, in which NVIDIA's networks may lie; see `Pickled`."""
    return Pickled(file, where, ALLOWED | KINDS.keys(), DICTS | {"dnnlib.util EasyDict"})


def networks_in(root: Any) -> dict[str, Call]:
    """NVIDIA's networks right inside what a pickle holds: the three of TensorFlow's StyleGAN2 as G,
    D and G_ema, others under the keys that they have; none where it holds something else."""
    if isinstance(root, tuple) and len(root) == 3:
        root = dict(zip(("G", "D", "G_ema"), root, strict=True))
    items = root.items() if isinstance(root, dict) else ()
    return {str(key): it for key, it in items if isinstance(it, Call) and it.name in KINDS}


def read_pickle(
    file: BinaryIO, where: str, wanted: Collection[str] | None = None
) -> dict[str, Network]:
    """The networks of an open pickle under their keys ("G", "D", "G_ema"), as data; `where` names
    it in errors.

    Only the `wanted` keys are read where they are given; the numbers of others stay in the file.
    Python code in the file is neither compiled nor kept. Tensors that share a storage still do.
    Values are not checked to be finite.

    Raises InputError in one sentence where the file is damaged, holds something else, or would
    call anything beyond what NVIDIA's networks need.

    >>> import io, pickle
    >>> read_pickle(io.BytesIO(pickle.dumps({"G_ema": print})), "bad.pkl")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected tensors only, bad.pkl is a pickle that calls builtins.print: \
refused, and nothing of it was run.
    """
    pickled = open_pickle(file, where)
    found = networks_in(pickled.root)
    if not found:
        raise InputError(f"expected networks (G, D, G_ema) in {where}, found none.")
    return {
        key: read_network(pickled, call)
        for key, call in found.items()
        if wanted is None or key in wanted
    }


def read_network(pickled: Pickled, call: Call) -> Network:
    """The network that one of `networks_in` stands for; InputError where it makes no sense."""
    with pickled.damage_told():
        return _Decoder(pickled).network(call)


class _Decoder:
    """Turns the calls of one network into its parts."""

    def __init__(self, pickled: Pickled) -> None:
        self._pickled = pickled
        self._where = pickled.where
        self._a = pickled.a
        self._parts = 0

    def network(self, call: Call) -> Network:
        if call.name == MODULE:
            meta = self._a(dict, call.args[0])
            inner = self._a(dict, meta["state"])
            named, args, kwargs = dict(self._torch(call, "")), "_init_args", "_init_kwargs"
            class_name = meta["class_name"]
        else:
            inner = self._a(dict, call.state)
            named, args, kwargs = dict(self._tensorflow(call, "")), "", "static_kwargs"
            class_name = inner["build_func_name"]
        return Network(
            KINDS[call.name],
            shown(self._a(str, class_name)),
            self._plain(self._a(tuple, inner.get(args, ()))),
            self._plain(self._a(dict, inner.get(kwargs, {}))),
            named,
        )

    def _torch(self, module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """In the order of torch's own state_dict: parameters, persistent buffers, modules."""
        self._count()
        state = self._a(dict, self._a(dict, self._call(MODULE, module).args[0])["state"])
        fleeting = state.get("_non_persistent_buffers_set", ())
        if isinstance(fleeting, Call):  # a set, which older protocols call with a list
            fleeting = fleeting.args[0] if fleeting.args else ()
        fleeting = {name for name in fleeting if isinstance(name, str)}
        for part in ("_parameters", "_buffers"):
            for name, value in self._a(dict, state[part]).items():
                if value is not None and not (part == "_buffers" and name in fleeting):
                    yield prefix + self._name(name), self._tensor(value)
        for name, child in self._a(dict, state["_modules"]).items():
            if child is not None:
                yield from self._torch(child, f"{prefix}{self._name(name)}.")

    def _tensorflow(self, network: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
        self._count()
        state = self._a(dict, self._call(GRAPH, network).state)
        for name, value in self._a(list, state["variables"]):
            yield prefix + self._name(name), self._tensor(value)
        for name, child in self._a(dict, state.get("components", {})).items():
            yield from self._tensorflow(child, f"{prefix}{self._name(name)}/")

    def _plain(self, value: Any) -> Any:
        """Arguments as Python's own values."""
        self._count()
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._short(value, len(value))
        if isinstance(value, dict):
            return {self._a(str, name): self._plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._plain, value))
        numbers = self._tensor(value)
        return self._short(numbers, numbers.numel()).tolist()

    def _short(self, value: Any, length: int) -> Any:
        if length > LONGEST:
            raise InputError(
                f"expected at most {LONGEST} numbers or letters in an argument of a network in "
                f"{self._where}, got {length}."
            )
        return value

    def _tensor(self, value: Any) -> Tensor:
        self._count()
        return self._pickled.tensor(value)

    def _call(self, name: str, value: Any) -> Call:
        if self._a(Call, value).name != name:
            raise self._pickled.unlike("a network", value)
        return value

    def _name(self, name: Any) -> str:
        if not NAME.fullmatch(self._a(str, name)):
            raise InputError(f"expected a name in {self._where}, found {shown(name)!r}.")
        return name

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise InputError(
                f"expected at most {MOST_PARTS} parts, a network in {self._where} has more."
            )
