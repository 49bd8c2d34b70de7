"""steer show."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from commands import Steer, latents_of, refused
from PIL import Image

from steer.files import load


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


def test_mistakes(steer: Steer, artefacts: dict[str, Path], tmp_path: Path) -> None:
    z = artefacts["latents"]
    refused(steer("show", tmp_path / "no"), "does not exist")
    refused(steer("show", z, "-o", "a.gif"), ".png")
    refused(steer("show", z, "-o", tmp_path / "no" / "a.png"), "does not exist")
    refused(steer("show", z, "-o", "-", "--json"), "-o FILE with --json")
    refused(steer("show", "-"), "standard input", "empty")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(steer("show", tmp_path / "text.safetensors"), "is text")
