"""T_t: what a factor does to a picture, with the mask of the pixels that stay known.

A geometric transform is written as the place each pixel of the result comes from; a pixel is
defined where that place lies between the centres of known pixels. Plugins add to `transforms`
through the entry points `steer.transforms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from steer.errors import InputError
from steer.images import luminance
from steer.registry import Registry

Warp = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# Pixels from the centre, right and down positive [H, W] twice; t [B, 1, 1]; (W, H).
Source = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], tuple[Tensor, Tensor]]

# FCC NTSC (1953) luma and chroma; the rows of I and Q sum to 0, so that grey has no chroma.
_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]],
    dtype=torch.float64,
)
_RGB = torch.linalg.inv(_YIQ)
# A place this far (in pixels) outside the last centre is rounding, not the unknown.
_SEAM = 1e-3


@dataclass(frozen=True)
class Transform:
    """A factor of variation that can be applied to pictures by a known amount t.

    `default_range` is T: trajectories go from -T to +T. `limits` are the amounts that make sense;
    outside of them a call raises InputError. `warp` maps pictures [B, C, H, W] and t [B] to the
    transformed pictures and the mask of their defined pixels [B, 1, H, W], differentiably in both.

    >>> picture = torch.zeros(1, 1, 4, 4)
    >>> picture[..., 0] = 1
    >>> moved, defined = transforms.get("translate-x")(picture, 0.25)
    >>> moved[0, 0, 0].round().tolist()[1:], defined[0, 0, 0].tolist()
    ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0])
    """

    name: str
    unit: str
    default_range: float
    limits: tuple[float, float]
    warp: Warp

    def __call__(self, pictures: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Transform pictures [B, C, H, W] by t, one number or one per picture [B].

        Returns the pictures and the mask of their defined pixels [B, 1, H, W], 0 or 1. Raises
        InputError where t is out of `limits` or the pictures lack the colour that is needed.
        """
        # Half precision cannot tell the pixels of a large picture apart.
        dtype = torch.promote_types(pictures.dtype, torch.float32)
        amount = torch.as_tensor(t, dtype=dtype, device=pictures.device)
        if amount.numel() not in (1, len(pictures)) or amount.dim() > 1:
            raise InputError(
                f"{self.name} expects one t, or one per picture ({len(pictures)}); "
                f"got shape {list(amount.shape)}."
            )
        self._check(amount)
        warped, defined = self.warp(pictures.to(dtype), amount.expand(len(pictures)))
        return warped.to(pictures.dtype), defined.to(pictures.dtype)

    def _check(self, amount: Tensor) -> None:
        low, high = self.limits
        wrong = amount[~((amount >= low) & (amount <= high))]
        if wrong.numel():
            raise InputError(
                f"{self.name} expects t from {low:g} to {high:g} ({self.unit}); "
                f"got {wrong.flatten()[0].item():g}."
            )


transforms: Registry[Transform] = Registry("transform", "steer.transforms")


def chroma(pictures: Tensor) -> Tensor:
    """The I and Q planes [B, 2, H, W] of colour pictures [B, 3, H, W]; InputError for grey ones.

    >>> chroma(torch.full((1, 3, 2, 2), 0.5)).abs().max().item() < 1e-6
    True
    """
    if pictures.shape[1] != 3:
        raise InputError(
            f"saturation and hue expect colour pictures of 3 channels; got {pictures.shape[1]}."
        )
    return torch.einsum("kc,bchw->bkhw", _YIQ[1:].to(pictures), pictures)


