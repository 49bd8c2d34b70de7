"""Pictures of several objects, with their ground truth: boxes, masks, depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steer.datasets.shapes import ellipse, heart, rgb, square, triangle, waves

#: Of an object, the least share that must be seen for it to be ground truth.
VISIBLE = 0.25


@dataclass(frozen=True)
class Truth:
    """What is to be found in pictures [B, C, H, W] of up to N objects, the farthest first.

    `masks` [B, N, H, W] is each object's share of every pixel, where no nearer one covers it;
    `present` [B, N] says which objects are there, and at least a quarter of them seen.
    """

    masks: Tensor
    present: Tensor

    @property
    def counts(self) -> Tensor:
        """Objects [B] to be found."""
        return self.present.sum(1)

    @property
    def boxes(self) -> Tensor:
        """Left, top, right and bottom [B, N, 4] of what is seen of each object, as fractions of the
        picture's sides; NaN where there is none."""
        return tight(self.masks).where(self.present[:, :, None], math.nan)

    @property
    def labels(self) -> Tensor:
        """The object to be found [B, H, W], counted from 1, that most of each pixel is of; or 0."""
        most, which = (self.masks * self.present[:, :, None, None]).max(dim=1)
        return torch.where(most > 0.5, which + 1, 0)


def tight(masks: Tensor, least: float = 0.5) -> Tensor:
    """Left, top, right and bottom [..., 4], as fractions of the sides, of where masks [..., H, W]
    are more than `least`; NaN where they are nowhere.

    >>> masks = torch.zeros(2, 4, 8)
    >>> masks[0, 1:3, 2:4] = 1
    >>> tight(masks)
    tensor([[0.2500, 0.2500, 0.5000, 0.7500],
            [   nan,    nan,    nan,    nan]])
    """
    covered = masks > least
    (left, right), (top, bottom) = (_extent(covered.any(dim)) for dim in (-2, -1))
    found = torch.stack([left, top, right, bottom], dim=-1)
    return found.where(covered.flatten(-2).any(-1, keepdim=True), math.nan)


def _extent(covered: Tensor) -> tuple[Tensor, Tensor]:
    """First place covered and the one after the last [...], as fractions, of [..., side]."""
    side = covered.shape[-1]
    places = torch.arange(side, device=covered.device)
    first = torch.where(covered, places, side).amin(-1)
    return first / side, torch.where(covered, places + 1, 0).amax(-1) / side


def truth(alphas: Tensor, there: Tensor) -> Truth:
    """Ground truth of objects whose shares of pixels are `alphas` [B, N, H, W] before nearer ones,
    which follow, cover them; `there` [B, N] says which there are.

    >>> alphas = torch.zeros(1, 2, 1, 8)
    >>> alphas[0, 0, 0, :4], alphas[0, 1, 0, 2:5] = 1, 1
    >>> found = truth(alphas, torch.tensor([[True, True]]))
    >>> found.labels[0, 0].tolist(), found.boxes[0, 0].tolist()
    ([1, 1, 2, 2, 2, 0, 0, 0], [0.0, 0.0, 0.25, 1.0])
    """
    alphas = alphas * there[:, :, None, None]
    nearer = (1 - alphas).flip(1).cumprod(1).flip(1)
    masks = alphas * torch.cat([nearer[:, 1:], torch.ones_like(nearer[:, :1])], dim=1)
    whole, seen = alphas.sum((2, 3)), masks.sum((2, 3))
    return Truth(masks, there & (seen >= VISIBLE * whole) & (masks > 0.5).flatten(2).any(2))


@dataclass(frozen=True)
class Layout:
    """How scenes are made: each [B, N], objects from the farthest to the nearest, and backgrounds.

    Position is in fractions of the side from the middle (right and down are positive), size is half
    the object's width as a fraction of the side, angle in degrees.
    """

    there: Tensor
    x: Tensor
    y: Tensor
    size: Tensor
    angle: Tensor
    shape: Tensor
    colour: Tensor
    background: Tensor


