"""Checkpoints are read as data, whatever they claim to be."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from nvidia import Persistent, TensorFlowNetwork, dumps, grow
from on_disk import STATE, assert_state, folder_of, torch_bytes

from steer.checkpoints import match_state, read_checkpoint, save_checkpoint
from steer.errors import InputError, MachineError
from steer.hub import locate

# --- our own checkpoints ---


def test_a_saved_checkpoint_comes_back_verified_and_byte_for_byte(tmp_path):
    config = {"family": "vae", "latent": 10, "shape": [1, 64, 64]}
    for name in ("one", "two"):
        save_checkpoint(tmp_path / "runs" / name, config, dict(reversed(STATE.items())), "# card\n")
    for file in ("model.safetensors", "config.json", "README.md"):
        one, two = (tmp_path / "runs" / name / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    found = read_checkpoint(locate(str(tmp_path / "runs" / "one")))
    weights = (tmp_path / "runs" / "one" / "model.safetensors").read_bytes()
    assert found.sha256 == hashlib.sha256(weights).hexdigest()
    assert (found.config, found.verified) == (config, True)
    assert_state(found.state)


def test_damaged_weights_of_our_own_are_noticed(tmp_path):
    save_checkpoint(tmp_path, {}, STATE, "")
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors of .* is damaged or another file"):
        read_checkpoint(locate(str(tmp_path)))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(InputError, match="tensor 'a' in the weights to be saved holds 1 NaN"):
        save_checkpoint(tmp_path, {}, {"a": torch.tensor([float("nan")])}, "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for place in ("file", "file/inside"):
        with pytest.raises(InputError, match=f"cannot make {tmp_path / place}"):
            save_checkpoint(tmp_path / place, {}, STATE, "")


def test_an_expected_checksum_verifies_or_refuses(tmp_path):
    path = folder_of(tmp_path, model_pt=torch_bytes(STATE)) / "model.pt"
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert not read_checkpoint(locate(str(path))).verified
    assert read_checkpoint(locate(str(path)), sha256=right).verified
    with pytest.raises(InputError, match=f"expected SHA-256 {'0' * 64}, got {right}"):
        read_checkpoint(locate(str(path)), sha256="0" * 64)


# --- the layouts of others ---


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "tar"])
@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        *({key: STATE, "epoch": 3, "optimizer": {"lr": 0.1}} for key in ("state_dict", "model")),
        *({key: STATE, "d": {"x": torch.zeros(1)}} for key in ("g_ema", "G_ema", "generator")),
        {"netG_state_dict": STATE, "netD_state_dict": {"x": torch.zeros(1)}},
        {**STATE, "epoch": 3},
        {name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()},
    ],
)
def test_state_dicts_are_unwrapped(tmp_path, wrapped, suffix, legacy):
    data = torch_bytes(wrapped, _use_new_zipfile_serialization=not legacy)
    folder_of(tmp_path, **{f"weights_{suffix}": data, "specs_json": b'{"latent_dim": 10}'})
    found = read_checkpoint(locate(str(tmp_path)))
    assert_state(found.state)
    assert (found.config, found.verified) == ({"latent_dim": 10}, False)


def test_averaged_weights_come_first_and_what_stood_beside_is_kept(tmp_path):
    average = torch.rand(4)
    value = {"state_dict": {"x": torch.zeros(1)}, "g_ema": STATE, "latent_avg": average}
    folder_of(tmp_path, a_pt=torch_bytes(value))
    found = read_checkpoint(locate(str(tmp_path / "a.pt")))
    assert_state(found.state)
    assert_state(found.beside, {"latent_avg": average})


def test_safetensors_may_carry_their_configuration(tmp_path):
    data = safetensors.torch.save(STATE, metadata={"config": '{"family": "dcgan"}'})
    folder_of(tmp_path, model_safetensors=data)
    assert read_checkpoint(locate(str(tmp_path))).config == {"family": "dcgan"}
    folder_of(tmp_path, config_json=b'{"family": "vae"}')
    assert read_checkpoint(locate(str(tmp_path))).config == {"family": "vae"}


# --- files that are no checkpoints ---


class Attack:
    """A pickle of this writes a marker when it is loaded without care."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (exec, (f"open({str(self.marker)!r}, 'w')",))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, nested, legacy, protocol):
    marker = tmp_path / "marker"
    attack = Attack(marker)
    value = {"state_dict": {**STATE, "x": {"y": [attack]}}} if nested else attack
    data = torch_bytes(value, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    folder_of(tmp_path, model_pt=data)
    with pytest.raises(InputError) as caught:
        read_checkpoint(locate(str(tmp_path / "model.pt")))
    said = {2: "is a pickle that calls __builtin__.exec: refused"}
    said[4] = "is a pickle that calls builtins.exec: refused"
    assert said[protocol] in str(caught.value) and "\n" not in str(caught.value)
    assert not marker.exists()
    # the attack is real: without care it does run
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert marker.exists()


def bare_pickle(protocol: int) -> bytes:
    return pickle.dumps(Attack(Path("marker")), protocol=protocol)


def some_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", b"x" * 100)
    return buffer.getvalue()


def script_program() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html><body>404</body>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"Entry not found", "is text"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (npy(), "is a NumPy array"),
        (bare_pickle(2), "is a pickle that calls __builtin__.exec"),
        (bare_pickle(0), "is a pickle that calls __builtin__.exec"),
        (pickle.dumps({"z": 1})[:-4], "is a Python pickle that is truncated"),
        (torch_bytes(STATE)[:-20], "is a zip archive that is truncated"),
        (torch_bytes(STATE)[:300], "is a zip archive that is truncated"),
        (some_zip(), "is a zip archive that is truncated"),
        (torch_bytes(torch.nn.Linear(1, 1)), "is a pickle that calls torch.nn.modules"),
        (torch_bytes([1, 2]), "expected a dict of tensors in .*, found type list"),
        (torch_bytes({"epoch": 3, "lr": 0.1}), "expected tensors or one of .*, found epoch, lr"),
        (torch_bytes({"G_ema": {}, "x": 1}), "found G_ema without tensors, x"),
        (torch_bytes({}), "found nothing"),
        (dumps({"G": grow(STATE)}, 2), "protocol 3 or later, .* keeps numbers as text"),
        (script_program(), "is a TorchScript program"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_what_is_no_checkpoint_is_called_what_it_is(
    tmp_path, monkeypatch, data, said, suffix, recwarn
):
    monkeypatch.chdir(tmp_path)
    path = folder_of(tmp_path, **{f"model_{suffix}": data}) / f"model.{suffix}"
    with pytest.raises(InputError, match=said) as caught:
        read_checkpoint(locate(str(path)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not recwarn.list
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "pipe"), (None, "device")])
def test_what_may_never_end_is_not_read(tmp_path, make, kind):
    path = tmp_path / "zz.pt"
    if make:
        make(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=rf"expected a file, {path} is a {kind}\.$"):
        read_checkpoint(locate(str(path)))


def test_a_configuration_that_may_never_end_is_not_read(tmp_path):
    folder_of(tmp_path, model_pt=torch_bytes(STATE))
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"expected a file, .*config\.json is a pipe\.$"):
        read_checkpoint(locate(str(tmp_path)))


