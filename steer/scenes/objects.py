"""The objects of a picture: their boxes, what they look like, and where they usually are."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from steer.scenes.gaussians import Gaussian, Halved, dense, lively, stacked

#: Half a box's sides, as fractions of the picture's: the least, the most, and at the start, where
#: they are also no more than so many cells.
SMALLEST, LARGEST, FIRST, FIRST_CELLS = 0.02, 0.3, 0.15, 0.8
#: How many cells to each side of its own a cell knows of, so that one of those that show a large
#: object takes the whole of it and the others leave it.
AROUND = 3
#: A box's middle is no farther from that of its cell, in cells.
REACH = 1.0
#: Depths are between 0 and this.
DEEPEST = 6.0
#: Logs of the standard deviations of codes at the start: narrow, so that they tell something from
#: the first step on; those of places are narrow in the prior too, so that they cost nothing yet.
FIRST_WHAT, FIRST_PLACE = -1.0, -2.0
#: Logits of presence at the start: of a cell's first box, and of the others; and how many of them
#: the first number of z_pres counts.
FIRST_LOGIT, OTHER_LOGIT, SLOPE = 1.0, -7.0, 8.0


def _first_presences(most: int, dim: int) -> nn.Parameter:
    """Means of z_pres [K, dim] at the start."""
    means = torch.zeros(most, dim)
    means[:, 0] = OTHER_LOGIT / SLOPE
    means[0, 0] = FIRST_LOGIT / SLOPE
    return nn.Parameter(means)


class Cells(nn.Module):
    """A picture's grid of cells, and K proposals out of each, one after another.

    >>> cells = Cells(side=64, grid=4, most=4, box=8, presence=4, width=8)
    >>> noise = torch.zeros(2, 16, 4, 12)
    >>> q_presence, z_presence, q_box, z_box = cells(torch.zeros(2, 3, 64, 64), noise)
    >>> z_presence.shape, z_box.shape
    (torch.Size([2, 16, 4, 4]), torch.Size([2, 16, 4, 8]))
    """

    def __init__(self, side: int, grid: int, most: int, box: int, presence: int, width: int = 32):
        super().__init__()
        self.most, self.sizes = most, (presence, box)
        halvings = (side // grid).bit_length() - 1
        channels = [width * min(2**i, 6) for i in range(halvings)]
        cell = channels[-1]
        around = [[lively(nn.Conv2d(cell, cell, 3, 1, 1)), nn.SiLU()] for _ in range(AROUND)]
        self.features = nn.Sequential(Halved(*channels), *chain.from_iterable(around))
        self.steps = nn.LSTMCell(cell + presence + box, cell)
        self.first = _first_presences(most, presence)
        self.presence = dense(cell, 64, 2 * presence, quiet=0.1)
        self.box = dense(cell, 64, 2 * box, quiet=0.1)

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Gaussian, Tensor, Gaussian, Tensor]:
        """q(z_pres), z_pres [B, N, K, presence], q(z_box), z_box [B, N, K, box] of pictures
        [B, 3, H, W]; standard normal `noise` is [B, N, K, presence + box]."""
        features = self.features(pictures).flatten(2).transpose(1, 2).flatten(0, 1)
        batch, cells = noise.shape[:2]
        state = None
        before = torch.zeros(len(features), sum(self.sizes), device=features.device)
        found = []
        for k in range(self.most):
            state = self.steps(torch.cat([features, before.to(features.dtype)], dim=1), state)
            q_presence = Gaussian.of(self.presence(state[0]), FIRST_PLACE, self.first[k])
            q_box = Gaussian.of(self.box(state[0]), FIRST_PLACE)
            eps = noise[:, :, k].flatten(0, 1).split(self.sizes, dim=1)
            z_presence, z_box = q_presence.sample(eps[0]), q_box.sample(eps[1])
            before = torch.cat([z_presence, z_box], dim=1)
            found.append((q_presence, z_presence, q_box, z_box))

        q_presences, z_presences, q_boxes, z_boxes = zip(*found, strict=True)
        parts = [*stacked(q_presences, 1), torch.stack(z_presences, 1),
                 *stacked(q_boxes, 1), torch.stack(z_boxes, 1)]  # fmt: skip
        parts = [part.unflatten(0, (batch, cells)) for part in parts]
        return Gaussian(*parts[:2]), parts[2], Gaussian(*parts[3:5]), parts[5]


class BoxDecoder(nn.Module):
    """z_box of a cell's proposal to its box and depth, z_pres to its presence.

    >>> decoder = BoxDecoder(grid=4, box=8, presence=4)
    >>> boxes, depths = decoder.boxes(torch.zeros(1, 16, 4, 8))
    >>> boxes.shape, depths.shape, boxes[0, 0, 0, 4].item()
    (torch.Size([1, 16, 4, 5]), torch.Size([1, 16, 4]), 0.0)
    """

    def __init__(self, grid: int, box: int, presence: int, turns: bool = False):
        super().__init__()
        self.grid, self.turns = grid, turns
        self.box = dense(box, 64, 5 + 2 * turns)
        self.presence = dense(presence, 32, 1)

    def presences(self, z: Tensor) -> Tensor:
        """w_pres [...] in (0, 1) of z_pres [..., presence]."""
        return (self.presence(z)[..., 0].float() + SLOPE * z[..., 0]).sigmoid()

    def boxes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, K, 5] and depths [B, N, K], the larger the nearer, of z_box [B, N, K, box].

        The angle is that of a vector of two numbers: as one number it does not train.
        """
        out = self.box(z).float()
        middles = (torch.arange(self.grid, device=z.device) + 0.5) / self.grid - 0.5
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        cells = torch.stack([x, y], dim=2).flatten(0, 1)[:, None]
        places = cells + REACH / self.grid * out[..., :2].tanh()
        span = math.log(LARGEST / SMALLEST)
        first = math.log(max(min(FIRST, FIRST_CELLS / self.grid), 2 * SMALLEST) / SMALLEST) / span
        share = (out[..., 2:4] + math.log(first / (1 - first))).sigmoid()
        halves = SMALLEST * (span * share).exp()
        depths = DEEPEST * out[..., 4].sigmoid()
        angle = torch.zeros_like(depths)
        if self.turns:
            angle = torch.rad2deg(torch.atan2(out[..., 5], out[..., 6] + 1))
        return torch.cat([places, halves, angle[..., None]], dim=-1), depths


