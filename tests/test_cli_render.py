"""steer render, and every bad latents file, direction and checkpoint that commands can meet."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import toys
from commands import Steer, latents_of, refused, z_of
from PIL import Image

from steer.files import Artefact, load, pack
from steer.generators import load as load_generator


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """Six codes of `blob`."""
    return latents_of("blob", 6, tmp_path / "z.safetensors", seed=5)


def barycentre(path: Path) -> float:
    """x of the luminance in a picture, from the middle, as a fraction of the width."""
    picture = np.array(Image.open(path), dtype=float)
    places = (np.arange(picture.shape[1]) + 0.5) / picture.shape[1] - 0.5
    return float((picture.sum(0) * places).sum() / picture.sum())


def rows(folder: Path) -> list[dict]:
    """What a data set's folder says of each picture."""
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


# --- what it draws ---


def test_exact_values_are_in_the_written_pictures(
    steer: Steer, latents: Path, knob: Path, tmp_path: Path
) -> None:
    """Measured by other code on the files themselves."""
    folder = tmp_path / "moved"
    ended = steer(
        "render", "--latents", latents, "--direction", knob,
        "--set", "translate-x=0.2", "--exact", "-o", f"{folder}/", "--json",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(rows(folder)) == 6 and manifest["counts"] == {"reached": 6}
    for row in rows(folder):
        assert row["status"] == "reached" and row["asked_translate-x"] == 0.2
        seen = barycentre(folder / row["file_name"])
        assert seen == pytest.approx(0.2, abs=0.005)
        assert row["measured_translate-x"] == pytest.approx(seen, abs=1e-6)
    assert ended.summary == {"output": f"{folder}/", **manifest}
    assert manifest["made"]["options"]["set"] == ["translate-x=0.2"]


def test_two_knobs_and_a_shift(
    steer: Steer, latents: Path, knob: Path, knob_y: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    ended = steer(
        "render", latents, "-d", knob, "-d", knob_y, "--shift", "translate-x=0.05",
        "--set", "translate-y=0.1", "--exact", "-o", folder,
    )  # fmt: skip
    assert ended.status == 0, ended.err
    plain = tmp_path / "plain"
    assert steer("render", latents, "-o", plain).status == 0
    reached = [row for row in rows(folder) if row["status"] == "reached"]
    assert len(reached) >= 4
    for row in reached:
        moved = barycentre(folder / row["file_name"]) - barycentre(plain / row["file_name"])
        assert moved == pytest.approx(0.05, abs=0.01)
        assert row["measured_translate-y"] == pytest.approx(0.1, abs=0.005)


def test_a_traversal_as_grid_folder_and_film(
    steer: Steer, latents: Path, knob: Path, tmp_path: Path
) -> None:
    walk = ("render", latents, "-d", knob, "--from=-0.2", "--to", 0.2, "--steps", 3)
    piped = steer(*walk, "-o", "-")
    assert Image.open(io.BytesIO(piped.out)).format == "PNG"
    assert steer(*walk, "-o", tmp_path / "walk.png").status == 0
    assert (tmp_path / "walk.png").read_bytes() == piped.out
    assert steer(*walk, "-o", tmp_path / "walk").status == 0
    first, _, last = (tmp_path / "walk" / "blob" / f"0000000-{step:03d}.png" for step in range(3))
    assert barycentre(first) == pytest.approx(-0.2, abs=0.02)
    assert barycentre(last) == pytest.approx(0.2, abs=0.02)
    assert steer(*walk, "-o", tmp_path / "walk.gif").status == 0
    assert Image.open(tmp_path / "walk.gif").n_frames == 4  # there and back
    assert steer(*walk, "-o", tmp_path / "walk.mp4").status == 0
    assert (tmp_path / "walk.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_wanted_distribution(steer: Steer, knob: Path, tmp_path: Path) -> None:
    """Equation 10: each item lies at the wanted quantile of its coordinate's probability."""
    from scipy.stats import norm

    z = latents_of("blob", 50, tmp_path / "many.safetensors")
    folder = tmp_path / "uniform"
    wanted = "translate-x=uniform(-0.2, 0.2)"
    ended = steer("render", z, "-d", knob, "--distribution", wanted, "-o", folder)
    assert ended.status == 0, ended.err
    measured = [barycentre(path) for path in sorted(folder.glob("blob/*.png"))]
    asked = -0.2 + 0.4 * norm.cdf(z_of(z).numpy() @ toys.AXES[0])
    assert measured == pytest.approx(asked, abs=0.01)


def test_without_latents_it_samples_and_a_pipe_gets_the_grid(steer: Steer) -> None:
    ended = steer("render", "--model", "blob", "-n", 3, "--seed", 1)
    assert ended.status == 0 and ended.err == ""
    assert Image.open(io.BytesIO(ended.out)).width > 3 * 40


def test_unreachable_values_are_counted_on_stderr(
    steer: Steer, latents: Path, knob: Path, tmp_path: Path
) -> None:
    far = ("render", latents, "-d", knob, "--set", "translate-x=0.45", "--exact")
    ended = steer(*far, "-o", tmp_path / "far.png")
    assert ended.status == 0
    assert ended.err == "steer: 6 of 6: unreachable, nearest value given\n"


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "translate-x"], ["NAME=VALUE after --set", "'translate-x'"]),
        (["--set", "translate-x=far"], ["a number", "'far'"]),
        (["--set", "translate-x=nan"], ["a number", "'nan'"]),
        (["--set", "translte-x=0.1"], ["translte-x", "did you mean translate-x"]),
        (["--set", "zoom=0.1"], ["expected a direction of zoom", "translate-x"]),
        (["--set", "translate-x=0", "--set", "translate-x=1"], ["once", "translate-x"]),
        (["--set", "translate-x=0", "--shift", "translate-x=1"], ["one value for translate-x"]),
        (["--distribution", "translate-x=unifrm(0, 1)"], ["unifrm", "did you mean uniform"]),
        (["--distribution", "translate-x=uniform(1, 0)"], ["uniform(1, 0)", "in order"]),
        (["--from", "0.1", "--to", "0.1"], ["between different values", "0.1"]),
        (["--from", "nan", "--to", "0.1"], ["different values", "nan"]),
        (["--steps", "1"], ["2 or more steps", "1"]),
        (["--measure", "inensity", "--set", "translate-x=0"], ["did you mean intensity"]),
        (["--json"], ["-o FILE with --json"]),
        (["-o", "grid.jpg"], ["grid.jpg", ".png or .gif or .mp4"]),
        (["-o", "no/grid.png"], ["the folder no does not exist"]),
        (["-o", "/dev/null/folder"], ["/dev/null/folder"]),
        (["--latents", "again.safetensors"], ["latents once"]),
        (["--set", "translate-x=1e300"], ["translate-x that its direction can go to"]),
        (["--shift", "translate-x=-1e308"], ["translate-x that its direction can go to"]),
        (["--from", "-1e300", "--to", "0"], ["translate-x that its direction can go to"]),
        (["--tolerance", "0", "--set", "translate-x=0"], ["a tolerance above 0", "0"]),
        (["--tolerance", "inf", "--set", "translate-x=0"], ["a number for --tolerance", "inf"]),
        (["-o", ""], ["cannot write"]),
        (["-n", "0"], ["'-n'"]),
        (["--fps", "0"], ["'--fps'"]),
    ],
)
def test_mistakes(
    steer: Steer, latents: Path, knob: Path, arguments: list[str], words: list[str]
) -> None:
    refused(steer("render", latents, "-d", knob, *arguments), *words)


