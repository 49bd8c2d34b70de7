"""Flat shapes and colours that procedural pictures are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def over(mask: Tensor, background: Tensor, thing: Tensor) -> Tensor:
    """Pictures [B, C, H, W] of what masks [B, H, W] cover and what they do not."""
    return (background + mask[:, None] * (thing - background)).clamp(0, 1)


def rgb(luma: Tensor, chroma: float, hue: Tensor) -> Tensor:
    """Colours [..., 3] of luma [...], chroma and hue [...] (radians) in YIQ."""
    i, q = chroma * hue.cos(), chroma * hue.sin()
    red, green, blue = (
        luma + a * i + b * q for a, b in ((0.9563, 0.6210), (-0.2721, -0.6474), (-1.1070, 1.7046))
    )
    return torch.stack([red, green, blue], dim=-1)


def waves(towards: Tensor, cycles: Tensor, phase: Tensor, side: int) -> Tensor:
    """Means [B, side, side] of n plane waves each: where they go [B, n] in radians, cycles in a
    picture's side, phase in turns.

    >>> waves(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1), 4)[0, 0].round(decimals=4)
    tensor([ 0.7071, -0.7071, -0.7071,  0.7071])
    """
    frequency = 2 * math.pi * cycles
    places = (torch.arange(side) + 0.5) / side
    x = (frequency * towards.cos())[:, :, None] * places + 2 * math.pi * phase[:, :, None]
    y = (frequency * towards.sin())[:, :, None] * places
    # cos(x + y), a product of two small matrices instead of a cosine a pixel
    across = torch.cat([x.cos(), x.sin()], dim=1)
    down = torch.cat([y.cos(), -y.sin()], dim=1)
    return down.transpose(1, 2) @ across / cycles.shape[1]


def square(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the square of half-side 0.85."""
    a, b = u.abs() - 0.85, v.abs() - 0.85
    return torch.hypot(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max(0)


def ellipse(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the ellipse with half-axes 1 and 0.8, to first order."""
    q = torch.hypot(u, v / 0.8)
    return q * (q - 1) / torch.hypot(u, v / 0.64).clamp_min(1e-6)


def heart(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to a heart: a square on its corner with a disc on each upper side."""
    side = 0.62
    a, b = (u + v + 0.15) / math.sqrt(2), (v - u + 0.15) / math.sqrt(2)
    x, y = a.abs() - side, b.abs() - side
    corner = torch.hypot(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max(0)
    right, left = torch.hypot(a - side, b), torch.hypot(a, b - side)
    return torch.minimum(corner, torch.minimum(right, left) - side)


def triangle(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance, by its sides, to the triangle of height 1.6 on a side of 1.8."""
    slope = math.hypot(1.6, 0.9)
    return torch.maximum(-0.7 - v, (1.6 * u.abs() + 0.9 * v - 0.81) / slope)
