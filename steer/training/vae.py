"""Beta-VAE (Higgins et al. 2017; table 4.2 of the thesis)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from steer.checkpoints import save_checkpoint
from steer.errors import InputError
from steer.generators.vae import VAE
from steer.sheets import side_by_side
from steer.training.team import Noise

CARD = """---
library_name: steer
pipeline_tag: unconditional-image-generation
tags: [vae, latent-space]
---
# A variational auto-encoder trained by `steer train-vae`

```json
{options}
```
"""


class BetaVAE:
    """Negative evidence lower bound with the divergence weighted by `beta`.

    `likelihood` is `bernoulli` (pictures as probabilities) or `gaussian` with standard deviation
    `sigma`. The weight grows linearly over the first `warm_up` steps, and the learning rate falls
    to nothing along a cosine over `steps`.

    Raises InputError for another likelihood, and numbers that are negative or not finite.
    """

    def __init__(
        self,
        vae: VAE,
        *,
        steps: int,
        beta: float = 1.0,
        likelihood: str = "bernoulli",
        sigma: float = 0.1,
        rate: float = 5e-4,
        warm_up: int = 0,
    ):
        if likelihood not in ("bernoulli", "gaussian"):
            raise InputError(f"expected likelihood bernoulli or gaussian, got {likelihood!r}.")
        for name, value, least in (("beta", beta, 0), ("rate", rate, 0), ("sigma", sigma, 1e-6)):
            if not least <= value < math.inf:
                raise InputError(f"expected {name} of {least:g} or more, got {value:g}.")
        self.vae, self.steps, self.beta, self.warm_up = vae.train(), steps, beta, warm_up
        self.likelihood, self.sigma, self.rate = likelihood, sigma, rate
        self.optimiser = torch.optim.Adam(vae.parameters(), lr=rate)
        self.optimisers = {"vae": self.optimiser}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return self.vae.parameters()

    def step(self, pictures: Tensor, step: int, noise: Noise) -> dict[str, float]:
        """One update; logs nats per picture, NaN once training has diverged."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        mean, log_variance = (part.float() for part in self.vae.posterior(pictures))
        eps = noise.normal(*mean.shape)
        z = mean + eps * (log_variance / 2).exp()
        drawn = self.vae(z).float()
        # other processes, if there are any, wait for this one's gradients: it goes on to the end
        broken = not drawn.isfinite().all()
        reconstruction = self.reconstruction(drawn.nan_to_num(0.5, 1.0, 0.0), pictures)
        divergence = (log_variance.exp() + mean**2 - log_variance - 1).sum() / 2 / len(pictures)
        weight = self.beta * min(1.0, (step + 1) / max(self.warm_up, 1))
        self.optimiser.zero_grad(set_to_none=True)
        (reconstruction + weight * divergence).backward()
        self.optimiser.step()
        found = math.nan if broken else reconstruction.item()
        return {"reconstruction": found, "divergence": divergence.item()}

    def reconstruction(self, pictures: Tensor, targets: Tensor) -> Tensor:
        """Negative log likelihood in nats per picture, up to a constant."""
        if self.likelihood == "bernoulli":
            total = binary_cross_entropy(pictures, targets, reduction="sum")
        else:
            total = ((pictures - targets) ** 2).sum() / (2 * self.sigma**2)
        return total / len(pictures)

    @torch.no_grad()
    def preview(self, pictures: Tensor) -> Tensor:
        """Pictures over their reconstructions."""
        return side_by_side(pictures, self.vae(self.vae.encode(pictures)))

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state."""
        return {"vae": self.vae.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.vae.load_state_dict(state["vae"])
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self, folder: Path, options: dict[str, Any], pictures: Callable[[], Tensor]) -> None:
        """Standardises the codes, then writes `config.json`, `model.safetensors` and the card."""
        self.vae.standardise(pictures())
        config = {**self.vae.config, "trained": options}
        card = CARD.format(options=json.dumps(options, indent=2, sort_keys=True))
        save_checkpoint(folder, config, self.vae.state_dict(), card)
