"""Training of BFVAE in two stages: both VAEs, then the encoder of foregrounds without masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steer.datasets import WithTruth
from steer.errors import InputError
from steer.scenes.bfvae import BFVAE, swaps
from steer.scenes.gaussians import standard
from steer.training.learner import Learner
from steer.training.team import Noise

#: Share of all steps after which the VAEs stay as they are, and the last encoder learns.
WHOLE = 0.8


class Masked:
    """Pictures of a set whose objects are known, with the mask of all of them as a fourth channel.

    Raises InputError for a set that is not in colour.

    >>> from steer.datasets import OneObject
    >>> Masked(OneObject()).pictures(torch.arange(2)).shape
    torch.Size([2, 4, 64, 64])
    """

    def __init__(self, dataset: WithTruth):
        channels, height, width = dataset.shape
        if channels != 3:
            raise InputError(f"expected pictures of 3 channels, {dataset.name} has {channels}.")
        self.dataset, self.name, self.size = dataset, dataset.name, dataset.size
        self.shape = (4, height, width)

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures and masks [B, 4, H, W] of integer indices [B]."""
        masks = self.dataset.truth(indices).masks.sum(1, keepdim=True)
        return torch.cat([self.dataset.pictures(indices), masks], dim=1)


class Both(Learner[BFVAE]):
    """The negative evidence lower bounds of VAE-F and VAE-B (equation 5.3): a z_b that says what
    z_f already does costs `beta` times as many nats, so that it forgets the foreground.

    For the last share of steps everything is frozen but the encoder that sees no mask; it is put in
    the place of VAE-F's and trained by the same losses (section 5.3.1). Each stage's learning rate
    falls to nothing along a cosine.
    """

    def __init__(
        self,
        model: BFVAE,
        *,
        steps: int,
        beta: float = 20.0,
        sigma: float = 0.1,
        rate: float = 2e-3,
    ):
        self.model, self.steps, self.beta = model.train(), steps, beta
        self.sigma, self.rate = sigma, rate
        self.first = math.ceil(WHOLE * steps)
        last = list(model.encoder_whole.parameters())
        own = {id(weight) for weight in last}
        self.optimisers = {
            "both": torch.optim.Adam([w for w in model.parameters() if id(w) not in own], lr=rate),
            "whole": torch.optim.Adam(last, lr=rate),
        }

    def step(self, pictures: Tensor, step: int, noise: Noise) -> dict[str, float]:
        """One update on pictures and masks [B, 4, H, W]; logs nats per picture."""
        both = step < self.first
        losses = self.losses(pictures, noise, masked=both)
        done = step / self.first if both else (step - self.first) / (self.steps - self.first)
        optimiser = self.optimisers["both" if both else "whole"]
        weights = []
        for group in optimiser.param_groups:
            group["lr"] = self.rate * (1 + math.cos(math.pi * done)) / 2
            weights += group["params"]
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward(inputs=weights)
        optimiser.step()
        return {name: value.item() for name, value in losses.items()}

    def losses(self, pictures: Tensor, noise: Noise, masked: bool) -> dict[str, Tensor]:
        """Nats per picture of [B, 4, H, W]; z_f is that of masked pictures, or of whole ones."""
        model, (whole, masks) = self.model, pictures.split([3, 1], dim=1)
        q_b, q_f = model.background(whole), model.foreground(whole, masks if masked else None)
        z_b, z_f = (q.sample(noise.normal(*q.mean.shape)) for q in (q_b, q_f))
        before = torch.cat([whole * masks, masks], dim=1)
        return {
            "picture": self.error(model.decoder_b(torch.cat([z_b, z_f], dim=1)), whole),
            "foreground": self.error(model.decoder_f(z_f), before),
            "z_b": self.beta * q_b.divergence(standard(z_b)).mean(),
            "z_f": q_f.divergence(standard(z_f)).mean(),
        }

    def error(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Negative log likelihood in nats a picture, up to a constant."""
        return (drawn.float() - real).square().sum() / (2 * self.sigma**2) / len(real)

    @torch.no_grad()
    def preview(self, pictures: Tensor) -> Tensor:
        """Foregrounds and backgrounds of a few pictures, swapped."""
        shown = pictures[:5]
        return swaps(self.model, shown[:, :3], shown[:, 3:])
