"""The objects of pictures, as a person counts them: present, seen, and none twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steer.datasets.scenes import tight
from steer.scenes.model import Objects, SceneModel

#: A proposal is an object from this presence on.
PRESENT = 0.5
#: Of two boxes of one picture whose overlap is more, the weaker one is dropped (section 5.6 of the
#: thesis).
TWICE = 0.5
#: An object of which fewer pixels are seen is none.
SEEN = 4


@dataclass
class Found:
    """What was found in pictures [B, 3, H, W].

    `objects` [M] are by picture and falling presence, `masks` [M, H, W] their shares of pixels,
    `boxes` [M, 4] what tightly wraps those: left, top, right, bottom in fractions of the sides.
    `background` [B, d] are codes, `pictures` the reconstructions, `looked_at` [B] how many
    proposals the object VAE was asked about.
    """

    objects: Objects
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
        parts = (self.masks, self.boxes, self.background, self.pictures, self.looked_at)
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


@torch.no_grad()
def find(model: SceneModel, pictures: Tensor) -> Found:
    """The objects of pictures [B, 3, H, W] in [0, 1], by the means of the model's posteriors.

    >>> found = find(SceneModel(width=4).eval(), torch.rand(2, 3, 64, 64))
    >>> found.counts.shape, found.labels.shape, bool((found.objects.presences > 0.5).all())
    (torch.Size([2]), torch.Size([2, 64, 64]), True)
    """
    seen = model(pictures)
    kept = (seen.objects.presences > PRESENT).nonzero()[:, 0]
    objects, colours, alphas = seen.objects, seen.colours, seen.alphas
    while True:
        objects, colours, alphas = objects.at(kept), colours[kept], alphas[kept]
        composed = model.compose(objects, colours, alphas, len(pictures))
        masks = model.masks(objects, composed, alphas)
        boxes = tight(masks)
        kept = once(boxes, objects, (masks > 0.5).flatten(1).sum(1) >= SEEN)
        if len(kept) == len(masks):
            break
    return Found(
        objects.at(kept), masks[kept], boxes[kept], seen.background,
        model.picture(seen.background, composed), seen.looked_at.flatten(1).sum(1),
    )  # fmt: skip


def once(boxes: Tensor, objects: Objects, visible: Tensor) -> Tensor:
    """Which objects [m] to keep, by picture and falling presence: those that are visible [M], less
    the weaker of two whose boxes [M, 4] overlap."""
    from torchvision.ops import batched_nms

    seen = visible.nonzero()[:, 0]
    strength = objects.presences[seen]
    kept = seen[batched_nms(boxes[seen], strength, objects.which[seen], TWICE)]
    return kept[objects.which[kept].argsort(stable=True)]
