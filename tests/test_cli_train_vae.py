"""steer train-vae."""

from __future__ import annotations

import json
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from commands import Steer, photo, refused

from steer.generators import load

QUICK = ("--widths", "4,4", "--dense", 8, "--latent", 3, "--size", 16, "--batch", 4)
RUN = (*QUICK, "--steps", 6, "--every", 2)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six photos."""
    (tmp_path / "album").mkdir()
    for i in range(6):
        photo(tmp_path / "album" / f"{i}.png", seed=i)
    return tmp_path / "album"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_folder_is_a_model(steer: Steer, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    ended = steer("train-vae", album, "-o", out, *RUN, "--beta", 2, "--json")
    assert ended.status == 0, ended.err
    assert load(str(out)).picture == (3, 16, 16)
    assert ended.summary["model"] == str(out) and ended.summary["beta"] == 2
    rows = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert (out / "preview.png").exists()
    assert steer("render", "--model", out, "-n", 2).status == 0


def test_the_same_pictures_give_the_same_bytes(steer: Steer, album: Path, tmp_path: Path) -> None:
    """From a folder, a moved folder and a zip; other pictures give others."""
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for path in sorted(album.iterdir()):
            archive.write(path, path.name)
    moved = shutil.copytree(album, tmp_path / "moved")
    changed = shutil.copytree(album, tmp_path / "changed")
    photo(changed / "3.png", seed=99)
    trained = []
    for i, source in enumerate((album, moved, tmp_path / "album.zip", changed)):
        assert steer("train-vae", source, "-o", tmp_path / f"{i}", *RUN).status == 0
        trained.append(weights(tmp_path / f"{i}"))
    assert trained[0] == trained[1] == trained[2] != trained[3]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_then_resumed_gives_the_same_bytes(
    steer: Steer,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    from steer.training.vae import BetaVAE

    out, plain = tmp_path / "vae", tmp_path / "plain"
    work = BetaVAE.step

    def step(self: BetaVAE, pictures: object, step: int, noise: object) -> dict[str, float]:
        if step == 3:
            signal.raise_signal(number)
        return work(self, pictures, step, noise)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(BetaVAE, "step", step)
        ended = steer("train-vae", album, "-o", out, *RUN)
    refused(ended, "interrupted", str(out), "--resume", status=status)
    with (out / "stats.jsonl").open("a") as log:
        log.write('{"step": 3, "st')  # as a killed run may leave it
    refused(steer("train-vae", album, "-o", out, *RUN), str(out), "--resume")
    refused(steer("train-vae", album, "-o", out, *RUN, "--resume", "--beta", 9), "(beta)")
    assert steer("train-vae", album, "-o", out, *RUN, "--resume").status == 0
    assert steer("train-vae", album, "-o", plain, *RUN).status == 0
    assert weights(out) == weights(plain)
    rows = [json.loads(line)["step"] for line in (out / "stats.jsonl").read_text().splitlines()]
    assert rows == [2, 4, 6]

    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert steer("train-vae", album, "-o", out, *RUN, "--resume").status == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "-1"], ["'--steps'"]),
        (["--widths", "4,x"], ["whole numbers", "--widths", "'4,x'"]),
        (["--widths", "4,²"], ["whole numbers", "--widths"]),
        (["--likelihood", "poisson"], ["bernoulli or gaussian", "'poisson'"]),
        (["--channels", "2"], ["1 or 3 channels", "2"]),
        (["--size", "18"], ["multiples of 4", "18x18"]),
        (["--sigma", "0"], ["'--sigma'"]),
        (["--sigma", "inf", "--likelihood", "gaussian"], ["sigma of 1e-06 or more, got inf"]),
        (["--beta", "inf"], ["beta of 0 or more, got inf"]),
        (["--beta", "nan"], ["beta"]),
        (["--rate", "nan"], ["rate"]),
        (["--rate", "inf"], ["rate of 0 or more, got inf"]),
        (["--broadcast", "5"], ["broadcast grid", "got 5"]),
        (["--device", "gpu"], ["'gpu'"]),
        (["-o", "/dev/null/vae"], ["/dev/null/vae"]),
    ],
)
def test_mistakes(
    steer: Steer, album: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    place = [] if "-o" in arguments else ["-o", tmp_path / "vae"]
    refused(steer("train-vae", album, *RUN, *arguments, *place), *words)
    assert not (tmp_path / "vae").exists()


def test_no_pipe_and_no_endless_seed(steer: Steer, album: Path, tmp_path: Path) -> None:
    refused(steer("train-vae", album, *RUN, "-o", "-"), "a folder for -o", "a pipe")
    refused(steer("train-vae", album, *RUN, "-o", tmp_path / "v", "--seed", 2**70), "'--seed'")


def test_data_that_is_none(steer: Steer, album: Path, tmp_path: Path) -> None:
    place = ("-o", tmp_path / "vae", *RUN)
    refused(steer("train-vae", "sprits", *place), "sprits", "sprites")
    (tmp_path / "nothing").mkdir()
    refused(steer("train-vae", tmp_path / "nothing", *place), "found none")
    (tmp_path / "nothing" / "6.png").write_bytes(b"hello")
    refused(steer("train-vae", tmp_path / "nothing", *place), "none of 1", "6.png", "got text")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    refused(steer("train-vae", tmp_path / "bad.zip", *place), "bad.zip", "zip")


def test_bad_pictures_are_named_once_and_left_out(
    steer: Steer, album: Path, tmp_path: Path
) -> None:
    """The bytes are those of a folder without them; resuming says it again and changes nothing."""
    clean, out = tmp_path / "clean", tmp_path / "vae"
    assert steer("train-vae", album, "-o", clean, *RUN).status == 0
    (album / "0-text.png").write_bytes(b"hello")
    (album / "9-cut.png").write_bytes((album / "5.png").read_bytes()[:60])
    ended = steer("train-vae", album, "-o", out, *RUN, "--json")
    assert ended.status == 3
    lines = ended.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("steer: left out: ") for line in lines)
    assert "0-text.png" in lines[0] and "9-cut.png" in lines[1]
    assert [f"steer: left out: {reason}" for reason in ended.summary["left_out"]] == lines
    assert weights(out) == weights(clean)
    again = steer("train-vae", album, "-o", out, *RUN, "--resume")
    assert (again.status, again.err, again.out) == (3, ended.err, b"")
    assert weights(out) == weights(clean)
    photo(album / "9-cut.png", seed=9)
    other = steer("train-vae", album, "-o", out, *RUN, "--resume")
    assert other.status == 2 and "other options (data)" in other.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", 64], ["no --size with the procedural set sprites"]),
        (["--channels", 3, "--size", 64], ["no --size or --channels with the procedural set"]),
        (["--sigma", 0.1], ["no --sigma with --likelihood bernoulli"]),
    ],
)
def test_options_that_would_do_nothing(
    steer: Steer, tmp_path: Path, arguments: list, words: list[str]
) -> None:
    out = tmp_path / "vae"
    refused(steer("train-vae", "sprites", "-o", out, "--steps", 1, *arguments), *words)
    assert not out.exists()


def test_what_died_before_its_first_checkpoint_gives_way(
    steer: Steer, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steer.training.vae import BetaVAE

    out, plain = tmp_path / "vae", tmp_path / "plain"
    with monkeypatch.context() as patch:
        patch.setattr(BetaVAE, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
        refused(steer("train-vae", album, "-o", out, *RUN), "nothing was written", status=143)
    assert steer("train-vae", album, "-o", out, *RUN, "--beta", 3).status == 0
    assert steer("train-vae", album, "-o", plain, *RUN, "--beta", 3).status == 0
    assert weights(out) == weights(plain)
    assert (out / "options.json").read_bytes() == (plain / "options.json").read_bytes()


def test_a_folder_of_something_else_stays_as_it_is(
    steer: Steer, album: Path, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("mine")
    refused(steer("train-vae", album, "-o", tmp_path, *RUN), "README.md", "name another folder")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_damaged_run_is_refused(steer: Steer, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    assert steer("train-vae", album, "-o", out, *RUN).status == 0
    (out / "training.pt").write_bytes(b"half")
    refused(steer("train-vae", album, "-o", out, *RUN, "--resume"), "training.pt", "damaged")
    (out / "options.json").write_text("{")
    refused(steer("train-vae", album, "-o", out, *RUN, "--resume"), "options.json", "damaged")


def test_training_that_diverges_says_so(steer: Steer, album: Path, tmp_path: Path) -> None:
    ended = steer("train-vae", album, "-o", tmp_path / "vae", *RUN, "--rate", "1e30")
    refused(ended, "not finite", "step 2; there was no checkpoint yet", status=1)
    assert steer("train-vae", album, "-o", tmp_path / "vae", *RUN).status == 0


def test_it_starts_from_another(steer: Steer, album: Path, tmp_path: Path) -> None:
    """At a rate of nothing it is the other: the same pictures, whatever the seed."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert steer("train-vae", album, "-o", first, *RUN).status == 0
    run = ("--size", 16, "--batch", 4, "--steps", 2, "--rate", 0, "--seed", 5, "--json")
    ended = steer("train-vae", album, "-o", second, *run, "--from", first)
    assert ended.status == 0 and ended.summary["latent"] == 3
    a, b = load(str(first), device="cpu"), load(str(second), device="cpu")
    pictures = a(a.sample(4))
    torch.testing.assert_close(b(b.encode(pictures)), a(a.encode(pictures)), atol=1e-5, rtol=0)
    place = ("-o", tmp_path / "third", "--size", 16)
    refused(steer("train-vae", album, *place, "--from", first, "--latent", 3), "--latent", "--from")
    refused(steer("train-vae", "sprites", "-o", tmp_path / "third", "--from", first),
            "vae of pictures [3, 64, 64]", "[3, 16, 16]")  # fmt: skip
    avae = ("--objective", "vae", "--width", 4, "--latent", 3, "--steps", 2, "--batch", 4)
    assert steer("train-avae", album, "-o", tmp_path / "avae", "--size", 16, *avae).status == 0
    mistaken = steer("train-vae", album, *place, "--from", tmp_path / "avae")
    refused(mistaken, "holds avae of [3, 16, 16]")
    assert not (tmp_path / "third").exists()
