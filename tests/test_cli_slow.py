"""Work killed at random points and gone on with: the same bytes as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import photo

pytestmark = pytest.mark.slow
STEER = str(Path(sys.executable).parent / "steer")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, env=ONE_THREAD, text=True)
    assert done.returncode == 0, done.stderr


def kill_once(command: list[str], folder: Path, seed: int) -> bool:
    """Starts the command, and kills it a random while after its first file appears."""
    before = {path.name for path in folder.rglob("*")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=ONE_THREAD)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if {path.name for path in folder.rglob("*")} - before:
            break
        time.sleep(0.005)
    time.sleep(random.Random(seed).random() * 0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_trajectories_killed_20_times(tiny: Path, tmp_path: Path) -> None:
    """Every run is begun anew, killed once, resumed, killed again where it still runs, finished."""
    work = ["trajectories", "--model", str(tiny), "--starts", "40", "--shard", "2"]
    work = [STEER, *work, "--points", "2", "--steps", "12"]
    finish([*work, "-o", str(tmp_path / "plain.safetensors")])
    plain = (tmp_path / "plain.safetensors").read_bytes()
    killed = 0
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        command = [*work, "-o", str(folder / "t.safetensors"), "--resume"]
        killed += kill_once(command, folder, seed=i)
        finish(command)
        assert (folder / "t.safetensors").read_bytes() == plain
        assert [path.name for path in folder.iterdir() if path.suffix != ".tmp"] == [
            "t.safetensors"
        ]
    assert killed >= 15


def test_train_vae_killed(tmp_path: Path) -> None:
    work = [STEER, "train-vae", "sprites", "--widths", "4,4", "--dense", "8", "--batch", "8"]
    work = [*work, "--steps", "60", "--every", "4"]
    finish([*work, "-o", str(tmp_path / "plain")])
    plain = (tmp_path / "plain" / "model.safetensors").read_bytes()
    killed = 0
    for i in range(4):
        out = tmp_path / str(i)
        out.mkdir()
        killed += kill_once([*work, "-o", str(out)], out, seed=i)
        finish([*work, "-o", str(out), "--resume"])
        assert (out / "model.safetensors").read_bytes() == plain
    assert killed >= 2


def test_invert_killed(tiny: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for i in range(24):
        photo(album / f"{i:02d}.png", seed=i)
    work = [STEER, "invert", str(album), "--model", str(tiny), "--steps", "40", "--batch", "2"]
    finish([*work, "-o", str(tmp_path / "plain.safetensors")])
    plain = (tmp_path / "plain.safetensors").read_bytes()
    killed = 0
    for i in range(4):
        folder = tmp_path / str(i)
        folder.mkdir()
        command = [*work, "-o", str(folder / "z.safetensors"), "--resume"]
        killed += kill_once(command, folder, seed=i)
        finish(command)
        assert (folder / "z.safetensors").read_bytes() == plain
        assert not (folder / "z.safetensors.partial").exists()
    assert killed >= 2
