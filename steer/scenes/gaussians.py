"""Diagonal Gaussians, and the small networks that give them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

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
        layers += [nn.Linear(a, b), nn.SiLU()]
    last = layers[-2]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight *= quiet
        last.bias.zero_()
    return nn.Sequential(*layers[:-1])
