"""Pictures: read them, fit them to a generator, write them, lay them out for people to look at."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import struct
import warnings
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional

from steer.errors import InputError, MachineError
from steer.files import disk_error, write_atomically
from steer.registry import unknown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
REC_601 = (0.299, 0.587, 0.114)

_SIGNATURES = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
# Not ImageOps.exif_transpose: it writes the other tags anew, and fails on odd ones.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged bytes.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, struct.error)


# --- reading -------------------------------------------------------------------------------------


def read_image(source: str | Path | bytes, name: str = "") -> Tensor:
    """A picture file, or its bytes, as float [3, H, W], or [1, H, W] of a grey one, in [0, 1].

    The first frame of an animation, upright by its EXIF tag, transparency laid on white, palettes
    and CMYK turned to RGB, 16-bit grey divided by 65535. Colour profiles are not applied, and
    16-bit colour keeps its upper 8 bits. `name` is what errors call it, by default the path.

    Raises InputError for what is missing, damaged, over 100 million pixels (known from the header
    alone), or none of PNG, JPEG, WebP, GIF and TIFF.

    >>> read_image(to_png(torch.full((3, 2, 4), 0.5))).shape
    torch.Size([3, 2, 4])
    >>> read_image(b"<html>", name="cat.png")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: cat.png: expected a PNG, JPEG, WebP, GIF or TIFF picture, got text.
    """
    if isinstance(source, bytes):
        return _decode(source, name or "the picture")
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise disk_error("read", source, error) from error
    return _decode(data, name or str(source))


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given; folders replaced by the pictures in and under them, sorted by name.

    A picture is known by its suffix; hidden files are left out. Raises InputError for a path that
    does not exist or a folder without pictures.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.png", "a.jpg", "notes.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_images([folder])]
    ['a.jpg', 'b.png']
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if not str(given):  # Path("") would be the current folder
            raise InputError("expected pictures or folders of them, got an empty name.")
        if path.is_dir():
            found += _pictures_under(path)
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"cannot read {path}: it does not exist.")
    return found


def _pictures_under(folder: Path) -> list[Path]:
    def unreadable(error: OSError) -> None:
        raise disk_error("read", error.filename, error) from error

    found = []
    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [Path(root, each) for each in names if is_picture(each)]
    if not found:
        raise InputError(f"{folder}: expected pictures ({', '.join(SUFFIXES)}) in it, found none.")
    return sorted(found)


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture that is not hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _decode(data: bytes, name: str) -> Tensor:
    with warnings.catch_warnings():  # Pillow's remarks on odd headers and large pictures
        warnings.simplefilter("ignore")
        try:
            image = _open(data, name)
        except Image.UnidentifiedImageError as error:
            raise InputError(
                f"{name}: expected a PNG, JPEG, WebP, GIF or TIFF picture, got {_kind(data)}."
            ) from error
        except Image.DecompressionBombError as error:
            raise _too_large(name, "more") from error
        except _DAMAGED as error:
            raise InputError(
                f"{name}: expected a whole picture, got a damaged or truncated one ({error})."
            ) from error
        return _to_tensor(image, name)


def _open(data: bytes, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width} x {image.height}")
    image.verify()  # a PNG's checksums, which loading does not look at; spends the image
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    image.load()  # turns a TIFF upright, and drops its tag
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _too_large(name: str, claim: str) -> InputError:
    limit = f"{MAX_PIXELS // 1_000_000} million"
    return InputError(f"{name}: expected at most {limit} pixels, its header claims {claim}.")


def _kind(data: bytes) -> str:
    """What bytes that are no picture seem to be."""
    if not data:
        return "an empty file"
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return f"a {kind} whose header is damaged or says zero pixels"
    return "unknown bytes" if b"\0" in data[:512] else "text"


def _to_tensor(image: Image.Image, name: str) -> Tensor:
    if image.mode.startswith("I;16"):
        return _deep_grey(np.asarray(image), image.info.get("transparency"))
    if image.mode in ("I", "F"):
        return _unbounded_grey(np.asarray(image), name)
    grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return _planes(np.asarray(image.convert("L" if grey else "RGB")))
    planes = _planes(np.asarray(image.convert("LA" if grey else "RGBA")))
    colour, alpha = planes[:-1], planes[-1:]
    return colour * alpha + (1 - alpha)


def _planes(values: np.ndarray) -> Tensor:
    """Bytes [H, W] or [H, W, C] to floats [C, H, W]."""
    planes = torch.from_numpy(np.atleast_3d(values).transpose(2, 0, 1).copy())
    return planes.float().div_(255)


def _deep_grey(values: np.ndarray, transparent: int | None) -> Tensor:
    grey = torch.from_numpy(values.astype(np.float32) / 65535)
    if transparent is not None:
        grey[torch.from_numpy(values == transparent)] = 1.0
    return grey[None]


def _unbounded_grey(values: np.ndarray, name: str) -> Tensor:
    if values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
        raise InputError(
            f"{name}: expected 8 or 16 bits a pixel, or floats in [0, 1], got 32-bit values from "
            f"{values.min():g} to {values.max():g}."
        )
    return torch.from_numpy(values.copy())[None]


# --- fitting -------------------------------------------------------------------------------------


def fit(picture: Tensor, channels: int, height: int, width: int, how: str = "crop") -> Tensor:
    """A picture [1 or 3, H, W] made [channels, height, width], whatever its size and aspect.

    "crop" keeps the largest centred part of the wanted aspect; "letterbox" keeps everything and
    fills the rest with the median colour of the picture's border. Resized by bicubic interpolation
    with antialiasing (Pillow's BICUBIC), clamped to [0, 1]. Grey is Rec. 601 luma.

    >>> fit(torch.rand(3, 30, 40), 1, 64, 64).shape
    torch.Size([1, 64, 64])
    """
    if how not in FITS:
        raise unknown("fit", how, FITS)
    if channels not in (1, 3):
        raise InputError(f"expected a picture of 1 or 3 channels to fit to, got {channels}.")
    if channels == 1:
        picture = luminance(picture[None])
    return FITS[how](picture, height, width).expand(channels, -1, -1).contiguous()


def luminance(pictures: Tensor) -> Tensor:
    """Rec. 601 luma of pictures [B, 3, H, W], or grey ones [B, 1, H, W] as they are: [B, H, W].

    >>> luminance(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
    tensor([[[0.2990]]])
    """
    if pictures.shape[1] == 1:
        return pictures[:, 0]
    return torch.einsum("bchw,c->bhw", pictures, pictures.new_tensor(REC_601))


def _crop(picture: Tensor, height: int, width: int) -> Tensor:
    _, h, w = picture.shape
    h_kept = min(h, max(1, round(w * height / width)))
    w_kept = min(w, max(1, round(h * width / height)))
    top, left = (h - h_kept) // 2, (w - w_kept) // 2
    return _resize(picture[:, top : top + h_kept, left : left + w_kept], height, width)


def _letterbox(picture: Tensor, height: int, width: int) -> Tensor:
    c, h, w = picture.shape
    scale = min(height / h, width / w)
    inner = _resize(picture, max(1, round(h * scale)), max(1, round(w * scale)))
    edges = (picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1])
    fill = torch.cat(edges, dim=1).median(dim=1).values
    out = fill.view(c, 1, 1).repeat(1, height, width)
    top, left = (height - inner.shape[1]) // 2, (width - inner.shape[2]) // 2
    out[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return out


def _resize(picture: Tensor, height: int, width: int) -> Tensor:
    resized = functional.interpolate(
        picture[None], size=(height, width), mode="bicubic", antialias=True
    )
    return resized[0].clamp(0, 1)


FITS = {"crop": _crop, "letterbox": _letterbox}


# --- writing -------------------------------------------------------------------------------------


def quantise(pictures: Tensor) -> Tensor:
    """The values that an 8-bit PNG of these pictures will hold.

    >>> quantise(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.5020, 1.0000])
    """
    precise = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    return precise.clamp(0, 1).mul(255).round().div(255)


def to_png(picture: Tensor) -> bytes:
    """A picture [1 or 3, H, W] as the bytes of an 8-bit PNG, the same bytes each time.

    Raises InputError for another shape, or values that are not numbers.

    >>> to_png(torch.zeros(1, 8, 8))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    _to_pillow(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: str | Path, picture: Tensor) -> None:
    """`to_png` into a file, whole or not at all.

    Raises InputError for a path that names another format or cannot be written, and MachineError
    where the disk fails.
    """
    if Path(path).suffix.lower() not in ("", ".png"):
        raise InputError(f"cannot write {path}: expected a name in .png, pictures leave as PNG.")
    write_atomically(Path(path), to_png(picture))


def _to_pillow(picture: Tensor) -> Image.Image:
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or not picture.numel():
        raise InputError(f"expected a picture [1 or 3, H, W], got {list(picture.shape)}.")
    if not picture.isfinite().all():
        raise InputError("expected a picture of numbers in [0, 1], got NaN or infinite values.")
    values = quantise(picture.detach().cpu()).mul(255).round().to(torch.uint8).numpy()
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


# --- animations ----------------------------------------------------------------------------------


def write_animation(path: str | Path, frames: list[Tensor], fps: float = 10) -> None:
    """Frames [C, H, W] of one size as a looping GIF or an H.264 MP4, by the suffix of `path`.

    Frames under 256 pixels are enlarged by a whole factor so that they play well. A GIF counts
    time in hundredths of a second (50 frames a second at most) and shows equal neighbours as one
    longer frame. An MP4's odd sizes grow by one repeated line.

    Raises InputError for another suffix, no frames, frames of several sizes, or a rate outside
    [0.1, 100]; MachineError where this build of FFmpeg has no H.264; else as `write_png`.
    """
    encode = _ENCODERS.get(Path(path).suffix.lower())
    if encode is None:
        raise InputError(f"cannot write {path}: expected a name in {' or '.join(_ENCODERS)}.")
    if not 0.1 <= fps <= 100:
        raise InputError(f"expected 0.1 to 100 frames a second, got {fps}.")
    sizes = {tuple(frame.shape) for frame in frames}
    if len(sizes) != 1:
        raise InputError(f"expected frames of one size for {path}, got {sorted(sizes) or 'none'}.")
    images = [_to_pillow(frame) for frame in frames]
    factor = math.ceil(256 / max(images[0].size))
    write_atomically(Path(path), encode([_enlarged(image, factor) for image in images], fps))


def _gif(images: list[Image.Image], fps: float) -> bytes:
    images = [image if image.mode == "L" else _paletted(image) for image in images]
    options = {"duration": max(2, round(100 / fps)) * 10, "loop": 0}  # milliseconds; for ever
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


def _paletted(image: Image.Image) -> Image.Image:
    """Its own 256 colours, chosen from at most 128 x 128 pixels.

    Measured on a cross-fade of two photos: 36 dB against 32 with one palette for all frames and 29
    with dithering, and the least flicker.
    """
    sample = image.copy()
    sample.thumbnail((128, 128), Image.Resampling.NEAREST)
    palette = sample.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def _mp4(images: list[Image.Image], fps: float) -> bytes:
    import av

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"}
            )
            stream.width, stream.height = (side + side % 2 for side in images[0].size)
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1  # more would make the bytes depend on the number of cores
            stream.codec_context.colorspace = 6  # Rec. 601, as converted; players guess by size
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(_even(image))))
            container.mux(stream.encode())
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise MachineError(f"cannot encode H.264 video here: {error}.") from error
    return buffer.getvalue()


