"""steer invert, and every bad picture that it can meet."""

from __future__ import annotations

import io
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import Steer, photo, refused, z_of
from PIL import Image
from safetensors.torch import save_file

from steer.files import load
from steer.generators import load as load_generator
from steer.images import write_png

QUICK = ("--steps", 3, "--start", "encoder")


@pytest.fixture
def invert(steer: Steer, tiny: Path) -> Steer:
    """`steer invert` with little work on the tiny VAE."""
    return lambda *arguments, **more: steer("invert", "--model", tiny, *QUICK, *arguments, **more)


# --- what it does ---


def test_a_generated_picture_comes_back(steer: Steer, tmp_path: Path) -> None:
    """Exactly but for the 8 bits of the file: the closed form's own code is the optimum."""
    blob = load_generator("blob", "cpu")
    write_png(tmp_path / "a.png", blob(blob.latent.sample(1, 7))[0])
    z, preview = tmp_path / "z.safetensors", tmp_path / "preview.png"
    ended = steer(
        "invert", tmp_path / "a.png", "--model", "blob", "-o", z, "--preview", preview, "--json"
    )
    assert ended.status == 0, ended.err
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))) / 255
    assert (blob(z_of(z))[0, 0] - picture).abs().max() < 0.02
    (row,) = ended.summary["pictures"]
    assert row["loss"] < 1e-5 and row["picture"] == str(tmp_path / "a.png")
    assert ended.summary["latents"] == str(z) and ended.summary["failed"] == {}
    assert Image.open(preview).size[0] > 96


def test_a_pipe_in_and_a_pipe_out(invert: Steer, tmp_path: Path) -> None:
    file = photo(tmp_path / "a.png")
    ended = invert("-", stdin=file.read_bytes())
    assert ended.status == 0, ended.err
    assert torch.equal(z_of(ended.out), z_of(invert(file).out))


def test_the_batch_does_not_matter(invert: Steer, tmp_path: Path) -> None:
    for i in range(5):
        photo(tmp_path / f"{i}.png", seed=i)
    alone, together = (z_of(invert(tmp_path, "--batch", b).out) for b in (1, 5))
    assert torch.allclose(alone, together, atol=1e-4)


# --- pictures that work, and pictures that do not ---


def png(mode: str, value: object = 0, size: tuple[int, int] = (8, 8)) -> Callable:
    def write(path: Path) -> None:
        Image.new(mode, size, value).save(path, "PNG")

    return write


def cmyk(path: Path) -> None:
    Image.new("CMYK", (8, 8), (10, 20, 30, 40)).save(path, "JPEG")


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), "red").save(path, "JPEG", exif=exif)


def animated(path: Path) -> None:
    frames = [Image.new("P", (8, 8), i) for i in range(3)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("one-pixel.png", png("RGB", size=(1, 1))),
        ("palette.png", png("P")),
        ("alpha.png", png("RGBA", (9, 9, 9, 128))),
        ("deep.png", png("I;16", 40000)),
        ("cmyk.jpg", cmyk),
        ("turned.jpg", turned),
        ("animated.gif", animated),
    ],
)
def test_odd_pictures_work(invert: Steer, tmp_path: Path, name: str, write: Callable) -> None:
    write(tmp_path / name)
    ended = invert(tmp_path / name)
    assert (ended.status, ended.err) == (0, "")
    assert z_of(ended.out).shape == (1, 3)


def bomb() -> bytes:
    """A PNG whose header claims 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def truncated() -> bytes:
    """The first half of a PNG."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


BAD = [
    ("empty.png", b"", "an empty file"),
    ("truncated.png", truncated(), "damaged or truncated"),
    ("text.png", b"hello, I am text\n", "got text"),
    ("page.png", b"<!DOCTYPE html><html></html>", "got text"),
    ("bomb.png", bomb(), "at most 100 million pixels"),
]


@pytest.mark.parametrize(("name", "data", "word"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_picture_alone(
    invert: Steer, tmp_path: Path, name: str, data: bytes, word: str
) -> None:
    (tmp_path / name).write_bytes(data)
    refused(invert(tmp_path / name), str(tmp_path / name), word)


def test_missing_and_empty_places(invert: Steer, tmp_path: Path) -> None:
    refused(invert(tmp_path / "no.png"), "no.png", "does not exist")
    refused(invert(tmp_path), str(tmp_path), "found none")
    refused(invert("-"), "standard input", "empty")
    refused(invert(), "'pictures'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", -5], ["steps of 1 or more", "-5"]),
        (["--restarts", 0], ["restarts", "0"]),
        (["--rate", 0], ["rate above 0"]),
        (["--start", "nowhere"], ["auto, encoder or prior", "'nowhere'"]),
        (["--constraint", "box"], ["ball or none", "'box'"]),
        (["--align", "letterbx"], ["letterbx", "did you mean letterbox"]),
        (["--loss", "blured-mse"], ["blured-mse", "did you mean blurred-mse"]),
        (["--loss", "mse:-1"], ["weight above 0"]),
        (["--sigma", "-1"], ["sigma above 0"]),
        (["--sigma", "1e300"], ["sigma above 0", "1e+300"]),
        (["--tolerance", "nan"], ["tolerance of 0 or more", "nan"]),
        (["--preview", "p.safetensors"], ["p.safetensors", ".png"]),
        ([""], ["empty name"]),
        (["-o", "no/z.safetensors"], ["no/z.safetensors", "the folder no does not exist"]),
        (["-o", "."], ["expected a file, it is a folder"]),
        (["-o", "x.png"], ["cannot write x.png", ".safetensors"]),
        (["--preview", "no/p.png"], ["the folder no does not exist"]),
        (["--preview", "p.jpg"], ["p.jpg", ".png"]),
    ],
)
def test_mistakes(invert: Steer, tmp_path: Path, arguments: list, words: list[str]) -> None:
    refused(invert(photo(tmp_path / "a.png"), *arguments), *words)


