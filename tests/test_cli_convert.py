"""steer convert; what it writes is tested in test_conversion, push and pull in test_cli_hub."""

from __future__ import annotations

from pathlib import Path

import published
from commands import Steer, refused

from steer.generators import load


def test_a_checkpoint_becomes_a_folder(steer: Steer, tmp_path: Path) -> None:
    original = published.rosinality(tmp_path / "original")
    ended = steer("convert", original, "-o", tmp_path / "made", "--json")
    assert ended.status == 0 and ended.err == ""
    made = ended.summary
    assert (made["family"], made["latents"], made["source"]) == ("stylegan2", 8, "model.pt")
    assert load(made["model"], "cpu").checksum == made["sha256"]
    assert steer("sample", "--model", tmp_path / "made", "-n", 2).status == 0


def test_it_is_silent_but_for_what_stays_behind(steer: Steer, tmp_path: Path) -> None:
    ended = steer("convert", "sprites", "-o", tmp_path / "made")
    assert ended.status == 0 and ended.out == b""
    assert ended.err.startswith("steer: the directions of sprites stay behind")


def test_mistakes_are_one_sentence(steer: Steer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(steer("convert", "sprites", "-o", tmp_path), "holds notes.txt")
    refused(steer("convert", tmp_path / "gone.pt", "-o", tmp_path / "made"), "no such file")
    refused(steer("convert", tmp_path / "notes.txt", "-o", tmp_path / "made"), "notes.txt")
    refused(steer("convert", "sprites"), "-o")
    refused(steer("convert", "sprites", "-o", "-"), "expected a folder, got -")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
