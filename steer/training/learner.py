"""What the objectives of scene models have in common: one model, and optimisers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from steer.scenes.stored import Model, save

M = TypeVar("M", bound=Model)


class Learner(Generic[M]):
    """The parts of an `Objective` (steer/training/loop.py) that need no losses."""

    model: M
    optimisers: dict[str, torch.optim.Adam]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return self.model.parameters()

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state."""
        optimisers = {name: each.state_dict() for name, each in self.optimisers.items()}
        return {"model": self.model.state_dict(), "optimisers": optimisers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])

    def export(self, folder: Path, options: dict[str, Any], pictures: Callable[[], Tensor]) -> None:
        """Writes the model's folder."""
        save(folder, self.model, options)
