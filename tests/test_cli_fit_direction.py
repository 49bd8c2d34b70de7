"""steer fit-direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toys
from commands import Steer, latents_of, refused

from steer.directions import Direction
from steer.files import load
from steer.fitting import fit_direction
from steer.generators import load as load_generator

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
    refused(steer(*given, "--threshold", "-1"), "at least 4 starts", "got 0")
    refused(steer(*given, "--measure", "inensity"), "inensity", "did you mean intensity")
    refused(steer(*given, "-o", tmp_path), "a folder")
    refused(steer(*given, "--json"), "-o FILE with --json")
    z = latents_of("blob", 3, tmp_path / "z.safetensors")
    refused(steer("fit-direction", "--trajectories", z), "expected trajectories", "latents")
    refused(steer("fit-direction", "--trajectories", "no.safetensors"), "does not exist")
    refused(steer("fit-direction", "--model", "blob", "-t", "zom"), "did you mean zoom")
    few = ("fit-direction", "--model", "blob", "--starts", 2, *QUICK)
    refused(steer(*few), "at least 4 starts")


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
