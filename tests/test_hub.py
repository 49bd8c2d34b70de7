"""Checkpoints are read as data, whatever they claim to be, and the Hub's moods are sentences."""

import hashlib
import http.server
import io
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from steer.errors import InputError, MachineError
from steer.hub import (
    Source,
    cached,
    choose_weights,
    locate,
    match_state,
    read_checkpoint,
    save_checkpoint,
)

STATE = {"main.0.weight": torch.arange(6.0).reshape(2, 3), "main.0.bias": torch.ones(2)}


def torch_bytes(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def folder_of(folder: Path, **files: bytes) -> Path:
    """A folder with files; the first underscore of each name stands for its dot."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("_", ".", 1)).write_bytes(data)
    return folder


def assert_state(found: dict, expected: dict = STATE) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


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


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "other.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "config.json", "README.md"], "pytorch_model.bin"),
        (["weights.tar", "G.pkl"], "weights.tar"),
        (["sub/model.safetensors", "a.pt"], "a.pt"),
    ],
)
def test_the_weights_are_chosen_among_the_files(names, chosen):
    assert choose_weights(names, "here") == chosen


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["b.pt", "a.pth"], "expected one file of weights in here, found a.pth, b.pt: name one"),
        (["config.json"], r"expected weights \(.safetensors, .*\) in here, found config.json"),
        ([], "in here, found nothing"),
        (["G.pkl"], "NVIDIA pickles are not read yet: here holds G.pkl"),
    ],
)
def test_a_choice_that_cannot_be_made_lists_what_is_there(names, said):
    with pytest.raises(InputError, match=said):
        choose_weights(names, "here")


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
    said = {2: "is a pickle that calls exec: refused"}.get(protocol, "or holds more than tensors")
    assert said in str(caught.value) and "\n" not in str(caught.value)
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
        (bare_pickle(2), "is a pickle that calls exec"),
        (bare_pickle(0), "is a pickle that calls exec"),
        (pickle.dumps({"z": 1})[:-4], "is a Python pickle that is truncated"),
        (torch_bytes(STATE)[:-20], "is a zip archive that is truncated"),
        (torch_bytes(STATE)[:300], "is a zip archive that is truncated"),
        (some_zip(), "is a zip archive that is truncated"),
        (torch_bytes(torch.nn.Linear(1, 1)), "is a pickle that calls torch.nn.modules"),
        (torch_bytes([1, 2]), "expected a dict of tensors, .* holds a list"),
        (torch_bytes({"epoch": 3, "lr": 0.1}), "expected tensors or one of .*, found epoch, lr"),
        (torch_bytes({}), "found nothing"),
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


def test_pickles_of_nvidia_wait(tmp_path):
    path = folder_of(tmp_path, net_pkl=bare_pickle(2)) / "net.pkl"
    with pytest.raises(InputError, match=f"NVIDIA pickles are not read yet: {path} holds net.pkl"):
        read_checkpoint(locate(str(path)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"<html>", r"expected JSON, config\.json of .* is an HTML page"),
        (b"", "is empty"),
        (b"{'a': 1}", "expected JSON"),
        (b"[1, 2]", "expected a JSON object, .* is a list"),
        (b"[" * 100_000, "expected JSON"),
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


# --- places on this disk ---


def test_a_folder_gives_its_own_model_files_only(tmp_path):
    folder_of(tmp_path, a_pt=b"", config_json=b"", README_md=b"", photo_png=b"", code_py=b"")
    folder_of(tmp_path / "sub", b_pt=b"")
    (tmp_path / "c.pt").mkdir()
    found = locate(str(tmp_path))
    assert list(found.files) == ["README.md", "a.pt", "config.json"]
    assert found == Source({name: tmp_path / name for name in found.files}, str(tmp_path))


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder_of(tmp_path, a_pt=b"")
    assert locate("~/a.pt").files == {"a.pt": tmp_path / "a.pt"}


@pytest.mark.parametrize(
    "model", ["./gone", "/gone/model", "~/gone", "gone.pt", "user/gone.safetensors", "../a/b"]
)
def test_a_path_that_leads_nowhere_is_no_hub_id(model):
    with pytest.raises(InputError) as caught:
        locate(model)
    assert str(caught.value) == f"no such file: {model}."


@pytest.mark.parametrize(
    "model",
    [
        "",
        "name",
        "a/b/c",
        "a b/c",
        "user/repo@",
        "user/repo:",
        "user/re--po",
        "user/repo@../x",
        "user/repo:../../x.pt",
        "user/repo:run.py",
        "https://huggingface.co/user/repo",
        "üser/repo",
    ],
)
def test_a_malformed_id_is_refused_without_asking_the_hub(model):
    with pytest.raises(InputError, match="expected a file"):
        locate(model)


# --- the Hub, played by a server of our own ---

COMMIT = "c0ffee" + "0" * 34
OURS = {"config.json": b"", "model.safetensors": b"", "README.md": b"# card"}
OURS["model.safetensors"] = safetensors.torch.save(STATE)
LARGE = hashlib.sha256(OURS["model.safetensors"]).hexdigest()
OURS["config.json"] = json.dumps({"family": "dcgan", "sha256": LARGE}).encode()
FOREIGN = torch_bytes(STATE)
REPOSITORIES = {
    "u/ours": {**OURS, "sub/extra.pt": FOREIGN, "run.py": b"exit()"},
    "u/foreign": {"weights.pt": FOREIGN},
    "u/many": {"a.pt": FOREIGN, "b.pt": FOREIGN},
    "u/page": {"model.pt": b"<!DOCTYPE html><html>"},
}
REFUSALS = {  # repository -> status, code
    "u/gated": (403, "GatedRepo"),
    "u/private": (401, "RepoNotFound"),
    "u/none": (404, "RepoNotFound"),
    "u/forbidden": (403, None),
    "u/broken": (500, None),
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as the library asks for."""

    asked: list[str]

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        self.asked.append(f"{self.command} {self.path}")
        is_api = parts[0] == "api"
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        revision = "main" if is_api and len(parts) < 6 else parts[5 if is_api else 3]
        if repo == "u/slow":
            time.sleep(3)
        elif repo == "u/portal":
            self.answer(200, b"<html>log in to the wireless network</html>", {})
        elif repo in REFUSALS or repo not in REPOSITORIES:
            self.refuse(*REFUSALS.get(repo, (404, "RepoNotFound")))
        elif revision not in {"main", "v1", COMMIT}:
            self.refuse(404, "RevisionNotFound")
        elif is_api:
            files = [{"rfilename": name} for name in REPOSITORIES[repo]]
            self.answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode())
        else:
            self.file(REPOSITORIES[repo].get("/".join(parts[4:])))

    do_HEAD = do_GET

    def file(self, data: bytes | None):
        if data is None:
            self.refuse(404, "EntryNotFound")
        else:
            self.answer(200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def refuse(self, status: int, code: str | None):
        self.answer(status, b"", {"X-Error-Code": code} if code else {})

    def answer(self, status: int, data: bytes, headers: dict | None = None):
        self.send_response(status)
        if headers != {}:
            self.send_header("X-Repo-Commit", COMMIT)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


ASK = """
import json, sys
from steer.errors import SteerError
from steer.hub import cached, locate, read_checkpoint
def ask(model, offline):
    try:
        source = locate(model, offline=offline)
        found = read_checkpoint(source)
        return {"files": sorted(source.files), "sha256": found.sha256, "config": found.config,
                "verified": found.verified, "cached": cached(model), "origin": found.origin}
    except SteerError as error:
        return {"error": type(error).__name__, "said": str(error)}
json.dump({model: ask(model, offline) for model, offline in json.loads(sys.argv[1])}, sys.stdout)
"""


def ask(models: list[str], cache: Path, offline: bool = False, **environment: str) -> dict:
    """The answers of a fresh process, since the Hub's library reads its settings at import."""
    settings = {"HF_HOME": str(cache), "HF_HUB_ETAG_TIMEOUT": "1", "OMP_NUM_THREADS": "1"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    questions = json.dumps([[model, offline] for model in models])
    done = subprocess.run(
        [sys.executable, "-c", ASK, questions],
        env=clean | settings | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


ONLINE = {
    "u/ours": {"files": sorted(OURS), "verified": True, "sha256": LARGE},
    "u/ours@v1": {"files": sorted(OURS), "verified": True},
    f"u/ours@{COMMIT}": {"files": sorted(OURS), "verified": True},
    "u/ours:sub/extra.pt": {"files": ["extra.pt"], "verified": True, "config": {}},
    "u/foreign": {"files": ["weights.pt"], "verified": True, "origin": "u/foreign"},
    "u/foreign@main:weights.pt": {"files": ["weights.pt"], "cached": True},
    "u/many:b.pt": {"files": ["b.pt"], "cached": True},
}
REFUSED = {
    "u/many": ("InputError", "expected one file of weights in u/many, found a.pt, b.pt"),
    "u/page": ("InputError", "expected a PyTorch checkpoint, u/page is an HTML page"),
    "u/ours:gone.pt": ("InputError", "u/ours:gone.pt: the repository on the Hub has no file"),
    "u/ours@v9": ("InputError", "u/ours@v9 has no revision 'v9' on the Hub"),
    "u/ours@v9:model.safetensors": ("InputError", "has no revision 'v9'"),
    "u/none": ("InputError", "u/none is not on the Hub, or is private"),
    "u/none:a.pt": ("InputError", "u/none:a.pt is not on the Hub, or is private"),
    "u/private": ("InputError", "u/private is not on the Hub, or is private"),
    "u/gated": ("InputError", "u/gated is gated: accept its terms"),
    "u/gated:a.pt": ("InputError", "u/gated:a.pt is gated: accept its terms"),
    "u/forbidden": ("InputError", "u/forbidden: the Hub refuses access (HTTP 403)"),
    "u/broken": ("MachineError", "cannot fetch u/broken from the Hub: "),
    "u/broken:a.pt": ("MachineError", "cannot fetch u/broken:a.pt from the Hub: "),
    "u/portal": ("MachineError", "cannot fetch u/portal: expected JSON from the Hub"),
    "u/portal:a.pt": ("MachineError", "cannot fetch u/portal:a.pt from the Hub: "),
    "u/slow": ("MachineError", "cannot fetch u/slow from the Hub: "),
    "u/slow:a.pt": ("MachineError", "cannot fetch u/slow:a.pt from the Hub: "),
}
UNREACHED = "u/other"
SAVED = ["u/ours", "u/ours@v1", "u/ours:sub/extra.pt", "u/foreign", "u/many:b.pt"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Answers online, what the server was asked, and the cache that stayed."""
    cache = tmp_path_factory.mktemp("hub")
    handler = type("Asked", (Hub,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    answers = ask([*ONLINE, *REFUSED], cache, HF_ENDPOINT=endpoint)
    server.shutdown()
    server.server_close()
    return answers, handler.asked, cache


@pytest.mark.parametrize("model", ONLINE)
def test_ids_are_fetched_from_the_hub(served, model):
    answer = served[0][model]
    assert answer.items() >= ONLINE[model].items(), answer


@pytest.mark.parametrize("model", REFUSED)
def test_what_the_hub_refuses_is_one_sentence(served, model):
    answer, (kind, said) = served[0][model], REFUSED[model]
    assert answer["error"] == kind and "\n" not in answer["said"]
    assert said in answer["said"]


def test_only_what_is_needed_was_downloaded(served):
    fetched = {question for question in served[1] if question.startswith("GET /u/")}
    assert {path.rpartition("/")[2] for path in fetched if "/u/ours/" in path} == {
        *OURS,
        "extra.pt",
    }
    assert [path for path in fetched if "/u/many/" in path] == ["GET /u/many/resolve/main/b.pt"]


@pytest.fixture(scope="module")
def unconnected(served):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        answers = ask([*SAVED, UNREACHED, f"{UNREACHED}:a.pt"], served[2], HF_ENDPOINT=endpoint)
    return answers, time.monotonic() - started


@pytest.fixture(scope="module")
def offline(served):
    return ask([*SAVED, UNREACHED, f"{UNREACHED}:a.pt"], served[2], HF_HUB_OFFLINE="1")


@pytest.mark.parametrize("model", SAVED)
def test_without_a_network_the_cache_serves(served, unconnected, offline, model):
    assert unconnected[0][model] == offline[model] == served[0][model]


@pytest.mark.parametrize("model", [UNREACHED, f"{UNREACHED}:a.pt"])
def test_without_a_network_and_a_cache_the_machine_failed_and_soon(unconnected, offline, model):
    for answer in (unconnected[0][model], offline[model]):
        assert answer["error"] == "MachineError" and "\n" not in answer["said"]
        assert answer["said"].startswith(f"cannot fetch {model} from the Hub: ")
    assert unconnected[1] < 15


def test_offline_asks_nobody(served, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(served[2] / "hub"))
    assert_state(read_checkpoint(locate("u/ours", offline=True)).state)
    with pytest.raises(MachineError, match="u/other is not in this machine's Hub cache"):
        locate("u/other", offline=True)


def test_a_damaged_cache_is_noticed(served, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(served[2] / "hub"))
    source = locate("u/foreign", offline=True)
    blob = source.files["weights.pt"].resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match="u/foreign is damaged or another file"):
        read_checkpoint(source)
    blob.write_bytes(whole)
    assert read_checkpoint(source).verified


def test_a_cache_laid_out_by_hand_serves(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--u--r"
    for folder in ("refs", "snapshots"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    save_checkpoint(root / "snapshots" / COMMIT, {"family": "vae"}, STATE, "")
    assert read_checkpoint(locate("u/r", offline=True)).config == {"family": "vae"}
    assert list(locate("u/r:model.safetensors", offline=True).files) == ["model.safetensors"]
    assert cached("u/r") and cached(f"u/r@{COMMIT}") and cached("u/r:config.json")
    assert not cached("u/r:gone.pt") and not cached("u/r@v9") and not cached("u/s")


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
