"""BiGAN (Donahue et al. 2017): the critic sees pictures together with their codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steer.generators.avae import Posterior
from steer.training.gan import GAN, told_apart
from steer.training.parts import Stats
from steer.training.team import Noise


class Pairs(nn.Module):
    """A critic of pictures with codes: the picture's branch and a perceptron of two hidden layers
    on the code, joined in another one. `trunk` maps pictures to [B, features]."""

    def __init__(self, trunk: nn.Module, features: int, dim: int, hidden: int = 512):
        super().__init__()
        self.trunk = trunk
        self.code = _perceptron(dim, hidden, hidden)
        self.both = _perceptron(features + hidden, hidden, 1)

    def forward(self, pictures: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, 1] of being a fake with its code."""
        return self.both(torch.cat([self.trunk(pictures), self.code(codes)], dim=1))


def _perceptron(inside: int, hidden: int, outside: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((inside, hidden), (hidden, hidden)):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden, outside))


class BiGAN(GAN):
    """The encoder makes real pairs look like fakes, the generator fakes like real ones."""

    title = "A bidirectional GAN"

    def __init__(
        self, posterior: Posterior, generator: nn.Module, critic: Pairs, dim: int, **options: Any
    ):
        super().__init__(generator, critic, dim, **options)
        self.posterior = posterior
        self.train("encoder", posterior=posterior)

    def step(self, pictures: Tensor, step: int, noise: Noise) -> Stats:
        """One update of every network on real pictures [B, C, H, W] in [0, 1]."""
        real = 2 * pictures - 1
        found, code = self.posterior.train()(real)[0], self.code(len(real), noise)
        fake = self.generator(code)
        judged = self.critic(real, found.detach()), self.critic(fake.detach(), code)
        critic = told_apart(*judged)
        self.update("critic", critic)
        realism, mistaken = (
            self.critic(fake, code).float().mean(),
            -self.critic(real, found).float().mean(),
        )
        self.update("generator", realism)
        self.update("encoder", mistaken)
        self.follow(step)
        return {"critic": critic.item(), "realism": realism.item(), "mistaken": mistaken.item()}

    def redrawn(self, pictures: Tensor) -> list[Tensor]:
        """The generator's reconstructions."""
        return [self.averaged(self.posterior.eval()(2 * pictures - 1)[0])]

    def result(self) -> tuple[nn.Module, Posterior]:
        """The averaged generator, and the encoder."""
        return self.averaged, self.posterior
