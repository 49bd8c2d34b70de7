"""steer evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Steer, refused
from PIL import Image

from steer.directions import Direction
from steer.files import load, save

QUICK = ("--model", "blob", "-n", 16)


def test_the_closed_form_is_controlled(steer: Steer, knob: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    ended = steer("evaluate", "-d", knob, *QUICK, "--values=-0.1,0.1", "-o", out, "--json")
    assert ended.status == 0, ended.err
    (row,) = ended.summary["rows"]
    assert row["direction"] == "translate-x"
    assert {a["value"] for a in row["accuracy"]} == {-0.1, 0.1}
    closed = [a for a in row["accuracy"] if a["loop"] == "closed"]
    assert all(a["reached"] == 1.0 and a["rms"] < 0.005 for a in closed)
    assert json.loads((out / "evaluation.json").read_text()) == ended.summary
    pictures = list(out.glob("*.png"))
    assert len(pictures) >= 2 and all(Image.open(path).width > 100 for path in pictures)


def test_the_table_is_for_people(steer: Steer, knob: Path) -> None:
    ended = steer("evaluate", "-d", knob, *QUICK, "--values", "0.1")
    text = ended.out.decode()
    assert ended.status == 0 and ended.err == ""
    for word in ("translate-x", "open", "closed", "100.0%"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "4"], ["'-n'", "8"]),
        (["--values", "0.1,far"], ["a number for --values", "'far'"]),
        (["--measure", "inensity"], ["did you mean intensity"]),
        (["-o", "/dev/null/report"], ["/dev/null/report"]),
        (["--batch", "0"], ["'--batch'"]),
        (["-o", "-"], ["a folder for -o", "a pipe"]),
    ],
)
def test_mistakes(steer: Steer, knob: Path, arguments: list[str], words: list[str]) -> None:
    refused(steer("evaluate", "-d", knob, *QUICK, *arguments), *words)


def test_values_of_a_direction_that_is_not_measurable(
    steer: Steer, knob: Path, tmp_path: Path
) -> None:
    sheared = Direction.of(load(knob))
    sheared.name, sheared.find, sheared.constant = "shear-x", None, None
    save(sheared.artefact(), tmp_path / "shear.safetensors")
    given = ("evaluate", *QUICK, "-d", tmp_path / "shear.safetensors")
    refused(steer(*given, "--values", "0.1"), "measurable directions alone, got shear-x")
    refused(steer(*given, "-d", knob, "--values", "0.1"), "got shear-x")
    ended = steer(*given)
    assert ended.status == 0 and "not measured" in " ".join(ended.out.decode().split())


def test_directions_that_do_not_fit(steer: Steer, knob: Path, tiny: Path) -> None:
    refused(steer("evaluate", *QUICK), "expected --direction", "blob comes with none")
    refused(steer("evaluate", "--model", tiny, "-d", knob), "of tiny", "of blob")
    refused(steer("evaluate", *QUICK, "-d", "no.safetensors"), "does not exist")
