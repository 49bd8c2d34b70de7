"""The processes that train together (Hugging Face accelerate), each on its part of every batch."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from steer.errors import InputError
from steer.generators import pick_device


class Noise:
    """Standard normal numbers for one part of a batch, cut out of those of the whole batch: how
    many parts there are changes none of them.

    >>> whole = Noise(7).normal(4, 2)
    >>> parts = [Noise(7, part=i, parts=2).normal(2, 2) for i in range(2)]
    >>> torch.equal(torch.cat(parts), whole)
    True
    """

    def __init__(
        self, seed: int, device: torch.device | str = "cpu", part: int = 0, parts: int = 1
    ):
        self.part, self.parts = part, parts
        self.stream = torch.Generator(device).manual_seed(seed)

    def normal(self, rows: int, *shape: int) -> Tensor:
        """The next numbers [rows, ...]."""
        device = self.stream.device
        drawn = torch.randn(rows * self.parts, *shape, generator=self.stream, device=device)
        return drawn[self.part * rows : (self.part + 1) * rows]


class Team:
    """This process among those that a launcher started (`accelerate launch`, torchrun); alone
    without one. Gradients and what is logged are means over all of them."""

    def __init__(self, device: str = "auto"):
        self.device = pick_device(device)
        self.index, self.count = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self.state = PartialState(cpu=self.device.type == "cpu")
            self.index, self.count = self.state.process_index, self.state.num_processes
            self.device = self.state.device

    @property
    def leads(self) -> bool:
        """Whether it is this process that writes and speaks."""
        return self.index == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            self.state.wait_for_everyone()

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch [B, ...].

        Raises InputError where they cannot be dealt out evenly.
        """
        if len(batch) % self.count:
            raise InputError(
                f"expected a batch that {self.count} processes can share evenly, got {len(batch)}."
            )
        return batch.view(self.count, -1, *batch.shape[1:])[self.index]

    def noise(self, seed: int) -> Noise:
        """This process's part of the noise of a step."""
        return Noise(seed, self.device, self.index, self.count)

    def join(self, optimiser: torch.optim.Optimizer) -> None:
        """Has each step of an optimiser go down the mean of all gradients."""
        if self.count > 1:
            optimiser.register_step_pre_hook(self._average)

    def mean(self, stats: dict[str, float]) -> dict[str, float]:
        """The mean of each number."""
        if self.count == 1:
            return stats
        values = torch.tensor(list(stats.values()), dtype=torch.float32, device=self.device)
        return dict(zip(stats, self._mean(values).tolist(), strict=True))

    def _average(self, optimiser: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        whole = self._mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(
            gradients, whole.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view(gradient.shape))

    def _mean(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        return reduce(values, "mean")
