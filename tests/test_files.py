"""Artefacts are whole or absent, the same for the same input, and every damage is noticed."""

import io
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import Stream

from steer import files
from steer.errors import InputError
from steer.files import (
    Artefact,
    DamagedError,
    finished_shards,
    how_made,
    load,
    pack,
    save,
    shard_path,
)

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
]


def latents(count: int = 3, **made) -> Artefact:
    tensors = {"z": torch.arange(count * 4.0).reshape(count, 4), "item": torch.arange(count)}
    return Artefact("latents", tensors, {"command": "invert", "seed": 7, **made})


def assert_same(one: Artefact, other: Artefact) -> None:
    assert (one.kind, one.made, one.tensors.keys()) == (
        other.kind,
        other.made,
        other.tensors.keys(),
    )
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype
        assert torch.equal(tensor, other.tensors[name])


# --- round trips ---

SHAPES = st.lists(st.integers(0, 4), max_size=3)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False).filter(lambda value: abs(value) < float("inf")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(), st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=4),
    st.dictionaries(st.text(), JSON, max_size=4),
    st.text(),
)
def test_what_is_packed_comes_back(described, made, kind):
    tensors = {
        name: (torch.rand(shape) * 5).to(dtype) for name, (dtype, shape) in described.items()
    }
    assert_same(load(pack(Artefact(kind, tensors, made))), Artefact(kind, tensors, made))


def test_any_layout_of_memory_comes_back():
    base = torch.arange(12.0, requires_grad=True)
    tensors = {"a": base, "same": base, "turned": base.reshape(3, 4).T, "part": base[2:5]}
    assert_same(load(pack(Artefact("latents", tensors))), Artefact("latents", tensors))


def test_loaded_tensors_are_ours_to_change():
    data = pack(latents())
    load(data).tensors["z"].zero_()
    assert_same(load(data), latents())


def test_the_order_of_names_does_not_change_the_bytes():
    artefact = latents(options={"a": 1, "b": 2})
    turned = Artefact(
        "latents",
        dict(reversed(artefact.tensors.items())),
        dict(reversed(artefact.made.items())),
    )
    assert pack(artefact) == pack(turned)


def test_another_process_pipes_the_same_bytes():
    script = (
        "import torch; from steer.files import *;"
        "save(Artefact('latents', {'z': torch.arange(12.).reshape(3, 4), 'item': torch.arange(3)},"
        " {'seed': 7, 'command': 'invert'}), '-')"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    piped = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True
    )
    assert piped.stdout == pack(latents())


def test_saved_files_are_plain_safetensors(tmp_path):
    save(latents(), tmp_path / "a.safetensors")
    assert torch.equal(
        safetensors.torch.load_file(tmp_path / "a.safetensors")["z"], latents().tensors["z"]
    )
    assert_same(load(tmp_path / "a.safetensors"), latents())
    assert_same(load(str(tmp_path / "a.safetensors"), kind="latents"), latents())


# --- damage ---


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_single_flipped_bit_of_a_small_artefact_is_noticed():
    made = {"rate": 1e-05, "name": "é\u0007", "none": None, "yes": True}
    data = pack(Artefact("latents", {"z": torch.rand(2, 2), "é": torch.tensor(True)}, made))
    for bit in range(len(data) * 8):
        with pytest.raises(InputError):
            load(flipped(data, bit))


def test_random_flipped_bits_of_a_larger_artefact_are_noticed():
    dice = random.Random(0)
    data = pack(latents(500))
    for _ in range(300):
        with pytest.raises(DamagedError, match="the given data is"):
            load(flipped(data, dice.randrange(len(data) * 8 - 80_000, len(data) * 8)))


def test_cut_and_lengthened_files_are_noticed():
    dice = random.Random(1)
    data = pack(latents(20))
    for length in (0, 1, 7, 8, 9, len(data) - 1, *dice.choices(range(len(data)), k=50)):
        with pytest.raises(DamagedError):
            load(data[:length])
    with pytest.raises(DamagedError, match="damaged"):
        load(data + b"\0")


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"z": torch.zeros(2)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"\n <html lang=en>", "an HTML page"),
        (b"hello, latents\n", "text"),
        ("grüße".encode() * 200, "text"),
        (b'{"message": "Not Found"}', "JSON text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "a JPEG picture"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (pickle.dumps({"z": [1, 2]}), "a Python pickle"),
        (npy(), "a NumPy array"),
        (torch_zip(), "a zip archive"),
        (random.Random(2).randbytes(1000), "unknown binary data"),
        (pack(latents())[:200], "a truncated or damaged safetensors file"),
    ],
)
def test_other_files_are_called_what_they_look_like(tmp_path, data, what):
    path = tmp_path / "photo.safetensors"
    path.write_bytes(data)
    with pytest.raises(DamagedError) as caught:
        load(path)
    assert str(caught.value).startswith(f"expected a safetensors file, {path} is {what}")


