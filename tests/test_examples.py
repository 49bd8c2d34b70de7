"""Every example, and what the README shows, runs at a size that takes seconds."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from skimage import data
from skimage.io import imsave

from steer.cli import app
from steer.images import read_image

SMALL = ("--starts", "6", "--samples", "16")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
README = EXAMPLES.parent / "README.md"


def run(folder: Path, name: str, *arguments: str) -> str:
    """Standard output of an example, run as a person runs it; fails the test where it fails."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(table: str) -> list[list[str]]:
    """The cells of a markdown table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_example_has_a_test():
    here = Path(__file__).read_text()
    assert [p.name for p in EXAMPLES.iterdir() if p.is_file() and f'"{p.name}"' not in here] == []


def test_whole_path(tmp_path):
    imsave(tmp_path / "face.png", data.astronaut())
    out = run(tmp_path, "whole_path.py", *SMALL, "--picture", "face.png", "-o", "walk.png")
    assert float(re.search(r"inverted: (\S+) left", out)[1]) > 1e-4  # no sprite is a face
    measured = re.search(r"asked 0\.1, measured (\S+), status (\d)", out)
    # the value is reached, or said not to be
    assert abs(float(measured[1]) - 0.1) <= 0.005 or measured[2] != "0"
    assert len(re.findall(r"closed loop at", out)) == 5
    assert read_image(tmp_path / "walk.png").shape[0] == 3
    assert len((EXAMPLES / "whole_path.py").read_text().splitlines()) < 40


def test_own_generator(tmp_path):
    quality = json.loads(run(tmp_path, "own_generator.py").replace("'", '"'))
    # the disc's place is 0.15 z_0, so a straight line explains it
    assert quality["held_out_r2"] > 0.99
    assert len((EXAMPLES / "own_generator.py").read_text().splitlines()) < 20


def test_disentanglement(tmp_path):
    sizes = (*SMALL, "--transform", "translate-x")
    out = run(tmp_path, "figures/disentanglement.py", "sprites", *sizes, "-o", "report")
    (row,) = rows(out)
    assert row[:2] == ["sprites", "translate-x"]
    (kept,) = json.loads((tmp_path / "report/disentanglement.json").read_text())["rows"]
    assert row[2] == f"{kept['held_out_r2']:.3f}" and kept["held_out_r2"] <= 1
    assert len(kept["std"]) == len(kept["alpha"])
    assert kept["closed_rms"] <= 0.005  # of those that reached the value
    assert (tmp_path / "report/disentanglement.md").read_text() == out
    assert read_image(tmp_path / "report/disentanglement.png").shape[0] == 3


def test_sprites_table(tmp_path):
    sizes = (*SMALL, "--steps", "2", "--beta", "1")
    out = run(tmp_path, "sprites_table.py", *sizes, "--model", "sprites", "-o", "runs")
    *trained, embedded = rows(out)
    assert [row[0] for row in trained] == ["mirrored-beta1-2", "broadcast-beta1-2"]
    for row in trained:
        # two steps teach less than a whole training
        assert float(embedded[1]) < float(row[1])
        assert (tmp_path / "runs" / row[0] / "config.json").exists()


@pytest.mark.slow
def test_readme_pictures(tmp_path):
    """The pictures of the README are remade by one command, here small and elsewhere."""
    command = ["bash", str(EXAMPLES / "readme_pictures.sh"), str(tmp_path / "docs"), "8"]
    # the `steer` of this environment, activated or not
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr
    for name in ("walk.png", "knobs.png", "response.png"):
        assert read_image(tmp_path / "docs" / name).shape[0] == 3
    readme = README.read_text()
    made = {path.name for path in (tmp_path / "docs").iterdir()}
    assert set(re.findall(r"docs/(\w+\.\w+)", readme)) <= made


def blocks(language: str) -> list[str]:
    """Code blocks of the README."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def steer_commands(script: str) -> list[list[str]]:
    """Words of every steer command in lines of bash."""
    parts = re.split(r"\||&&|\n", script.replace("\\\n", " "))
    words = [shlex.split(part.split(" > ")[0], comments=True) for part in parts]
    return [found[found.index("steer") + 1 :] for found in words if "steer" in found]


SHOWN = steer_commands("".join(blocks("bash")))
# they take an hour each, so that their commands are read and not run
EMBEDDED = [
    words
    for script in ("embedded_generator.sh", "embedded_avae.sh", "embedded_scenes.sh")
    for words in steer_commands((EXAMPLES / script).read_text())
]


def test_quick_start_is_two_lines():
    section = README.read_text().split("## Quick start")[1].split("\n## ")[0]
    (block,) = re.findall(r"```\w*\n(.*?)```", section, re.S)
    assert len(block.splitlines()) == 2


@pytest.mark.parametrize("words", SHOWN + EMBEDDED, ids=" ".join)
def test_commands_parse(words):
    name, *rest = words
    typer.main.get_command(app).commands[name].make_context(name, rest)


def test_every_command_is_in_the_readme():
    assert set(typer.main.get_command(app).commands) <= {words[0] for words in SHOWN}


def test_python_of_the_readme_runs(tmp_path):
    (code,) = (block for block in blocks("python") if "my_network" not in block)
    small = code.replace('"translate-x")\nmoved', '"translate-x", starts=6, samples=16)\nmoved')
    assert small != code
    subprocess.run([sys.executable, "-c", small], cwd=tmp_path, check=True, capture_output=True)
    assert read_image(tmp_path / "moved.png").shape[0] == 3