def test_damaged_json_is_called_so(tmp_path):
    folder_of(tmp_path, model_pt=torch_bytes(STATE), config_json=b'{"family": "vae",')
    with pytest.raises(InputError, match=r"expected JSON, config\.json of .* is damaged JSON\.$"):
        read_checkpoint(locate(str(tmp_path)))


def test_a_zip_saved_as_safetensors_is_named(tmp_path):
    folder_of(tmp_path, model_safetensors=torch_bytes(STATE))
    with pytest.raises(InputError, match=r"expected a safetensors file, .* is a zip archive"):
        read_checkpoint(locate(str(tmp_path)))


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_and_bent_checkpoints_end_in_a_sentence_or_load(tmp_path, legacy):
    dice = random.Random(3)
    data = torch_bytes({"state_dict": STATE}, _use_new_zipfile_serialization=not legacy)
    path = tmp_path / "model.pt"
    refused = []
    for _ in range(150):
        bent = bytearray(data[: dice.choice([len(data), dice.randrange(1, len(data))])])
        bent[dice.randrange(len(bent))] ^= 1 << dice.randrange(8)
        path.write_bytes(bent)
        try:
            read_checkpoint(locate(str(path)))
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 75
    assert not [sentence for sentence in refused if "\n" in sentence]


@pytest.mark.parametrize("key", ["G_ema", "G"])
def test_pickles_of_nvidia_give_their_arguments_by_name(tmp_path, key):
    net = grow(STATE, Persistent(512, 0, 512, 64, 3, resample_filter=[1, 3, 3, 1], mapping_kwargs={
        "num_layers": 8, "lr": np.float32(0.5), "sizes": (np.arange(2), None)}))  # fmt: skip
    folder_of(tmp_path, net_pkl=dumps({"D": grow({"x": torch.zeros(1)}), key: net}))
    found = read_checkpoint(locate(str(tmp_path)))
    assert_state(found.state)
    assert found.beside == {} and not found.verified
    sizes = {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_resolution": 64, "img_channels": 3}
    mapping = {"num_layers": 8, "lr": 0.5, "sizes": [[0, 1], None]}
    assert found.config == {
        "init_kwargs": {**sizes, "resample_filter": [1, 3, 3, 1], "mapping_kwargs": mapping},
        "class_name": "Generator",
        "kind": "torch",
    }
    json.dumps(found.config)
    folder_of(tmp_path, config_json=b'{"family": "stylegan2"}')
    assert read_checkpoint(locate(str(tmp_path))).config == {"family": "stylegan2"}


def test_pickles_of_tensorflow_keep_their_names(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    net = TensorFlowNetwork("G", {"4x4/Conv/weight": weight}, resolution=8)
    folder_of(tmp_path, net_pkl=dumps((net, net, net)))
    found = read_checkpoint(locate(str(tmp_path / "net.pkl")))
    assert_state(found.state, {"4x4/Conv/weight": torch.from_numpy(weight)})
    assert found.config == {
        "init_kwargs": {"resolution": 8}, "class_name": "G_main", "kind": "tensorflow"
    }  # fmt: skip


def test_plain_pickles_of_state_dicts_are_read(tmp_path):
    folder_of(tmp_path, net_pkl=pickle.dumps({"g_ema": STATE, "best": np.float64(0.1)}))
    assert_state(read_checkpoint(locate(str(tmp_path / "net.pkl"))).state)


def test_a_name_with_dots_is_no_way_out(tmp_path):
    path = tmp_path / "my..net.pt"  # the name of every entry's folder
    torch.save(STATE, path)
    assert_state(read_checkpoint(locate(str(path))).state)


def test_things_beside_the_weights_are_never_made(tmp_path):
    value = {
        "g_ema": STATE,
        "args": argparse.Namespace(size=256, path="data", betas={1, 2}),
        "loss": np.float64(0.5),
        "shape": torch.Size([1, 2]),
        "dtype": torch.float32,
        "device": torch.device("cuda:0"),
    }
    folder_of(tmp_path, a_pt=torch_bytes(value))
    found = read_checkpoint(locate(str(tmp_path / "a.pt")))
    assert_state(found.state)
    assert found.beside == {}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_those_of_torch_load(tmp_path, legacy):
    torch.manual_seed(0)
    whole = torch.randn(4, 5, 6)
    state = {
        "whole": whole, "part": whole[1:3, ::2], "turned": whole.permute(2, 0, 1),
        "expanded": whole[0, 0, :1].expand(3), "none": torch.zeros(0, 4), "one": torch.tensor(2.5),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        **{str(dtype): torch.arange(3).to(dtype) for dtype in (
            torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.int16,
            torch.int32, torch.int64, torch.bool)},
    }  # fmt: skip
    data = torch_bytes({"model": state}, _use_new_zipfile_serialization=not legacy)
    path = folder_of(tmp_path, a_pt=data) / "a.pt"
    found, oracle = read_checkpoint(locate(str(path))).state, torch.load(path)["model"]
    del state["expanded"], oracle["expanded"]
    assert_state({name: found[name] for name in oracle}, oracle)
    for name, tensor in oracle.items():
        assert (found[name].dtype, found[name].stride()) == (tensor.dtype, tensor.stride())
    assert found["part"].data_ptr() == found["whole"][1:].data_ptr()


MEMORY = """
import sys
from steer.checkpoints import read_checkpoint
from steer.hub import locate

def peak():
    return int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])

before = peak()
for path in sys.argv[1:]:
    state = None
    state = read_checkpoint(locate(path)).state
print((peak() - before) * 1024 / sum(tensor.nbytes for tensor in state.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_reading_takes_the_memory_of_the_tensors(tmp_path):
    """Of those that are kept: a pickle's other networks are left in the file."""
    state = {f"l{i}.weight": torch.randn(1 << 20) for i in range(10)}
    net = grow(state)
    files = folder_of(
        tmp_path,
        a_pt=torch_bytes(state),
        b_pt=torch_bytes({"g": state, "g_ema": state}, _use_new_zipfile_serialization=False),
        c_safetensors=safetensors.torch.save(state),
        d_pkl=dumps({"G": grow({"other": torch.randn(1 << 24)}), "G_ema": net}),
    )
    command = [sys.executable, "-c", MEMORY, *map(str, sorted(files.iterdir()))]
    assert float(alone(command)) < 1.3


SAVING = """
import sys, torch
from pathlib import Path
from steer.checkpoints import save_checkpoint

def peak():
    return int(next(line for line in open("/proc/self/status") if "VmHWM" in line).split()[1])

state = {f"l{i}.weight": torch.randn(1 << 20) for i in range(10)}
before = peak()
save_checkpoint(Path(sys.argv[1]), {}, state, "")
print((peak() - before) * 1024 / sum(tensor.nbytes for tensor in state.values()))
"""


def alone(command: list[str]) -> str:
    """What a process writes whose memory goes back to the system as soon as it is free."""
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_saving_takes_little_memory_beside_the_weights(tmp_path):
    assert float(alone([sys.executable, "-c", SAVING, str(tmp_path)])) < 0.3


def test_weights_of_any_layout_are_saved_as_safetensors_does(tmp_path):
    whole = torch.arange(24.0).reshape(2, 3, 4)
    state = {
        "whole": whole, "again": whole, "part": whole[1:], "turned": whole.permute(2, 0, 1),
        "half": torch.ones(3).half(), "flag": torch.tensor([True]), "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4), "nothing": torch.zeros(0), "count": torch.arange(3),
    }  # fmt: skip
    expected = safetensors.torch.save(
        {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in state.items()
        }
    )
    save_checkpoint(tmp_path, {}, state, "")
    assert (tmp_path / "model.safetensors").read_bytes() == expected
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1 and len(modes) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_weights_that_do_not_fit_on_the_disk(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"cannot write .*model\.safetensors: .*\.$"):
            save_checkpoint(tmp_path, {}, {"a": torch.zeros(10_000)}, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="what is read is counted in /proc")
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_weights_are_read_once(tmp_path, kind):
    """And hashed on the way."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    state = {f"l{i:02}": torch.randn(1 << (10 + i % 9)) for i in range(60)}
    data = safetensors.torch.save(state) if kind == "safetensors" else torch_bytes(state)
    path = folder_of(tmp_path, **{f"a_{kind}": data}) / f"a.{kind}"
    read_checkpoint(locate(str(path)))  # what it imports
    before = so_far()
    found = read_checkpoint(locate(str(path)))
    assert so_far() - before < 1.1 * len(data)
    assert_state(found.state, state)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    path = folder_of(tmp_path, a_pt=torch_bytes(STATE)) / "a.pt"

    def compare(*_):
        os.utime(path, (1, 1))

    monkeypatch.setattr("steer.checkpoints._compare", compare)
    with pytest.raises(InputError, match=r"a\.pt was changed by something else while it was read"):
        read_checkpoint(locate(str(path)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"<html>", r"expected JSON, config\.json of .* is an HTML page"),
        (b"", "is empty"),
        (b"{'a': 1}", "expected JSON"),
        (b"[1, 2]", r"expected a JSON object, .* is other JSON \(list\)"),
        (b"[" * 100_000, "expected JSON"),
        (b"[" + b" " * (1 << 20) + b"]", r"expected at most \d+ bytes of JSON, config.json of .*"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, config, said):
    folder_of(tmp_path, model_pt=torch_bytes(STATE), config_json=config)
    with pytest.raises(InputError, match=said):
        read_checkpoint(locate(str(tmp_path)))


# --- fitting a network ---

EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(())}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": None}, "x.pt does not fit: missing a."),
        ({"a": None, "b": None}, "x.pt does not fit: missing a, b."),
        ({"d": torch.zeros(1)}, "x.pt does not fit: unexpected d."),
        ({"b": torch.zeros(4, 1)}, "x.pt does not fit: b is [4, 1] where [4] was expected."),
        ({"c": torch.zeros(1)}, "x.pt does not fit: c is [1] where [] was expected."),
        (
            {"a": None, "e": torch.zeros(1), "b": torch.zeros(5)},
            "x.pt does not fit: missing a; unexpected e; b is [5] where [4] was expected.",
        ),
        (
            {f"extra{i}": torch.zeros(1) for i in range(9)},
            "x.pt does not fit: unexpected extra0, extra1, extra2, extra3 and 5 more.",
        ),
        (
            {"b": torch.tensor([1.0, float("nan"), float("inf"), 0.0])},
            "expected finite numbers, tensor 'b' in x.pt holds 2 NaN or infinite of 4.",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_told_tensor_by_tensor(change, said):
    state = {name: value for name, value in (EXPECTED | change).items() if value is not None}
    with pytest.raises(InputError) as caught:
        match_state(EXPECTED, state, "x.pt")
    assert str(caught.value) == said


def test_a_state_that_fits_passes():
    match_state(EXPECTED, {name: tensor + 1 for name, tensor in EXPECTED.items()})
    match_state({name: tensor.shape for name, tensor in EXPECTED.items()}, EXPECTED)


# --- real weights ---


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["VAE_chairs", "VAE_dsprites", "betaH_dsprites", "btcvae_celeba", "btcvae_dsprites"]
)
def test_disvae_checkpoints_read(shared, name):
    found = read_checkpoint(locate(str(shared / "data/generators/disvae" / name)))
    assert found.config["latent_dim"] == 10 and not found.verified
    channels = found.config["img_size"][0]
    assert found.state["decoder.convT3.weight"].shape == (32, channels, 4, 4)
    match_state(found.state, found.state)


@pytest.mark.shared
def test_the_dcgan_checkpoint_reads(shared):
    found = read_checkpoint(locate(str(shared / "data/generators/dcgan-faces/weights.tar")))
    assert found.state["main.0.weight"].shape[0] == 100
    match_state(found.state, found.state)
