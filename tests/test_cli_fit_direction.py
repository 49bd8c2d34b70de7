"""steer fit-direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from commands import Steer, latents_of, refused

from steer.directions import Direction
from steer.files import Artefact, how_made, load, save
from steer.fitting import fit_direction
from steer.generators import load as load_generator
from steer.knobs import Setting, control

QUICK = ("--points", 2, "--steps", 15, "--samples", 32)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trajectories of translate-x on `blob`, 24 starts."""
    return tmp_path_factory.mktemp("followed") / "t.safetensors"


@pytest.fixture
def trajectories(steer: Steer, followed: Path) -> Path:
    """The same, made by the command once."""
    if not followed.exists():
        ended = steer("trajectories", "--model", "blob", "--starts", 24, *QUICK[:4], "-o", followed)
        assert ended.status == 0, ended.err
    return followed


def test_the_axis_of_the_closed_form_is_found(
    steer: Steer, trajectories: Path, tmp_path: Path
) -> None:
    out = tmp_path / "d.safetensors"
    ended = steer("fit-direction", "--trajectories", trajectories, "-o", out, "--json")
    assert ended.status == 0, ended.err
    direction = Direction.of(load(out, "direction"))
    assert abs(direction.u @ toys.AXES[0]) > 0.95
    assert direction.constant == pytest.approx(0, abs=0.02)
    assert ended.summary["quality"] == direction.quality
    assert ended.summary["name"] == direction.name == "translate-x"


def test_trajectories_travel_by_pipe_and_are_merged(
    steer: Steer, trajectories: Path, tmp_path: Path
) -> None:
    file = steer("fit-direction", "--trajectories", trajectories).out
    piped = steer("fit-direction", "--trajectories", "-", stdin=trajectories.read_bytes()).out
    assert piped == file
    twice = steer("fit-direction", "--trajectories", trajectories, "--trajectories", trajectories)
    assert load(twice.out).made["direction"]["quality"]["pairs"] > 24 * 4 * 0.9


def test_without_trajectories_they_are_followed_first(steer: Steer, trajectories: Path) -> None:
    ended = steer(
        "fit-direction", "--model", "blob", "-t", "translate-x", "--starts", 24, *QUICK[:4]
    )
    assert ended.status == 0, ended.err
    there, here = (
        Direction.of(load(data))
        for data in (steer("fit-direction", "--trajectories", trajectories).out, ended.out)
    )
    assert np.allclose(there.u, here.u) and np.allclose(there.slopes, here.slopes)


def test_mistakes(steer: Steer, tiny: Path, trajectories: Path, tmp_path: Path) -> None:
    given = ("fit-direction", "--trajectories", trajectories)
    refused(steer(*given, "--transform", "zoom"), "trajectories of zoom", "translate-x")
    refused(steer(*given, "--model", tiny), "trajectories of tiny", "blob")
    refused(steer(*given, "--threshold", "0"), "at least 4 starts", "got 0 after pruning, of 24")
    refused(steer(*given, "--measure", "inensity"), "inensity", "did you mean intensity")
    refused(steer(*given, "-o", tmp_path), "a folder")
    refused(steer(*given, "--json"), "-o FILE with --json")
    z = latents_of("blob", 3, tmp_path / "z.safetensors")
    refused(steer("fit-direction", "--trajectories", z), "expected trajectories", "latents")
    refused(steer("fit-direction", "--trajectories", "no.safetensors"), "does not exist")
    refused(steer("fit-direction", "--model", "blob", "-t", "zom"), "did you mean zoom")


@pytest.mark.parametrize(
    "name", ["starts", "extent", "points", "steps", "loss", "sigma", "constraint"]
)
def test_how_to_follow_has_no_part_beside_trajectories(
    steer: Steer, trajectories: Path, name: str
) -> None:
    value = {"loss": "mse", "constraint": "none"}.get(name, 5)
    given = ("fit-direction", "--trajectories", trajectories)
    refused(steer(*given, f"--{name}", value), f"no --{name} beside --trajectories")


