"""Flat shapes and colours that procedural pictures are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def over(mask: Tensor, background: Tensor, thing: Tensor) -> Tensor:
    """Pictures [B, C, H, W] of what masks [B, H, W] cover and what they do not."""
    return (background + mask[:, None] * (thing - background)).clamp(0, 1)


def rgb(luma: Tensor, chroma: float, hue: Tensor) -> Tensor:
    """Colours [B, 3, 1, 1] of luma, chroma and hue (radians) in YIQ."""
    i, q = chroma * hue.cos(), chroma * hue.sin()
    red, green, blue = (
        luma + a * i + b * q for a, b in ((0.9563, 0.6210), (-0.2721, -0.6474), (-1.1070, 1.7046))
    )
    return torch.stack([red, green, blue], dim=1)[:, :, None, None]


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
