"""Pictures to train on: folders, zips, and procedural sets that carry their ground truth."""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from steer.disk import disk_error
from steer.errors import InputError
from steer.images import SUFFIXES, find_images, fit, is_picture, read_image
from steer.registry import Registry


class Dataset(Protocol):
    """Pictures by index. A procedural set has `size` None: every index is a picture."""

    name: str
    size: int | None
    shape: tuple[int, int, int]

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of integer indices [B]; item i is always the same picture."""
        ...


datasets: Registry[type[Dataset]] = Registry("data set", "steer.datasets")


def open_dataset(
    source: str,
    size: int = 64,
    channels: int = 3,
    leave_out: Callable[[InputError], None] | None = None,
) -> Dataset:
    """A procedural set by name, or a folder or zip of pictures fitted to `channels` and `size`.

    A picture that cannot be read raises InputError, or is left out and `leave_out` told why.
    """
    if source in datasets:
        return datasets.get(source)()
    path = Path(source)
    if path.is_dir():
        files = {str(file): file for file in find_images([path])}
        return _Pictures(_read(files, size, channels, leave_out))
    if path.suffix.lower() == ".zip" and path.is_file():
        return _Pictures(_read(_zipped(path), size, channels, leave_out))
    raise InputError(
        f"expected a folder or zip of pictures or one of {', '.join(datasets.names())}, "
        f"got {source!r}."
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


@dataclass(frozen=True)
class Factors:
    """Ground truth of sprites, each [B], in the units of `steer.transforms`."""

    x: Tensor
    y: Tensor
    zoom: Tensor
    angle: Tensor
    brightness: Tensor
    hue: Tensor
    shape: Tensor


class Sprites:
    """One square, ellipse or heart a picture, 64x64, placed uniformly.

    Coloured on a coloured background; see `GreySprites` for white on black. Position spans +-0.33
    of the side, size a factor of 1.7, angle +-40 degrees (which a principal axis tells without
    folding), brightness +-0.15 of every channel, hue +-60 degrees of both colours, which lie
    opposite each other.

    >>> sprites = Sprites()
    >>> sprites.pictures(torch.tensor([0, 7])).shape
    torch.Size([2, 3, 64, 64])
    """

    name = "sprites"
    size: int | None = None
    shape = (3, 64, 64)
    #: Half of the range of each factor: uniform on [-half, half] around the middle.
    half = Factors(*map(torch.tensor, (0.33, 0.33, math.log2(1.7) / 2, 40.0, 0.15, 60.0, 1.5)))
    #: Height over width: below 1, so that every shape has a principal axis.
    aspect = 0.55
    #: Half-width of the middle size, as a fraction of the side.
    radius = 0.15
    #: Luma, chroma of the object and of the background, and the middle hue in degrees.
    colours = ((0.66, 0.22), (0.34, 0.12))
    middle_hue = 100.0

    def factors(self, indices: Tensor) -> Factors:
        """Ground truth of the pictures of integer indices [B]."""
        uniform = np.stack([np.random.default_rng([0, int(i)]).random(7) for i in indices])
        draws = torch.from_numpy(uniform.astype(np.float32) * 2 - 1).unbind(1)
        values = [d * h for d, h in zip(draws, vars(self.half).values(), strict=True)]
        values[-1] = (values[-1] + 1.5).clamp(0, 2.999).floor()
        return Factors(*values)

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] of integer indices [B]."""
        return self.draw(self.factors(indices))

    def draw(self, factors: Factors) -> Tensor:
        """Pictures [B, C, 64, 64] that show `factors`."""
        mask = self.masks(factors)[:, None]
        background, thing = self.paint(factors)
        return (background + mask * (thing - background)).clamp(0, 1)

    def masks(self, factors: Factors) -> Tensor:
        """Coverage [B, 64, 64] of each pixel by the object."""
        side = self.shape[1]
        centres = (torch.arange(side) + 0.5) / side - 0.5
        dx = centres[None, None, :] - factors.x[:, None, None]
        dy = factors.y[:, None, None] - centres[None, :, None]
        turn = torch.deg2rad(factors.angle)[:, None, None]
        scale = self.radius * 2 ** factors.zoom[:, None, None]
        u = (dx * turn.cos() + dy * turn.sin()) / scale
        v = (dy * turn.cos() - dx * turn.sin()) / scale / self.aspect
        distance = torch.stack([_square(u, v), _ellipse(u, v), _heart(u, v)])
        chosen = distance.gather(0, factors.shape.long()[None, :, None, None].expand_as(distance))
        # the squash makes v's unit shorter than u's: the mean of the two is the pixel's scale
        pixel = 1 / (side * scale * math.sqrt(self.aspect))
        return (0.5 - chosen[0] / pixel).clamp(0, 1)

    def paint(self, factors: Factors) -> tuple[Tensor, Tensor]:
        """Colours [B, C, 1, 1] of the background and of the object."""
        (thing_luma, thing_chroma), (back_luma, back_chroma) = self.colours
        hue = torch.deg2rad(self.middle_hue + factors.hue)
        background = _rgb(back_luma + factors.brightness, back_chroma, hue)
        return background, _rgb(thing_luma + factors.brightness, thing_chroma, hue + math.pi)


class GreySprites(Sprites):
    """White sprites on black, as in dSprites: angle all round, shapes not squashed."""

    name = "sprites-grey"
    shape = (1, 64, 64)
    half = Factors(*map(torch.tensor, (0.26, 0.26, 0.5, 180.0, 0.0, 0.0, 1.5)))
    aspect = 1.0
    radius = 0.12

    def paint(self, factors: Factors) -> tuple[Tensor, Tensor]:
        """Black and white [B, 1, 1, 1]."""
        black = torch.zeros(len(factors.x), 1, 1, 1)
        return black, black + 1


datasets.register(Sprites.name, Sprites)
datasets.register(GreySprites.name, GreySprites)


def _rgb(luma: Tensor, chroma: float, hue: Tensor) -> Tensor:
    """Colours [B, 3, 1, 1] of luma, chroma and hue (radians) in YIQ."""
    i, q = chroma * hue.cos(), chroma * hue.sin()
    red, green, blue = (
        luma + a * i + b * q for a, b in ((0.9563, 0.6210), (-0.2721, -0.6474), (-1.1070, 1.7046))
    )
    return torch.stack([red, green, blue], dim=1)[:, :, None, None]


def _square(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the square of half-side 0.85."""
    a, b = u.abs() - 0.85, v.abs() - 0.85
    return torch.hypot(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max(0)


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the ellipse with half-axes 1 and 0.8, to first order."""
    q = torch.hypot(u, v / 0.8)
    return q * (q - 1) / torch.hypot(u, v / 0.64).clamp_min(1e-6)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to a heart: a square on its corner with a disc on each upper side."""
    side = 0.62
    a, b = (u + v + 0.15) / math.sqrt(2), (v - u + 0.15) / math.sqrt(2)
    x, y = a.abs() - side, b.abs() - side
    corner = torch.hypot(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max(0)
    right, left = torch.hypot(a - side, b), torch.hypot(a, b - side)
    return torch.minimum(corner, torch.minimum(right, left) - side)
