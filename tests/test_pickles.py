"""NVIDIA's pickles: read bit-equal, and nothing in them ever runs."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import json
import os
import pickle
import re
import runpy
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia import EasyDict, Persistent, TensorFlowNetwork, dumps, grow, reconstruct
from safetensors import safe_open
from torch import nn

from steer import pickles
from steer.errors import InputError
from steer.pickles import Network


def read_pickle(data: bytes, where: str, wanted=None) -> dict[str, Network]:
    return pickles.read_pickle(io.BytesIO(data), where, wanted)


def generator() -> Persistent:
    """Parameters, buffers of every kind of number, and what a state dict leaves out."""
    torch.manual_seed(0)
    net = Persistent(
        "positional", z_dim=4, mapping_kwargs=EasyDict(num_layers=2), psi=np.float64(0.5)
    )
    net.register_parameter("weight", nn.Parameter(torch.randn(3, 4, 2, 2)))
    net.register_parameter("bias", None)
    net.register_buffer("w_avg", torch.randn(4))
    net.register_buffer("freqs", torch.arange(6.0), persistent=False)
    net.register_buffer("nothing", None)
    net.weight.grad = torch.ones_like(net.weight)
    inner = Persistent()
    last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    inner.register_parameter("channels_last", nn.Parameter(last))
    inner.register_buffer("view", torch.arange(20.0)[3:17:2])
    inner.register_buffer("transposed", torch.randn(3, 5).T)
    inner.register_buffer("none_of_them", torch.zeros(0, 3))
    inner.register_buffer("scalar", torch.tensor(2.5))
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64):
        inner.register_buffer(f"of_{str(dtype)[6:]}", torch.arange(3).to(dtype))
    inner.register_buffer("of_bool", torch.tensor([True, False]))
    inner.sizes, inner.ranges = {1, 2}, np.arange(4)  # attributes as StyleGAN3's layers have them
    net.add_module("synthesis", inner)
    net.add_module("nobody", None)
    return net


def assert_same(network: Network, module: nn.Module) -> None:
    """The state dict that torch itself gives, in its order, bit by bit."""
    expected = module.state_dict()
    assert list(network.state) == list(expected)
    for name, tensor in expected.items():
        found = network.state[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert found.stride() == tensor.stride() and not found.requires_grad, name
        assert torch.equal(found, tensor), name


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_state_dict_of_torch_itself(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = generator()
    if protocol == 5:  # NumPy writes its arrays in another way there, which no network has
        del net.synthesis.ranges
    data = dumps(
        {"G_ema": net, "training_set_kwargs": EasyDict(path="x"), "augment_pipe": None}, protocol
    )
    networks = read_pickle(data, "net.pkl")
    assert list(networks) == ["G_ema"]
    assert networks["G_ema"].kind == "torch" and networks["G_ema"].class_name == "Generator"
    assert networks["G_ema"].init_args == ("positional",)
    kwargs = {"z_dim": 4, "mapping_kwargs": {"num_layers": 2}, "psi": 0.5}
    assert networks["G_ema"].init_kwargs == kwargs
    assert {type(kwarg) for kwarg in networks["G_ema"].init_kwargs.values()} == {int, dict, float}
    assert_same(networks["G_ema"], net)
    assert not list(tmp_path.iterdir())  # MODULE_SRC would have left a file
    assert not {"torch_utils", "dnnlib"} & {name.partition(".")[0] for name in sys.modules}


def test_the_older_spelling_of_numpy():
    net = generator()
    data = dumps({"G_ema": net}, protocol=3).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray\n" in data and b"_core" not in data
    assert_same(read_pickle(data, "net.pkl")["G_ema"], net)


def test_only_the_wanted_networks():
    data = dumps({"G": generator(), "D": Persistent(), "G_ema": generator()})
    assert list(read_pickle(data, "net.pkl")) == ["G", "D", "G_ema"]
    assert list(read_pickle(data, "net.pkl", wanted=("G_ema",))) == ["G_ema"]


def test_a_module_that_stands_in_two_places():
    net, twin = Persistent(), grow({"a": torch.ones(2)})
    net.one, net.two = twin, twin
    networks = read_pickle(dumps({"G": net, "G_ema": net}), "net.pkl")
    assert_same(networks["G"], net)
    assert_same(networks["G_ema"], net)
    assert networks["G"].state["one.a"].data_ptr() == networks["G"].state["two.a"].data_ptr()


def test_the_networks_of_tensorflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {
        "lod": np.float32(1.5),
        "4x4/Conv/weight": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "noise0": np.arange(4, dtype=">f8").reshape(1, 1, 2, 2),
        "count": np.array(7, dtype=np.int32),
        "empty": np.zeros((0, 3), np.float16),
    }
    mapping = TensorFlowNetwork("G_mapping", {"Dense0/weight": np.eye(2, dtype=np.float32)})
    net = TensorFlowNetwork("G", arrays, {"mapping": mapping}, resolution=8, fmaps=(1, [2, None]))
    networks = read_pickle(dumps((net, TensorFlowNetwork("D", {}), net)), "ffhq.pkl")
    assert list(networks) == ["G", "D", "G_ema"]
    read = networks["G_ema"]
    assert (read.kind, read.class_name, read.init_args) == ("tensorflow", "G_main", ())
    assert read.init_kwargs == {"resolution": 8, "fmaps": (1, [2, None])}
    assert list(read.state) == [*arrays, "mapping/Dense0/weight"]
    for name, array in arrays.items():
        assert read.state[name].shape == array.shape
        assert (
            read.state[name].dtype
            == torch.from_numpy(np.array(array).astype(array.dtype.newbyteorder("="))).dtype
        )
        np.testing.assert_array_equal(read.state[name].numpy(), array)
    assert torch.equal(read.state["mapping/Dense0/weight"], torch.eye(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
@pytest.mark.parametrize("name", ["sg2", "sg2-cond", "sg3t", "sg3r-cond"])
def test_real_layouts(shared, name):
    path = shared / "data" / "references" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        keys = [key for key in file.keys() if key.startswith("state.")]  # noqa: SIM118
        state = {key.removeprefix("state."): file.get_tensor(key) for key in keys}
        kwargs = json.loads(file.metadata()["init_kwargs"])
    networks = read_pickle(dumps({"G_ema": grow(state, **kwargs)}), f"{name}.pkl")
    assert networks["G_ema"].init_kwargs == kwargs
    assert networks["G_ema"].state.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(networks["G_ema"].state[key], tensor)


# --- pickles that want to run code ---


class Calls:
    def __init__(self, function, *args, state=None):
        self.reduced = (function, args, state) if state is not None else (function, args)

    def __reduce__(self):
        return self.reduced


def _storage_bytes(*things) -> bytes:
    """What torch.save wrote before its zip format, with other pickles after the magic number."""
    real = io.BytesIO()
    torch.save(torch.FloatStorage(2), real, _use_new_zipfile_serialization=False)
    return real.getvalue()[:15] + b"".join(pickle.dumps(thing, 2) for thing in things)


def _evil_storage(payload) -> bytes:
    return _storage_bytes(1001, {"little_endian": True}, payload, ["0"])


def _script(path: Path) -> Path:
    script = path.with_suffix(".py")
    script.write_text(f"open({str(path)!r}, 'w').close()")
    return script


def _zip_storage(payload) -> bytes:
    file = io.BytesIO()
    torch.save({"a": payload}, file)
    return file.getvalue()


# each makes a pickle, or something to be pickled, that leaves a file at the path it is given
PAYLOADS = {
    "os.system": lambda path: Calls(os.system, f"touch {path}"),
    "exec": lambda path: Calls(exec, f"open({str(path)!r}, 'w')"),
    "eval": lambda path: Calls(eval, f"open({str(path)!r}, 'w').close()"),
    "open": lambda path: Calls(open, str(path), "w"),
    "Popen": lambda path: Calls(subprocess.check_call, ["touch", str(path)]),
    "Path.touch": lambda path: Calls(Path.touch, path),
    "mkdir": lambda path: Calls(os.mkdir, str(path)),
    "run_path": lambda path: Calls(runpy.run_path, str(_script(path))),
    "pickle.loads": lambda path: Calls(pickle.loads, pickle.dumps(Calls(os.mkdir, str(path)))),
    "partial": lambda path: Calls(functools.partial(os.mkdir, str(path))),
    "numpy.save": lambda path: Calls(np.ndarray.tofile, np.ones(1), str(path)),
    "torch.save": lambda path: Calls(torch.save, 1, str(path)),
    "pickle in the storage": lambda path: Calls(
        torch.storage._load_from_bytes, _evil_storage(Calls(os.mkdir, str(path)))
    ),
    "zip in the storage": lambda path: Calls(
        torch.storage._load_from_bytes, _zip_storage(Calls(os.mkdir, str(path)))
    ),
    "items of a dict": lambda path: OrderedDict(a=[{"b": (Calls(os.mkdir, str(path)),)}]),
    "state of a set": lambda path: Calls(set, [1], state=(None, {"a": Calls(os.mkdir, str(path))})),
    "array": lambda path: np.array([Calls(os.mkdir, str(path))], dtype=object),
}


def _in_a_tensor(payload) -> Persistent:
    """A network that has the payload where a parameter's storage, or a hook, would be."""
    net = generator()
    net.__dict__["_parameters"]["weight"] = Calls(
        torch._utils._rebuild_parameter,
        Calls(torch._utils._rebuild_tensor_v2, payload, 0, (2,), (1,), False, OrderedDict()),
        True,
        OrderedDict(),
    )
    return net


