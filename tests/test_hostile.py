"""Hostile and damaged weights, through the door that all weights come in by: nothing runs, each is
told in a sentence, soon, and in little memory."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from nvidia import MODULE_SRC, Persistent, dumps, grow
from on_disk import STATE, torch_bytes
from test_pickles import BOMBS, PAYLOADS, PLACES, Calls

WHOLE = {
    "zip.pt": torch_bytes({"g_ema": STATE}),
    "legacy.pt": torch_bytes({"g_ema": STATE}, _use_new_zipfile_serialization=False),
    "net.pkl": dumps({"G_ema": grow(STATE, z_dim=4)}),
    "a.safetensors": safetensors.torch.save(STATE, metadata={"by": "me"}),
}

# --- code ---


def payloads(canary: Path) -> dict[str, bytes]:
    """Each of the payloads in each kind of file; `canary` appears where one runs."""
    made = {}
    for name, payload in PAYLOADS.items():
        evil = payload(canary)
        for protocol in (2, 4):
            made[f"{name}, zip {protocol}.pt"] = torch_bytes([evil], pickle_protocol=protocol)
        nested = {"g_ema": OrderedDict(STATE, x={"y": [(evil,)]})}
        made[f"{name}, legacy.pt"] = torch_bytes(nested, _use_new_zipfile_serialization=False)
        made[f"{name}, bare.pkl"] = pickle.dumps(evil)
        made[f"{name}, text.bin"] = pickle.dumps(evil, 0)
        for place in PLACES:
            made[f"{name}{place.__name__}.pkl"] = dumps({"G_ema": place(evil)})
        made[f"{name}, array.npy"] = saved(np.save, np.array([evil], dtype=object))
    return made


def saved(write, *things) -> bytes:
    file = io.BytesIO()
    write(file, *things)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<i", len(value)) + value.encode()


def opcodes() -> dict[str, bytes]:
    """What gets at Python through the pickle machine itself, or at its memory and time."""

    def calls(module: str, name: str, *args: str) -> bytes:
        found = text(module) + text(name) + b"\x93"
        return b"\x80\x04" + found + b"(" + b"".join(map(text, args)) + b"tR."

    tricks = [
        *(("builtins", "__import__", "os"), ("builtins", "getattr", "a", "__class__")),
        *(("copyreg", "_reconstructor", "a"), ("copyreg", "__newobj__", "a")),
        *(("functools", "partial", "a"), ("functools", "reduce", "a")),
        *(("operator", "attrgetter", "system"), ("operator", "methodcaller", "system")),
        *(("importlib", "import_module", "os"), ("types", "FunctionType", "a")),
        *(("nt", "system", "a"), ("posix", "system", "a"), ("ctypes", "CDLL", "libc.so.6")),
        *(("torch", "load", "a"), ("torch.hub", "load", "a"), ("torch", "FloatTensor", "9")),
        *(("torch.storage", "UntypedStorage", "9"), ("torch._utils", "_import_dotted_name", "a")),
        *(("numpy", "load", "a"), ("numpy.core.multiarray", "fromfile", "a")),
        *(("builtins", "set.__class__", "a"), ("collections", "OrderedDict.update", "a")),
    ]
    made = {f"{module}.{name}.pkl": calls(module, name, *args) for module, name, *args in tricks}
    state = b"\x80\x04}" + text("g_ema")
    names = {"a\nb": torch.ones(1), "c" * 10_000: torch.ones(1)}
    return made | {
        "names.pt": torch_bytes(names),
        "extension.pkl": b"\x80\x02\x82\xf0.",
        "instance.pkl": b"(S'touch x'\nios\nsystem\n.",
        "object.pkl": b"(cos\nsystem\nS'touch x'\no.",
        "persistent.pkl": b"\x80\x02Px\n.",
        "buffer.pkl": b"\x80\x05\x97.",
        "memo at the end of the world.pkl": b"\x80\x04Nr\xff\xff\xff\x7f.",
        "frame beyond the file.pkl": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}.",
        "bytes beyond the file.pkl": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        "text beyond the file.pkl": b"\x80\x04X\xff\xff\xff\x7f.",
        "a key that takes forever to hash.pkl": b"\x80\x04})" + b"2\x86" * 100 + b"Ns.",
        "the same in a set.pkl": b"\x80\x04\x8f()" + b"2\x86" * 100 + b"\x90.",
        "deep lists.pkl": b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".",
        "deep tuples.pkl": b"\x80\x04)" + b"\x85" * 900_000 + b".",
        "deep dicts.pkl": b"\x80\x04" + b"}N" * 300_000 + b"}" + b"s" * 300_000 + b".",
        "deep marks.pkl": b"\x80\x04" + b"(" * 900_000 + b"l" * 900_000 + b".",
        "endless.pkl": b"\x80\x04" + b"N0" * 2_000_000 + b".",
        "a million sets.pkl": b"\x80\x04(" + b"\x8f" * 990_000 + b"l.",
        "a million lists.pt": b"\x80\x04(" + b"]" * 1_100_000 + b"l.",
        "doubled.pkl": state + b"]" + b"(22e" * 200 + b"s.",
        "huge number.pkl": b"\x80\x04\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20) + b".",
        "huge decimal.pkl": b"I" + b"9" * 1_000_000 + b"\n.",
        "keys that collide.pkl": b"\x80\x04}("
        + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(9))
        + b"u.",
        "many storages.pkl": dumps({"G_ema": storages(240, b"N0" * 50_000)}),
        "much text in storages.pkl": dumps({"G_ema": storages(40, text("a" * (1 << 20)) + b"0")}),
        "much text.pkl": b"\x80\x04(" + text("a" * (1 << 20)) * 40 + b"l.",
    }


def storages(count: int, tail: bytes) -> object:
    """A network of so many tensors, with something in the pickles of each one's storage."""
    whole = torch_bytes(torch.FloatStorage(2), _use_new_zipfile_serialization=False)
    start = whole.index(b".", whole.index(b".") + 1) + 1  # behind the magic number and the version
    network = Persistent()
    for i in range(count):
        system = b"\x80\x02" + tail + pickle.dumps(i, 2)[2:]
        end = whole.index(b".", start) + 1
        storage = Calls(torch.storage._load_from_bytes, whole[:start] + system + whole[end:])
        network.__dict__["_parameters"][f"a{i}"] = Calls(
            torch._utils._rebuild_tensor_v2, storage, 0, (2,), (1,), False, OrderedDict()
        )
    return network