def test_a_safetensors_of_others_is_refused(tmp_path):
    safetensors.torch.save_file({"z": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors is a safetensors file of another origin"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("description", ["", "[]", "{}", '{"format": 1}', "nonsense", "1e999"])
def test_a_description_that_is_none_is_refused(description):
    data = safetensors.torch.save({"z": torch.zeros(2)}, metadata={"steer": description})
    with pytest.raises(DamagedError, match="description cannot be read"):
        load(data)


def test_a_newer_format_asks_for_an_upgrade(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(files, "FORMAT", 2)
        data = pack(latents())
    with pytest.raises(InputError, match="is of format 2, this steer reads up to 1: upgrade"):
        load(data)


def test_missing_files_and_folders_without_shards_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone: it does not exist"):
        load(tmp_path / "gone")
    with pytest.raises(InputError, match=f"one set of shards, {tmp_path} holds none"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("latents", "expected latents, the given data holds a direction"),
        (("latents", "trajectories"), "expected latents or trajectories, the given data holds a"),
    ],
)
def test_another_kind_is_refused(kind, said):
    with pytest.raises(InputError, match=said):
        load(pack(Artefact("direction", {})), kind=kind)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_values_that_are_not_finite_are_refused_on_both_sides(tmp_path, value, dtype):
    artefact = latents()
    artefact.tensors["z"] = artefact.tensors["z"].to(dtype)
    artefact.tensors["z"][1, :2] = value
    with pytest.raises(InputError, match="tensor 'z' in the given data holds 2 NaN or infinite"):
        load(pack(artefact))
    with pytest.raises(InputError, match="tensor 'z'"):
        save(artefact, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


# --- pipes ---


def test_an_artefact_travels_through_a_pipe(monkeypatch):
    out = Stream()
    monkeypatch.setattr(sys, "stdout", out)
    save(latents(), "-")
    monkeypatch.setattr(sys, "stdin", Stream(out.buffer.getvalue()))
    assert_same(load("-", kind="latents"), latents())


# --- shards ---


def save_shards(folder: Path, count: int = 3, **made) -> dict:
    for index in range(count):
        part = latents(2, shard=index, **made)
        part.tensors["item"] += 2 * index
        save(part, shard_path(folder, index, count))
    return latents(**made).made


def test_a_folder_of_shards_reads_as_one(tmp_path):
    made = save_shards(tmp_path, 12)
    whole = load(tmp_path, kind="latents")
    assert whole.tensors["item"].tolist() == list(range(24))
    assert torch.equal(whole.tensors["z"], latents(2).tensors["z"].repeat(12, 1))
    assert whole.made == made


def test_missing_shards_are_named(tmp_path):
    save_shards(tmp_path)
    shard_path(tmp_path, 1, 3).unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 3 shards: shard-00001-of-00003.safetensors"):
        load(tmp_path)


def test_two_sets_in_one_folder_are_refused(tmp_path):
    save_shards(tmp_path, 2)
    made = save_shards(tmp_path, 3)
    with pytest.raises(InputError, match=r"one set of shards, .* holds sets of 2 and 3 shards"):
        load(tmp_path)
    with pytest.raises(InputError, match="holds a set of 2 shards, this run makes 3"):
        finished_shards(tmp_path, 3, made)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (latents(2, seed=8), r"shard-00002\S+ differs from \S+ in seed \(8, not 7\)"),
        (Artefact("direction", latents(2).tensors, latents().made), "it holds direction of item"),
        (
            Artefact("latents", {"z": torch.zeros(2, 4)}, latents().made),
            r"expected latents of item int64 \[n\], z float32 \[n, 4\], it holds latents of z",
        ),
        (
            Artefact("latents", latents(2).tensors | {"z": torch.zeros(2, 5)}, latents().made),
            r"z float32 \[n, 4\], it holds .*z float32 \[n, 5\]",
        ),
    ],
)
def test_shards_that_do_not_fit_together_are_refused(tmp_path, odd, said):
    save_shards(tmp_path)
    save(odd, shard_path(tmp_path, 2, 3))
    with pytest.raises(InputError, match=said):
        load(tmp_path)


def test_only_whole_shards_count_as_finished(tmp_path):
    made = save_shards(tmp_path, 5)
    assert finished_shards(tmp_path, 5, made) == {0, 1, 2, 3, 4}
    cut, bent = shard_path(tmp_path, 1, 5), shard_path(tmp_path, 3, 5)
    cut.write_bytes(cut.read_bytes()[:-3])
    bent.write_bytes(flipped(bent.read_bytes(), 2400))
    shard_path(tmp_path, 4, 5).rename(tmp_path / f".{'0' * 16}.tmp")
    assert finished_shards(tmp_path, 5, made) == {0, 2}
    assert finished_shards(tmp_path / "gone", 5, made) == set()


def test_a_shard_made_otherwise_is_refused_by_the_option(tmp_path):
    save_shards(tmp_path, options={"steps": 50, "sizes": (1, 2)})
    same = latents(options={"steps": 50, "sizes": [1, 2]}, shard="any").made
    assert finished_shards(tmp_path, 3, same) == {0, 1, 2}
    other = latents(options={"steps": 99, "sizes": [1, 2]}).made
    with pytest.raises(InputError, match=r"in options.steps \(50, not 99\): use the same options"):
        finished_shards(tmp_path, 3, other)


# --- how it was made ---


def test_how_made_is_plain_json_that_survives_the_file():
    made = how_made(
        "invert", {"name": "x", "verified": False}, seed=3, sizes=(1, 2), path=Path("a"), none=None
    )
    assert made["options"] == {"sizes": [1, 2], "path": "a"}
    assert load(pack(Artefact("latents", {}, made))).made == made
    assert list(made) == sorted(made)
    assert "generator" not in how_made("train")