def sample(pictures: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures read (bilinearly) at places x, y [B, H, W], in pixels from the centre.

    Returns the pictures and the mask [B, 1, H, W] of the places whose four neighbours exist.
    """
    height, width = pictures.shape[-2:]
    grid = torch.stack([x * (2 / width), y * (2 / height)], dim=-1)
    read = grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    with torch.no_grad():
        inside = (x.abs() <= (width - 1) / 2 + _SEAM) & (y.abs() <= (height - 1) / 2 + _SEAM)
    return read, inside[:, None].to(pictures.dtype)


def geometric(source: Source) -> Warp:
    """The warp that fills each pixel of the result from the place that `source` names.

    >>> mirror = geometric(lambda x, y, t, size: (-x + 0 * t, y))
    >>> mirror(torch.tensor([[[[0.0, 1.0]]]]), torch.zeros(1))[0].tolist()
    [[[[1.0, 0.0]]]]
    """

    def warp(pictures: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        height, width = pictures.shape[-2:]
        x = torch.arange(width).to(t) - (width - 1) / 2
        y = torch.arange(height).to(t) - (height - 1) / 2
        x, y = source(x[None, :], y[:, None], t[:, None, None], (width, height))
        x, y = torch.broadcast_tensors(x, y)
        return sample(pictures, x, y)

    return warp


def pointwise(change: Callable[[Tensor, Tensor], Tensor]) -> Warp:
    """The warp that changes colours in place, clamped to [0, 1]: every pixel stays defined."""

    def warp(pictures: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        changed = change(pictures, t[:, None, None, None]).clamp(0, 1)
        return changed, torch.ones_like(pictures[:, :1])

    return warp


def _rotate(x: Tensor, y: Tensor, t: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    cos, sin = torch.cos(torch.deg2rad(t)), torch.sin(torch.deg2rad(t))
    return cos * x - sin * y, sin * x + cos * y


def _contrast(pictures: Tensor, t: Tensor) -> Tensor:
    mean = luminance(pictures).mean(dim=(-2, -1))[:, None, None, None]
    return mean + (pictures - mean) * 2**t


def _saturation(pictures: Tensor, t: Tensor) -> Tensor:
    # Scaling I and Q at a fixed Y scales the distance from the grey of the same luminance.
    chroma(pictures[:, :, :1, :1])
    grey = luminance(pictures)[:, None]
    return grey + (pictures - grey) * 2**t


def _hue(pictures: Tensor, t: Tensor) -> Tensor:
    i, q = chroma(pictures).unbind(dim=1)
    cos, sin = torch.cos(torch.deg2rad(t[:, 0])), torch.sin(torch.deg2rad(t[:, 0]))
    turned = torch.stack([luminance(pictures), cos * i - sin * q, sin * i + cos * q], dim=1)
    return torch.einsum("ck,bkhw->bchw", _RGB.to(pictures), turned)


for _transform in (
    Transform(
        "translate-x",
        "width",
        0.2,
        (-1, 1),
        geometric(lambda x, y, t, size: (x - t * size[0], y)),
    ),
    Transform(
        "translate-y",
        "height",
        0.2,
        (-1, 1),
        geometric(lambda x, y, t, size: (x, y - t * size[1])),
    ),
    Transform("zoom", "log2", 0.3, (-3, 3), geometric(lambda x, y, t, _: (x / 2**t, y / 2**t))),
    Transform("rotate", "degrees", 20, (-180, 180), geometric(_rotate)),
    Transform(
        "shear-x", "width per height", 0.2, (-1, 1), geometric(lambda x, y, t, _: (x - t * y, y))
    ),
    Transform("stretch-x", "log2", 0.3, (-3, 3), geometric(lambda x, y, t, _: (x / 2**t, y))),
    Transform("stretch-y", "log2", 0.3, (-3, 3), geometric(lambda x, y, t, _: (x, y / 2**t))),
    Transform("brightness", "luminance", 0.2, (-1, 1), pointwise(lambda p, t: p + t)),
    Transform("contrast", "log2", 0.5, (-4, 4), pointwise(_contrast)),
    Transform("saturation", "log2", 0.5, (-4, 4), pointwise(_saturation)),
    Transform("hue", "degrees", 30, (-180, 180), pointwise(_hue)),
):
    transforms.register(_transform.name, _transform)
