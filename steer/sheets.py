"""Sheets and films: pictures laid out for people to look at."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from steer.disk import write_atomically
from steer.errors import InputError, MachineError
from steer.images import planes, to_pillow
from steer.registry import first_few

# --- grids ---------------------------------------------------------------------------------------

GAP, MARGIN = 8, 16
INK, FADED, HAIRLINE, ABSENT = "#222222", "#666666", "#d5d5d5", "#eeeeee"
#: Colours of what is numbered, that people who see few colours tell apart (Okabe and Ito 2008).
OUTLINES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")


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

    >>> import torch
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
    return planes(np.asarray(ImageOps.expand(body, MARGIN, "white")))


def side_by_side(
    originals: Tensor, reconstructions: Tensor, errors: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Originals [B, C, H, W] over their reconstructions, eight pairs a line, as one [3, H, W].

    >>> import torch
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


def outlined(picture: Tensor, corners: Sequence[Sequence[tuple[float, float]]]) -> Tensor:
    """A picture [C, H, W], enlarged to 256 pixels or more, with numbered polygons over it.

    `corners` are those of each polygon, across and down in fractions of the sides.

    >>> import torch
    >>> outlined(torch.zeros(3, 64, 64), [[(0.1, 0.1), (0.5, 0.1), (0.3, 0.5)]]).shape
    torch.Size([3, 256, 256])
    """
    image = to_pillow(picture).convert("RGB")
    image = _enlarged(image, math.ceil(256 / max(image.size)))
    draw, font = ImageDraw.Draw(image), _font(14)
    for number, polygon in enumerate(corners):
        colour = OUTLINES[number % len(OUTLINES)]
        points = [(x * image.width, y * image.height) for x, y in polygon]
        draw.line([*points, points[0]], colour, width=2)
        x, y = min(points, key=lambda point: (point[1], point[0]))
        draw.text((x + 2, y + 1), str(number), colour, font, stroke_width=2, stroke_fill=INK)
    return planes(np.asarray(image))


def coloured(labels: Tensor) -> Tensor:
    """Labels [H, W] from 0 as a picture [3, H, W]: 0 white, others in the colours of `outlined`.

    >>> import torch
    >>> coloured(torch.eye(2).long())[:, 0, 1].tolist()
    [1.0, 1.0, 1.0]
    """
    colours = [ImageColor.getrgb(name) for name in ("#ffffff", *OUTLINES)]
    which = torch.where(labels > 0, (labels - 1) % len(OUTLINES) + 1, 0)
    return torch.tensor(colours)[which].permute(2, 0, 1) / 255


def _check_count(what: str, given: Sequence | Tensor | None, wanted: int) -> None:
    if given is not None and len(given) != wanted:
        raise InputError(f"expected {wanted} {what}, got {len(given)}.")


def _cells(rows: Sequence[Sequence[Tensor | None]]) -> list[list[Image.Image]]:
    """Every cell of the grid, all of one size, framed by a hairline."""
    images = [[None if each is None else to_pillow(each) for each in row] for row in rows]
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


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


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
    sizes = sorted({"x".join(map(str, frame.shape)) for frame in frames})
    if len(sizes) != 1:
        raise InputError(
            f"expected frames of one size for {path}, got {first_few(sizes) or 'none'}."
        )
    images = [to_pillow(frame) for frame in frames]
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

    # libx264's mbtree reads memory that it has not written: the bytes would change by chance
    options = {"crf": "18", "mbtree": "0"}
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options=options)
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
