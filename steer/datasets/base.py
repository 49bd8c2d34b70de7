"""What a data set is, and those that are drawn, by name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from steer.datasets.scenes import Truth
from steer.registry import Registry


class Dataset(Protocol):
    """Pictures by index. A procedural set has `size` None: every index is a picture."""

    name: str
    size: int | None
    shape: tuple[int, int, int]

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of integer indices [B]; item i is always the same picture."""
        ...


@runtime_checkable
class WithTruth(Dataset, Protocol):
    """A data set that knows what is in its pictures."""

    def truth(self, indices: Tensor) -> Truth:
        """What is to be found in the pictures of integer indices [B]."""
        ...


datasets: Registry[type[Dataset]] = Registry("data set", "steer.datasets")
