"""A set of pictures with ground truth, at another size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from steer.datasets.base import WithTruth
from steer.datasets.scenes import Truth
from steer.errors import InputError


class Resized:
    """Another set's pictures as 3 channels of `side` x `side` pixels, and its truth with them, by
    bilinear interpolation with antialiasing; what no pixel is left of is not to be found.

    Raises InputError where the set's pictures are not square, or neither grey nor of three colours.

    >>> from steer.datasets.digits import MultiMNIST
    >>> sums = Resized(MultiMNIST(torch.ones(1, 20, 20)), side=64)
    >>> sums.pictures(torch.arange(2)).shape, sums.truth(torch.arange(2)).masks.shape
    (torch.Size([2, 3, 64, 64]), torch.Size([2, 5, 64, 64]))
    """

    def __init__(self, dataset: WithTruth, side: int = 64):
        channels, height, width = dataset.shape
        if channels not in (1, 3) or height != width:
            raise InputError(
                f"expected square pictures of 1 or 3 channels to resize, got {channels} of "
                f"{height}x{width} from {dataset.name}."
            )
        self.dataset, self.shape = dataset, (3, side, side)
        self.name = f"{dataset.name} at {side}x{side}"
        self.size = dataset.size

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, 3, side, side] of integer indices [B]."""
        return self._resized(self.dataset.pictures(indices)).repeat(1, 3 // self._channels, 1, 1)

    def truth(self, indices: Tensor) -> Truth:
        """Ground truth of the pictures of integer indices [B]."""
        whole = self.dataset.truth(indices)
        masks = self._resized(whole.masks)
        return Truth(masks, whole.present & (masks > 0.5).flatten(2).any(2))

    @property
    def _channels(self) -> int:
        return self.dataset.shape[0]

    def _resized(self, maps: Tensor) -> Tensor:
        size = self.shape[1:]
        resized = interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)
        return torch.clamp(resized, 0, 1)