# --- archives ---


def zipped(entries, compression=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def archives() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(WHOLE["zip.pt"])) as archive:
        honest = [(name, archive.read(name)) for name in archive.namelist()]
        main = next(data for name, data in honest if name.endswith("data.pkl"))
    bomb = zipped([("archive/data/0", bytes(100_000_000))], zipfile.ZIP_DEFLATED)
    claims = bytearray(zipped(honest))
    directory = claims.rindex(b"PK\x01\x02")
    claims[directory + 20 : directory + 28] = struct.pack("<II", 1 << 31, 1 << 31)
    locked = bytearray(zipped(honest))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    astray = bytearray(zipped(honest))
    first = astray.index(b"PK\x01\x02")
    astray[first + 42 : first + 46] = struct.pack("<I", 1 << 31)
    many = zipped((f"archive/data/{i}", b"") for i in range(60_000))
    program = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), program)
    return {
        "compressed.pt": zipped(honest, zipfile.ZIP_DEFLATED),
        "bomb.pt": bomb,
        "bomb in a bomb.pt": zipped([("archive/data.pkl", bomb)], zipfile.ZIP_DEFLATED),
        "pickle bomb.pt": zipped([("a/data.pkl", b"\x80\x02" + b"N" * 10**8)], zipfile.ZIP_LZMA),
        "claims 2 GB.pt": bytes(claims),
        "encrypted.pt": bytes(locked),
        "entry astray.pt": bytes(astray),
        "many entries.pt": many,
        "twice.pt": zipped([*honest, ("archive/data.pkl", main)]),
        "two pickles.pt": zipped([*honest, ("other/data.pkl", main)]),
        "no pickle.pt": zipped([(name, data) for name, data in honest if "pkl" not in name]),
        "no numbers.pt": zipped([(name, data) for name, data in honest if "/data/" not in name]),
        "other byte order.pt": zipped(
            [(name, b"big" if "byteorder" in name else data) for name, data in honest]
        ),
        "program.pt": program.getvalue(),
        **{
            f"traversal {i}.pt": zipped([*honest, (name, b"evil")])
            for i, name in enumerate(["../evil", "archive/../../evil", "/evil", "..\\evil"])
        },
        "half a directory.pt": WHOLE["zip.pt"][:-60] + WHOLE["zip.pt"][-22:],
        "photos.bin": zipped([("photo.jpg", b"x" * 100)]),
        "arrays.bin": saved(np.savez, np.zeros(3)),
        "pickle beyond its entry.pt": beyond_its_entry(honest),
        "numbers of another tensor.pt": zipped(
            [(name, b"1234" if "/data/" in name else data) for name, data in honest]
        ),
    }


