"""steer trajectories."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from commands import Steer, refused

from steer.files import load

QUICK = ("--points", 2, "--steps", 3)


@pytest.fixture
def follow(steer: Steer, tiny: Path) -> Steer:
    """`steer trajectories` with little work on the tiny VAE."""
    return lambda *arguments: steer("trajectories", "--model", tiny, *QUICK, *arguments)


def test_the_file_holds_every_start_and_how_it_was_made(follow: Steer, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    ended = follow("-t", "zoom", "--starts", 5, "--extent", 0.2, "-o", out, "--json")
    found = load(out, "trajectories")
    assert ended.status == 0 and ended.err == ""
    assert found.tensors["z"].shape == (5, 4, 3)
    assert found.tensors["shift"][0].tolist() == pytest.approx([-0.2, -0.1, 0.1, 0.2])
    assert found.made["options"]["transform"] == "zoom"
    assert ended.summary["trajectories"] == str(out)
    assert ended.summary["options"] == found.made["options"]
    assert list(tmp_path.iterdir()) == [out]


def test_files_folders_and_pipes_hold_the_same(follow: Steer, tmp_path: Path) -> None:
    out, folder = tmp_path / "t.safetensors", tmp_path / "run"
    assert follow("--starts", 5, "--shard", 2, "-o", out).status == 0
    assert follow("--starts", 5, "--shard", 2, "-o", folder).status == 0
    assert follow("--starts", 5, "--shard", 2, "-o", "-").out == out.read_bytes()
    assert torch.allclose(
        load(follow("--starts", 5).out).tensors["z"], load(out).tensors["z"], atol=1e-4
    )
    assert len(list(folder.iterdir())) == 3
    shards = load(folder).tensors
    assert all(torch.equal(value, shards[name]) for name, value in load(out).tensors.items())


def test_resume_keeps_whole_shards_and_makes_the_others(follow: Steer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert follow("--starts", 6, "--shard", 2, "-o", folder).status == 0
    first, second, third = sorted(folder.iterdir())
    whole = [path.read_bytes() for path in (first, second, third)]
    stamp = first.stat().st_mtime_ns
    second.unlink()
    third.write_bytes(whole[2][:-9])
    refused(follow("--starts", 6, "--shard", 2, "-o", folder), "1 finished", "--resume")
    assert follow("--starts", 6, "--shard", 2, "-o", folder, "--resume").status == 0
    assert [path.read_bytes() for path in (first, second, third)] == whole
    assert first.stat().st_mtime_ns == stamp


def test_resume_of_a_finished_file_does_nothing(
    follow: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t.safetensors"
    assert follow("--starts", 2, "-o", out).status == 0
    stamp = out.stat().st_mtime_ns
    assert follow("--starts", 2, "-o", out, "--resume").status == 0
    assert out.stat().st_mtime_ns == stamp
    refused(follow("--starts", 3, "-o", out, "--resume"), "options.starts (2, not 3)")
    out.write_bytes(out.read_bytes()[:-1])
    assert follow("--starts", 2, "-o", out, "--resume").status == 0
    assert load(out).tensors["z"].shape[0] == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_names_the_partial_result(
    follow: Steer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    import steer.trajectories

    whole, saved = steer.trajectories.save, []

    def save_then_stop(*arguments: object) -> None:
        whole(*arguments)  # type: ignore[arg-type]
        saved.append(arguments)
        if len(saved) == 2:
            signal.raise_signal(number)

    out, plain = tmp_path / "t.safetensors", tmp_path / "plain.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(steer.trajectories, "save", save_then_stop)
        ended = follow("--starts", 4, "--shard", 1, "-o", out)
    refused(ended, "interrupted", f"{out}.parts", "--resume", status=status)
    assert len(list(Path(f"{out}.parts").iterdir())) == 2
    assert follow("--starts", 4, "--shard", 1, "-o", out, "--resume").status == 0
    assert follow("--starts", 4, "--shard", 1, "-o", plain).status == 0
    assert out.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-t", "translate-z"], ["translate-z", "did you mean translate-"]),
        (["--extent", "1e9"], ["extent above 0 and at most", "1e+09"]),
        (["--extent", "nan"], ["extent", "nan"]),
        (["--extent", "-0.1"], ["extent above 0", "-0.1"]),
        (["--steps", "-1"], ["steps of 1 or more", "-1"]),
        (["--points", "0"], ["points of 1 or more", "0"]),
        (["--starts", "0"], ["'--starts'"]),
        (["--loss", "nothing"], ["nothing"]),
        (["--loss", "mse", "--sigma", "2"], ["sigma was given", "'mse'"]),
        (["--sigma", "-1"], ["a sigma above 0", "-1"]),
        (["--sigma", "inf"], ["a sigma above 0", "inf"]),
        (["--constraint", "cube"], ["ball or none", "'cube'"]),
        (["--extent", "1"], ["translate-x that leaves pixels", "got 1 width"]),
        (["--extent", "0.5", "--loss", "dssim"], ["leaves pixels for dssim", "got 0.5 width"]),
        (["-o", "no/t.safetensors"], ["the folder no does not exist"]),
        (["-o", "/dev/null/run"], ["/dev/null/run"]),
        (["-o", ""], ["expected a name after -o"]),
    ],
)
def test_mistakes(
    follow: Steer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list,
    words: list[str],
) -> None:
    """Each is said before the first search."""
    monkeypatch.setattr("steer.trajectories.minimise", None)
    place = [] if "-o" in arguments else ["-o", tmp_path / "t.safetensors"]
    refused(follow(*arguments, *place), *words)
    assert not list(tmp_path.iterdir())


def test_several_processes_need_a_folder(
    follow: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(follow("-o", tmp_path / "t.safetensors"), "a folder for -o with several processes")
