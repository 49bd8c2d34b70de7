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
        return _over(self.masks(factors), *self.paint(factors))

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
        distance = torch.empty_like(u)
        for kind, shape in enumerate((_square, _ellipse, _heart)):
            of_kind = factors.shape == kind
            distance[of_kind] = shape(u[of_kind], v[of_kind])
        # the squash makes v's unit shorter than u's: the mean of the two is the pixel's scale
        pixel = 1 / (side * scale * math.sqrt(self.aspect))
        return (0.5 - distance / pixel).clamp(0, 1)

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


class TexturedSprites(Sprites):
    """Coloured sprites that carry a texture, as their background does: fine detail that is another
    in every picture, which a VAE blurs and a GAN does not.

    32x32, with the factors of `Sprites`, but larger objects, so that the texture is seen, and
    position on +-0.2. Each of the two textures is the mean of a few plane waves in luminance, of
    random phase, around a random direction. `draw` shows factors without it.

    >>> textured = TexturedSprites()
    >>> smooth = textured.draw(textured.factors(torch.tensor([3])))
    >>> (textured.pictures(torch.tensor([3])) - smooth).abs().max().item() < 0.2
    True
    """

    name = "sprites-textured"
    shape = (3, 32, 32)
    half = Factors(*map(torch.tensor, (0.2, 0.2, math.log2(1.7) / 2, 40.0, 0.15, 60.0, 1.5)))
    radius = 0.25
    #: Paler than plain sprites, so that no texture is cut off.
    colours = ((0.59, 0.14), (0.29, 0.08))
    #: Largest change of luminance, of the object and of the background, which stays so faint that
    #: the measure `background` still tells the two apart.
    contrasts = (0.15, 0.03)
    #: Waves in a texture, how far they turn from its direction, cycles in a picture's side.
    waves, fan, cycles = 3, 0.5, (5.0, 8.0)

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, 3, 32, 32] of integer indices [B]."""
        factors = self.factors(indices)
        (background, thing), (behind, on) = self.paint(factors), self.textures(indices)
        return _over(self.masks(factors), background + behind, thing + on)

    def textures(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Luminance [B, 1, 32, 32] that is added to the background and to the object."""
        uniform = np.stack(
            [np.random.default_rng([1, int(i)]).random((2, 1 + 3 * self.waves)) for i in indices]
        )
        drawn = torch.from_numpy(uniform.astype(np.float32)).flatten(0, 1)
        turn, spread, cycles, phase = drawn.split([1, *[self.waves] * 3], dim=1)
        slow, fast = self.cycles
        towards = math.pi * turn + self.fan * (2 * spread - 1)
        frequency = 2 * math.pi * (slow + (fast - slow) * cycles)
        side = self.shape[1]
        places = (torch.arange(side) + 0.5) / side
        x = (frequency * towards.cos())[:, :, None] * places + 2 * math.pi * phase[:, :, None]
        y = (frequency * towards.sin())[:, :, None] * places
        # cos(x + y), a product of two small matrices instead of a cosine a pixel
        across = torch.cat([x.cos(), x.sin()], dim=1)
        down = torch.cat([y.cos(), -y.sin()], dim=1)
        waves = (down.transpose(1, 2) @ across / self.waves).unflatten(0, (-1, 2))
        thing, background = self.contrasts
        return background * waves[:, :1], thing * waves[:, 1:]


for _kind in (Sprites, GreySprites, TexturedSprites):
    datasets.register(_kind.name, _kind)


def _over(mask: Tensor, background: Tensor, thing: Tensor) -> Tensor:
    """Pictures [B, C, H, W] of what masks [B, H, W] cover and what they do not."""
    return (background + mask[:, None] * (thing - background)).clamp(0, 1)


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
