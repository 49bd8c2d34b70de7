"""AVAE (Plumerault et al., ICPR 2020): the latent space of a VAE, the pictures of a GAN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steer.generators.avae import Posterior, completed
from steer.sheets import side_by_side
from steer.training.gan import GAN
from steer.training.parts import Parts, Stats
from steer.training.team import Noise


def bound(drawn: Tensor, real: Tensor, mean: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error and divergence in nats a picture: half the sum over pixels of (D(z) - x)^2, and
    half the sum over latents of sigma^2 + mu^2 - log sigma^2 - 1.

    >>> one = torch.ones(1, 1)
    >>> [part.item() for part in bound(one, 3 * one, 2 * one, 0 * one)]
    [2.0, 2.0]
    """
    error = (drawn.float() - real.float()).square().sum() / 2
    divergence = ((2 * log_sigma).exp() + mean**2 - 2 * log_sigma - 1).sum() / 2
    return error / len(real), divergence / len(real)


class VAE(Parts):
    """The encoder and decoder of an AVAE alone."""

    title = "A variational auto-encoder"

    def __init__(
        self, posterior: Posterior, decoder: nn.Module, *, beta: float = 1.0, rate: float = 2e-4
    ):
        super().__init__(rate)
        self.posterior, self.decoder, self.beta = posterior, decoder, beta
        self.train("vae", posterior=posterior, decoder=decoder)

    def step(self, pictures: Tensor, step: int, noise: Noise) -> Stats:
        """One update on real pictures [B, C, H, W] in [0, 1]."""
        return self.learn(2 * pictures - 1, noise)

    def learn(self, real: Tensor, noise: Noise) -> Stats:
        """One update on pictures in [-1, 1]."""
        self.posterior.train()
        mean, log_sigma = self.posterior(real)
        eps = noise.normal(*mean.shape)
        drawn = self.decoder.train()(mean + eps * log_sigma.exp())
        error, divergence = bound(drawn, real, mean, log_sigma)
        self.update("vae", error + self.beta * divergence)
        return {"reconstruction": error.item(), "divergence": divergence.item()}

    @torch.no_grad()
    def redrawn(self, pictures: Tensor) -> Tensor:
        """The decoder's reconstructions, in [-1, 1]."""
        return self.decoder.eval()(self.posterior.eval()(2 * pictures - 1)[0])

    def preview(self, pictures: Tensor) -> Tensor:
        """Pictures over their reconstructions."""
        return side_by_side(pictures, (self.redrawn(pictures) + 1) / 2)

    def result(self) -> tuple[nn.Module, Posterior]:
        """Decoder and encoder."""
        return self.decoder, self.posterior


class AVAE(GAN):
    """Pictures of the generator must look real to the critic, and come back to their codes through
    the encoder of a VAE, which learns from real pictures alone.

    `exact` is the loss L_Z^b of equation 3.12, whose optimum is the adversarial loss's as well;
    without it, L_Z^a of equation 3.8. Of the `dim` numbers of a code the first are z, as many as
    the encoder gives; the rest is xi. `frozen`: the VAE was trained before and stays.
    """

    title = "An adversarial variational auto-encoder"

    def __init__(
        self, vae: VAE, generator: nn.Module, critic: nn.Module, dim: int, *,
        exact: bool = True, frozen: bool = False, **options: Any,
    ):  # fmt: skip
        super().__init__(generator, critic, dim, **options)
        self.vae, self.exact, self.frozen = vae, exact, frozen
        self.networks |= vae.networks
        if not frozen:
            self.optimisers |= vae.optimisers

    def before(self, real: Tensor, noise: Noise) -> Stats:
        """One update of the VAE."""
        return {} if self.frozen else self.vae.learn(real, noise)

    def kept(self, fake: Tensor, code: Tensor) -> Tensor:
        """L_Z, by the encoder's running batch statistics, which fakes do not change."""
        mean, log_sigma = self.vae.posterior.eval()(fake)
        z, sigma = code[:, : mean.shape[1]], log_sigma.exp().detach()
        wanted = (1 - sigma**2).clamp_min(0).sqrt() * z if self.exact else z
        return ((mean - wanted) / sigma).square().sum() / 2 / len(fake)

    def redrawn(self, pictures: Tensor) -> list[Tensor]:
        """The decoder's reconstructions, and the generator's."""
        drawn = self.code(1, Noise(0)).to(pictures)
        mean, log_sigma = self.vae.posterior.eval()(2 * pictures - 1)
        code = completed(mean, log_sigma, drawn, self.exact)
        return [self.vae.redrawn(pictures), self.averaged(code)]

    def result(self) -> tuple[nn.Module, Posterior]:
        """The averaged generator, and the encoder."""
        return self.averaged, self.vae.posterior
