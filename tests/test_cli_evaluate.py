"""steer evaluate."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import pytest
from commands import Steer, refused
from PIL import Image

from steer.cli.evaluate import from_here
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
    for word in ("translate-x", "open", "closed", "100.0%", "unreachable", "not found", "distance"):
        assert word in text


def test_costs_stand_beside_the_accuracy(steer: Steer, knob: Path) -> None:
    (row,) = steer("evaluate", "-d", knob, *QUICK, "--values", "0.1,0.9", "--json").summary["rows"]
    reached, beyond = (a for a in row["accuracy"] if a["loop"] == "closed")
    assert 0.1 < reached["distance"] < 3 and reached["perceptual"] == {}
    assert reached["changes"]["translate-y"]["rms"] < 0.01
    assert beyond["unreachable"] == 1 and beyond["distance"] is None
    assert "translate-x" not in reached["changes"]


def test_others_are_held(steer: Steer, knob: Path, knob_y: Path) -> None:
    given = ("evaluate", "-d", knob, "-d", knob_y, *QUICK, "--hold")
    summary = steer(*given, "--measure", "intensity", "--json").summary
    rows, options = summary["rows"], summary["made"]["options"]
    assert options["held"] is True and options["measure"] == "intensity"
    assert [one["held"] for one in rows[0]["held"]] == ["translate-y"] * 2
    assert all(one["enough"] for row in rows for one in row["held"])
    text = steer(*given).out.decode()
    assert "changes held" in text and "all reached" in text


@pytest.mark.shared
def test_a_backbone_tells_how_far_pictures_are_apart(
    steer: Steer, knob: Path, shared: Path
) -> None:
    file = shared / "data" / "backbones" / "tf_efficientnet_lite0.fp16.safetensors"
    judge = ("--backbone", f"tf_efficientnet_lite0={file}")
    given = ("evaluate", "-d", knob, *QUICK, "--values", "0.1", *judge)
    (row,) = steer(*given, "--json").summary["rows"]
    ((name, far),) = row["accuracy"][1]["perceptual"].items()
    assert name.startswith("tf_efficientnet_lite0") and 0 < far < 4
    assert "perceptual distance by tf_efficientnet_lite0" in steer(*given).out.decode()


# --- the report ---


def command_of(page: Path) -> str:
    code = page.read_text().split("<code>")[1].split("</code>")[0]
    return unescape(re.sub("<.*?>", "", code))


def test_a_report_tells_the_command_that_makes_it_again(
    steer: Steer, knob: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(knob, "the knob.safetensors")
    given = ("-d", tmp_path / "the knob.safetensors", *QUICK, "--values=-0.1,0.1", "--quiet")
    ended = steer("evaluate", *given, "--html", tmp_path / "report.html")
    assert ended.status == 0, ended.err
    page = Path("report.html")
    assert command_of(page) == (
        "steer evaluate --direction 'the knob.safetensors' --model blob -n 16 --values=-0.1,0.1 "
        "--html report.html --quiet"
    )
    first = page.read_bytes()
    again = steer(*shlex.split(command_of(page))[1:])
    assert again.status == 0 and page.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "the knob.safetensors",
    ]


def test_a_report_names_no_folder_of_this_machine(steer: Steer, knob: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    steer("evaluate", "-d", knob, *QUICK, "--values", "0.1", "-o", tmp_path / "out", "--html", page)
    text = page.read_text()
    assert str(tmp_path) not in text and str(knob.parent) not in text
    assert f"--direction {knob.name} " in command_of(page)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("translate-x", "translate-x"),
        ("user/repo", "user/repo"),
        ("../up/x.safetensors", "../up/x.safetensors"),
        ("/far/away/x.safetensors", "x.safetensors"),
        ("saliency:/far/u2netp.safetensors", "saliency:u2netp.safetensors"),
        ("lite0=/far/lite0.safetensors", "lite0=lite0.safetensors"),
        ("https://host/far/file.pt#sha256=00", "https://host/far/file.pt#sha256=00"),
    ],
)
def test_paths_as_others_are_told_them(text: str, told: str) -> None:
    assert from_here(text) == told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "4"], ["'-n'", "8"]),
        (["--values", "0.1,far"], ["a number for --values", "'far'"]),
        (["--measure", "inensity"], ["did you mean intensity"]),
        (["-o", "/dev/null/report"], ["/dev/null/report"]),
        (["--batch", "0"], ["'--batch'"]),
        (["-o", "-"], ["a folder for -o", "a pipe"]),
        (["--html", "-"], ["a file for --html", "a pipe"]),
        (["--html", "report.txt"], ["report.txt", "a name in .html"]),
        (["--html", "no/report.html"], ["the folder no does not exist"]),
        (["--hold"], ["two or more measurable properties", "got translate-x"]),
        (["--backbone", "resnet1"], ["timm", "'resnet1'"]),
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
