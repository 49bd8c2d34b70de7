"""VAE/GAN (Larsen et al. 2016): a VAE whose error is counted in the critic's features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steer.generators.avae import Posterior
from steer.training.avae import bound
from steer.training.gan import GAN, told_apart
from steer.training.parts import Stats
from steer.training.team import Noise


class VAEGAN(GAN):
    """The generator is the decoder; the features are those of the critic's last convolution.

    `gamma` weighs the error in features against realism in the generator's loss, `beta` the
    divergence against it in the encoder's.
    """

    title = "A VAE/GAN"

    def __init__(
        self, posterior: Posterior, generator: nn.Module, critic: nn.Sequential, dim: int, *,
        beta: float = 1.0, gamma: float = 0.01, **options: Any,
    ):  # fmt: skip
        super().__init__(generator, critic, dim, **options)
        self.posterior, self.beta, self.gamma = posterior, beta, gamma
        self.features, self.judge = critic[:-1], critic[-1]
        self.train("encoder", posterior=posterior)

    def step(self, pictures: Tensor, step: int, noise: Noise) -> Stats:
        """One update of every network on real pictures [B, C, H, W] in [0, 1]."""
        real = 2 * pictures - 1
        mean, log_sigma = self.posterior.train()(real)
        eps = self.code(len(real), noise)
        redrawn = self.generator(mean + eps * log_sigma.exp())
        fake = self.generator(self.code(len(real), noise))
        judged = [self.critic(each.detach()) for each in (redrawn, fake)]
        critic = told_apart(self.critic(real), torch.cat(judged))
        self.update("critic", critic)
        seen = self.features(redrawn)
        with torch.no_grad():
            wanted = self.features(real)
        error, divergence = bound(seen, wanted, mean, log_sigma)
        realism = (self.judge(seen).float().mean() + self.critic(fake).float().mean()) / 2
        self.update("encoder", error + self.beta * divergence, more=True)
        self.update("generator", realism + self.gamma * error)
        self.follow(step)
        return {"reconstruction": error.item(), "divergence": divergence.item(),
                "critic": critic.item(), "realism": realism.item()}  # fmt: skip

    def redrawn(self, pictures: Tensor) -> list[Tensor]:
        """The generator's reconstructions."""
        return [self.averaged(self.posterior.eval()(2 * pictures - 1)[0])]

    def result(self) -> tuple[nn.Module, Posterior]:
        """The averaged generator, and the encoder."""
        return self.averaged, self.posterior
