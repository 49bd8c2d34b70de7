"""Pictures in folders and zips, to train on."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from steer.datasets.base import Dataset, datasets
from steer.datasets.digits import MultiMNIST, read_digits
from steer.disk import disk_error
from steer.errors import InputError
from steer.images import SUFFIXES, find_images, fit, is_picture, read_image

#: What stands before the place of the digits of a `MultiMNIST`.
DIGITS = "multi-mnist:"


def is_procedural(source: str) -> bool:
    """Whether `open_dataset` draws pictures for it, of a shape of their own.

    >>> is_procedural("sprites"), is_procedural("multi-mnist:digits/"), is_procedural("digits/")
    (True, True, False)
    """
    return source in datasets or source.startswith(DIGITS)


def open_dataset(
    source: str,
    size: int = 64,
    channels: int = 3,
    leave_out: Callable[[InputError], None] | None = None,
) -> Dataset:
    """A procedural set by name (that of digits with where they lie: multi-mnist:FILE), or a folder
    or zip of pictures fitted to `channels` and `size`.

    A picture that cannot be read raises InputError, or is left out and `leave_out` told why.
    """
    if source in datasets:
        return datasets.get(source)()
    if source.startswith(DIGITS):
        return MultiMNIST(read_digits(source.removeprefix(DIGITS)))
    path = Path(source)
    if path.is_dir():
        files = {str(file): file for file in find_images([path])}
        return _Pictures(_read(files, size, channels, leave_out))
    if path.suffix.lower() == ".zip" and path.is_file():
        return _Pictures(_read(_zipped(path), size, channels, leave_out))
    raise InputError(
        f"expected a folder or zip of pictures or one of {', '.join(datasets.names())} and "
        f"{DIGITS}FILE, got {source!r}."
    )


def _read(
    sources: Mapping[str, Path | bytes],
    size: int,
    channels: int,
    leave_out: Callable[[InputError], None] | None,
) -> Tensor:
    """Bytes [N, C, H, W] of the pictures that can be read."""
    pictures, reasons = [], []
    for name, source in sources.items():
        try:
            picture = read_image(source, name)
        except InputError as error:
            if leave_out is None:
                raise
            reasons.append(error)
            leave_out(error)
        else:
            fitted = fit(picture, channels, size, size)
            pictures.append((fitted * 255).round().to(torch.uint8))
    if not pictures:
        raise InputError(f"expected a picture, none of {len(sources)} could be read: {reasons[0]}")
    return torch.stack(pictures)


class _Pictures:
    """Pictures read once and kept as bytes [N, C, H, W]; named by what they hold, not where."""

    def __init__(self, pictures: Tensor):
        count, channels, height, width = pictures.shape
        self.shape = (channels, height, width)
        self.size: int | None = count
        self._bytes = pictures
        digest = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
        self.name = f"{count} pictures ({digest[:12]})"

    def pictures(self, indices: Tensor) -> Tensor:
        return self._bytes[indices % len(self._bytes)].float() / 255


def _zipped(path: Path) -> dict[str, bytes]:
    """Pictures of a zip by name, hidden ones (as those of a Mac's zips) left out as in folders."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if is_picture(n.rsplit("/", 1)[-1]))
            pictures = {f"{path}: {name}": archive.read(name) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path}: expected a zip of pictures, got a damaged or locked one."
        ) from error
    except OSError as error:  # EINVAL where a damaged zip points before its own beginning
        raise disk_error("read", path, error) from error
    if not pictures:
        raise InputError(f"{path}: expected pictures ({', '.join(SUFFIXES)}) in it, found none.")
    return pictures