def test_a_folder_that_is_there_is_written_into(steer: Steer, knob: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deeper" / "down"
    for out in (tmp_path, f"{deep}/", f"{deep}/"):
        ended = steer(
            "render", "-m", "blob", "-n", 1, "-d", knob, "--set", "translate-x=0", "-o", out
        )
        assert ended.status == 0, ended.err
        assert (Path(out) / "manifest.json").exists()


def test_latents_of_an_empty_name_are_not_drawn_anew(steer: Steer, tmp_path: Path) -> None:
    refused(steer("render", "", "-m", "blob", "-o", tmp_path / "a.png"), "cannot read")


def test_mistakes_with_directions(
    steer: Steer, latents: Path, knob: Path, knob_y: Path, tiny: Path, tmp_path: Path
) -> None:
    refused(steer("render", latents, "--from", 0, "--to", 1), "expected --direction")
    refused(steer("render", latents, "-d", knob, "-d", knob_y), "one direction to go along")
    refused(steer("render", latents, "-d", knob, "-d", knob), "one direction of translate-x")
    refused(steer("render", latents, "-d", "zom"), "unknown direction of blob 'zom'")
    refused(steer("render", latents, "-d", latents), "expected a direction", "latents")
    refused(steer("render", latents, "-o", tmp_path / "x.gif"), "--direction", "x.gif")
    refused(steer("render", "--model", tiny, "-d", knob), "of tiny", "translate-x of blob")


def test_latents_of_another_generator(
    steer: Steer, tiny: Path, other: Path, tmp_path: Path
) -> None:
    z = latents_of(str(tiny), 2, tmp_path / "tiny.safetensors")
    refused(steer("render", z, "--model", other), "latents of other", "latents of tiny")


def test_a_moved_model_is_the_same_model(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    z = latents_of(str(tiny), 2, tmp_path / "tiny.safetensors")
    moved = shutil.copytree(tiny, tmp_path / "moved")
    assert steer("render", z, "--model", moved).status == 0


# --- bad latents ---


def packed(**tensors: torch.Tensor) -> bytes:
    return pack(Artefact("latents", tensors, {"generator": load_generator("blob").identity()}))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[: len(data) // 2], ["truncated or damaged"]),
        (lambda data: flipped(data, len(data) - 3), ["damaged", "checksum"]),
        (lambda data: flipped(data, 40), ["damaged"]),
        (lambda data: b"", ["empty"]),
        (lambda data: b"<html><body>404</body></html>", ["an HTML page"]),
        (lambda data: pickle.dumps({"z": [1]}), ["a Python pickle"]),
        (lambda data: safetensors.torch.save({"z": torch.zeros(2)}), ["another origin"]),
        (lambda data: packed(z=torch.full((2, 6), torch.nan)), ["finite", "12 NaN"]),
        (lambda data: packed(z=torch.full((2, 6), torch.inf)), ["finite", "'z'"]),
        (lambda data: packed(z=torch.zeros(6)), ["[n, 6]", "[6]"]),
        (lambda data: packed(z=torch.zeros(2, 5)), ["[n, 6]", "[2, 5]"]),
        (lambda data: packed(z=torch.zeros(0, 6)), ["[n, 6]", "[0, 6]"]),
        (lambda data: packed(w=torch.zeros(2, 6)), ["[n, 6]", "none"]),
    ],
)
def test_bad_latents(
    steer: Steer, latents: Path, tmp_path: Path, spoil: Callable, words: list[str]
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(spoil(latents.read_bytes()))
    refused(steer("render", bad), *words)
    refused(steer("render", "-", stdin=bad.read_bytes()), *words)


def test_latents_that_are_not_there(steer: Steer, tmp_path: Path) -> None:
    refused(steer("render", tmp_path / "no.safetensors"), "no.safetensors", "does not exist")
    refused(steer("render", tmp_path), str(tmp_path), "shards")


# --- bad checkpoints ---


class Runs:
    """A pickle that would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def state_without(state: dict, folder: Path) -> bytes:
    return safetensors.torch.save({k: v for k, v in state.items() if k != "encoder.0.weight"})


def state_with_more(state: dict, folder: Path) -> bytes:
    return safetensors.torch.save({**state, "extra.weight": torch.zeros(1)})


def state_misshaped(state: dict, folder: Path) -> bytes:
    return safetensors.torch.save({**state, "encoder.0.weight": torch.zeros(4, 3, 5, 5)})


def state_not_finite(state: dict, folder: Path) -> bytes:
    return safetensors.torch.save({**state, "encoder.0.bias": torch.full((4,), torch.nan)})


def half_of_it(state: dict, folder: Path) -> bytes:
    return safetensors.torch.save(state)[:1000]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (state_without, ["encoder.0.weight"]),
        (state_with_more, ["extra.weight"]),
        (state_misshaped, ["encoder.0.weight", "[4, 3, 5, 5]"]),
        (state_not_finite, ["encoder.0.bias", "NaN"]),
        (half_of_it, ["truncated or damaged"]),
        (lambda state, folder: b"<!DOCTYPE html><html>", ["an HTML page"]),
        (lambda state, folder: b"", ["empty"]),
    ],
)
def test_bad_checkpoints(
    steer: Steer, tiny: Path, tmp_path: Path, make: Callable, words: list[str]
) -> None:
    bad = shutil.copytree(tiny, tmp_path / "bad")
    config = json.loads((bad / "config.json").read_text())
    config.pop("sha256")
    (bad / "config.json").write_text(json.dumps(config))
    state = safetensors.torch.load_file(bad / "model.safetensors")
    (bad / "model.safetensors").write_bytes(make(state, tmp_path))
    refused(steer("render", "--model", bad), *words)


def test_a_checkpoint_with_a_flipped_bit(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(tiny, tmp_path / "bad")
    weights = bad / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), weights.stat().st_size - 5))
    refused(steer("render", "--model", bad), "SHA-256", "damaged")


def test_a_pickle_that_runs_code_does_not_run(steer: Steer, tmp_path: Path) -> None:
    trap, made = tmp_path / "trap.pt", tmp_path / "it-ran"
    trap.write_bytes(pickle.dumps(Runs(made)))
    refused(steer("render", "--model", trap), "trap.pt", "pickle")
    torch.save({"a": Runs(made)}, trap)
    refused(steer("render", "--model", trap), "trap.pt", "refused", "nothing of it was run")
    assert not made.exists()


def test_models_that_are_not_there(steer: Steer, tmp_path: Path) -> None:
    refused(steer("render", "--model", "sprits"), "'sprits'", "did you mean sprites")
    refused(steer("render", "--model", tmp_path / "no.pt"), "no such file", "no.pt")
    refused(steer("render", "--model", tmp_path), str(tmp_path), "expected weights")
    refused(steer("render", "--model", "a/b/c"), "Hub id", "a/b/c")


def test_the_codes_drawn_are_the_latents(steer: Steer, latents: Path, tmp_path: Path) -> None:
    assert steer("render", latents, "-o", tmp_path / "all").status == 0
    blob = load_generator("blob", "cpu")
    wanted = (blob(z_of(latents))[2, 0] * 255).round().numpy()
    written = np.array(Image.open(tmp_path / "all" / "blob" / "0000002.png"))
    assert np.abs(wanted - written).max() <= 1
    made = json.loads((tmp_path / "all" / "manifest.json").read_text())["made"]
    assert made["options"]["latents"] == load(latents).made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["LATENTS", "-n", "3"], ["no -n with latents"]),
        (["LATENTS", "--seed", "3"], ["no --seed with latents"]),
        (["--exact"], ["no --exact where nothing is set"]),
        (["--measure", "bogus", "--tolerance", "1"], ["no --tolerance or --measure where nothing"]),
        (["--steps", "4"], ["no --steps without a traversal"]),
        (["-d", "KNOB", "--set", "translate-x=0", "--steps", "4"], ["no --steps without"]),
        (["--fps", "4"], ["no --fps for grid.png"]),
        (["-d", "KNOB", "--fps", "4"], ["no --fps for grid.png"]),
        (["--resume", "--shard", "2"], ["no --shard or --resume for grid.png, which is no folder"]),
        (["-d", "KNOB", "--set", "translate-x=0", "--tolerance", "-1"], ["a tolerance above 0"]),
        (
            ["-d", "KNOB", "--set", "translate-x=0", "--tolerance", "1", "--tolerance", "2"],
            ["--tolerance", "NAME=VALUE"],
        ),
        (
            ["-d", "KNOB", "-d", "KNOB-Y", "--set", "translate-y=0", "--tolerance", "0.01"],
            ["a tolerance for each of translate-x, translate-y"],
        ),
        (["-d", "KNOB", "--set", "translate-x=0", "--tolerance", "zoom=1"], ["got one of zoom"]),
        (["-d", "KNOB", "--set", "translate-x=0", "--tolerance", "x"], ["a number for --toler"]),
    ],
)
def test_options_without_effect_are_refused(
    steer: Steer, latents: Path, knob: Path, knob_y: Path, arguments: list[str], words: list[str]
) -> None:
    named = {"LATENTS": latents, "KNOB": knob, "KNOB-Y": knob_y}
    model = [] if "LATENTS" in arguments else ["--model", "blob"]
    refused(
        steer("render", *model, *(named.get(a, a) for a in arguments), "-o", "grid.png"), *words
    )


def test_the_default_of_an_option_may_be_said_where_it_has_effect(
    steer: Steer, knob: Path, tmp_path: Path
) -> None:
    walk = ("render", "-m", "blob", "-n", 1, "--seed", 0, "-d", knob, "--steps", 2)
    assert steer(*walk, "--exact", "--fps", 10, "-o", tmp_path / "walk.gif").status == 0
    refused(steer(*walk, "--fps", 10, "-o", f"{tmp_path}/"), "no --fps for")


@pytest.mark.parametrize("given", [["0.05"], ["translate-x=0.05"]])
def test_a_tolerance_decides_what_is_reached(
    steer: Steer, latents: Path, knob: Path, tmp_path: Path, given: list[str]
) -> None:
    """The pictures stop at 0.3, short of 0.32 by more than the default and less than 0.05."""
    far = ("render", latents, "-d", knob, "--set", "translate-x=0.32", "--exact", "--json")
    strict = steer(*far, "-o", f"{tmp_path}/strict/")
    loose = steer(*far, "--tolerance", *given, "-o", f"{tmp_path}/loose/")
    ended = [run.summary["counts"] for run in (strict, loose)]
    assert ended == [{"unreachable, nearest value given": 6}, {"reached": 6}]
    said = loose.summary["made"]["options"]["tolerance"]
    assert said == (0.05 if given == ["0.05"] else {"translate-x": 0.05})
