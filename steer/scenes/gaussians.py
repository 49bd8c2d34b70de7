"""Diagonal Gaussians, and the small networks that give them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

#: Logs of standard deviations stay within this of 0.
WIDEST = 7.0


class Gaussian(NamedTuple):
    """Means and logs of the standard deviations, of one shape [..., d].

    >>> wide, narrow = (Gaussian(torch.zeros(1, 2), torch.full((1, 2), s)) for s in (0.0, -1.0))
    >>> wide.divergence(wide).item(), round(narrow.divergence(wide).item(), 4)
    (0.0, 1.1353)
    """

    mean: Tensor
    log_sigma: Tensor

    @classmethod
    def of(cls, out: Tensor, log_sigma: float = 0.0, mean: Tensor | float = 0.0) -> Gaussian:
        """That of a network's output [..., 2 d]; the one of zeros has this `mean` and
        `log_sigma`."""
        first, second = out.float().chunk(2, dim=-1)
        return cls(first + mean, WIDEST * torch.tanh((second + log_sigma) / WIDEST))

    def sample(self, noise: Tensor) -> Tensor:
        """Values [..., d] of standard normal numbers [..., d]."""
        return self.mean + self.log_sigma.exp() * noise

    def divergence(self, prior: Gaussian) -> Tensor:
        """Kullback-Leibler divergence [...] from `prior`, in nats."""
        away = (self.mean - prior.mean).square() + (2 * self.log_sigma).exp()
        between = prior.log_sigma - self.log_sigma
        return (between + away / (2 * (2 * prior.log_sigma).exp()) - 0.5).sum(-1)

    def at(self, chosen: Tensor) -> Gaussian:
        """Those that a mask or index chooses."""
        return Gaussian(self.mean[chosen], self.log_sigma[chosen])

    def ordered(self, order: Tensor) -> Gaussian:
        """Those of [B, N, K, d] in the order [B, N, K] along K."""
        return Gaussian(*(taken(part, order) for part in self))


def taken(values: Tensor, order: Tensor) -> Tensor:
    """`values` [B, N, K, ...] in the order [B, N, K] along K."""
    index = order.view(*order.shape, *[1] * (values.dim() - 3)).expand_as(values)
    return values.gather(2, index)


def standard(like: Tensor) -> Gaussian:
    """N(0, 1) for each of `like`."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))


def stacked(parts: Sequence[Gaussian], dim: int) -> Gaussian:
    """Several as one, along a new dimension."""
    return Gaussian(*(torch.stack(each, dim) for each in zip(*parts, strict=True)))


def dense(*sizes: int, quiet: float = 1.0) -> nn.Sequential:
    """Linear layers with SiLU between; the last one's weights are scaled by `quiet`, and its bias
    is 0."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [lively(nn.Linear(a, b)), nn.SiLU()]
    last = nn.Linear(sizes[-2], sizes[-1])
    with torch.no_grad():
        last.weight *= quiet
        last.bias.zero_()
    return nn.Sequential(*layers[:-2], last)


class Halved(nn.Sequential):
    """Pictures [B, 3, H, W] in [0, 1] to features, by convolutions that halve the sides.

    >>> Halved(8, 16)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, *channels: int):
        layers: list[nn.Module] = []
        for a, b in pairwise((3, *channels)):
            layers += [lively(nn.Conv2d(a, b, 4, 2, 1)), nn.SiLU()]
        super().__init__(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        return super().forward(4 * pictures - 2)


L = TypeVar("L", nn.Linear, nn.Conv2d)


def lively(layer: L) -> L:
    """The layer with weights that keep the variance of what goes through it and a SiLU (He et al.
    2015): with torch's own, little of a picture is left after four of them."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
