"""steer embed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from commands import Steer, photo, refused
from PIL import Image

from steer.generators import load as load_generator
from steer.images import fit, read_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        photo(folder / f"{i:02}.png", seed=i)
    return folder


@pytest.fixture
def dark(tmp_path: Path, photos: Path) -> Path:
    """A zip of the same pictures, dark."""
    with zipfile.ZipFile(tmp_path / "dark.zip", "w") as archive:
        for file in photos.iterdir():
            black = tmp_path / "dark.png"
            Image.open(file).point(lambda value: value // 4).save(black)
            archive.write(black, file.name)
    return tmp_path / "dark.zip"


def test_a_table_of_sets(steer: Steer, tiny: Path, photos: Path, dark: Path) -> None:
    ended = steer("embed", photos, dark, "sprites", "-n", 12, "--model", tiny, "--json")
    assert (ended.status, ended.err) == (0, "")
    rows = ended.summary["sets"]
    assert [row["set"] for row in rows] == [str(photos), str(dark), "sprites"]
    assert [row["n"] for row in rows] == [12, 12, 12]
    assert ended.summary["chance"] == pytest.approx(1 / 3)
    vae = load_generator(str(tiny), "cpu")
    with torch.no_grad():
        files = sorted(photos.iterdir())
        mean, log_variance = vae.posterior(
            torch.stack([fit(read_image(file), *vae.picture) for file in files])
        )
    expected = (log_variance.exp() + mean**2 - 1 - log_variance).sum(1).mean() / 2
    assert rows[0]["kl"] == pytest.approx(expected.item(), rel=1e-4)
    # what is dark, and what is smooth, is told by pixels
    assert [row["pixels"]["held_out"] for row in rows[1:]] == [1.0, 1.0]
    assert all(0 <= row[of][by] <= 1 for row in rows for of in ("latents", "pixels")
               for by in ("train", "held_out"))  # fmt: skip
    made = ended.summary["made"]
    assert made["options"] == {"sets": [str(photos), str(dark), "sprites"], "n": 12}
    assert made["generator"]["checksum"] and made["seed"] == 0


def test_the_table_is_for_people(steer: Steer, tiny: Path, photos: Path) -> None:
    ended = steer("embed", photos, "sprites", "-n", 12, "--model", tiny)
    table = ended.out.decode()
    for word in ("2 sets by the encoder of tiny; guessing is right 50.0%", "photos", "KL (nats)",
                 "latents: held out", "pixels: held out"):  # fmt: skip
        assert word in table
    assert str(photos) not in table


def test_the_map(steer: Steer, tiny: Path, photos: Path, tmp_path: Path) -> None:
    asked = ("embed", photos, "sprites", "--model", tiny, "-n", 10, "--json")
    bytes_of = []
    for name in ("a.png", "b.png"):
        assert steer(*asked, "-o", tmp_path / name).status == 0
        bytes_of.append((tmp_path / name).read_bytes())
    assert bytes_of[0] == bytes_of[1]
    assert Image.open(tmp_path / "a.png").size == (900, 900)
    assert steer(*asked, "-o", tmp_path / "a.png", "--seed", 1).status == 0
    assert (tmp_path / "a.png").read_bytes() != bytes_of[0]


def test_bad_pictures_are_named(steer: Steer, tiny: Path, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"<html>")
    asked = ("embed", photos, "sprites", "--model", tiny, "--json")
    clean = steer("embed", photos / "00.png", "sprites", "--model", tiny)
    refused(clean, "10 or more pictures in", "00.png, got 1.")
    ended = steer(*asked, "-n", 13)
    assert ended.status == 3
    assert "left out: " in ended.err and "bad.png: expected a PNG" in ended.err
    assert list(ended.summary["failed"]) == [str(photos / "bad.png")]
    assert [row["n"] for row in ended.summary["sets"]] == [12, 13]
    (photos / "bad.png").unlink()
    assert steer(*asked, "-n", 13).summary["sets"][0] == ended.summary["sets"][0]


def test_an_encoder_without_posteriors(
    steer: Steer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toys

    monkeypatch.setattr(toys.Blob, "encode", lambda self, x: x.flatten(1)[:, :6])
    asked = ("embed", photos, "sprites", "-n", 12, "--model", "blob")
    assert [row["kl"] for row in steer(*asked, "--json").summary["sets"]] == [None, None]
    assert " - " in steer(*asked).out.decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sprites", "sprites-grey"), ("expected a generator with an encoder, blob has none.",)),
        (("sprites",), ("expected two or more sets of pictures, got 1.",)),
        (("sprites", "sprites"), ("expected each set once, got sprites 2 times.",)),
        (("sprites", "gone"), ("cannot read gone: it does not exist.",)),
        (("sprites", "gone.zip"), ("cannot read gone.zip",)),
        (("sprites", "sprites-grey", "-o", "-"), ("a name in .png for -o, got - for a pipe",)),
        (("sprites", "sprites-grey", "-o", "map.pdf"), ("expected a name in .png",)),
        (("sprites", "sprites-grey", "-n", 0), ("-n", "0")),
    ],
)
def test_mistakes(steer: Steer, arguments, words, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    refused(steer("embed", *arguments, "--model", "blob"), *words)


def test_too_few_pictures(steer: Steer, tiny: Path) -> None:
    ended = steer("embed", "sprites", "sprites-grey", "-n", 9, "--model", tiny)
    refused(ended, "'-n'", "10", "9")


def test_no_map_among_the_pictures(steer: Steer, tiny: Path, photos: Path) -> None:
    """It would be one of them the next time."""
    for out in (photos / "map.png", photos / "00.png"):
        ended = steer("embed", photos, "sprites", "--model", tiny, "-o", out)
        refused(ended, f"cannot write {out}: expected a place outside of {photos}")
    assert len(list(photos.iterdir())) == 12


@pytest.mark.shared
def test_sprites_are_no_faces(steer: Steer, shared: Path) -> None:
    """Sets of pictures that look different are told apart by the codes of a VAE of neither."""
    model = shared / "data/generators/disvae/btcvae_celeba"
    ended = steer(
        "embed", "sprites", "sprites-grey", "-n", 60, "--model", model, "--json", "--device", "cpu"
    )
    assert ended.status == 0, ended.err
    for row in ended.summary["sets"]:
        assert row["latents"]["held_out"] > 0.9 and row["kl"] > 5
