"""The real `steer` and the real Hub client against a Hub on this machine, each in its process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import local_hub
import numpy as np
import published
import pytest
import skimage.data
import toys
from commands import tiny_vae
from forked import Command
from local_hub import TOKEN, LocalHub
from PIL import Image

from steer.files import save
from steer.generators import load

STEER = str(Path(sys.executable).parent / "steer")

Start = Callable[..., Command]
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with local_hub.running(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that commands run in."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def start(hub: LocalHub, here: Path, tmp_path: Path) -> Start:
    """Starts `steer ARGUMENTS` with the test's own Hub and cache."""

    def start(*arguments: object, token: str | None = None) -> Command:
        return Command(arguments, hub.environment(tmp_path / "home", token), here)

    return start


@pytest.fixture
def run(start: Start) -> Run:
    """`steer ARGUMENTS` from start to end."""
    return lambda *arguments, **options: start(*arguments, **options).ended()


def sentence(ended: subprocess.CompletedProcess) -> str:
    """The only line on standard error."""
    assert ended.stderr.startswith("steer: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stdout == b""
    return ended.stderr


def downloads(hub: LocalHub, name: str) -> int:
    return sum(1 for asked in hub.asked if asked.startswith("GET") and asked.endswith(name))


# --- a name, its weights, the cache ---

PUBLISHED = "osanseviero/BigGAN-deep-128"
INVERT = ("invert", "photo.png", "--model", "biggan", "--steps", "3", "--json")


@pytest.fixture
def weights(hub: LocalHub, here: Path) -> bytes:
    """Small weights where `--model biggan` looks for the published ones, and a photo."""
    files = published.deep_files()
    hub.add(PUBLISHED, files)
    Image.fromarray(skimage.data.astronaut()).resize((40, 30)).save(here / "photo.png")
    return files["pytorch_model.bin"]


def stored(tmp_path: Path) -> list[bytes]:
    """The weights in the Hub's cache."""
    return [path.read_bytes() for path in (tmp_path / "home").rglob("snapshots/*/*.bin")]


def test_invert_a_photo_with_weights_from_the_hub(hub, run, weights, here, tmp_path):
    """The installed command itself the first time."""
    command = [STEER, *INVERT, "-o", "a.safetensors", "--preview", "a.png"]
    settings = {"env": hub.environment(tmp_path / "home"), "cwd": here, "text": True}
    first = subprocess.run(command, capture_output=True, **settings)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("biggan: ") == 1 and "MIT" in first.stderr, "the licence, once"
    assert downloads(hub, "pytorch_model.bin") == 1 and stored(tmp_path) == [weights]
    assert Image.open(here / "a.png").width > 32
    asked = len(hub.asked)
    second = run(*INVERT, "-o", "b.safetensors")
    assert second.returncode == 0 and "MIT" not in second.stderr
    assert len(hub.asked) == asked, f"asked again: {hub.asked[asked:]}"
    assert (here / "a.safetensors").read_bytes() == (here / "b.safetensors").read_bytes()


def test_two_at_once_share_a_cache(start, weights, here, tmp_path):
    both = [start("sample", "--model", "biggan", "-o", f"{i}.safetensors") for i in (0, 1)]
    for ended in [command.ended() for command in both]:
        assert ended.returncode == 0, ended.stderr
    assert (here / "0.safetensors").read_bytes() == (here / "1.safetensors").read_bytes()
    assert stored(tmp_path) == [weights]
    assert not list((tmp_path / "home").rglob("*.incomplete"))


def test_a_connection_cut_half_way(hub, run, weights, tmp_path):
    """The Hub's library goes on where the transfer broke off."""
    hub.cut["pytorch_model.bin"] = len(weights) // 2
    ended = run("sample", "--model", "biggan", "-o", "a.safetensors")
    assert hub.cut == {}, "the transfer was never cut"
    assert ended.returncode == 0, ended.stderr
    assert downloads(hub, "pytorch_model.bin") == 2 and stored(tmp_path) == [weights]


def test_a_download_killed_half_way(hub, start, run, weights, tmp_path):
    hub.cut["pytorch_model.bin"] = len(weights) // 2
    hub.patience = 30
    command = start("sample", "--model", "biggan", "-o", "a.safetensors")
    assert hub.stopped.wait(30)
    command.process.kill()
    assert command.ended().returncode == -signal.SIGKILL
    hub.go_on.set()
    again = run("sample", "--model", "biggan", "-o", "a.safetensors")
    assert again.returncode == 0, again.stderr
    assert stored(tmp_path) == [weights]


def test_a_name_converted(run, weights, here):
    ended = run("convert", "biggan", "-o", "made", "--json")
    assert ended.returncode == 0 and ended.stderr.count("MIT") == 1, ended.stderr
    assert json.loads(ended.stdout)["source"] == PUBLISHED
    assert f"base_model: {PUBLISHED}\n" in (here / "made" / "README.md").read_text()
    assert load(str(here / "made"), "cpu").family == "biggan-deep"


# --- push and pull ---


@pytest.fixture
def folder(here: Path) -> Path:
    """A generator with a direction, and with a preview beside it, which is nobody else's."""
    folder = tiny_vae(here / "mine", seed=0)
    direction = toys.straight("x", np.array([1.0, 0.0, 0.0]), 0.1)
    direction.generator = load(str(folder), "cpu").identity()
    (folder / "directions").mkdir()
    save(direction.artefact(), folder / "directions" / "x.safetensors")
    (folder / "preview.png").write_bytes(b"picture")
    return folder


SENT = ["README.md", "config.json", "directions/x.safetensors", "model.safetensors"]


def test_what_is_pushed_comes_back(hub, run, folder, here):
    sent = run("push", "mine", "user/mine", "--json", token=TOKEN)
    assert sent.returncode == 0, sent.stderr
    whole = {name: (folder / name).read_bytes() for name in SENT}
    assert hub.files("user/mine") == whole, "the preview stays here"
    assert json.loads(sent.stdout) == {
        "repo": "user/mine",
        "revision": "main",
        "commit": local_hub.commit_of(whole),
        "files": {name: len(data) for name, data in whole.items()},
    }
    copied = run("pull", "user/mine", "-o", "theirs", "--json")
    assert copied.returncode == 0, copied.stderr
    assert json.loads(copied.stdout)["files"] == SENT
    assert {name: (here / "theirs" / name).read_bytes() for name in SENT} == whole
    pulled = load(str(here / "theirs"), "cpu")
    assert pulled.verified and list(pulled.directions) == ["x"]


def test_pushing_to_a_branch(hub, run, folder):
    options = ("--revision", "v2", "--private", "--quiet")
    sent = run("push", "mine", "user/mine", *options, token=TOKEN)
    assert sent.returncode == 0 and sent.stdout == b"" and sent.stderr == ""
    assert hub.files("user/mine") == {} and hub.private == {"user/mine"}
    assert sorted(hub.files("user/mine", "v2")) == SENT


def test_pushing_to_what_is_there_leaves_the_other_files(hub, run, folder):
    hub.add("user/mine", {"notes.txt": b"mine", "config.json": b"{}"})
    assert run("push", "mine", "user/mine", "--private", token=TOKEN).returncode == 0
    assert sorted(hub.files("user/mine")) == sorted([*SENT, "notes.txt"])
    assert hub.files("user/mine")["config.json"] == (folder / "config.json").read_bytes()
    assert hub.private == set()


def test_pushing_without_a_login(run, folder):
    ended = run("push", "mine", "user/mine")
    assert ended.returncode == 2
    assert "expected a login to the Hub to push user/mine: run 'hf auth login'" in sentence(ended)


def test_pushing_where_one_may_not_write(run, folder):
    ended = run("push", "mine", "user/mine", token="hf_of_somebody_else")
    assert ended.returncode == 2
    assert "the Hub refuses user/mine (HTTP 403)" in sentence(ended)


def test_pushing_without_a_network(hub, run, folder):
    hub.shutdown()
    hub.server_close()
    ended = run("push", "mine", "user/mine", token=TOKEN)
    assert ended.returncode == 1
    assert "cannot push user/mine to the Hub: " in sentence(ended)


def test_pulling_where_there_can_be_no_folder(hub, run, folder):
    for place, told in (("-", "expected a folder, got -"), ("mine/preview.png", "is a file")):
        ended = run("pull", "user/gone", "-o", place)
        assert ended.returncode == 2 and told in sentence(ended)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("user/gone", "user/gone is not on the Hub"),
        ("mine", "on the Hub such as user/repo, got 'mine'"),
    ],
)
def test_pulling_what_is_not_there(run, folder, model, told):
    ended = run("pull", model, "-o", "theirs")
    assert ended.returncode == 2 and told in sentence(ended)
