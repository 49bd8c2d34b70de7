"""Boxes in pictures: what lies inside them, and putting something there.

A box is x, y, half its width, half its height, and its angle: lengths in fractions of the picture's
sides, x to the right and y down from the middle of the picture, the angle in degrees,
counter-clockwise. Inside it, places go from -1 to 1, u to the right and v down before it is turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

X, Y, WIDTH, HEIGHT, ANGLE = range(5)


def glimpses(pictures: Tensor, boxes: Tensor, side: int) -> Tensor:
    """What boxes [B, m, 5] of pictures [B, C, H, W] show, [B, m, C, side, side]: a spatial
    transformer (Jaderberg et al. 2015), bilinear, 0 outside of the picture.

    >>> picture = torch.arange(16.0).view(1, 1, 4, 4)
    >>> glimpses(picture, torch.tensor([[[0.25, -0.25, 0.25, 0.25, 0.0]]]), 2)[0, 0, 0]
    tensor([[2., 3.],
            [6., 7.]])
    """
    count = boxes.shape[1]
    u = (2 * torch.arange(side, device=boxes.device) + 1) / side - 1
    p = u * boxes[..., WIDTH, None, None]
    q = u[:, None] * boxes[..., HEIGHT, None, None]
    x, y = turned(p, q, boxes[..., ANGLE, None, None])
    places = torch.stack([boxes[..., X, None, None] + x, boxes[..., Y, None, None] + y], dim=-1)
    seen = grid_sample(pictures, 2 * places.flatten(1, 2).to(pictures.dtype), align_corners=False)
    return seen.unflatten(2, (count, side)).transpose(1, 2)


def project(shown: Tensor, boxes: Tensor, windows: Tensor, side: int, canvas: int) -> Tensor:
    """`shown` [M, C, h, w] as it lies in its box [M, 5] on a canvas of `canvas` x `canvas` pixels:
    the part [M, C, side, side] of it whose first pixel is `windows` [M, 2], column and row.

    >>> shown = torch.ones(1, 1, 3, 3)
    >>> box, corner = torch.tensor([[0.25, 0.25, 0.25, 0.25, 0.0]]), torch.tensor([[1, 1]])
    >>> project(shown, box, corner, 3, 4)[0, 0].int()
    tensor([[0, 0, 0],
            [0, 1, 1],
            [0, 1, 1]], dtype=torch.int32)
    """
    places = torch.arange(side, device=boxes.device) + 0.5
    x = (windows[:, :1] + places)[:, None] / canvas - 0.5 - boxes[:, X, None, None]
    y = (windows[:, 1:] + places)[:, :, None] / canvas - 0.5 - boxes[:, Y, None, None]
    p, q = turned(x, y, -boxes[:, ANGLE, None, None])
    places = torch.stack(
        [p / boxes[:, WIDTH, None, None], q / boxes[:, HEIGHT, None, None]], dim=-1
    )
    return grid_sample(shown, places.to(shown.dtype), align_corners=False)


def windows(boxes: Tensor, canvas: int, shown: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Squares of pixels that what boxes [M, 5] show, of `shown` x `shown` pixels, lies in on a
    canvas of `canvas` x `canvas`: sides (8, 12, 16, 24, ..., or the canvas), which boxes [m] have
    it, and its first column and row [m, 2].

    >>> boxes = torch.tensor([[0.0, 0.0, 0.1, 0.1, 0.0], [0.4, 0.0, 0.3, 0.1, 0.0]])
    >>> [(side, which.tolist(), first.tolist()) for side, which, first in windows(boxes, 64, 16)]
    [(16, [0], [[24, 24]]), (48, [1], [[16, 8]])]
    """
    boxes = boxes.detach()
    angle = torch.deg2rad(boxes[:, ANGLE])
    cos, sin = angle.cos().abs(), angle.sin().abs()
    wide, high = boxes[:, WIDTH], boxes[:, HEIGHT]
    longest = torch.maximum(cos * wide + sin * high, sin * wide + cos * high)
    # half a shown pixel fades out on each side, half a pixel is lost by rounding
    needed = 2 * longest * (1 + 1 / shown) * canvas + 1
    middle = (boxes[:, : Y + 1] + 0.5) * canvas
    left = torch.ones_like(longest, dtype=torch.bool)
    for side in (min(each << i, canvas) for i in count() for each in (8, 12)):
        if not left.any():
            return
        which = (left & ((needed <= side) | (side == canvas))).nonzero()[:, 0]
        left[which] = False
        if len(which):
            first = (middle[which] - side / 2).round().long().clamp(0, canvas - side)
            yield side, which, first


def turned(p: Tensor, q: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths p to the right and q down, turned counter-clockwise as one sees them.

    >>> x, y = turned(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(90.0))
    >>> round(x.item(), 4), round(y.item(), 4)
    (-0.0, -1.0)
    """
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    return cos * p + sin * q, cos * q - sin * p


def moments(alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Barycentre [M, 2] and standard deviation [M, 2] along u and v, and the mean [M], of alphas
    [M, h, w] inside their boxes.

    >>> alphas = torch.zeros(1, 4, 4)
    >>> alphas[0, :2, :2] = 1
    >>> [part.tolist() for part in moments(alphas)]
    [[[-0.5, -0.5]], [[0.25, 0.25]], [0.25]]
    """
    height, width = alphas.shape[1:]
    u = (2 * torch.arange(width, device=alphas.device) + 1) / width - 1
    v = (2 * torch.arange(height, device=alphas.device) + 1) / height - 1
    mass = alphas.sum((1, 2)).clamp_min(1e-6)
    across, along = alphas.sum(1) / mass[:, None], alphas.sum(2) / mass[:, None]
    shift = torch.stack([across @ u, along @ v], dim=1)
    square = torch.stack([across @ u**2, along @ v**2], dim=1)
    return shift, (square - shift**2).clamp_min(1e-6).sqrt(), alphas.mean((1, 2))


def corners(boxes: Tensor) -> list[list[tuple[float, float]]]:
    """The four corners of boxes [M, 5], across and down in fractions of the sides from the left
    upper corner of the picture.

    >>> corners(torch.tensor([[0.25, 0.0, 0.25, 0.5, 0.0]]))
    [[(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)]]
    """
    u, v = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    p, q = u * boxes[:, WIDTH, None], v * boxes[:, HEIGHT, None]
    x, y = turned(p, q, boxes[:, ANGLE, None])
    x, y = 0.5 + boxes[:, X, None] + x, 0.5 + boxes[:, Y, None] + y
    return [list(zip(*each, strict=True)) for each in zip(x.tolist(), y.tolist(), strict=True)]
