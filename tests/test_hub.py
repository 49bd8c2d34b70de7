"""Checkpoints are read as data, whatever they claim to be, and the Hub's moods are sentences."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import local_hub
import pytest
import safetensors.torch
from on_disk import STATE, assert_state, folder_of, torch_bytes

from steer.checkpoints import read_checkpoint, save_checkpoint
from steer.errors import InputError, MachineError
from steer.hub import Source, cached, choose_weights, locate

# --- places on this disk ---


def test_a_folder_gives_its_own_model_files_only(tmp_path):
    folder_of(tmp_path, a_pt=b"", config_json=b"", README_md=b"", photo_png=b"", code_py=b"")
    folder_of(tmp_path / "sub", b_pt=b"")
    folder_of(tmp_path / "directions", smile_safetensors=b"", note_md=b"")
    (tmp_path / "c.pt").mkdir()
    found = locate(str(tmp_path))
    ours = ["README.md", "a.pt", "config.json", "directions/smile.safetensors"]
    assert list(found.files) == ours
    assert found == Source({name: tmp_path / name for name in found.files}, str(tmp_path))


def test_suffixes_may_be_in_capitals(tmp_path):
    folder_of(tmp_path, A_PT=torch_bytes(STATE))
    for place in (tmp_path, tmp_path / "A.PT"):
        assert_state(read_checkpoint(locate(str(place))).state)
    (tmp_path / "A.PT").unlink()
    folder_of(tmp_path, B_SAFETENSORS=safetensors.torch.save(STATE))
    assert_state(read_checkpoint(locate(str(tmp_path))).state)
    with pytest.raises(InputError, match=r"no such file: user/A\.PT\."):
        locate("user/A.PT")


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
        "user/repo:/tmp/x.pt",
        "user/repo:\\tmp\\x.pt",
        "user/repo:a//x.pt",
        "user/repo:./x.pt",
        "user/repo:sub/../x.pt",
        "user/repo:a\x1b[2J.pt",
        "user/repo@/tmp/folder",
        "user/repo@a//b",
        "user/repo@a/",
        "user/repo@.",
        "user/repo@refs/./heads",
        "ftp://huggingface.co/user/repo",
        "üser/repo",
    ],
)
def test_a_malformed_id_is_refused_without_asking_the_hub(model):
    with pytest.raises(InputError, match="expected a file"):
        locate(model)


# --- which file holds the weights ---


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "other.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "config.json", "README.md"], "pytorch_model.bin"),
        (["weights.tar", "G.pkl"], "weights.tar"),
        (["sub/model.safetensors", "a.pt"], "a.pt"),
        (["README.md", "G.pkl", "config.json"], "G.pkl"),
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
        (["a\x1b[2J.txt"], r"found a\\x1b\[2J\.txt"),
        (["\x1b.pt", "b.pt"], r"found \\x1b\.pt, b\.pt"),
        (["G.pkl", "D.pkl"], "expected one file of weights in here, found D.pkl, G.pkl: name one"),
    ],
)
def test_a_choice_that_cannot_be_made_lists_what_is_there(names, said):
    with pytest.raises(InputError, match=said):
        choose_weights(names, "here")


# --- the Hub, played by a server of our own ---

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
COMMIT = local_hub.commit_of(REPOSITORIES["u/ours"])
REFUSALS = {  # repository -> status, code
    "u/gated": (403, "GatedRepo"),
    "u/private": (401, "RepoNotFound"),
    "u/forbidden": (403, None),
    "u/broken": (500, None),
}


class Moody(local_hub.Answer):
    """Some repositories are answered for in other ways."""

    def do_GET(self):
        repo = re.search(r"u/\w+", self.path)[0]
        if repo == "u/slow":
            time.sleep(3)
        elif repo == "u/portal":
            self.answer(200, b"<html>log in to the wireless network</html>", {})
        elif repo in REFUSALS:
            self.refuse(*REFUSALS[repo])
        else:
            super().do_GET()

    do_HEAD = do_GET


ASK = """
import json, sys
from steer.errors import SteerError
from steer.checkpoints import read_checkpoint
from steer.hub import cached, locate
def ask(model):
    try:
        source = locate(model)
        found = read_checkpoint(source)
        return {"files": sorted(source.files), "sha256": found.sha256, "config": found.config,
                "verified": found.verified, "cached": cached(model), "origin": found.origin}
    except SteerError as error:
        return {"error": type(error).__name__, "said": str(error)}
