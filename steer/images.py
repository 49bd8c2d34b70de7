"""Pictures: read them, fit them to a generator, write them."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional

from steer.disk import disk_error, write_atomically
from steer.errors import InputError
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
        return planes(np.asarray(image.convert("L" if grey else "RGB")))
    both = planes(np.asarray(image.convert("LA" if grey else "RGBA")))
    colour, alpha = both[:-1], both[-1:]
    return colour * alpha + (1 - alpha)


def planes(values: np.ndarray) -> Tensor:
    """Bytes [H, W] or [H, W, C] as floats [C, H, W] in [0, 1].

    >>> planes(np.full((2, 4, 3), 255, np.uint8)).shape
    torch.Size([3, 2, 4])
    """
    copied = torch.from_numpy(np.atleast_3d(values).transpose(2, 0, 1).copy())
    return copied.float().div_(255)


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
    to_pillow(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: str | Path, picture: Tensor) -> None:
    """`to_png` into a file, whole or not at all.

    Raises InputError for a path that names another format or cannot be written, and MachineError
    where the disk fails.
    """
    if Path(path).suffix.lower() not in ("", ".png"):
        raise InputError(f"cannot write {path}: expected a name in .png, pictures leave as PNG.")
    write_atomically(Path(path), to_png(picture))


def to_pillow(picture: Tensor) -> Image.Image:
    """A picture [1 or 3, H, W] as Pillow has it, in 8 bits.

    Raises InputError for another shape, or values that are not numbers.

    >>> to_pillow(torch.zeros(3, 2, 4)).size
    (4, 2)
    """
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or not picture.numel():
        raise InputError(f"expected a picture [1 or 3, H, W], got {list(picture.shape)}.")
    if not picture.isfinite().all():
        raise InputError("expected a picture of numbers in [0, 1], got NaN or infinite values.")
    values = quantise(picture.detach().cpu()).mul(255).round().to(torch.uint8).numpy()
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