def beyond_its_entry(entries) -> bytes:
    """The first half of the pickle is an entry, the rest lies behind it, beyond any checksum."""
    ((name, pickled),) = (entry for entry in entries if entry[0].endswith("data.pkl"))
    rest = [entry for entry in entries if entry[0] != name]
    half = len(pickled) // 2
    data = bytearray(zipped([*rest, (name, pickled)]))
    crc32, at = struct.pack("<I", zlib.crc32(pickled[:half])), data.rindex(b"PK\x01\x02")
    data[at + 16 : at + 28] = crc32 + struct.pack("<II", half, half)
    return bytes(data)


# --- safetensors ---


def with_header(
    header: bytes | dict, numbers: bytes = bytes(8), length: int | None = None
) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + numbers


def headers() -> dict[str, bytes]:
    def entry(dtype: object = "F32", shape: object = (2,), at: object = (0, 8)) -> dict:
        return {"dtype": dtype, "shape": shape, "data_offsets": at}

    made = {
        "length beyond the file": with_header({"a": entry()}, length=1 << 20),
        "length beyond all": with_header({"a": entry()}, length=(1 << 64) - 1),
        "length of nothing": with_header({"a": entry()}, length=0),
        "long header": with_header(b'{"a":[' + b"[]," * 5_000_000 + b"1]}"),
        "deep header": with_header(b'{"a":' * 1_000_000),
        "many digits": with_header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b"]}}"),
        "name twice": with_header(b'{"a":{},"a":{}}'),
        "no JSON": with_header(b"os.system('x')"),
        "a list": with_header(b"[1,2]"),
        "metadata of numbers": with_header({"__metadata__": {"a": 1}, "a": entry()}),
        "metadata of text": with_header({"__metadata__": "a", "a": entry()}),
        "entry of text": with_header({"a": "F32"}),
        "entry of nothing": with_header({"a": {}}),
        "overlapping": with_header({"a": entry(), "b": entry(at=(4, 12))}, bytes(12)),
        "the same numbers": with_header({"a": entry(), "b": entry()}),
        "gap": with_header({"a": entry(), "b": entry(at=(12, 20))}, bytes(20)),
        "bytes behind": with_header({"a": entry()}, bytes(9)),
        "bytes lacking": with_header({"a": entry()}, bytes(7)),
        "turned around": with_header({"a": entry(at=(8, 0))}),
        "before the file": with_header({"a": entry(at=(-8, 0))}),
        "offsets of text": with_header({"a": entry(at=("0", "8"))}),
        "offsets of fractions": with_header({"a": entry(at=(0.0, 8.0))}),
        "configuration of no letters": with_header({"__metadata__": {"config": "\ud800"}}, b""),
        "configuration of a list": with_header({"__metadata__": {"config": "[]"}}, b""),
        "name of lines": with_header({"a\n\x1b[2J": entry()}),
        "name of a page": with_header({"a" * 10_000: entry()}),
        "three offsets": with_header({"a": entry(at=(0, 4, 8))}),
    }
    for i, shape in enumerate(
        [[3], [-2], [-1, -2], [2**62, 2**62], [2.0], ["2"], [True, 2], 2, {}]
    ):
        made[f"shape {i}"] = with_header({"a": entry(shape=shape)})
    made["shape of a million sides"] = with_header({"a": entry(shape=[1] * 1_000_000)})
    made["empty and huge"] = with_header({"a": entry(shape=[2**70, 0], at=(0, 0))}, b"")
    for dtype in ("F8_E5M2", "O", "f4", "", 4, None, [], "F32\x1b[2J" * 100):
        made[f"dtype {len(made)}"] = with_header({"a": entry(dtype=dtype)})
    return {f"{name}.safetensors": data for name, data in made.items()}


# --- configurations beside weights that are whole ---


def folders() -> dict[str, dict[str, bytes]]:
    configs = {
        "many lists": b"[" + b"[]," * 20_000_000 + b"[]]",
        "as many as fit": b"{" + b",".join(b'"%d":[]' % i for i in range(90_000)) + b"}",
        "as deep as fits": b'{"a":' * 200_000,
        "spaces": b"{" + b" " * 60_000_000 + b"}",
    }
    made = {
        name: {"config.json": data, "model.safetensors": WHOLE["a.safetensors"]}
        for name, data in configs.items()
    }
    huge = safetensors.torch.save(STATE, metadata={"config": "[" + "[]," * 2_000_000 + "[]]"})
    return made | {"in the weights": {"model.safetensors": huge}}