class ObjectVAE(nn.Module):
    """What a box shows: z_what of a glimpse, and its colours and alpha.

    >>> objects = ObjectVAE(side=16, latent=16)
    >>> colours, alphas = objects(torch.zeros(5, 16))
    >>> objects.posterior(torch.zeros(5, 3, 16, 16)).mean.shape, colours.shape, alphas.shape
    (torch.Size([5, 16]), torch.Size([5, 3, 16, 16]), torch.Size([5, 1, 16, 16]))
    """

    def __init__(self, side: int = 16, latent: int = 16, width: int = 32):
        super().__init__()
        core = 2 * width * (side // 4) ** 2
        self.encoder = nn.Sequential(
            *(Halved(width, 2 * width), nn.Flatten(), dense(core, 128, 2 * latent)),
        )
        self.decoder = nn.Sequential(
            *(dense(latent, 128, core), nn.SiLU()),
            nn.Unflatten(1, (2 * width, side // 4, side // 4)),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.SiLU()),
            nn.ConvTranspose2d(width, 4, 4, 2, 1),
        )

    def posterior(self, glimpses: Tensor) -> Gaussian:
        """q(z_what) [M, latent] of glimpses [M, 3, side, side]."""
        return Gaussian.of(self.encoder(glimpses), FIRST_WHAT)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [M, 3, side, side] and alphas [M, 1, side, side], both in [0, 1]."""
        drawn = self.decoder(z).float().sigmoid()
        return drawn[:, :3], drawn[:, 3:]


class Prior(nn.Module):
    """Where objects are and what they look like, before anything is seen (section 5.4 of the
    thesis): for each cell, given its place and the background, one object after another.

    >>> prior = Prior(grid=4, most=3, background=12, presence=4, box=8, what=16)
    >>> parts = prior(torch.zeros(2, 12), lambda k, i, gaussian: gaussian.mean)
    >>> [list(part.mean.shape) for part in parts]
    [[2, 16, 3, 4], [2, 16, 3, 8], [2, 16, 3, 16]]
    """

    def __init__(
        self,
        grid: int,
        most: int,
        background: int,
        presence: int,
        box: int,
        what: int,
        hidden: int = 64,
    ):
        super().__init__()
        self.grid, self.most, self.sizes = grid, most, (presence, box, what)
        self.first = _first_presences(most, presence)
        self.steps = nn.LSTMCell(2 + background + sum(self.sizes), hidden)
        self.heads = nn.ModuleList(
            dense(hidden + sum(self.sizes[:i]), 64, 2 * size, quiet=0.01)
            for i, size in enumerate(self.sizes)
        )

    def forward(
        self, background: Tensor, choose: Callable[[int, int, Gaussian], Tensor]
    ) -> list[Gaussian]:
        """p(z_pres), p(z_box) and p(z_what) [B, N, K, ...] given backgrounds [B, d]. `choose` is
        told the step k, which of the three it is, and its Gaussian [B, N, ...], and says its value:
        what was seen, or a sample."""
        batch, cells = len(background), self.grid**2
        middles = (2 * torch.arange(self.grid, device=background.device) + 1) / self.grid - 1
        places = torch.cartesian_prod(middles, middles).expand(batch, -1, -1)
        given = torch.cat([places, background[:, None].expand(-1, cells, -1)], dim=2)
        before = background.new_zeros(batch, cells, sum(self.sizes))
        state, found = None, []
        for k in range(self.most):
            state = self.steps(torch.cat([given, before], dim=2).flatten(0, 1), state)
            known, gaussians = state[0].unflatten(0, (batch, cells)), []
            for i, head in enumerate(self.heads):
                narrow = FIRST_PLACE if i < 2 else 0.0
                gaussians.append(Gaussian.of(head(known), narrow, self.first[k] if i == 0 else 0.0))
                known = torch.cat([known, choose(k, i, gaussians[-1])], dim=2)
            before = known[..., -sum(self.sizes) :].float()
            found.append(gaussians)
        return [stacked(parts, dim=2) for parts in zip(*found, strict=True)]