def test_all_that_has_no_part_is_named(steer: Steer, trajectories: Path) -> None:
    given = ("fit-direction", "--trajectories", trajectories)
    refused(steer(*given, "--steps", 20, "--extent", 0.1, "--seed", 3), "--extent or --steps")
    both = ("--threshold", 0.1, "--worst", 0.1)
    refused(steer(*given, *both), "no --worst beside --threshold")


def test_shear_is_not_measured(steer: Steer) -> None:
    shear = ("fit-direction", "--model", "blob", "-t", "shear-x", "--starts", 6, *QUICK[:4])
    refused(steer(*shear, "--samples", 32), "no --samples with shear-x, which is not measurable")
    ended = steer(*shear)
    assert ended.status == 0, ended.err
    assert Direction.of(load(ended.out)).constant is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--extent", "1"], ["translate-x that leaves pixels", "got 1 width"]),
        (["--extent", "2"], ["at most 1 width", "got 2"]),
        (["--starts", "3"], ["at least 4 starts to fit translate-x, got 3"]),
        (["--points", "0"], ["points of 1 or more, got 0"]),
        (["--loss", "nothing"], ["nothing"]),
        (["--sigma", "nan"], ["a sigma above 0", "nan"]),
        (["--smoothness", "inf"], ["a smoothness of 0 or more, got inf"]),
        (["--worst", "nan"], ["--worst"]),
        (["--threshold", "nan"], ["a threshold of 0 or more, got nan"]),
        (["--threshold", "-1"], ["a threshold of 0 or more, got -1"]),
        (["-t", "saturation"], ["colour pictures of 3 channels", "got 1"]),
        (["--measure", "inensity"], ["inensity", "did you mean intensity"]),
    ],
)
def test_mistakes_are_said_before_the_work(
    steer: Steer, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.setattr("steer.trajectories.minimise", None)
    refused(steer("fit-direction", "--model", "blob", *arguments), *words)


def test_trajectories_of_two_transforms_do_not_mix(
    steer: Steer, trajectories: Path, tmp_path: Path
) -> None:
    zoom = tmp_path / "zoom.safetensors"
    steer("trajectories", "--model", "blob", "-t", "zoom", "--starts", 4, *QUICK[:4], "-o", zoom)
    refused(
        steer("fit-direction", "--trajectories", trajectories, "--trajectories", zoom),
        "one transform and generator",
        str(zoom),
    )


def test_the_library_follows_the_same_starts_of_a_seed(steer: Steer, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    few = ("--starts", 8, "--samples", 8, "--seed", 3)
    assert steer("fit-direction", "-m", "blob", "-t", "translate-x", *few, "-o", out).status == 0
    known = fit_direction(load_generator("blob", "cpu"), "translate-x", starts=8, samples=8, seed=3)
    assert load(out).tensors["u"].numpy() == pytest.approx(known.u, abs=1e-6)


# --- two groups of codes ---


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Latents of `blob` to the right of the middle, and to the left."""
    folder = tmp_path_factory.mktemp("groups")
    blob = load_generator("blob", "cpu")
    z = blob.sample(100)
    right = z @ torch.from_numpy(toys.AXES[0]).float() > 0
    made = how_made("sample", blob.identity())
    for name, codes in (("right", z[right]), ("left", z[~right]), ("few", z[:3])):
        save(Artefact("latents", {"z": codes}, made), folder / f"{name}.safetensors")
    return folder / "right.safetensors", folder / "left.safetensors"


def by_groups(right: Path, left: Path) -> tuple:
    return ("fit-direction", "--method", "group-means", "--group", right, "--group", left)


def test_a_direction_between_groups(steer: Steer, groups: tuple[Path, Path], tmp_path: Path):
    out = tmp_path / "d.safetensors"
    few = ("-t", "translate-x", "--samples", 32, "-o", out)
    ended = steer(*by_groups(*groups), *few)
    assert ended.status == 0 and ended.err == ""
    direction = Direction.of(load(out))
    assert direction.u @ toys.AXES[0] > 0.95 and direction.find == "intensity"
    assert direction.made["options"]["groups"] == ["right.safetensors", "left.safetensors"]
    turned = steer(*by_groups(*groups[::-1]), *few)
    assert turned.status == 0
    assert turned.err == "steer: the measured translate-x falls along this direction.\n"
    assert np.allclose(Direction.of(load(out)).u, -direction.u)


def test_a_direction_that_no_measure_knows(
    steer: Steer, groups: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "d.safetensors"
    ended = steer(*by_groups(*groups), "--name", "at-right", "-o", out, "--json")
    assert ended.status == 0 and ended.summary["name"] == "at-right", ended.err
    u, std = load(out).tensors["u"], ended.summary["std"]
    moved = tmp_path / "moved.png"
    ended = steer("render", groups[1], "-d", out, "--shift", "at-right=1.5", "-o", moved)
    assert ended.status == 0 and moved.exists(), ended.err
    z = load(groups[1]).tensors["z"].double()
    settings = [Setting("at-right", "shift", 1.5)]
    blob = load_generator("blob", "cpu")
    gone = control(blob, z.float(), settings, {"at-right": Direction.of(load(out))}).z
    assert torch.allclose(gone.double(), z + 1.5 * std * u, atol=1e-5)
    judged = steer("evaluate", "-d", out, "-n", 8)
    assert judged.status == 0 and "not measured" in " ".join(judged.out.decode().split())
    assert steer("show", out, "-o", tmp_path / "d.png").status == 0


def test_groups_that_hardly_differ(steer: Steer, tmp_path: Path) -> None:
    paths = [latents_of("blob", 200, tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2)]
    ended = steer(*by_groups(*paths), "--name", "chance", "-o", tmp_path / "d.safetensors")
    assert ended.status == 0 and "hardly tells the groups apart" in ended.err


def test_mistakes_with_groups(
    steer: Steer, groups: tuple[Path, Path], tiny: Path, tmp_path: Path
) -> None:
    right, left = groups
    given, one = by_groups(right, left), by_groups(right, left)[:-2]
    refused(steer(*given), "either --transform or --name", "got none")
    refused(steer(*given, "-t", "zoom", "--name", "big"), "either --transform or", "got both")
    refused(steer(*one, "-t", "zoom"), "expected --group twice", "got 1")
    refused(steer(*given, "--group", left, "--name", "a"), "--group twice", "got 3")
    refused(steer(*given[:1], *given[3:], "--name", "a"), "expected --method group-means")
    refused(steer(*given[:3], "--name", "a"), "--group twice", "got 0")
    refused(steer(*given, "--name", "a", "--samples", 9), "no --samples with --name")
    refused(steer(*given, "--name", "zoom"), "a new name", "got zoom")
    refused(steer(*given, "-t", "shear-x"), "a property with a measure", "got shear-x")
    few = left.parent / "few.safetensors"
    refused(steer(*by_groups(right, few), "--name", "a"), "8 or more codes", "got [3, 6]")
    refused(steer(*by_groups(right, right), "--name", "a"), "groups whose means differ")
    other = latents_of(str(tiny), 9, tmp_path / "z.safetensors")
    refused(steer(*by_groups(right, other), "--name", "a"), "latents", "of blob", "of tiny")
    refused(steer(*by_groups(right, left), "--model", tiny, "--name", "a"), "of tiny", "of blob")
    refused(steer(*by_groups(right, tmp_path / "no"), "--name", "a"), "does not exist")
    d = tmp_path / "d.safetensors"
    assert steer(*given, "--name", "a", "-o", d).status == 0
    refused(steer(*by_groups(right, d), "--name", "a"), "expected latents", "a direction")
