"""What a scene model is trained on (section 5.5 of the thesis)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steer.scenes.boxes import ANGLE, HEIGHT, WIDTH, X, Y, moments, turned

#: Standard deviation of an alpha inside its box, whose half side is 1: a disc's for a box a fourth
#: larger than it.
FILLED = 0.4
#: An alpha whose mean is less shows nothing.
EMPTY = 0.01
#: Harmonics of the alpha's mass over the angle that a box is turned by.
HARMONICS = 2


def log_likelihood(pictures: Tensor, drawn: Tensor, sigma: float) -> Tensor:
    """Log density [..., 1, H, W] of each pixel under Gaussians around `drawn` [..., 3, H, W].

    >>> log_likelihood(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1), 1.0).round(decimals=4)
    tensor([[[[-2.7568]]]])
    """
    constant = pictures.shape[-3] * math.log(sigma * math.sqrt(2 * math.pi))
    away = (pictures - drawn).square().sum(-3, keepdim=True)
    return -away / (2 * sigma**2) - constant


def mixture(
    pictures: Tensor, shares: Tensor, colours: Tensor, clear: Tensor, before: Tensor, sigma: float
) -> Tensor:
    """Negative log likelihood [B] of pictures [B, 3, H, W] (equations 5.1 and 5.2): each pixel is
    of the foreground, with log density `before` [B, 1, H, W], or, with probability `clear`
    [B, 1, H, W], of one of the background's components [B, K, 3, H, W], by their shares
    [B, K, 1, H, W]."""
    behind = log_likelihood(pictures[:, None], colours, sigma) + _log(shares)
    whole = torch.logaddexp(behind.logsumexp(1) + _log(clear), before + _log(1 - clear))
    return -whole.sum((1, 2, 3))


def _log(shares: Tensor) -> Tensor:
    return shares.clamp_min(1e-6).log()


def object_prior(alphas: Tensor, boxes: Tensor) -> Tensor:
    """How far boxes [M, 5] are from being centred on their alphas [M, 1, g, g] and in proportion to
    them: KL(N(w, w_scale^2) || N(target, target_scale^2)) [M] in nats (equation 5.6). The target
    has no gradient; an empty alpha has no target, so that it costs 0.

    >>> alphas = torch.zeros(2, 1, 16, 16)
    >>> alphas[0, :, :8, :8] = 1
    >>> cost = object_prior(alphas, torch.tensor([[0.0, 0.0, 0.1, 0.1, 0.0]] * 2))
    >>> cost[0].item() > 0.5, cost[1].item()
    (True, 0.0)
    """
    shift, scale, mean = moments(alphas[:, 0])
    halves = boxes[:, WIDTH : HEIGHT + 1]
    p, q = (shift * halves).unbind(1)
    moved = torch.stack(turned(p, q, boxes[:, ANGLE]), dim=1).detach()
    wanted = (halves * scale / FILLED).detach()
    away = boxes[:, X : Y + 1] - (boxes[:, X : Y + 1].detach() + moved)
    cost = (wanted / halves).log() + (halves**2 + away**2) / (2 * wanted**2) - 0.5
    return torch.where(mean > EMPTY, cost.sum(1), 0.0)


def alignment(alphas: Tensor, boxes: Tensor) -> Tensor:
    """How far boxes [M, 5] are from lying along the mass of their alphas [M, 1, g, g], as a
    differentiable function [M] of the boxes' angles: the mass over the angle around its
    barycentre as a series of cosines and sines, of which the first `HARMONICS` are kept.

    At a box that is turned by d from where it is, the series is sum_n c_n cos(n d) + s_n sin(n d):
    the mass in the box's own direction, to be made large. An empty alpha costs 0.
    """
    alphas = alphas[:, 0].detach()
    shift, _, mean = moments(alphas)
    side = alphas.shape[-1]
    places = (2 * torch.arange(side, device=alphas.device) + 1) / side - 1
    halves = boxes[:, WIDTH : HEIGHT + 1].detach()
    p = (places - shift[:, :1]) * halves[:, :1]
    q = (places - shift[:, 1:]) * halves[:, 1:]
    radius = (p[:, None, :] ** 2 + q[:, :, None] ** 2).sqrt()
    towards = torch.atan2(-q[:, :, None], p[:, None, :])
    mass = alphas * radius  # far pixels tell more of the direction
    mass = mass / mass.sum((1, 2), keepdim=True).clamp_min(1e-6)
    turned = torch.deg2rad(boxes[:, ANGLE] - boxes[:, ANGLE].detach())
    along = torch.zeros_like(turned)
    for n in range(1, HARMONICS + 1):
        cos = (mass * (n * towards).cos()).sum((1, 2))
        sin = (mass * (n * towards).sin()).sum((1, 2))
        along = along + cos * (n * turned).cos() + sin * (n * turned).sin()
    return torch.where(mean > EMPTY, -along, 0.0)
