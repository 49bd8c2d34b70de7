"""Networks that are trained by optimisers of their own; what every objective with several is."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steer.checkpoints import save_checkpoint
from steer.generators.avae import AVAE, Posterior
from steer.training.team import Noise

CARD = """---
library_name: steer
pipeline_tag: unconditional-image-generation
tags: [{kind}, latent-space]
---
# {title}, trained by `steer train-avae`

```json
{options}
```
"""
Stats = dict[str, float]


class Parts(ABC):
    """Networks by name, and optimisers each of some of them: Adam, beta_1 0.5 as for DCGAN."""

    title = ""
    #: Whether codes are posterior means over sqrt(1 - sigma^2).
    exact = False

    def __init__(self, rate: float = 2e-4):
        self.rate = rate
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Adam] = {}

    def train(self, name: str, **networks: nn.Module) -> None:
        """Has `networks` trained together, by an optimiser called `name`."""
        self.networks |= {each: network.train() for each, network in networks.items()}
        weights = [weight for network in networks.values() for weight in network.parameters()]
        self.optimisers[name] = torch.optim.Adam(weights, lr=self.rate, betas=(0.5, 0.999))

    def update(self, name: str, loss: Tensor, more: bool = False) -> None:
        """One step of an optimiser down the gradient of `loss` by its own weights alone; `more`
        keeps the graph for another one."""
        optimiser = self.optimisers[name]
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=weights, retain_graph=more)
        optimiser.step()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        for network in self.networks.values():
            yield from network.parameters()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimisers": {name: each.state_dict() for name, each in self.optimisers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])

    @abstractmethod
    def step(self, pictures: Tensor, step: int, noise: Noise) -> Stats:
        """One update on real pictures [B, C, H, W] in [0, 1]; what to log."""

    @abstractmethod
    def preview(self, pictures: Tensor) -> Tensor:
        """A picture [3, H, W] that shows how far it is."""

    @abstractmethod
    def result(self) -> tuple[nn.Module, Posterior | None]:
        """The generator's network, and the encoder, where there is one."""

    def export(self, folder: Path, options: dict[str, Any], pictures: Callable[[], Tensor]) -> None:
        """Writes `config.json`, `model.safetensors` and the card."""
        network, encoder = self.result()
        spread = "" if encoder is None else encoder.spread
        sizes = {name: options[name] for name in ("picture", "latent", "xi", "width")}
        made = AVAE(**sizes, encoder=spread, exact=self.exact)
        made.decoder.load_state_dict(network.state_dict())
        if encoder is not None and made.encoder is not None:
            made.encoder.load_state_dict(encoder.state_dict())
        text = json.dumps(options, indent=2, sort_keys=True)
        card = CARD.format(title=self.title, kind=options["objective"], options=text)
        save_checkpoint(folder, {**made.config, "trained": options}, made.state_dict(), card)