class Scenes:
    """One to eight squares, ellipses, hearts and triangles on a plain, graded or textured
    background, 64x64, the nearer over the farther.

    Sizes vary by a factor of 4, evenly in their logarithm; objects are squashed, so that each has a
    direction, and lie wholly inside. Colours are of any hue, and of more luminance than what is
    behind.

    >>> scenes = Scenes()
    >>> pictures, truth = scenes.pictures(torch.arange(4)), scenes.truth(torch.arange(4))
    >>> pictures.shape, truth.masks.shape, bool((truth.counts <= 8).all())
    (torch.Size([4, 3, 64, 64]), torch.Size([4, 8, 64, 64]), True)
    """

    name = "scenes"
    size: int | None = None
    shape = (3, 64, 64)
    most = 8
    #: Half the width of the smallest and of the largest object.
    sizes = (0.05, 0.2)
    aspect = 0.65
    #: No point of a shape is farther from its middle, in sizes.
    reach = 1.15
    shapes = (square, ellipse, heart, triangle)
    #: Ranges of luma of objects and of backgrounds, and their chroma.
    lumas = ((0.5, 0.8), (0.15, 0.35))
    chromas = (0.2, 0.05)
    #: Largest change of luma by a gradient, and by a texture.
    contrasts = (0.12, 0.05)

    def layout(self, indices: Tensor) -> Layout:
        """How the scenes of integer indices [B] are made."""
        numbers = self.most * 7 + 14
        uniform = np.stack([np.random.default_rng([2, int(i)]).random(numbers) for i in indices])
        drawn = torch.from_numpy(uniform.astype(np.float32))
        count = 1 + (drawn[:, :1] * self.most).floor().clamp_max(self.most - 1)
        objects = drawn[:, 14:].unflatten(1, (7, self.most))
        x, y, size, angle, shape, luma, hue = objects.unbind(1)
        small, large = self.sizes
        size = small * (large / small) ** size
        room = 0.5 - self.reach * size
        (dark, light), _ = self.lumas
        colour = rgb(dark + (light - dark) * luma, self.chromas[0], 2 * math.pi * hue)
        return Layout(
            there=torch.arange(self.most) < count,
            x=(2 * x - 1) * room,
            y=(2 * y - 1) * room,
            size=size,
            angle=360 * angle - 180,
            shape=(shape * len(self.shapes)).long().clamp_max(len(self.shapes) - 1),
            colour=colour,
            background=drawn[:, 1:14],
        )

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] of integer indices [B]."""
        layout = self.layout(indices)
        return self.draw(layout, self.alphas(layout))

    def truth(self, indices: Tensor) -> Truth:
        """Ground truth of the pictures of integer indices [B]."""
        layout = self.layout(indices)
        return truth(self.alphas(layout), layout.there)

    def draw(self, layout: Layout, alphas: Tensor) -> Tensor:
        """Pictures [B, 3, 64, 64] of objects with shares [B, N, 64, 64] of pixels."""
        pictures = self.backgrounds(layout.background)
        covers = alphas * layout.there[:, :, None, None]
        for cover, colour in zip(covers.unbind(1), layout.colour.unbind(1), strict=True):
            pictures = pictures + cover[:, None] * (colour[:, :, None, None] - pictures)
        return pictures.clamp(0, 1)

    def alphas(self, layout: Layout) -> Tensor:
        """Share [B, N, 64, 64] of every pixel by each object alone."""
        side = self.shape[1]
        places = (torch.arange(side) + 0.5) / side - 0.5
        alphas = torch.zeros(*layout.there.shape, side, side)
        for kind, shape in enumerate(self.shapes):
            chosen = layout.there & (layout.shape == kind)
            x, y, size, angle = (
                each[chosen][:, None, None]
                for each in (layout.x, layout.y, layout.size, torch.deg2rad(layout.angle))
            )
            dx, dy = places[None, None, :] - x, y - places[None, :, None]
            u = (dx * angle.cos() + dy * angle.sin()) / size
            v = (dy * angle.cos() - dx * angle.sin()) / size / self.aspect
            pixel = 1 / (side * size * math.sqrt(self.aspect))
            alphas[chosen] = (0.5 - shape(u, v) / pixel).clamp(0, 1)
        return alphas

    def backgrounds(self, drawn: Tensor) -> Tensor:
        """Plain, graded and textured backgrounds [B, 3, 64, 64] of uniform numbers [B, 13]."""
        kind, luma, hue, turn, *texture = drawn.unbind(1)
        _, (dark, light) = self.lumas
        side = self.shape[1]
        places = (torch.arange(side) + 0.5) / side - 0.5
        turn = 2 * math.pi * turn[:, None, None]
        ramp = 2 * (places[None, None, :] * turn.cos() + places[None, :, None] * turn.sin())
        towards, cycles, phase = torch.stack(texture, dim=1).unflatten(1, (3, 3)).unbind(1)
        pattern = waves(2 * math.pi * towards, 3 + 5 * cycles, phase, side)
        graded, textured = (kind * 3).floor() == 1, (kind * 3).floor() == 2
        change = graded[:, None, None] * self.contrasts[0] * ramp / math.sqrt(2)
        change = change + textured[:, None, None] * self.contrasts[1] * pattern
        base = rgb(dark + (light - dark) * luma, self.chromas[1], 2 * math.pi * hue)
        return base[:, :, None, None] + change[:, None]


class OneObject(Scenes):
    """One object, large, on backgrounds of more colours than those of `scenes`: for telling what
    is before from what is behind.

    >>> scenes = OneObject()
    >>> scenes.pictures(torch.arange(2)).shape, scenes.truth(torch.arange(9)).counts.tolist()
    (torch.Size([2, 3, 64, 64]), [1, 1, 1, 1, 1, 1, 1, 1, 1])
    """

    name = "one-object"
    most = 1
    sizes = (0.2, 0.3)
    chromas = (0.2, 0.1)
    contrasts = (0.2, 0.1)