def _in_the_arguments(payload) -> Persistent:
    return Persistent(1, size=[payload])


def _in_an_attribute(payload) -> Persistent:
    net = generator()
    net.synthesis.__dict__["hook"] = {"deep": [payload]}
    return net


def _in_tensorflow(payload) -> TensorFlowNetwork:
    return TensorFlowNetwork("G", {"weight": payload})


PLACES = [_in_a_tensor, _in_the_arguments, _in_an_attribute, _in_tensorflow]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_never_run(place, name, tmp_path):
    canary = tmp_path / "canary"
    data = dumps({"G_ema": place(PAYLOADS[name](canary))}, protocol=4)
    in_storage = "storage" in name
    if in_storage and place is _in_an_attribute:  # of no tensor that is read
        read_pickle(data, "evil.pkl")
    else:
        expected = r"^expected .* evil\.pkl[ ,].*\.$"
        with pytest.raises(InputError, match=expected) as caught:
            read_pickle(data, "evil.pkl")
        if not in_storage:
            assert "refused, and nothing of it was run" in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_would_run(name, tmp_path):
    """Elsewhere they do harm: the canary is no accident."""
    canary = tmp_path / "canary"
    data = pickle.dumps(PAYLOADS[name](canary))
    with contextlib.suppress(
        pickle.UnpicklingError, AttributeError, RuntimeError, TypeError, AssertionError
    ):
        pickle.loads(data)
    assert canary.exists()