json.dump({model: ask(model) for model in json.loads(sys.argv[1])}, sys.stdout)
"""


def ask(models: list[str], cache: Path, **environment: str) -> dict:
    """The answers of a fresh process, since the Hub's library reads its settings at import."""
    settings = {"HF_HOME": str(cache), "HF_HUB_ETAG_TIMEOUT": "1", "OMP_NUM_THREADS": "1"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(models)],
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
    with local_hub.running(tmp_path_factory.mktemp("served")) as hub:
        hub.RequestHandlerClass = Moody
        for repo, files in REPOSITORIES.items():
            hub.add(repo, files)
        hub.add("u/ours", REPOSITORIES["u/ours"], "v1")
        answers = ask([*ONLINE, *REFUSED], cache, HF_ENDPOINT=hub.endpoint)
    return answers, hub.asked, cache


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
    answer = unconnected[0][model]
    assert answer["error"] == "MachineError" and "\n" not in answer["said"]
    assert answer["said"].startswith(f"cannot fetch {model} from the Hub: ")
    assert unconnected[1] < 15
    said = f"{model} is not in this machine's Hub cache (offline)."
    assert offline[model] == {"error": "MachineError", "said": said}


# --- once, in spite of faults ---


@pytest.fixture
def hub(tmp_path):
    with local_hub.running(tmp_path / "hub") as made:
        yield made


ALONE = "from huggingface_hub import hf_hub_download as get; get('u/alone', 'model.safetensors')"


def test_what_is_cached_is_not_asked_for_again(hub, tmp_path):
    hub.add("u/ours", {**OURS, "directions/smile.safetensors": b"1", "directions/x/y.pt": b""})
    hub.add("u/alone", OURS)  # whose weights another program fetched
    hub.add("u/bare", {"weights.pt": FOREIGN, "README.md": b"# card"})
    questions = ["u/ours", "u/alone", "u/bare", "u/bare:weights.pt"]

    def answers(code: str) -> dict:
        command = [sys.executable, "-c", code, json.dumps(questions)]
        settings = {"env": hub.environment(tmp_path / "home"), "check": True, "text": True}
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, **settings).stdout)

    first = answers(f"{ALONE}\n{ASK}")
    assert first["u/ours"]["files"] == sorted([*OURS, "directions/smile.safetensors"])
    assert first["u/alone"]["files"] == sorted(OURS)
    assert first["u/bare"]["files"] == ["README.md", "weights.pt"]
    assert all(answer["cached"] for answer in first.values())
    asked = list(hub.asked)
    assert answers(ASK) == first
    assert hub.asked == asked


@pytest.fixture
def cache_at(tmp_path, monkeypatch):
    """Uses a Hub's cache, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return lambda cache: monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def test_offline_asks_nobody(served, cache_at):
    cache_at(served[2] / "hub")
    assert_state(read_checkpoint(locate("u/ours")).state)
    with pytest.raises(MachineError, match="u/other is not in this machine's Hub cache"):
        locate("u/other")


def test_a_damaged_cache_is_noticed(served, cache_at):
    cache_at(served[2] / "hub")
    source = locate("u/foreign")
    blob = source.files["weights.pt"].resolve()
    whole = blob.read_bytes()
    for damaged in (whole[:-1] + b"x", b"x" + whole[1:], whole[:-9]):
        blob.write_bytes(damaged)
        with pytest.raises(InputError, match="u/foreign is damaged or another file"):
            read_checkpoint(source)
    blob.write_bytes(whole)
    assert read_checkpoint(source).verified


def test_a_cache_cache_at_by_hand_serves(tmp_path, cache_at):
    cache_at(tmp_path)
    root = tmp_path / "models--u--r"
    for folder in ("refs", "snapshots"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    save_checkpoint(root / "snapshots" / COMMIT, {"family": "vae"}, STATE, "")
    assert read_checkpoint(locate("u/r")).config == {"family": "vae"}
    assert list(locate("u/r:model.safetensors").files) == ["model.safetensors"]
    assert cached("u/r") and cached(f"u/r@{COMMIT}") and cached("u/r:config.json")
    assert not cached("u/r:gone.pt") and not cached("u/r@v9") and not cached("u/s")


def test_no_local_file_passes_for_a_cached_one(tmp_path, cache_at):
    cache_at(tmp_path / "hub")
    save_checkpoint(tmp_path, {}, STATE, "")
    for model in (f"u/r:{tmp_path}/model.safetensors", f"u/r@{tmp_path}"):
        for use in (locate, cached):
            with pytest.raises(InputError, match="expected a file"):
                use(model)
