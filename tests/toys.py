"""Generators whose factors are known in closed form, for tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from steer.directions import KNOTS, Direction
from steer.generators.base import Generator, LatentSpace, PictureShape

#: Orthonormal axes of a latent space of six: none lies along a coordinate.
AXES = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0].T


def erf_law(s: Tensor) -> Tensor:
    """A factor uniform on [-0.3, 0.3] under the prior."""
    return 0.3 * torch.erf(s / math.sqrt(2))


class Linear(Generator):
    """Pictures 0.5 + A z, with A [192, dim] of full rank: the code is known from the picture."""

    def __init__(self, dim: int = 6, seed: int = 0):
        super().__init__(LatentSpace(dim), PictureShape(3, 8, 8))
        noise = torch.Generator().manual_seed(seed)
        weight = 0.05 * torch.randn(192, dim, generator=noise)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.calls = 0
        self.codes = 0

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        self.codes += len(z)
        return 0.5 + (z @ self.weight.T).reshape(-1, *self.picture)


class Blob(Generator):
    """A Gaussian blob on black: x is `law(<AXES[0], z>)`, y is 0.1 <AXES[1], z>, log2 of its size
    0.15 <AXES[2], z>, its brightness nothing; AXES[3:] do nothing.

    The barycentre of luminance is x, y to 1e-4 as long as the blob stays inside.
    """

    def __init__(self, law: Callable[[Tensor], Tensor] = erf_law, size: int = 40):
        super().__init__(LatentSpace(6), PictureShape(1, size, size))
        self.law = law

    def forward(self, z: Tensor) -> Tensor:
        s = z @ torch.from_numpy(AXES[:3].T).to(z)
        x, y, sigma = self.law(s[:, 0]), 0.1 * s[:, 1], 0.05 * 2 ** (0.15 * s[:, 2])
        centres = (torch.arange(self.picture.width).to(z) + 0.5) / self.picture.width - 0.5
        across = torch.exp(-(((centres - x[:, None]) / sigma[:, None]) ** 2) / 2)
        down = torch.exp(-(((centres - y[:, None]) / sigma[:, None]) ** 2) / 2)
        return (down[:, :, None] * across[:, None, :])[:, None]


class Bar(Generator):
    """A bar of one colour on grey: turned by 30 z[0] degrees from `turn`, its hue and the
    background's 60 z[1] degrees from `hue`."""

    def __init__(self, turn: float = 0.0, hue: float = 0.0):
        super().__init__(LatentSpace(3), PictureShape(3, 32, 32))
        self.turn, self.middle = turn, hue

    def forward(self, z: Tensor) -> Tensor:
        angle = torch.deg2rad(self.turn + 30 * z[:, 0])[:, None, None]
        x = ((torch.arange(32) + 0.5) / 32 - 0.5).to(z)
        along = x * angle.cos() - x[:, None] * angle.sin()
        off = x * angle.sin() + x[:, None] * angle.cos()
        mask = torch.exp(-((along / 0.2) ** 2 + (off / 0.06) ** 2))[:, None]
        hue = torch.deg2rad(self.middle + 60 * z[:, 1])[:, None, None, None]
        i, q = 0.15 * hue.cos(), 0.15 * hue.sin()
        rows = ((0.9563, 0.6210), (-0.2721, -0.6474), (-1.1070, 1.7046))
        colour = torch.cat([a * i + b * q for a, b in rows], dim=1)
        return 0.3 + colour + 0.35 * mask


def straight(
    name: str, axis: np.ndarray, slope: float, constant: float | None = 0.0, find: str = "intensity"
) -> Direction:
    """A direction whose g is a line."""
    return Direction(
        name, "unit", axis / np.linalg.norm(axis), np.full(100, slope), find=find, constant=constant
    )


def curved(name: str, axis: np.ndarray, law: Callable[[Tensor], Tensor]) -> Direction:
    """A direction whose g is `law` at the knots."""
    slopes = np.diff(law(torch.from_numpy(KNOTS)).numpy()) / np.diff(KNOTS)
    slopes = np.maximum(slopes, 1e-6)
    return Direction(name, "unit", axis, slopes, find="intensity", constant=0.0)