def test_the_refusal_names_the_call():
    data = dumps({"G_ema": _in_the_arguments(Calls(os.getcwd))})
    with pytest.raises(InputError) as caught:
        read_pickle(data, "evil.pkl")
    assert str(caught.value) == (
        "expected tensors only, evil.pkl is a pickle that calls "
        f"{os.getcwd.__module__}.getcwd: refused, and nothing of it was run."
    )


def _global(module: str, name: str) -> bytes:
    parts = (text.encode() for text in (module, name))
    return b"".join(b"\x8c" + bytes([len(part)]) + part for part in parts) + b"\x93"


PERSISTENT = _global("torch_utils.persistence", "_reconstruct_persistent_obj")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("collections", "OrderedDict.__init__"),
        ("collections", "OrderedDict.__reduce_ex__"),
        ("builtins", "set.__class__"),
        ("builtins", "dict"),
        ("builtins", "getattr"),
        ("torch", "storage._load_from_bytes"),
        ("torch._utils _rebuild_tensor", ""),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch._utils", "_rebuild_wrapper_subclass"),
        ("torch_utils.persistence", "_src_to_module"),
        ("torch_utils.persistence", "sys.modules"),
        ("dnnlib.util", "call_func_by_name"),
        ("dnnlib", "EasyDict"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("torch.nn.modules.linear", "Linear"),
        ("copyreg", "_reconstructor"),
        ("", ""),
        ("\x1b[2J", "\n"),
    ],
)
def test_only_the_exact_names(module, name):
    with pytest.raises(InputError, match=r"calls .*: refused") as caught:
        read_pickle(b"\x80\x04" + _global(module, name) + b".", "evil.pkl")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (b"(S'touch canary'\nios\nsystem\n.", "calls os.system"),
        (b"(cos\nsystem\nS'touch canary'\no.", "calls os.system"),
        (b"cos\nsystem\n(S'touch canary'\ntR.", "calls os.system"),
        (b"\x80\x02\x82\xf0.", "uses the opcode EXT1"),
        (b"\x80\x02\x83\xf0\x00.", "uses the opcode EXT2"),
        (b"\x80\x02\x84\xf0\x00\x00\x00.", "uses the opcode EXT4"),
        (b"\x80\x02Pcanary\n.", "asks for something outside it"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "asks for something outside it"),
        (b"\x80\x05\x97.", "uses the opcode NEXT_BUFFER"),
        (b"\x80\x04}\x8a\x0a" + b"\xff" * 9 + b"\x7fNs.", "has a key of 79 bits"),
        (b"\x80\x04}\x8a\xff" + b"\xff" * 254 + b"\x7fNs.", "names an integer of 2039 bits"),
        (b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns.", "has a key of type tuple"),
        (b"\x80\x04})" + b"2\x86" * 1000 + b"Ns.", "has a key of type tuple"),
        (b"\x80\x04" + b"N0" * 600_000 + b"N.", "is longer than any network's"),
        (b"\x80\x04X\0\0\0\x7fa.", "holds more text than any network's"),
        (b"\x80\x04\x8f(]\x90.", "has a key of type list"),
        (b"\x80\x06N.", "is of protocol 6"),
        (b"\x80\x05\x96\0\0\0\0\0\0\0\0.", "uses the opcode BYTEARRAY8"),
    ],
)
def test_opcodes_that_no_network_needs(code, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "system"))  # type: ignore[attr-defined]
    monkeypatch.setitem(copyreg._extension_cache, 0xF0, os.system)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"evil.pkl is a pickle that .*{told}.*: refused"):
        read_pickle(code, "evil.pkl")
    assert not list(tmp_path.iterdir())


