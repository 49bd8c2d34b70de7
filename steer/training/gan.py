"""A generator against a critic (Goodfellow et al. 2014), with the blocks of Radford et al. 2015."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from steer.generators.avae import Posterior
from steer.sheets import grid
from steer.training.parts import Parts, Stats
from steer.training.team import Noise


def told_apart(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's cross entropy of logits [B, 1] of real pictures and of fakes.

    >>> round(told_apart(torch.zeros(2, 1), torch.zeros(2, 1)).item(), 4)  # 2 log 2
    1.3863
    """
    return softplus(real.float()).mean() + softplus(-fake.float()).mean()


class GAN(Parts):
    """`generator` maps codes [B, dim] to pictures in [-1, 1], `critic` pictures to logits [B, 1] of
    being fake, so that the generator's part of the loss is that logit itself.

    What is exported is the running average of the generator's weights, with decay `average`.
    """

    title = "A generative adversarial network"

    def __init__(
        self, generator: nn.Module, critic: nn.Module, dim: int, *,
        rate: float = 2e-4, average: float = 0.999,
    ):  # fmt: skip
        super().__init__(rate)
        self.dim, self.average = dim, average
        self.generator, self.critic = generator, critic
        self.averaged = deepcopy(generator).eval().requires_grad_(False)
        self.train("critic", critic=critic)
        self.train("generator", generator=generator)

    def step(self, pictures: Tensor, step: int, noise: Noise) -> Stats:
        """One update of every network on real pictures [B, C, H, W] in [0, 1]."""
        real = 2 * pictures - 1
        stats = self.before(real, noise)
        code = self.code(len(real), noise)
        fake = self.generator(code)
        judged = self.critic(real), self.critic(fake.detach())
        critic = told_apart(*judged)
        self.update("critic", critic)
        realism, kept = self.critic(fake).float().mean(), self.kept(fake, code)
        self.update("generator", realism + kept)
        self.follow(step)
        return {**stats, "critic": critic.item(), "realism": realism.item(), "kept": kept.item()}

    def code(self, n: int, noise: Noise) -> Tensor:
        """Codes [n, dim] of the prior."""
        return noise.normal(n, self.dim)

    def before(self, real: Tensor, noise: Noise) -> Stats:
        """What is updated before the critic."""
        return {}

    def kept(self, fake: Tensor, code: Tensor) -> Tensor:
        """What the generator's loss holds beside realism."""
        return fake.new_zeros(())

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """The average takes up the generator's weights and batch statistics; faster in the first
        steps, where it would hold on to what was drawn."""
        decay = min(self.average, (1 + step) / (10 + step))
        own = self.generator.state_dict()
        for name, mean in self.averaged.state_dict().items():
            mean.lerp_(own[name], 1 - decay) if mean.is_floating_point() else mean.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average and optimiser state."""
        return {**super().state_dict(), "averaged": self.averaged.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        super().load_state_dict(state)
        self.averaged.load_state_dict(state["averaged"])

    @torch.no_grad()
    def preview(self, pictures: Tensor) -> Tensor:
        """Pictures, what becomes of them, and samples of one seed."""
        samples = self.averaged(self.code(len(pictures), Noise(0)).to(pictures))
        drawn = [(each + 1) / 2 for each in (*self.redrawn(pictures), samples)]
        return grid([list(row) for row in (pictures, *drawn)])

    def redrawn(self, pictures: Tensor) -> list[Tensor]:
        """Reconstructions in [-1, 1], where there are any."""
        return []

    def result(self) -> tuple[nn.Module, Posterior | None]:
        """The averaged generator."""
        return self.averaged, None
