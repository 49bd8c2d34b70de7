"""steer train-avae."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Steer, photo, refused

from steer.generators import load

RUN = ("--size", 16, "--channels", 1, "--width", 4, "--latent", 3, "--steps", 4, "--batch", 4,
       "--every", 2, "--device", "cpu")  # fmt: skip


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of six photos."""
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(6):
        photo(folder / f"{i}.png", seed=i)
    return folder


def test_it_writes_a_generator_with_an_encoder(steer: Steer, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "avae"
    (album / "text.png").write_text("no picture")
    ended = steer("train-avae", album, "-o", out, *RUN, "--xi", 2, "--json")
    assert ended.status == 3 and "text.png" in ended.err
    assert (ended.summary["objective"], ended.summary["xi"]) == ("avae", 2)
    assert len(ended.summary["left_out"]) == 1
    loaded = load(str(out), device="cpu")
    assert loaded.latent.parts == {"z": 3, "xi": 2} and loaded.has_encoder
    done = steer(
        "invert", album / "0.png", "--model", out, "--steps", 3, "-o", tmp_path / "z.safetensors"
    )
    assert done.status == 0, done.err
    card = (out / "README.md").read_text()
    assert json.loads(card.split("```json")[1].split("```")[0])["exact"] is True


def test_an_lsr_gan_reads_with_a_vae(steer: Steer, album: Path, tmp_path: Path) -> None:
    first = steer(
        "train-avae", album, "-o", tmp_path / "v", *RUN, "--objective", "vae", "--sigma", "picture"
    )
    assert first.status == 0, first.err
    second = ("--objective", "lsr-gan", "--encoder", tmp_path / "v", "--lambda", 2)
    ended = steer("train-avae", album, "-o", tmp_path / "l", *RUN, *second, "--json")
    assert ended.status == 0 and ended.summary["weight"] == 2
    assert load(str(tmp_path / "l"), device="cpu").has_encoder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--objective", "gan", "--beta", 2), ("--beta", "gan")),
        (("--objective", "vae", "--average", 0.9), ("--average", "vae")),
        (("--lambda", 2), ("--lambda", "avae")),
        (("--objective", "vae-gam"), ("vae-gam", "vae-gan")),
        (("--objective", "lsr-gan"), ("--encoder FOLDER",)),
        (("--objective", "vae", "--sigma", "both"), ("shared or picture", "both")),
        (("--size", 24), ("2^k x 2^k", "24x24")),
        (("-o", "-"), ("a folder for -o", "a pipe")),
        (("--beta", "inf"), ("a finite number for --beta", "inf")),
        (("--rate", "nan"), ("--rate", "nan")),
        (("--vae", "x", "--beta", 2), ("no --beta with --vae x",)),
    ],
)
def test_what_is_refused(
    steer: Steer, album: Path, tmp_path: Path, arguments: tuple, said: tuple[str, ...]
) -> None:
    place = ("-o", tmp_path / "out")
    refused(steer("train-avae", album, *place, *RUN, *arguments), *said)
    assert not (tmp_path / "out").exists()


def test_the_shape_of_a_procedural_set_is_its_own(steer: Steer, tmp_path: Path) -> None:
    refused(
        steer("train-avae", "sprites", "--size", 32, "-o", tmp_path / "out"), "sprites", "--size"
    )


def test_a_folder_is_what_it_holds(steer: Steer, album: Path, tmp_path: Path) -> None:
    """A run goes on with the encoder it was begun with, wherever that lies, and with no other."""
    vae = ("--objective", "vae", "--sigma", "picture")
    for seed in (0, 1):
        place = ("-o", tmp_path / f"v{seed}", "--seed", seed)
        assert steer("train-avae", album, *place, *RUN, *vae).status == 0
    lsr = ("train-avae", album, "-o", tmp_path / "l", *RUN, "--objective", "lsr-gan")
    assert steer(*lsr, "--encoder", tmp_path / "v0").status == 0
    assert str(tmp_path) not in (tmp_path / "l" / "README.md").read_text()
    (tmp_path / "v0").rename(tmp_path / "moved")
    assert steer(*lsr, "--encoder", tmp_path / "moved", "--resume").status == 0
    refused(steer(*lsr, "--encoder", tmp_path / "v1", "--resume"), "other options (encoder)")