OURS = [("collections", "OrderedDict"), ("builtins", "set"), ("numpy", "dtype")]


@pytest.mark.parametrize("build", [b"N}\x8c\x04argsNs\x86b", b"}\x8c\x08__init__Nsb", b"Nb"])
@pytest.mark.parametrize("make", [b"", b")R", b")\x81", b")}\x92", b"\x85)R", b"}\x85R"])
@pytest.mark.parametrize(
    ("module", "name"), [*OURS, ("torch_utils.persistence", "_reconstruct_persistent_obj")]
)
def test_no_state_changes_what_is_read_next(module, name, make, build):
    with pytest.raises(InputError):
        read_pickle(b"\x80\x04" + _global(module, name) + make + build + b".", "evil.pkl")
    net = generator()
    assert_same(read_pickle(dumps({"G_ema": net}), "net.pkl")["G_ema"], net)


# --- pickles that want the memory or the time, and pickles that make no sense ---


def _network(parameters, **state) -> Calls:
    whole = {"_parameters": parameters, "_buffers": {}, "_modules": {}, **state}
    return Calls(reconstruct, {"class_name": "G", "state": whole})


def _tensor(*, offset=0, size=(2,), stride=(1,), storage=None) -> Calls:
    storage = torch.ones(2).storage() if storage is None else storage
    return Calls(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    )


