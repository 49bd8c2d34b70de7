"""steer show."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import toys
from commands import Steer, latents_of, refused
from PIL import Image

from steer.files import Artefact, how_made, load, save
from steer.generators import load as load_generator


@pytest.fixture
def artefacts(steer: Steer, knob: Path, tmp_path: Path) -> dict[str, Path]:
    """One file of each kind."""
    t = tmp_path / "t.safetensors"
    quick = ("--starts", 4, "--points", 1, "--steps", 2)
    assert steer("trajectories", "--model", "blob", *quick, "-o", t).status == 0
    z = latents_of("blob", 3, tmp_path / "z.safetensors")
    return {"latents": z, "trajectories": t, "direction": knob}


@pytest.mark.parametrize("kind", ["latents", "trajectories", "direction"])
def test_it_says_what_there_is_and_draws_it(
    steer: Steer, artefacts: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    file, picture = artefacts[kind], tmp_path / "drawn.png"
    ended = steer("show", file, "-o", picture)
    text = ended.out.decode()
    assert ended.status == 0 and ended.err == ""
    assert kind in text and "made.generator.name" in text and "blob" in text
    assert Image.open(picture).width > 100
    piped = steer("show", file, "-o", "-")
    assert piped.out == picture.read_bytes()
    assert Image.open(io.BytesIO(steer("show", "-", "-o", "-", stdin=file.read_bytes()).out))


@pytest.mark.parametrize("kind", ["latents", "trajectories", "direction"])
def test_json_holds_how_it_was_made(steer: Steer, artefacts: dict[str, Path], kind: str) -> None:
    summary = steer("show", artefacts[kind], "--json").summary
    assert summary["kind"] == kind
    assert summary["made"] == load(artefacts[kind]).made


def test_a_folder_of_shards_is_drawn_as_one(steer: Steer, tmp_path: Path) -> None:
    run, picture = tmp_path / "run", tmp_path / "run.png"
    quick = ("--model", "blob", "--starts", 5, "--shard", 2, "--points", 1, "--steps", 2)
    assert steer("trajectories", *quick, "-o", run).status == 0
    ended = steer("show", run, "-o", picture)
    assert (ended.status, ended.err) == (0, "") and "float32 [5, 2, 6]" in ended.out.decode()
    assert Image.open(picture).height > 5 * 40


def test_a_direction_of_nothing_that_is_measured(steer: Steer, tmp_path: Path) -> None:
    direction = toys.straight("smile", toys.AXES[0], 0.1, constant=None)
    direction.find = None
    save(direction.artefact(), tmp_path / "smile.safetensors")
    ended = steer("show", tmp_path / "smile.safetensors", "-o", tmp_path / "smile.png")
    assert (ended.status, ended.err) == (0, "") and "smile" in ended.out.decode()
    assert Image.open(tmp_path / "smile.png").width > 100


@pytest.mark.parametrize(
    ("kind", "tensors", "words"),
    [
        ("latents", {"z": torch.zeros(0, 6)}, ["z [n, 6]", "float32 [0, 6]"]),
        ("latents", {"w": torch.zeros(2, 6)}, ["z [n, 6]", "got none"]),
        ("trajectories", {"z": torch.zeros(3, 2, 6)}, ["z [3, 2, 6] and shift none"]),
        ("trajectories", {"z": torch.zeros(3, 2, 5), "shift": torch.zeros(3, 2)}, ["[3, 2, 5]"]),
        ("trajectories", {"z": torch.zeros(0, 2, 6), "shift": torch.zeros(0, 2)}, ["[0, 2, 6]"]),
        ("table", {"z": torch.zeros(2, 6)}, ["to draw, got table"]),
    ],
)
def test_what_cannot_be_drawn_is_still_told(
    steer: Steer, tmp_path: Path, kind: str, tensors: dict, words: list[str]
) -> None:
    file = tmp_path / "odd.safetensors"
    made = how_made("plugin", load_generator("blob", "cpu").identity())
    save(Artefact(kind, tensors, made), file)
    assert steer("show", file).status == 0
    refused(steer("show", file, "-o", tmp_path / "odd.png"), *words)


def test_it_says_the_same_each_time(steer: Steer, artefacts: dict[str, Path]) -> None:
    texts = {steer("show", artefacts["trajectories"]).out for _ in range(8)}
    assert len(texts) == 1


def test_mistakes(steer: Steer, artefacts: dict[str, Path], tmp_path: Path) -> None:
    z = artefacts["latents"]
    refused(steer("show", tmp_path / "no"), "does not exist")
    refused(steer("show", z, "-o", "a.gif"), ".png")
    refused(steer("show", z, "-o", tmp_path / "no" / "a.png"), "does not exist")
    refused(steer("show", z, "-o", "-", "--json"), "-o FILE with --json")
    refused(steer("show", "-"), "standard input", "empty")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(steer("show", tmp_path / "text.safetensors"), "is text")