# --- other things, and parts of things ---


def others() -> dict[str, bytes]:
    page = b"<!DOCTYPE html>\n<html><body>404</body></html>"
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../storages"), io.BytesIO())
    kinds = {
        "empty": b"",
        "page": page,
        "JSON": b'{"error": "not found"}',
        "text": b"Entry not found",
        "please": b"Please log in to continue",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "gzip": gzip.compress(WHOLE["zip.pt"]),
        "array": saved(np.save, np.zeros(3)),
        "tar": tar.getvalue(),
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
    }
    suffixes = (".pt", ".pkl", ".safetensors")
    return {f"{name}{suffix}": data for name, data in kinds.items() for suffix in suffixes}


def damaged() -> dict[str, bytes]:
    """Files cut short, which never load, and files with a flipped bit, which may."""
    dice, made = random.Random(0), {}
    for name, data in WHOLE.items():
        for tenth in range(1, 10):
            made[f"cut {tenth} {name}"] = data[: len(data) * tenth // 10]
        for _ in range(30):
            place, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
            flipped = bytes([data[place] ^ bit])
            made[f"flipped {place} {name}"] = data[:place] + flipped + data[place + 1 :]
    return made


CHILD = """
import json, os, sys, time
from steer.checkpoints import read_checkpoint
from steer.errors import SteerError
from steer.hub import locate

def peak():
    return int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])

def ask(path):
    started = time.process_time()
    try:
        said = [None, sorted(read_checkpoint(locate(path)).state)]
    except SteerError as error:
        said = [type(error).__name__, str(error)]
    return [*said, time.process_time() - started]

before, folder = peak(), sys.argv[1]
answers = {name: ask(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
json.dump([answers, (peak() - before) / 1024], sys.stdout)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The corpus's answers, from one process in an empty folder, and the MB that it took."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "files").mkdir()
    (root / "empty").mkdir()
    corpus = payloads(root / "canary") | opcodes() | archives() | headers() | others() | damaged()
    corpus |= {f"{name}.pkl": dumps({"G_ema": bomb()}) for name, bomb in BOMBS.items()}
    for name, files in folders().items():
        (root / "files" / name).mkdir()
        corpus |= {f"{name}/{file}": data for file, data in files.items()}
    for name, data in corpus.items():
        (root / "files" / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root / "files")],
        capture_output=True,
        text=True,
        cwd=root / "empty",
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers, memory = json.loads(done.stdout)
    assert answers.keys() == {name.partition("/")[0] for name in corpus}
    return answers, memory, root


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated"),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


def loads(name: str) -> bool:
    """Whether a file may load: a bit of its numbers or of a thing beside them is another, or what
    is evil in it stands where no tensor is."""
    beside = "storage" in name and ("_attribute" in name or "legacy" in name)
    return name.startswith("flipped") or beside or name == "as many as fit"


def test_nothing_runs(told):
    _, _, root = told
    assert {path.name for path in root.iterdir()} - {"files", "empty", "canary.py"} == set()
    assert list((root / "empty").iterdir()) == []
    assert "module_src_was_run" in MODULE_SRC


def test_each_gets_its_sentence(told):
    answers, _, root = told
    refused = {name: said for name, (kind, said, _) in answers.items() if kind is not None}
    assert {name for name in answers.keys() - refused.keys() if not loads(name)} == set()
    assert len(refused) >= 100
    for name, said in refused.items():
        assert answers[name][0] == "InputError", (name, said)
        assert said.isprintable() and said.endswith(".") and len(said) < 600, (name, said)
        assert str(root / "files" / name) in said, (name, said)


def test_soon_and_in_little_memory(told):
    answers, memory, _ = told
    slowest = max(answers, key=lambda name: answers[name][2])
    assert answers[slowest][2] < 5, slowest
    assert memory < 1000


def test_the_payloads_are_real(tmp_path):
    """Read without care, such files run what they hold."""
    canary = tmp_path / "canary"
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(Calls(exec, f"open({str(canary)!r}, 'w')")))["state_dict"]
    assert canary.exists()
    torch.load(io.BytesIO(torch_bytes([PAYLOADS["mkdir"](tmp_path / "b")])), weights_only=False)
    assert (tmp_path / "b").is_dir()
