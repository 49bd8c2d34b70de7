"""Pictures in, out and laid out, against Pillow, scikit-image, PyAV and closed forms."""

from __future__ import annotations

import errno
import io
import resource
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import skimage.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from steer import images
from steer.errors import InputError, MachineError
from steer.images import find_images, fit, luminance, quantise, read_image, to_png, write_png

ROWS, COLUMNS = 24, 36


def rgb_bytes() -> np.ndarray:
    """[H, W, 3], asymmetric and many-coloured."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.dstack([x * 7, y * 10, (x * y) % 256]).astype(np.uint8)


def grey_bytes() -> np.ndarray:
    return rgb_bytes()[..., 2]


def saved(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def planes(values: np.ndarray) -> np.ndarray:
    """[H, W, C] or [H, W] bytes as [C, H, W] floats."""
    return np.atleast_3d(values).transpose(2, 0, 1).astype(np.float32) / 255


# --- reading: what the modes mean ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_colour_is_exact(kind, options):
    np.testing.assert_array_equal(
        read_image(saved(rgb_bytes(), kind, **options)), planes(rgb_bytes())
    )


def test_jpeg_is_what_scikit_image_reads(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(rgb_bytes(), "JPEG", quality=90))
    np.testing.assert_array_equal(read_image(path), planes(skimage.io.imread(path)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_grey_stays_one_channel(kind):
    flat = np.full((5, 7), 51, np.uint8)
    picture = read_image(saved(flat, kind))
    assert picture.shape == (1, 5, 7)
    assert picture.dtype == torch.float32
    np.testing.assert_allclose(picture, 0.2, atol=1e-7)


def test_one_bit():
    bits = np.eye(6, dtype=bool)
    np.testing.assert_array_equal(read_image(saved(bits, "PNG")), bits[None].astype(np.float32))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind, tmp_path):
    deep = np.linspace(0, 65535, ROWS * COLUMNS).astype(np.uint16).reshape(ROWS, COLUMNS)
    path = tmp_path / f"deep.{kind.lower()}"
    path.write_bytes(saved(deep, kind))
    np.testing.assert_array_equal(skimage.io.imread(path), deep)
    np.testing.assert_allclose(read_image(path)[0], deep / 65535, atol=1e-7)


def test_big_endian_sixteen_bit_tiff():
    """Written by hand: Pillow writes its own byte order only."""
    deep = np.array([[0, 1000], [40000, 65535]], ">u2")
    tags = [(256, 2), (257, 2), (258, 16), (259, 1), (262, 1), (273, 134), (277, 1), (278, 2)]
    tags += [(279, 8)]
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    header = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + struct.pack(">I", 0)
    tiff = header.ljust(134, b"\0") + deep.tobytes()
    np.testing.assert_allclose(read_image(tiff)[0], deep / 65535, atol=1e-7)


def test_sixteen_bit_grey_with_a_transparent_value_is_white_there():
    deep = np.array([[0, 1000], [40000, 65535]], np.uint16)
    picture = read_image(saved(deep, "PNG", transparency=1000))
    np.testing.assert_allclose(picture[0], [[0, 1], [40000 / 65535, 1]], atol=1e-7)


def test_float_tiff_in_range_is_kept_as_it_is():
    values = np.random.default_rng(0).random((4, 5), dtype=np.float32)
    np.testing.assert_array_equal(read_image(saved(values, "TIFF"))[0], values)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 1.5]], np.float32),
        np.array([[-0.1, 1.0]], np.float32),
        np.array([[0.5, np.nan]], np.float32),
        np.array([[0.5, np.inf]], np.float32),
        np.array([[0, 70_000]], np.int32),
    ],
    ids=["above", "below", "nan", "infinite", "integers"],
)
def test_thirty_two_bit_values_without_a_white_are_refused(values):
    with pytest.raises(InputError, match=r"floats in \[0, 1\], got 32-bit"):
        read_image(saved(values, "TIFF"))


def test_cmyk_tiff_against_the_closed_form():
    inks = np.random.default_rng(1).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    c, m, y, k = (inks / 255).transpose(2, 0, 1)
    expected = np.stack([(1 - c) * (1 - k), (1 - m) * (1 - k), (1 - y) * (1 - k)])
    picture = read_image(saved(Image.fromarray(inks, "CMYK"), "TIFF"))
    np.testing.assert_allclose(picture, expected, atol=1.01 / 255)


def test_cmyk_jpeg_is_not_inverted():
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture = read_image(saved(flat, "JPEG", quality=95))
    np.testing.assert_allclose(picture.mean(dim=(1, 2)), [1, 0, 0], atol=2 / 255)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a camera stores with this EXIF orientation."""
    turned = np.swapaxes(upright, 0, 1)
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: turned,
        6: turned[::-1],
        7: turned[::-1, ::-1],
        8: turned[:, ::-1],
    }[orientation].copy()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 0.1),
    ],
    ids=["png", "tiff", "webp", "jpeg"],
)
def test_exif_orientation(kind, options, tolerance, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    upright = rgb_bytes()
    upright[..., 2] = 0
    data = saved(stored(upright, orientation), kind, exif=exif, **options)
    np.testing.assert_allclose(read_image(data), planes(upright), atol=tolerance)


def test_odd_exif_tags_do_not_keep_a_photo_out():
    """A resolution typed as a byte: ImageOps.exif_transpose fails to write it anew."""
    exif = Image.Exif()
    exif[0x112], exif[0x11A] = 6, 72.0
    odd = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x01")
    assert odd != exif.tobytes()
    picture = read_image(saved(stored(rgb_bytes(), 6), "PNG", exif=odd))
    np.testing.assert_array_equal(picture, planes(rgb_bytes()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(kind):
    alpha = np.tile(np.linspace(0, 255, COLUMNS).astype(np.uint8), (ROWS, 1))
    picture = Image.fromarray(np.dstack([rgb_bytes(), alpha]))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    got = read_image(saved(picture, kind, **options))
    a = alpha / 255
    np.testing.assert_allclose(got, planes(rgb_bytes()) * a + 1 - a, atol=1e-6)
    white = Image.new("RGBA", picture.size, "white")
    pillow = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    np.testing.assert_allclose(got, planes(pillow), atol=1.01 / 255)


def test_grey_with_alpha_stays_grey():
    pairs = Image.fromarray(np.array([[[0, 0], [0, 255], [100, 51]]], np.uint8), "LA")
    expected = [[1, 0, 100 / 255 * 0.2 + 0.8]]
    np.testing.assert_allclose(read_image(saved(pairs, "PNG"))[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("picture", "transparency"),
    [
        (Image.fromarray(np.array([[10, 20]], np.uint8)), 10),
        (Image.fromarray(np.array([[[10, 0, 0], [20, 20, 20]]], np.uint8)), (10, 0, 0)),
    ],
    ids=["grey", "rgb"],
)
def test_a_transparent_value_is_white(picture, transparency):
    got = read_image(saved(picture, "PNG", transparency=transparency))
    np.testing.assert_allclose(got[:, 0, 0], 1)
    np.testing.assert_allclose(got[:, 0, 1], 20 / 255)


def palette_picture() -> Image.Image:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 128, 0, 10, 20, 30])
    return picture


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF"])
def test_palettes_become_rgb(kind):
    expected = planes(np.array([[[255, 0, 0], [0, 128, 0], [10, 20, 30]]], np.uint8))
    np.testing.assert_array_equal(read_image(saved(palette_picture(), kind)), expected)


@pytest.mark.parametrize(
    ("transparency", "second"),
    [(1, [1, 1, 1]), (b"\xff\x33\xff", [0.8, 0.8 + 128 / 255 * 0.2, 0.8])],
    ids=["one-entry", "alpha-per-entry"],
)
def test_palettes_with_transparency(transparency, second):
    got = read_image(saved(palette_picture(), "PNG", transparency=transparency))
    np.testing.assert_allclose(got[:, 0, 0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(got[:, 0, 1], second, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})]
)
def test_animations_and_pages_give_their_first_frame(kind, options):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert read_image(data).amax(dim=(1, 2)).tolist() == [1, 0, 0]


def test_one_pixel():
    assert read_image(saved(np.array([[51]], np.uint8), "PNG")).tolist() == [[[pytest.approx(0.2)]]]


# --- reading: what is wrong ----------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size by its header, with a few bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


BAD_FILES = {
    "empty": (b"", r"got an empty file\."),
    "text": (b"not a picture\n" * 20, r"got text\."),
    "html": (b"<!DOCTYPE html><html></html>", r"got text\."),
    "bytes": (bytes(range(256)), r"got unknown bytes\."),
    "other-format": (saved(rgb_bytes(), "BMP"), r"got unknown bytes\."),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"got text\."),
    "zero-size": (png_header(0, 0), r"got a PNG whose header is damaged or says zero pixels\."),
    "zero-width": (png_header(0, 5), r"got a PNG whose header is damaged or says zero pixels\."),
    "signature-only": (b"\xff\xd8\xff", r"got a JPEG whose header is damaged"),
    "truncated": (saved(rgb_bytes(), "PNG")[:-60], r"got a damaged or truncated one"),
    "no-end": (saved(rgb_bytes(), "PNG")[:-12], r"got a damaged or truncated one"),
    "bomb": (png_header(20_000, 20_000), r"expected at most 100 million pixels"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_in_one_sentence(case, tmp_path):
    data, came = BAD_FILES[case]
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=came) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    assert message.endswith(".")
    assert caught.value.exit_status == 2


def test_bytes_are_called_by_their_name():
    with pytest.raises(InputError, match=r"^standard input: expected a PNG"):
        read_image(b"", name="standard input")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png: it does not exist\."):
        read_image(tmp_path / "nowhere.png")


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="expected a file, it is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("code", "error"), [(errno.EACCES, InputError), (errno.EIO, MachineError)], ids=["mode", "disk"]
)
def test_a_file_that_cannot_be_read(code, error, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(code, "reason")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(error, match=r"cannot read .*a\.png: .*reason"):
        read_image(tmp_path / "a.png")


def webp_header(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<I", 16) + b"\x2f" + struct.pack("<I", bits) + bytes(11)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def jpeg_header(width: int, height: int) -> bytes:
    data = saved(np.zeros((8, 8), np.uint8), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def gif_header(width: int, height: int) -> bytes:
    data = saved(np.zeros((8, 8), np.uint8), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def tiff_header(width: int, height: int) -> bytes:
    data = bytearray(saved(np.zeros((8, 9), np.uint8), "TIFF"))
    for tag, old, new in ((256, 9, width), (257, 8, height)):
        at = data.index(struct.pack("<H", tag))
        size = {3: "<H", 4: "<I"}[struct.unpack_from("<H", data, at + 2)[0]]
        assert struct.unpack_from(size, data, at + 8)[0] == old
        struct.pack_into(size, data, at + 8, new)
    return bytes(data)


@pytest.mark.parametrize(
    ("header", "side"),
    [
        (png_header, 20_000),
        (jpeg_header, 20_000),
        (gif_header, 20_000),
        (tiff_header, 20_000),
        (webp_header, 16_383),
    ],
    ids=["png", "jpeg", "gif", "tiff", "webp"],
)
@pytest.mark.parametrize("share", [1, 0.55], ids=["Pillow refuses", "Pillow warns"])
def test_a_bomb_is_refused_from_its_header(header, side, share, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # no pixel may be asked for
    height = int(side * share * (0.8 if side > 16_383 else 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"^the picture: expected at most 100 million pixels"):
            read_image(header(side, height))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_image(saved(np.zeros((10, 10), np.uint8), "PNG")).shape == (1, 10, 10)
    with pytest.raises(InputError, match="its header claims 11 x 10"):
        read_image(saved(np.zeros((10, 11), np.uint8), "PNG"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_a_cut_file_is_refused_or_whole(kind, options):
    data = saved(rgb_bytes(), kind, **options)
    whole, refused = read_image(data), 0
    for length in range(len(data)):
        try:
            assert torch.equal(read_image(data[:length]), whole)
        except InputError:
            refused += 1
    assert refused > 0.9 * len(data)


def test_a_flipped_bit_in_a_png_is_refused_or_harmless():
    data = saved(rgb_bytes()[:6, :6], "PNG")
    whole, refused = read_image(data), 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert torch.equal(read_image(bytes(flipped)), whole)
        except InputError:
            refused += 1
    assert refused > 0.9 * 8 * len(data)


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 278, 279, 320])
def test_mistyped_tiff_tags(tag):
    """Pillow meets these with OSError, SyntaxError, ValueError, TypeError or OverflowError."""
    data = saved(Image.fromarray(grey_bytes()).convert("P"), "TIFF")
    entry = data.index(struct.pack("<H", tag), struct.unpack_from("<I", data, 4)[0])
    refused = 0
    for kind in range(18):
        for count, value in ((1, 0), (1, 2**32 - 1), (2, 1), (2**31, 8)):
            damaged = bytearray(data)
            struct.pack_into("<HII", damaged, entry + 2, kind, count, value)
            try:
                read_image(bytes(damaged))
            except InputError:
                refused += 1
    assert refused > 0


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_gives_a_picture_or_a_sentence(kind, changes):
    exif = Image.Exif()
    exif[0x112] = 6
    data = bytearray(saved(rgb_bytes()[:8, :8], kind, **({} if kind == "GIF" else {"exif": exif})))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        picture = read_image(bytes(data))
    except InputError:
        return
    assert picture.ndim == 3
    assert 0 <= picture.min() <= picture.max() <= 1


# --- finding -------------------------------------------------------------------------------------


def test_find_images_keeps_files_and_opens_folders(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.tiff", "notes.txt", ".hidden.png", ".git/d.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "set" / "folder.png").mkdir()
    (tmp_path / "strange.dat").touch()
    found = find_images([str(tmp_path / "strange.dat"), tmp_path / "set"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["strange.dat", "set/a.png", "set/b.JPG", "set/sub/c.tiff"]


def test_find_images_in_nothing(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert find_images([]) == []
    with pytest.raises(InputError, match=r"expected pictures \(\.png, .*\) in it, found none"):
        find_images([tmp_path])
    with pytest.raises(InputError, match=r"nowhere: it does not exist"):
        find_images([tmp_path / "nowhere"])


def test_an_unreadable_folder_is_not_skipped_in_silence(tmp_path, monkeypatch):
    def closed(folder, onerror):
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder)))

    monkeypatch.setattr(images.os, "walk", closed)
    with pytest.raises(InputError, match="no permission"):
        find_images([tmp_path])


# --- fitting -------------------------------------------------------------------------------------


def pillow_resized(picture: torch.Tensor, height: int, width: int) -> np.ndarray:
    bicubic = Image.Resampling.BICUBIC
    resized = [
        np.asarray(Image.fromarray(plane.numpy()).resize((width, height), bicubic))
        for plane in picture
    ]
    return np.clip(np.stack(resized), 0, 1)


@pytest.mark.parametrize("size", [(16, 16), (64, 80), (7, 50), (1, 1)])
def test_crop_is_pillows_antialiased_resize_of_the_centre(size):
    picture = torch.rand(3, 40, 61, generator=torch.Generator().manual_seed(0))
    height, width = size
    h, w = min(40, round(61 * height / width)), min(61, round(40 * width / height))
    left, top = (61 - w) // 2, (40 - h) // 2
    centre = picture[:, top : top + h, left : left + w]
    expected = pillow_resized(centre, height, width)
    np.testing.assert_allclose(fit(picture, 3, height, width), expected, atol=1e-5)


def test_crop_keeps_the_centre_exactly_where_nothing_is_resized():
    picture = torch.rand(3, 10, 16)
    torch.testing.assert_close(fit(picture, 3, 10, 10), picture[:, :, 3:13], rtol=0, atol=0)


def test_letterbox_keeps_everything_on_the_borders_colour():
    picture = torch.full((3, 20, 40), 0.25)
    picture[:, 5:15, 10:30] = 1.0
    boxed = fit(picture, 3, 32, 32, "letterbox")
    np.testing.assert_allclose(boxed[:, 8:24], pillow_resized(picture, 16, 32), atol=1e-5)
    picture[:, 0, :9] = 1.0  # a speck on the border is no majority
    assert (fit(picture, 3, 32, 32, "letterbox")[:, :8] == 0.25).all()
    assert (boxed[:, :8] == 0.25).all()
    assert (boxed[:, 24:] == 0.25).all()


def test_channels():
    picture = torch.rand(3, 8, 8)
    torch.testing.assert_close(fit(picture, 1, 8, 8)[0], luminance(picture[None])[0])
    grey = torch.rand(1, 8, 8)
    torch.testing.assert_close(fit(grey, 3, 8, 8), grey.expand(3, 8, 8))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    wanted=st.sampled_from([1, 3]),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    how=st.sampled_from(["crop", "letterbox"]),
    value=st.floats(0, 1, width=32),
)
def test_fit_takes_every_size_and_keeps_a_flat_picture_flat(
    channels, wanted, height, width, size, how, value
):
    fitted = fit(torch.full((channels, height, width), value), wanted, *size, how)
    assert fitted.shape == (wanted, *size)
    torch.testing.assert_close(fitted, torch.full_like(fitted, value), rtol=0, atol=1e-6)


def test_fit_stays_in_range_where_bicubic_overshoots():
    checks = torch.zeros(1, 12, 12)
    checks[:, ::3, ::3] = 1
    fitted = fit(checks, 1, 50, 50)
    assert fitted.min() == 0
    assert fitted.max() == 1


def test_fit_refuses_what_it_does_not_know():
    with pytest.raises(InputError, match="unknown fit 'cropp': did you mean crop"):
        fit(torch.rand(3, 4, 4), 3, 4, 4, "cropp")
    with pytest.raises(InputError, match="1 or 3 channels to fit to, got 4"):
        fit(torch.rand(3, 4, 4), 4, 4, 4)


def test_luminance_is_the_luma_of_scikit_images_ycbcr():
    pictures = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    luma = skimage.color.rgb2ycbcr(pictures.permute(0, 2, 3, 1).numpy())[..., 0]
    np.testing.assert_allclose(luminance(pictures), (luma - 16) / 219, atol=1e-9)
    assert torch.equal(luminance(pictures[:, :1]), pictures[:, 0])


def test_luminance_has_a_gradient():
    pictures = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(luminance, pictures)


# --- writing -------------------------------------------------------------------------------------

SHAPES = st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 2**31), spread=st.sampled_from([1.0, 3.0]))
def test_what_is_written_is_read_back(shape, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    picture = (torch.rand(shape, generator=generator) - 0.5) * spread + 0.5
    data = to_png(picture)
    assert torch.equal(read_image(data), quantise(picture))
    assert data == to_png(picture.clone())
    np.testing.assert_array_equal(
        planes(skimage.io.imread(io.BytesIO(data))), quantise(picture).numpy()
    )


def test_quantise_against_numpy_and_twice():
    values = torch.linspace(-0.5, 1.5, 1001)
    once = quantise(values)
    np.testing.assert_array_equal(
        once, np.round(np.clip(values.numpy(), 0, 1) * np.float32(255)) / np.float32(255)
    )
    assert torch.equal(quantise(once), once)
    assert torch.equal(quantise(torch.ones(2, dtype=torch.bfloat16)), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_written(dtype):
    picture = torch.rand(3, 4, 4).to(dtype)
    np.testing.assert_allclose(
        read_image(to_png(picture)), picture.float(), atol=0.5 / 255 + 1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(4, 4), r"expected a picture \[1 or 3, H, W\], got \[4, 4\]"),
        (torch.zeros(2, 4, 4), r"got \[2, 4, 4\]"),
        (torch.zeros(3, 0, 4), r"got \[3, 0, 4\]"),
        (torch.full((1, 2, 2), float("nan")), "got NaN or infinite values"),
        (torch.full((1, 2, 2), float("inf")), "got NaN or infinite values"),
    ],
    ids=["no-channels", "two-channels", "empty", "nan", "infinite"],
)
def test_what_is_no_picture_is_not_written(picture, message):
    with pytest.raises(InputError, match=message):
        to_png(picture)


def test_write_png(tmp_path):
    picture = torch.rand(3, 5, 6)
    write_png(tmp_path / "a.png", picture)
    assert (tmp_path / "a.png").read_bytes() == to_png(picture)
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.jpg", "a.gif"])
def test_write_png_does_not_lie_about_the_format(name, tmp_path):
    with pytest.raises(InputError, match=r"expected a name in \.png"):
        write_png(tmp_path / name, torch.zeros(1, 2, 2))


def test_write_png_nowhere(tmp_path):
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        write_png(tmp_path / "nowhere" / "a.png", torch.zeros(1, 2, 2))


def test_a_full_disk_leaves_the_old_picture_and_nothing_beside(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MachineError, match="No space left on device"):
        write_png(path, torch.zeros(1, 2, 2))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# --- real photos ---------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_photos_against_scikit_image(shared):
    paths = find_images([shared / "data" / "photos"])
    assert len(paths) == 9
    for path in paths:
        picture = read_image(path)
        np.testing.assert_array_equal(picture, planes(skimage.io.imread(path)[..., :3]))
        fitted = fit(picture, 3, 64, 64)
        assert fitted.shape == (3, 64, 64)
        torch.testing.assert_close(
            fitted.mean(), fit(picture, 3, 256, 256).mean(), rtol=0, atol=0.005
        )