def _even(image: Image.Image) -> np.ndarray:
    """RGB bytes [H, W, 3] with the last line repeated where a side is odd."""
    odd = ((0, image.height % 2), (0, image.width % 2), (0, 0))
    return np.pad(np.asarray(image.convert("RGB")), odd, mode="edge")


_ENCODERS = {".gif": _gif, ".mp4": _mp4}


# --- grids ---------------------------------------------------------------------------------------

GAP, MARGIN = 8, 16
INK, FADED, HAIRLINE, ABSENT = "#222222", "#666666", "#d5d5d5", "#eeeeee"


def grid(
    rows: Sequence[Sequence[Tensor | None]],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    marks: Sequence[Sequence[str | None]] | None = None,
) -> Tensor:
    """Pictures [C, H, W] in labelled rows and columns on white, as one picture [3, H, W].

    Pictures under 96 pixels are enlarged by a whole factor; `None` is drawn light grey. `marks` are
    small captions under the cells, such as a measured value. Texts wrap, inside a word where it is
    longer than its place, so that nothing is cut off.

    Raises InputError for a row without pictures, or labels or marks of another number than cells.

    >>> grid([[torch.zeros(1, 64, 64)]], ["row"], ["column"], marks=[["0.201"]]).shape[0]
    3
    """
    marks = marks or [[None] * len(row) for row in rows]
    _check_count("row labels", row_labels, len(rows))
    _check_count("column labels", column_labels, max(map(len, rows), default=0))
    _check_count("rows of marks", marks, len(rows))
    cells = _cells(rows)
    width, height = cells[0][0].size
    size = min(28, max(13, max(width, height) // 14))
    font, small, large = _font(size), _font(size * 6 // 7), _font(size * 5 // 4)

    table = [_captioned(row, line, small) for row, line in zip(cells, marks, strict=True)]
    heads = [_written(label, font, width) for label in column_labels or []]
    if row_labels:
        room = _room(row_labels, font, max(width, 160))
        for row, label in zip(table, row_labels, strict=True):
            row.insert(0, _written(label, font, room, height, align="right"))
        heads.insert(0, _written("", font, room))
    lines = [_beside(heads, bottom=True)] if column_labels else []
    body = _over(lines + [_beside(row) for row in table])
    if title:
        room = max(body.width, _room([title], large, 480))
        body = _over([_written(title, large, room, align="left"), body])
    return _planes(np.asarray(ImageOps.expand(body, MARGIN, "white")))


def side_by_side(
    originals: Tensor, reconstructions: Tensor, errors: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Originals [B, C, H, W] over their reconstructions, eight pairs a line, as one [3, H, W].

    >>> side_by_side(torch.zeros(2, 1, 64, 64), torch.ones(2, 1, 64, 64), [1.0, 1.0]).shape[0]
    3
    """
    _check_count("reconstructions", reconstructions, len(originals))
    _check_count("errors", errors, len(originals))
    texts = [""] * len(originals) if errors is None else [f"{float(e):.3g}" for e in errors]
    rows, marks = [], []
    for start in range(0, len(originals), 8):
        line = slice(start, start + 8)
        rows += [list(originals[line]), list(reconstructions[line])]
        marks += [[""] * len(texts[line]), texts[line]]
    return grid(rows, ["original", "reconstruction"] * (len(rows) // 2), marks=marks)


def _check_count(what: str, given: Sequence | Tensor | None, wanted: int) -> None:
    if given is not None and len(given) != wanted:
        raise InputError(f"expected {wanted} {what}, got {len(given)}.")


def _cells(rows: Sequence[Sequence[Tensor | None]]) -> list[list[Image.Image]]:
    """Every cell of the grid, all of one size, framed by a hairline."""
    images = [[None if each is None else _to_pillow(each) for each in row] for row in rows]
    sizes = [image.size for row in images for image in row if image is not None]
    if not sizes or not all(rows):
        raise InputError("expected pictures in every row of a grid, got a row of none.")
    factor = math.ceil(96 / max(map(max, sizes)))
    width = max(64, factor * max(w for w, _ in sizes))
    height = factor * max(h for _, h in sizes)
    return [[_cell(image, factor, width, height) for image in row] for row in images]


def _cell(image: Image.Image | None, factor: int, width: int, height: int) -> Image.Image:
    cell = Image.new("RGB", (width + 2, height + 2), ABSENT if image is None else "white")
    if image is not None:
        large = _enlarged(image, factor)
        left, top = (cell.width - large.width) // 2, (cell.height - large.height) // 2
        cell.paste(ImageOps.expand(large.convert("RGB"), 1, HAIRLINE), (left - 1, top - 1))
    return cell


def _captioned(
    cells: list[Image.Image], marks: Sequence[str | None], font: ImageFont.FreeTypeFont
) -> list[Image.Image]:
    _check_count("marks in a row", marks, len(cells))
    return [
        _over([cell, _written(mark, font, cell.width, ink=FADED)], gap=3) if mark else cell
        for cell, mark in zip(cells, marks, strict=True)
    ]


def _beside(blocks: Sequence[Image.Image], bottom: bool = False) -> Image.Image:
    """Blocks from left to right, level at their tops or bottoms."""
    height = max(block.height for block in blocks)
    width = sum(block.width + GAP for block in blocks) - GAP
    line, left = Image.new("RGB", (width, height), "white"), 0
    for block in blocks:
        line.paste(block, (left, height - block.height if bottom else 0))
        left += block.width + GAP
    return line


def _over(blocks: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Blocks from top to bottom, level at their left."""
    width = max(block.width for block in blocks)
    height = sum(block.height + gap for block in blocks) - gap
    pile, top = Image.new("RGB", (width, height), "white"), 0
    for block in blocks:
        pile.paste(block, (0, top))
        top += block.height + gap
    return pile


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib carries: Pillow's own font lacks accents and Greek."""
    spec = importlib.util.find_spec("matplotlib")  # found, not imported
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    path = folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    # The basic layout is in every build of Pillow. A file that is not there is sought by Pillow
    # among the system's fonts, where some distributions put Matplotlib's.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _written(
    text: str,
    font: ImageFont.FreeTypeFont,
    width: int,
    height: int = 1,
    align: str = "center",
    ink: str = INK,
) -> Image.Image:
    """A block of wrapped text, at least `height` high with the text in its middle."""
    lines, pitch = _wrapped(text, font, width), sum(font.getmetrics())
    block = Image.new("RGB", (width, max(height, pitch * len(lines))), "white")
    draw = ImageDraw.Draw(block)
    anchor, x = {"left": ("la", 0), "center": ("ma", width / 2), "right": ("ra", width)}[align]
    top = (block.height - pitch * len(lines)) // 2
    for i, line in enumerate(lines):
        draw.text((x, top + i * pitch), line, ink, font, anchor=anchor)
    return block


def _room(texts: Sequence[str], font: ImageFont.FreeTypeFont, limit: int) -> int:
    """The width that the longest of the texts needs, at most `limit`."""
    return min(limit, max(math.ceil(font.getlength(text)) + 2 for text in texts))


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, inside a word only where it is longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width - 2:
            lines[-1] += f" {word}"
        else:
            lines += _broken(word, font, width)
    return lines


def _broken(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word as pieces of at most `width` pixels and at least one letter."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width - 2:
            pieces.append("")
        pieces[-1] += letter
    return pieces
