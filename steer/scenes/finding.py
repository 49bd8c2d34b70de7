"""The objects of pictures, as a person counts them: present, seen, and none twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: A proposal is an object from this presence on.
PRESENT = 0.5
#: Of two boxes of one picture whose overlap is more, the weaker one is dropped (section 5.6 of the
#: thesis).
TWICE = 0.3
#: An object of which fewer pixels are seen is none.
SEEN = 4


class Objects(NamedTuple):
    """Objects [M] of several pictures: `which` picture each is of, its box [M, 5], depth, presence
    [M], and what it looks like: z_what [M, d]."""

    which: Tensor
    boxes: Tensor
    depths: Tensor
    presences: Tensor
    what: Tensor

    def at(self, chosen: Tensor) -> Objects:
        """Those that a mask or index chooses."""
        return Objects(*(part[chosen] for part in self))

    def to(self, device: torch.device | str) -> Objects:
        """The same on a device."""
        return Objects(*(part.to(device) for part in self))


@dataclass
class Found:
    """What was found in pictures [B, 3, H, W].

    `objects` [M] are by picture and falling presence, `scores` [M] say how sure each is among
    others, `masks` [M, H, W] are their shares of pixels,
    `boxes` [M, 4] what tightly wraps those: left, top, right, bottom in fractions of the sides.
    `background` [B, d] are codes, `pictures` the reconstructions, `looked_at` [B] how many
    proposals the object VAE was asked about.
    """

    objects: Objects
    scores: Tensor
    masks: Tensor
    boxes: Tensor
    background: Tensor
    pictures: Tensor
    looked_at: Tensor

    def of(self, picture: int) -> Tensor:
        """Which objects [m] one picture has."""
        return (self.objects.which == picture).nonzero()[:, 0]

    def cpu(self) -> Found:
        """The same on the CPU."""
        parts = (
            self.scores, self.masks, self.boxes, self.background, self.pictures, self.looked_at
        )  # fmt: skip
        return Found(self.objects.to("cpu"), *(part.cpu() for part in parts))

    @property
    def counts(self) -> Tensor:
        """Objects [B] in each picture."""
        return torch.bincount(self.objects.which, minlength=len(self.pictures))

    @property
    def labels(self) -> Tensor:
        """Which object of its picture [B, H, W], counted from 1, most of each pixel is of; or 0."""
        found = torch.zeros(len(self.pictures), *self.masks.shape[1:], dtype=torch.long)
        for picture in range(len(found)):
            masks = self.masks[self.of(picture)]
            if len(masks):
                most, which = masks.max(0)
                found[picture] = torch.where(most > 0.5, which + 1, 0)
        return found


def seen_at(masks: Tensor) -> Tensor:
    """Which [M] of the masks [M, H, W] are seen."""
    return (masks > 0.5).flatten(1).sum(1) >= SEEN


def once(boxes: Tensor, objects: Objects, visible: Tensor) -> Tensor:
    """Which objects [m] to keep, by picture and falling presence: those that are visible [M], less
    the weaker of two whose boxes [M, 4] overlap."""
    from torchvision.ops import batched_nms

    seen = visible.nonzero()[:, 0]
    strength = objects.presences[seen]
    kept = seen[batched_nms(boxes[seen], strength, objects.which[seen], TWICE)]
    return kept[objects.which[kept].argsort(stable=True)]
