"""Training of SAID, after every glimpse (section 6.2.3 of Zeng 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steer.scenes.gaussians import standard
from steer.scenes.said import SAID
from steer.sheets import side_by_side
from steer.training.learner import Learner
from steer.training.team import Noise

#: Shares of all steps after which each part begins to learn: from a VAE that shows nothing yet,
#: boxes would flee to where nothing is.
BEGIN = {"objects": 0.0, "boxes": 0.15}


class Said(Learner[SAID]):
    """What a glimpse costs less what it saves (equations 6.2 and 6.3), and `place` times the
    divergence of its box from the prior (equation 6.4): one update after each of `glimpses` boxes.
    """

    def __init__(
        self,
        model: SAID,
        *,
        steps: int,
        glimpses: int = 5,
        place: float = 1.0,
        sigma: float = 0.1,
        rate: float = 1e-3,
    ):
        self.model, self.glimpses, self.place, self.sigma = model.train(), glimpses, place, sigma
        self.steps, self.rate = steps, rate
        networks: dict[str, list[nn.Module]] = {
            "objects": [model.objects],
            "boxes": [model.features, model.attention],
        }
        self.optimisers = {
            name: torch.optim.Adam(
                [w for part in parts for w in part.parameters()], lr=rate, betas=(0.5, 0.999)
            )
            for name, parts in networks.items()
        }

    def step(self, pictures: Tensor, step: int, noise: Noise) -> dict[str, float]:
        """An update after each box; logs nats per picture, sums over its boxes."""
        numbers = 4 + self.model.dims[1]
        drawn = [noise.normal(len(pictures), numbers) for _ in range(self.glimpses)]
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        told: list[Tensor] = []
        for seen, saved in self.model.look(pictures, drawn):
            place = seen.where.divergence(standard(seen.where.mean)).mean()
            patch = seen.error.mean() / (2 * self.sigma**2)
            costs = torch.stack([saved.mean(), seen.cost.mean(), place, patch])
            for optimiser in self.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            (costs[1] - costs[0] + self.place * costs[2] + costs[3]).backward()
            for name, optimiser in self.optimisers.items():
                if step >= BEGIN[name] * self.steps:
                    optimiser.step()
            told.append(costs.detach())
        sums = torch.stack(told).sum(0).tolist()
        return dict(zip(("saved", "what", "place", "patch"), sums, strict=True))

    @torch.no_grad()
    def preview(self, pictures: Tensor) -> Tensor:
        """Pictures over what the model makes of them."""
        return side_by_side(pictures, self.model.find(pictures).pictures)
