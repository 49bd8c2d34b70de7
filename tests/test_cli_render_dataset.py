"""steer render into a folder: data sets that others read, killed and gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Ended, Steer, latents_of, refused, z_of
from PIL import Image
from scipy.stats import ks_1samp, uniform

from steer import populate as module
from steer.files import load, save
from steer.generators import load as load_generator
from steer.images import read_image

STEER = str(Path(sys.executable).parent / "steer")
X = "translate-x"
DRAWN = ("--distribution", f"{X}=uniform(-0.2, 0.2)", "--exact")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the set that tests read; `made` fills it."""
    return tmp_path_factory.mktemp("drawn") / "set"


@pytest.fixture
def made(steer: Steer, knob: Path, drawn: Path) -> Path:
    """A data set of 40 blobs with x drawn from a distribution."""
    if not drawn.exists():
        ended = steer("render", "-m", "blob", "-n", 40, "-d", knob, *DRAWN, "-o", drawn)
        assert ended.status == 0, ended.err
    return drawn


# --- what others read ---


def test_hugging_face_reads_the_columns(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(made), split="train", cache_dir=str(tmp_path)
    )
    assert len(found) == 40 and found["item"] == list(range(40))
    assert set(found["status"]) == {"reached"}
    assert {"image", f"asked_{X}", f"measured_{X}", "measured_zoom"} <= set(found.column_names)
    for row in found.select([0, 39]):
        picture = np.asarray(row["image"].convert("L"), float)
        places = (np.arange(picture.shape[1]) + 0.5) / picture.shape[1] - 0.5
        seen = (picture.sum(0) * places).sum() / picture.sum()
        assert seen == pytest.approx(row[f"measured_{X}"], abs=1e-6)


def test_torchvision_reads_the_classes(made: Path) -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    found = torchvision.ImageFolder(made)
    assert found.classes == ["blob"] and len(found) == 40
    assert found[0][0].size == (40, 40)


def test_the_manifest_says_what_came_out(made: Path) -> None:
    told = json.loads((made / "manifest.json").read_text())
    rows = [json.loads(line) for line in (made / "metadata.jsonl").read_text().splitlines()]
    measured = [row[f"measured_{X}"] for row in rows]
    wanted = ks_1samp(measured, uniform(-0.2, 0.4).cdf).statistic
    assert told["settings"][X]["ks"] == pytest.approx(wanted)
    assert told["made"]["seed"] == 0 and told["made"]["options"]["n"] == 40
    assert told["made"]["options"]["distribution"] == [f"{X}=uniform(-0.2, 0.2)"]
    assert set(told["dependence"]["after"]) >= {X, "translate-y", "zoom", "brightness"}


# --- going on ---


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_names_the_partial_result(
    steer: Steer,
    made: Path,
    knob: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    save, saved, out = module.save, [], tmp_path / "set"

    def render(*more: object, n: int = 40) -> Ended:
        drawn = ("-m", "blob", "-n", n, "-d", knob, *DRAWN, "--shard", 8, "-o", out)
        return steer("render", *drawn, *more)

    def save_then_stop(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments)
        if len(saved) == 2:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", save_then_stop)
        refused(render(), "interrupted", f"lies in {out},", "--resume", status=status)
    refused(render(), "2 parts of an unfinished data set", "--resume")
    refused(render("--resume", n=41), "options.n (40, not 41)")
    refused(render("--resume", "--seed", 1), "seed (0, not 1)")
    assert render("--resume").status == 0
    assert {name: data for name, data in tree(out).items() if name.endswith("png")} == {
        name: data for name, data in tree(made).items() if name.endswith("png")
    }


def test_another_direction_is_another_set(steer: Steer, knob: Path, tmp_path: Path) -> None:
    """Two files of which only the numbers differ."""
    other, out = tmp_path / "other.safetensors", tmp_path / "set"
    found = load(knob, "direction")
    found.tensors["slopes"] = found.tensors["slopes"] * 1.01
    save(found, other)
    work = ("render", "-m", "blob", "-n", 2, "--set", f"{X}=0", "-o", out)
    assert steer(*work, "-d", knob).status == 0
    refused(steer(*work, "-d", other, "--resume"), f"options.sha256.{X}")


def test_a_set_of_other_options_is_not_replaced(steer: Steer, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert steer("render", "-m", "blob", "-n", 5, "-o", out).status == 0
    before = tree(out)
    refused(steer("render", "-m", "blob", "-n", 3, "-o", out), "options.n (5, not 3)")
    assert tree(out) == before
    assert steer("render", "-m", "blob", "-n", 5, "-o", out).status == 0
    assert tree(out) == before


def test_a_full_disk_is_no_fault_of_the_user(
    steer: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("usage", "free")(5 * 10**6))
    run = steer("render", "-m", "blob", "-n", 10**6, "-o", tmp_path / "set")
    refused(run, "room for 1000000 more pictures", "4096.0 MB", "has 5.0 MB free", status=1)


def test_of_given_latents_every_row_is_taken(steer: Steer, knob: Path, tmp_path: Path) -> None:
    z = latents_of("blob", 5, tmp_path / "z.safetensors")
    assert steer("render", z, "-o", tmp_path / "set", "--shard", 2).status == 0
    wanted = load_generator("blob", "cpu")(z_of(z))
    for i, picture in enumerate(wanted):
        written = read_image(tmp_path / "set" / "blob" / f"{i:07d}.png")
        assert (written - picture).abs().max() < 0.6 / 255
    assert len(tree(tmp_path / "set")) == 7


def test_a_folder_with_foreign_pictures_is_refused(steer: Steer, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "mine.png")
    run = steer("render", "-m", "blob", "-n", 1, "-o", tmp_path)
    refused(run, "expected an empty folder or an earlier data set", "holds mine.png")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_a_process_that_is_not_the_last_says_no_more(
    steer: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    work = ("render", "-m", "blob", "-n", 4, "--shard", 2, "--json", "-o", tmp_path / "set")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        ended = steer(*work)
        assert ended.status == 0, ended.err
        assert ("classes" in ended.summary) == (rank == "0")


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, env=ONE_THREAD, text=True)
    assert done.returncode == 0, done.stderr


def kill_once(command: list[str], out: Path, after: int, seed: int) -> bool:
    """Starts the command and kills it a moment after so many pictures are there."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=ONE_THREAD)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if len(list(out.glob("*/*.png"))) >= after:
            break
        time.sleep(0.002)
    time.sleep(random.Random(seed).random() * 0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    """The installed command, killed at several moments: the same files as if nothing had been."""
    work = [STEER, "render", "-n", "64", *DRAWN, "--shard", "8", "-o"]
    finish([*work, str(tmp_path / "plain")])
    killed, out = 0, tmp_path / "set"
    for seed, after in enumerate((1, 20, 50)):
        killed += kill_once([*work, str(out), "--resume"], out, after, seed)
    finish([*work, str(out), "--resume"])
    assert killed >= 2
    assert tree(out) == tree(tmp_path / "plain")