def _claiming(count: int, numbers: bytes = b"") -> Calls:
    """A storage that says it holds so many numbers."""
    file = io.BytesIO()
    torch.save(torch.FloatStorage(2), file, _use_new_zipfile_serialization=False)
    header = file.getvalue()[:-16].replace(b"K\x02Nt", b"J" + struct.pack("<i", count) + b"Nt")
    return Calls(torch.storage._load_from_bytes, header + struct.pack("<q", count) + numbers)


def _doubled(depth: int, leaf, pair):
    for _ in range(depth):
        leaf = pair(leaf)
    return leaf


def _array(*state) -> Calls:
    reconstruct_array = np._core.multiarray._reconstruct
    return Calls(reconstruct_array, np.ndarray, (0,), b"b", state=state)


def _dtype(order: str) -> Calls:
    return Calls(np.dtype, "f4", False, True, state=(3, order, None, None, None, -1, -1, 0))


BOMBS = {
    "storage beyond its file": lambda: _network({"a": _tensor(storage=_claiming(2**31 - 1))}),
    "storage short of numbers": lambda: _network({"a": _tensor(storage=_claiming(2, b"1234"))}),
    "tensor beyond its storage": lambda: _network({"a": _tensor(size=(3,))}),
    "offset beyond its storage": lambda: _network({"a": _tensor(offset=1)}),
    "negative offset": lambda: _network({"a": _tensor(offset=-1)}),
    "negative stride": lambda: _network({"a": _tensor(offset=1, stride=(-1,))}),
    "expanded": lambda: _network({"a": _tensor(size=(2**40,), stride=(0,))}),
    "size of text": lambda: _network({"a": _tensor(size=("a",))}),
    "size is a list": lambda: _network({"a": _tensor(size=[2])}),
    "storage is text": lambda: _network({"a": _tensor(storage="x")}),
    "quantised": lambda: _network({"a": _tensor(storage=torch.QInt8Storage(8))}),
    "complex": lambda: _network({"a": _tensor(storage=torch.ComplexFloatStorage(8))}),
    "modules doubled": lambda: _doubled(
        50, _network({}), lambda it: _network({}, _modules={"a": it, "b": it})
    ),
    "arguments doubled": lambda: _network({}, _init_args=(_doubled(50, 1, lambda it: [it, it]),)),
    "long names": lambda: _network({"a" * 101: _tensor()}),
    "dotted names": lambda: _network({"a.b": _tensor()}),
    "number for a name": lambda: _network({1: _tensor()}),
    "no tensor": lambda: _network({"a": 1}),
    "a module for a tensor": lambda: _network({"a": _network({})}),
    "no module": lambda: _network({}, _modules={"a": _tensor()}),
    "no state": lambda: Calls(reconstruct, {"class_name": "G"}),
    "state is a list": lambda: Calls(reconstruct, {"class_name": "G", "state": []}),
    "no arguments": lambda: Calls(reconstruct),
    "bytes among arguments": lambda: _network({}, _init_kwargs={"a": b"1"}),
    "array of objects": lambda: TensorFlowNetwork("G", {"v": np.array([{}], dtype=object)}),
    "array of records": lambda: TensorFlowNetwork("G", {"v": np.zeros(2, "f4,f4")}),
    "array of text": lambda: TensorFlowNetwork("G", {"v": np.array(["a"])}),
    "order that NumPy would parse": lambda: _network(
        {"v": _array(1, (1,), _dtype("(1,),<"), 0, b"1234")}
    ),
    "array of long doubles": lambda: TensorFlowNetwork("G", {"v": np.zeros(2, np.longdouble)}),
    "array beyond its bytes": lambda: _network(
        {"v": _array(1, (9,), np.dtype("f4"), False, b"1234")}
    ),
    "array never filled": lambda: _network({"v": Calls(np._core.multiarray._reconstruct, 1, 2, 3)}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated")
@pytest.mark.parametrize("name", BOMBS)
def test_each_gets_its_sentence(name):
    data = dumps({"G_ema": BOMBS[name]()}, protocol=4)
    with pytest.raises(InputError, match=r"bomb\.pkl") as caught:
        read_pickle(data, "bomb.pkl")
    assert str(caught.value).endswith(".") and str(caught.value).isprintable()


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_same_numbers_take_memory_once(order):
    data = np.ones(100_000, f"{order}f4").tobytes()
    state = (1, (100_000,), _dtype(order), False, data)
    net = TensorFlowNetwork("G", {f"v{i}": _array(*state) for i in range(900)})
    read = read_pickle(dumps({"G_ema": net}), "net.pkl")["G_ema"].state
    assert len(read) == 900 and read["v7"].sum() == 100_000
    assert len({tensor.data_ptr() for tensor in read.values()}) == 1


def test_a_network_inside_itself():
    state = b"}(\x8c\x0b_parameters}\x8c\x08_buffers}\x8c\x08_modulesh\x00u"
    meta = b"}(\x8c\x0aclass_name\x8c\x01G\x8c\x05state" + state + b"u"
    code = b"\x80\x04}\x940" + PERSISTENT + meta + b"\x85R\x940}\x8c\x05G_emah\x01s"
    with pytest.raises(
        InputError, match=r"loop\.pkl is a Python pickle that is truncated, damaged"
    ):
        read_pickle(code + b"h\x00\x8c\x05againh\x01s0.", "loop.pkl")
    assert read_pickle(code + b".", "no-loop.pkl")["G_ema"].state == {}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is an HTML page"),
        (b"PK\x03\x04" + b"\0" * 99, "is a zip archive"),
        (b"\x80\x04", "is a Python pickle that is truncated, damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "is a Python pickle that is truncated, damaged"),
        (b"\x80\x04\x8e\0\0\0\0\x10\0\0\0.", "is a Python pickle that is truncated, damaged"),
        (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.", "expected networks"),
        (b"Please log in", "is text"),
        (b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", "expected networks"),
        (pickle.dumps([1]), "expected networks .* in net.pkl, found none"),
        (pickle.dumps({}), "expected networks .* in net.pkl, found none"),
        (pickle.dumps((1, 2, 3)), "expected networks .*, found none"),
    ],
)
def test_no_network_pickle_at_all(data, told):
    with pytest.raises(InputError, match=told):
        read_pickle(data, "net.pkl")


SMALL = dumps({"G_ema": grow({"a.b": torch.ones(2), "c": torch.arange(3)}, z_dim=np.float32(2))})
SMALL_TF = dumps({"Gs": TensorFlowNetwork("G", {"a": np.ones(2)}, size=4)})


@settings(max_examples=200)
@given(
    data=st.sampled_from([SMALL, SMALL_TF]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    end=st.floats(0.5, 1) | st.just(1.0),
)
def test_damage_gives_a_sentence_or_a_result(data, flips, end):
    damaged = bytearray(data[: int(len(data) * end)])
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    try:
        networks = read_pickle(bytes(damaged), "net.pkl")
    except InputError as error:
        told = str(error)
    else:
        told = " ".join(network.kind for network in networks.values())
        assert all(len(part) < 100 for net in networks.values() for part in net.state.values())
    assert re.search(r"net\.pkl[ ,].*\.$|^(torch|tensorflow)$", told)
