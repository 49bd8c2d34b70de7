"""Pictures of one object, with their ground truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steer.datasets.shapes import ellipse, heart, over, rgb, square, waves


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
        return over(self.masks(factors), *self.paint(factors))

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
        for kind, shape in enumerate((square, ellipse, heart)):
            of_kind = factors.shape == kind
            distance[of_kind] = shape(u[of_kind], v[of_kind])
        # the squash makes v's unit shorter than u's: the mean of the two is the pixel's scale
        pixel = 1 / (side * scale * math.sqrt(self.aspect))
        return (0.5 - distance / pixel).clamp(0, 1)

    def paint(self, factors: Factors) -> tuple[Tensor, Tensor]:
        """Colours [B, C, 1, 1] of the background and of the object."""
        (thing_luma, thing_chroma), (back_luma, back_chroma) = self.colours
        hue = torch.deg2rad(self.middle_hue + factors.hue)
        background = rgb(back_luma + factors.brightness, back_chroma, hue)
        thing = rgb(thing_luma + factors.brightness, thing_chroma, hue + math.pi)
        return background[:, :, None, None], thing[:, :, None, None]


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
        return over(self.masks(factors), background + behind, thing + on)

    def textures(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Luminance [B, 1, 32, 32] that is added to the background and to the object."""
        uniform = np.stack(
            [np.random.default_rng([1, int(i)]).random((2, 1 + 3 * self.waves)) for i in indices]
        )
        drawn = torch.from_numpy(uniform.astype(np.float32)).flatten(0, 1)
        turn, spread, cycles, phase = drawn.split([1, *[self.waves] * 3], dim=1)
        slow, fast = self.cycles
        towards = math.pi * turn + self.fan * (2 * spread - 1)
        pattern = waves(towards, slow + (fast - slow) * cycles, phase, self.shape[1])
        pattern = pattern.unflatten(0, (-1, 2))
        thing, background = self.contrasts
        return background * pattern[:, :1], thing * pattern[:, 1:]
