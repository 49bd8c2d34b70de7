"""What is behind the objects: a mixture of components, each a mask and a colour picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from steer.scenes.gaussians import Gaussian, Halved, dense

#: Sides of a component's mask and of its colours, before they are enlarged: a background has large
#: regions with little variation (section 5.5.2 of the thesis).
MASK, COLOURS = 8, 4
#: Log of the standard deviations of codes at the start: with wider ones colours are learnt late,
#: and boxes have filled with background by then.
FIRST = -2.0
#: Codes for each Gaussian that is fitted to them.
MANY = 20


class Background(nn.Module):
    """K components of pictures of `side` x `side`: z_mask and z_comp of each, as in GENESIS
    (Engelcke et al. 2019) and SPACE (Lin et al. 2020), all at once instead of one by one.

    >>> background = Background(side=64, components=2)
    >>> codes = background.posterior(torch.zeros(3, 3, 64, 64)).mean
    >>> shares, colours = background(codes)
    >>> codes.shape, shares.shape, colours.shape
    (torch.Size([3, 16]), torch.Size([3, 2, 1, 64, 64]), torch.Size([3, 2, 3, 64, 64]))
    """

    def __init__(self, side: int, components: int = 3, latent: int = 4, width: int = 16):
        super().__init__()
        self.side, self.components, self.latent = side, components, latent
        self.dim = 2 * components * latent
        self.encoder = nn.Sequential(
            nn.AdaptiveAvgPool2d(32),
            Halved(width, 2 * width, 4 * width),
            nn.Flatten(),
            dense(4 * width * 16, 128, 2 * self.dim),
        )
        self.masks = nn.Sequential(
            dense(latent, 64, 2 * width * 16),
            nn.Unflatten(1, (2 * width, 4, 4)),
            *(nn.SiLU(), nn.ConvTranspose2d(2 * width, 1, 4, 2, 1)),
        )
        self.colours = dense(latent, 64, 3 * COLOURS**2)

    def posterior(self, pictures: Tensor) -> Gaussian:
        """q of z_mask and z_comp [B, dim] of pictures [B, 3, H, W]."""
        return Gaussian.of(self.encoder(pictures), FIRST)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Each component's share of every pixel [B, K, 1, H, W] and its colours [B, K, 3, H, W]."""
        of_masks, of_colours = codes.unflatten(1, (2, self.components * self.latent)).unbind(1)
        masks = self._enlarged(self.masks(self._each(of_masks)))
        colours = self.colours(self._each(of_colours)).unflatten(1, (3, COLOURS, COLOURS))
        shares = masks.unflatten(0, (-1, self.components)).float().softmax(1)
        drawn = self._enlarged(colours).float().sigmoid()
        return shares, drawn.unflatten(0, (-1, self.components))

    def _each(self, codes: Tensor) -> Tensor:
        return codes.unflatten(1, (self.components, self.latent)).flatten(0, 1)

    def _enlarged(self, maps: Tensor) -> Tensor:
        size = (self.side, self.side)
        return interpolate(maps, size, mode="bilinear", align_corners=False)


class Usual(nn.Module):
    """What codes [n, d] of backgrounds are like: a mixture of Gaussians, fitted once a model is
    trained (Ghosh et al. 2020), since N(0, I) holds many that are like none; until then that.

    >>> usual = Usual(dim=2, parts=3)
    >>> usual.sample(torch.zeros(5, 2), torch.rand(5)).shape
    torch.Size([5, 2])
    """

    def __init__(self, dim: int, parts: int = 10):
        super().__init__()
        self.shares = nn.Buffer(torch.full((parts,), 1 / parts))
        self.means = nn.Buffer(torch.zeros(parts, dim))
        self.roots = nn.Buffer(torch.eye(dim).repeat(parts, 1, 1))

    def fit(self, codes: Tensor) -> None:
        """Takes on the density of codes [n, d], by scikit-learn; few of them change nothing."""
        from sklearn.mixture import GaussianMixture

        parts = len(self.shares)
        if len(codes) < MANY * parts:
            return
        found = GaussianMixture(parts, random_state=0, reg_covar=1e-4).fit(codes.double().cpu())
        for own, fitted in (
            (self.shares, found.weights_),
            (self.means, found.means_),
            (self.roots, np.linalg.cholesky(found.covariances_)),
        ):
            own.copy_(torch.from_numpy(fitted))

    def sample(self, noise: Tensor, chance: Tensor) -> Tensor:
        """Codes [n, d] of standard normal noise [n, d], each of a part that `chance` [n] in [0, 1)
        chooses."""
        part = torch.bucketize(chance, self.shares.cumsum(0)).clamp_max(len(self.shares) - 1)
        return self.means[part] + torch.einsum("nij,nj->ni", self.roots[part], noise)


def mixed(shares: Tensor, colours: Tensor) -> Tensor:
    """The background [B, 3, H, W] of its components.

    >>> mixed(torch.full((1, 2, 1, 4, 4), 0.5), torch.rand(1, 2, 3, 4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """
    return torch.sum(shares * colours, dim=1)