def test_no_output_replaces_a_picture_or_the_other_output(invert: Steer, tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    before = picture.read_bytes()
    refused(invert(picture, "-o", picture), "a.png", ".safetensors")
    latents = shutil.copy(picture, tmp_path / "a.safetensors")
    refused(invert(latents, "-o", latents), "a.safetensors", "nothing else here has")
    refused(invert(picture, "--preview", picture), "a.png", "nothing else here has")
    assert picture.read_bytes() == before and latents.read_bytes() == before


def test_a_place_that_cannot_be_written_fails_before_the_work(
    invert: Steer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import steer.photos

    def never(*args: object) -> None:
        raise AssertionError("worked first")

    file = photo(tmp_path / "a.png")
    monkeypatch.setattr(steer.photos, "invert", never)
    for place in (tmp_path / "no" / "z.safetensors", tmp_path, file / "z.safetensors"):
        refused(invert(file, "-o", place), str(place))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_the_machines_fault(invert: Steer, tmp_path: Path) -> None:
    refused(invert(photo(tmp_path / "a.png"), "-o", "/dev/full"), "No space left", status=1)


# --- a folder with some bad ones ---


def test_a_folder_with_bad_photos(invert: Steer, tmp_path: Path) -> None:
    """36 good photos and 4 bad: the good ones as if the bad were not there, the bad named."""
    album, clean = tmp_path / "album", tmp_path / "clean"
    for folder in (album, clean):
        folder.mkdir()
        for i in range(36):
            photo(folder / f"photo-{i:02d}.png", seed=i)
    for name, data, _ in BAD[:4]:
        (album / f"bad-{name}").write_bytes(data)
    z, z_clean = tmp_path / "z.safetensors", tmp_path / "clean.safetensors"
    ended = invert(album, "-o", z, "--json", "--batch", 8)
    assert ended.status == 3
    assert set(ended.summary["failed"]) == {str(album / f"bad-{name}") for name, _, _ in BAD[:4]}
    assert ended.err.count("\n") == 4
    for name, _, word in BAD[:4]:
        (line,) = (line for line in ended.err.splitlines() if f"bad-{name}" in line)
        assert word in line
    assert invert(clean, "-o", z_clean, "--batch", 8).status == 0
    assert torch.allclose(z_of(z), z_of(z_clean), atol=1e-4)

    # a second run touches only what is missing
    before = load(z)
    again = invert(album, "-o", z, "--json", "--batch", 8, "--resume")
    assert again.status == 3 and again.summary["reused"] == 36
    photo(album / "photo-36.png", seed=36)
    more = invert(album, "-o", z, "--json", "--batch", 8, "--resume")
    assert more.summary["reused"] == 36 and len(more.summary["pictures"]) == 37
    assert torch.equal(z_of(z)[:36], before.tensors["z"])

    # a moved path and a new time stamp are no reason to work; other contents are
    moved = shutil.copytree(album, tmp_path / "moved")
    photo(moved / "photo-00.png", seed=100)
    assert invert(moved, "-o", z, "--json", "--resume").summary["reused"] == 36


def test_resuming_with_other_options_or_weights_refuses(
    invert: Steer, steer: Steer, other: Path, tmp_path: Path
) -> None:
    file, z = photo(tmp_path / "a.png"), tmp_path / "z.safetensors"
    assert invert(file, "-o", z).status == 0
    refused(invert(file, "-o", z, "--resume", "--seed", 1), "seed", "(0, not 1)")
    refused(invert(file, "-o", z, "--resume", "--loss", "l1"), "options.loss", "not 'l1'")
    refused(steer("invert", file, "--model", other, *QUICK, "-o", z, "--resume"), "tiny", "other")


def test_a_truncated_leftover_does_not_count_as_done(invert: Steer, tmp_path: Path) -> None:
    file, z = photo(tmp_path / "a.png"), tmp_path / "z.safetensors"
    assert invert(file, "-o", z).status == 0
    whole = z.read_bytes()
    z.write_bytes(whole[:-7])
    ended = invert(file, "-o", z, "--resume", "--json")
    assert (ended.status, ended.summary["reused"]) == (0, 0)
    assert z.read_bytes() == whole


def test_a_backbone_of_ones_own(invert: Steer, tmp_path: Path) -> None:
    """The artefact says which weights, not where they lie; other ones give other codes."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = tmp_path / f"{seed}.safetensors"
        save_file(timm.create_model("test_efficientnet").state_dict(), weights)
        picture = photo(tmp_path / "a.png")
        loss = ("--loss", "perceptual", "--backbone", f"test_efficientnet={weights}")
        ended = invert(picture, *loss)
        assert ended.status == 0, ended.err
        made.append(load(ended.out, "latents"))
    names = [each.made["options"]["backbone"] for each in made]
    assert all(re.fullmatch(r"test_efficientnet#sha256=[0-9a-f]{12}", name) for name in names)
    assert names[0] != names[1]
    assert not torch.equal(made[0].tensors["z"], made[1].tensors["z"])
    refused(invert(photo(tmp_path / "b.png"), "--backbone", "test_efficientnet"), "no loss in")
