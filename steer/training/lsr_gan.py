"""LSR-GAN: a GAN whose pictures a frozen encoder must read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from steer.generators.avae import Posterior, completed
from steer.training.gan import GAN
from steer.training.team import Noise


class LSRGAN(GAN):
    """The generator's loss holds -lambda log q(z | G(z)), q the posterior of a VAE that was trained
    before and stays as it is, with the standard deviations it gives each picture."""

    title = "A latent space regularised GAN"

    def __init__(
        self, posterior: Posterior, generator: nn.Module, critic: nn.Module, dim: int, *,
        weight: float = 1.0, **options: Any,
    ):  # fmt: skip
        super().__init__(generator, critic, dim, **options)
        self.posterior, self.weight = posterior.eval().requires_grad_(False), weight

    def kept(self, fake: Tensor, code: Tensor) -> Tensor:
        """-lambda log q(z | G(z)) in nats a picture, up to a constant."""
        mean, log_sigma = self.posterior(fake)
        away = (code[:, : mean.shape[1]] - mean) / log_sigma.exp()
        return self.weight * (away.square() / 2 + log_sigma).sum() / len(fake)

    def redrawn(self, pictures: Tensor) -> list[Tensor]:
        """The generator's reconstructions."""
        drawn = self.code(1, Noise(0)).to(pictures)
        mean, log_sigma = self.posterior(2 * pictures - 1)
        return [self.averaged(completed(mean, log_sigma, drawn, self.exact))]

    def result(self) -> tuple[nn.Module, Posterior]:
        """The averaged generator, and the frozen encoder."""
        return self.averaged, self.posterior
