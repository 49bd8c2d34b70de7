"""steer compare."""

from __future__ import annotations

import json
import signal

import pytest
from commands import Steer, refused
from PIL import Image

from steer import files
from steer.directions import Direction
from steer.files import load

SMALL = ("--starts", 5, "--samples", 16, "-n", 8)


def test_comparison(steer: Steer, tiny, tmp_path):
    asked = ("compare", "-t", "brightness", "--model", tiny, "--methods", "trajectory, pca")
    ended = steer(*asked, *SMALL, "-o", tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    rows = ended.summary["rows"]
    assert [row["method"] for row in rows] == ["trajectory", "pca"]
    # followed: 5 starts, 5 targets on each side, 20 steps at most; then calibrated
    assert 16 * 13 < rows[0]["evaluations"] <= 5 * (1 + 10 * 20) + 16 * 13
    for row in rows:
        assert 0 <= row["closed"] <= 0.005 and row["closed"] <= row["open"]
        assert 0 < row["reached"] <= 1 and row["seconds"] > 0 and row["std"] >= 0
        assert row["reached"] + row["unreachable"] + row["no_object"] == pytest.approx(1)
        assert row["distance"] > 0
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["compare.json", "compare.png", "pca.safetensors", "trajectory.safetensors"]
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == ended.summary
    assert Image.open(tmp_path / "out" / "compare.png").width > 1000
    kept = Direction.of(load(tmp_path / "out" / "pca.safetensors"))
    assert kept.quality["held_out_r2"] == rows[1]["r2"]


def test_the_table_is_for_people(steer: Steer, tiny):
    one = ("compare", "-t", "brightness", "--model", tiny, "--methods", "pca", *SMALL)
    table = steer(*one, "--values=0.4,0.5").out.decode()
    for word in ("method", "pca", "reached", "unreachable", "no object", "distance", "leakage"):
        assert word in table
    asked = steer(*one, "--values=0.4,0.5", "--json").summary["made"]["options"]["values"]
    assert asked == [0.4, 0.5]


def test_an_interrupt_names_the_folder(steer: Steer, tiny, tmp_path, monkeypatch):
    whole = files.save

    def save_then_stop(*arguments):
        whole(*arguments)
        signal.raise_signal(signal.SIGINT)

    given = ("compare", "-t", "brightness", "--model", tiny, "--methods", "pca,walk", *SMALL)
    monkeypatch.setattr(files, "save", save_then_stop)
    ended = steer(*given, "-o", tmp_path / "out")
    refused(ended, "interrupted", str(tmp_path / "out"), status=130)
    assert "--resume" not in ended.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pca.safetensors"]


def test_what_nothing_tells_is_none(steer: Steer, tiny):
    given = ("compare", "-t", "brightness", "--model", tiny, "--methods", "pca", *SMALL)
    beyond = steer(*given, "--values=0.99")
    assert beyond.status == 0, beyond.err
    table = beyond.out.decode()
    assert "none" in table and "nan" not in table


def test_directions_of_an_earlier_comparison_are_replaced(steer: Steer, tiny, tmp_path):
    given = ("compare", "-t", "brightness", "--model", tiny, *SMALL, "-o", tmp_path)
    assert steer(*given, "--methods", "pca,group-means").status == 0
    ours = {"compare.json", "compare.png", "group-means.safetensors"}
    (tmp_path / "walk.safetensors").write_text("of somebody else")
    assert steer(*given, "--methods", "group-means").status == 0
    assert {path.name for path in tmp_path.iterdir()} == ours | {"walk.safetensors"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made": {"command": "compare"}, "rows": [1]}'])
def test_what_is_no_comparison_removes_nothing(steer: Steer, tiny, tmp_path, text):
    (tmp_path / "compare.json").write_text(text)
    (tmp_path / "walk.safetensors").write_text("of somebody else")
    given = ("compare", "-t", "brightness", "--model", tiny, *SMALL, "-o", tmp_path)
    assert steer(*given, "--methods", "pca").status == 0
    assert (tmp_path / "walk.safetensors").read_text() == "of somebody else"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "magic"], ["unknown method 'magic'", "trajectory"]),
        (["-o", "-"], ["expected a folder for -o"]),
        (["--values", "0.1,far"], ["a number for --values", "'far'"]),
        (["-t", "shear-x", "--methods", "pca"], ["of its own, got shear-x"]),
        (["-t", "area", "--methods", "pca"], ["of its own, got area"]),
    ],
)
def test_mistakes(steer: Steer, arguments, words):
    refused(steer("compare", "--model", "blob", *arguments), *words)
