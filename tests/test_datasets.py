"""Procedural sets against their own ground truth by independent measures; folders and zips."""

from __future__ import annotations

import errno
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steer.datasets import Factors, GreySprites, Sprites, TexturedSprites, datasets, open_dataset
from steer.errors import InputError
from steer.measures import Measure, properties
from steer.transforms import transforms

INDICES = torch.arange(24)
KINDS = (Sprites, GreySprites, TexturedSprites)


def middle(sprites: Sprites, n: int = 1, **changed: float) -> Factors:
    """Factors all 0 (a square) but for what is given."""
    values = {name: torch.full((n,), float(changed.get(name, 0.0))) for name in vars(sprites.half)}
    return Factors(**values)


# --- sprites ---


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(0, 1 << 45), min_size=1, max_size=5), st.randoms())
def test_item_i_is_always_the_same(kind, indices, random):
    sprites = kind()
    whole = sprites.pictures(torch.tensor(indices))
    order = random.sample(range(len(indices)), len(indices))
    shuffled = kind().pictures(torch.tensor([indices[i] for i in order]))
    assert torch.allclose(shuffled, whole[order], atol=1e-6)
    alone = torch.cat([sprites.pictures(torch.tensor([i])) for i in indices])
    assert torch.allclose(alone, whole, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_what_the_set_says(kind):
    sprites = kind()
    pictures = sprites.pictures(INDICES)
    assert pictures.shape == (24, *sprites.shape) and pictures.dtype == torch.float32
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert sprites.size is None and datasets.get(sprites.name) is kind
    assert len({picture.numpy().tobytes() for picture in pictures}) == 24


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_uniform_and_independent(kind):
    sprites = kind()
    factors = sprites.factors(torch.arange(3000))
    columns = []
    for name, half in vars(sprites.half).items():
        values = getattr(factors, name).double().numpy()
        if name == "shape":
            assert np.bincount(values.astype(int)).min() > 900
        elif half:
            even = np.linspace(-1, 1, 3000) * half.item()
            assert np.abs(np.sort(values) - even).max() < 0.05 * half.item()
        else:
            assert (values == 0).all()
            continue
        columns.append(values)
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.06


@pytest.mark.parametrize("kind", [Sprites, TexturedSprites])
def test_measured_factors_are_the_ground_truth(kind):
    sprites = kind()
    factors = sprites.factors(torch.arange(90))
    names = ["translate-x", "translate-y", "rotate"]
    seen = Measure(names, "background")(sprites.pictures(torch.arange(90)))
    # a heart's barycentre is not the middle it is drawn around, but stays close
    heart, pixel = factors.shape == 2, 1 / sprites.shape[1]
    for column, truth in enumerate((factors.x, factors.y)):
        off = (seen[:, column] - truth).abs()
        assert off[~heart].max() < pixel / 4 and off[heart].max() < 0.03
    turned = properties.get("rotate").difference(seen[:, 2], factors.angle.double()).abs()
    assert turned[~heart].max() < 3


def test_brightness_hue_and_zoom_move_what_is_measured_as_much():
    """From the middle, each factor changes its measure by its own amount."""
    sprites = Sprites()
    for name, factor, amount in (
        ("translate-x", "x", 0.2), ("translate-y", "y", -0.2), ("zoom", "zoom", 0.3),
        ("rotate", "angle", 30.0), ("brightness", "brightness", 0.1), ("hue", "hue", 40.0),
    ):  # fmt: skip
        measure = Measure([name], "background")
        for shape in (0, 1):
            before = measure(sprites.draw(middle(sprites, shape=shape)))
            after = measure(sprites.draw(middle(sprites, shape=shape, **{factor: amount})))
            change = properties.get(name).difference(after, before).item()
            assert change == pytest.approx(amount, rel=0.05), (name, shape)


@pytest.mark.parametrize("factor", ["x", "y", "zoom", "brightness", "hue"])
def test_a_factor_is_what_the_transform_does(factor):
    """Drawing a factor shifted is drawing it and then transforming the picture."""
    name = {"x": "translate-x", "y": "translate-y"}.get(factor, factor)
    amount = {"x": 0.125, "y": -0.125, "zoom": 0.3, "brightness": 0.1, "hue": 40.0}[factor]
    sprites = Sprites()
    drawn = sprites.draw(middle(sprites, **{factor: amount}))
    warped, defined = transforms.get(name)(sprites.draw(middle(sprites)), amount)
    assert ((drawn - warped) * defined).abs().mean() < 0.004


def test_areas_of_the_shapes():
    """Coverage against the closed forms: a square of half-side 0.85, an ellipse 1 x 0.8."""
    sprites = GreySprites()
    factors = middle(sprites, n=2)
    factors = Factors(**{**vars(factors), "shape": torch.tensor([0.0, 1.0])})
    areas = sprites.masks(factors).mean(dim=(1, 2))
    r = sprites.radius**2
    assert areas.tolist() == pytest.approx([4 * 0.85**2 * r, math.pi * 0.8 * r], rel=0.02)


def test_grey_sprites_are_white_on_black():
    pictures = GreySprites().pictures(INDICES)
    assert (pictures.amax(dim=(1, 2, 3)) == 1).all() and (pictures.amin(dim=(1, 2, 3)) == 0).all()
    assert ((pictures > 0) & (pictures < 1)).float().mean() < 0.1


@pytest.mark.parametrize("kind", [Sprites, TexturedSprites])
def test_no_colour_is_cut_off(kind):
    sprites = kind()
    contrasts = getattr(kind, "contrasts", (0, 0))[::-1]
    for brightness in (-0.15, 0.15):
        for hue in np.linspace(-60, 60, 13):
            both = sprites.paint(middle(sprites, brightness=brightness, hue=hue))
            for colour, contrast in zip(both, contrasts, strict=True):
                assert contrast <= colour.min() and colour.max() <= 1 - contrast


def test_textures_are_fine_and_do_not_change_what_is_measured():
    """Spectra by NumPy: the energy lies around the waves' cycles in a picture, none at the mean."""
    textured = TexturedSprites()
    indices = torch.arange(256)
    for drawn, contrast in zip(textured.textures(indices), textured.contrasts[::-1], strict=True):
        assert 0.5 * contrast < drawn.abs().max() <= contrast
        energy = np.abs(np.fft.fft2(drawn[:, 0].numpy())) ** 2
        along = np.fft.fftfreq(32, 1 / 32)
        cycles = np.hypot(along[:, None], along)
        slow, fast = textured.cycles
        around = (slow - 2 < cycles) & (cycles < fast + 2)
        assert energy[:, around].sum() > 0.9 * energy.sum()
    names = ["translate-x", "translate-y", "zoom", "rotate", "brightness", "hue"]
    measure = Measure(names, "background")
    pictures, smooth = textured.pictures(indices), textured.draw(textured.factors(indices))
    off = (measure(pictures) - measure(smooth)).abs()
    for most, column in zip((0.01, 0.01, 0.05, 5.0, 0.003, 0.01), off.unbind(1), strict=True):
        assert column.max() < most


def test_both_textures_are_seen_where_they_belong():
    """The contrast within the object and within the background, against the closed form: a mean of
    three cosines has the variance 1/6."""
    textured = TexturedSprites()
    indices = torch.arange(256)
    factors = textured.factors(indices)
    masks = textured.masks(factors)[:, None].expand(-1, 3, -1, -1)
    change = textured.pictures(indices) - textured.draw(factors)
    for inside, contrast in zip((masks == 1, masks == 0), textured.contrasts, strict=True):
        assert change[inside].std().item() == pytest.approx(contrast / math.sqrt(6), rel=0.05)


# --- folders and zips ---


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five pictures of several sizes and modes, one in a subfolder."""
    noise = np.random.default_rng(0)
    made = tmp_path / "pictures"
    (made / "more").mkdir(parents=True)
    for i, name in enumerate(["a.png", "b.png", "c.jpg", "more/d.png", "more/e.webp"]):
        pixels = noise.integers(0, 255, (40 + i, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels[..., 0] if i == 1 else pixels).save(made / name)
    (made / "notes.txt").write_text("not a picture")
    return made


@pytest.fixture
def archive(folder, tmp_path) -> Path:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for file in sorted(folder.rglob("*.*")):
            made.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_and_a_zip_hold_the_same_pictures(folder, archive, channels):
    from_folder = open_dataset(str(folder), 32, channels)
    from_zip = open_dataset(str(archive), 32, channels)
    assert from_folder.size == from_zip.size == 5
    assert from_folder.shape == from_zip.shape == (channels, 32, 32)
    everything = from_folder.pictures(torch.arange(5))
    assert everything.shape == (5, channels, 32, 32)
    assert torch.equal(everything, from_zip.pictures(torch.arange(5)))
    assert torch.equal(everything[[3, 1]], from_folder.pictures(torch.tensor([3, 1])))
    assert from_folder.name == from_zip.name


def test_pictures_are_fitted_not_squeezed(tmp_path):
    """A wide picture is cropped at its middle: the square there stays a square."""
    pixels = np.zeros((32, 96), np.uint8)
    pixels[8:24, 40:56] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = open_dataset(str(tmp_path), 32, 1).pictures(torch.zeros(1, dtype=torch.long))
    wanted = np.zeros((32, 32), np.float32)
    wanted[8:24, 8:24] = 1
    assert np.allclose(picture[0, 0].numpy(), wanted, atol=0.01)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"expected pictures .* found none"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "no pictures"])
def test_a_bad_zip(archive, tmp_path, damage):
    data = archive.read_bytes()
    bad = {
        "truncated": data[: len(data) // 2],
        "flipped": data[:200] + bytes(255 - b for b in data[200:260]) + data[260:],
        "text": b"hello",
        "empty": b"",
    }
    if damage == "no pictures":
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("notes.txt", "nothing")
    else:
        archive.write_bytes(bad[damage])
    with pytest.raises(InputError, match=r"pictures\.zip: expected") as caught:
        open_dataset(str(archive))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [0, 1])
def test_a_zip_that_points_before_its_beginning(archive, entry):
    """The directory's size (12 bytes into the end record) or its place (16), made too large."""
    data = bytearray(archive.read_bytes())
    at = data.rindex(b"PK\x05\x06") + (12, 16)[entry]
    data[at : at + 3] = b"\xff\xff\x0f"
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"pictures\.zip: "):
        open_dataset(str(archive))


def test_a_zip_that_may_not_be_read(archive, monkeypatch):
    def forbidden(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", forbidden)
    with pytest.raises(InputError, match=r"cannot read .*pictures\.zip: no permission"):
        open_dataset(str(archive))


def test_hidden_files_of_a_zip_are_left_out(archive):
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("__MACOSX/more/._d.png", b"a Mac's notes on d.png")
    assert open_dataset(str(archive)).size == 5


def test_a_bad_picture_in_a_zip_is_named(archive):
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr("more/z.png", b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(InputError, match=r"more/z\.png"):
        open_dataset(str(archive))


@pytest.mark.parametrize("source", ["sprit", "nowhere/at/all", "a.zip"])
def test_what_is_no_data_set(source):
    with pytest.raises(
        InputError, match=r"pictures or one of one-object, scenes, sprites, sprites-g"
    ):
        open_dataset(source)
