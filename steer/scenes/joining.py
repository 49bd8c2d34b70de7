"""What objects tell of a picture in nats: which of them are parts of one, and how sure each is."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from steer.datasets.scenes import tight
from steer.scenes.background import Background
from steer.scenes.boxes import glimpses
from steer.scenes.finding import Objects
from steer.scenes.losses import log_likelihood, mixture
from steer.scenes.objects import LARGEST, SMALLEST, ObjectVAE

#: Standard deviation of a pixel.
SIGMA = 0.22
#: What an object's codes cost, about, in nats: two are one where the picture loses less by that.
WORTH = 30.0
#: Objects touch that are no farther apart, in fractions of the picture's side; a box around two is
#: by so much larger than what wraps them tightly.
NEAR, AROUND = 0.03, 1.2
#: Pairs that are joined in one picture, one after another, and those that are tried at once; where
#: more objects were found than are in scenes, nothing is tried, which would take long.
ROUNDS, AT_ONCE, MOST = 4, 256, 20


class Drawing(Protocol):
    """What draws objects before a background: a scene model."""

    glimpse: int
    background: Background
    objects: ObjectVAE

    def compose(self, objects: Objects, colours: Tensor, alphas: Tensor, count: int) -> Any:
        """`count` pictures put together."""
        ...

    def extents(self, objects: Objects, alphas: Tensor) -> Tensor:
        """Each object's share [M, H, W] of every pixel, were it there for certain and alone."""
        ...


def nats(model: Drawing, pictures: Tensor, background: Tensor, objects: Objects) -> Tensor:
    """Negative log likelihood [B] of pictures [B, 3, H, W] by their background codes and objects
    (equations 5.1 and 5.2)."""
    colours, alphas = model.objects(objects.what)
    composed = model.compose(objects, colours, alphas, len(pictures))
    shares, behind = model.background(background)
    before = log_likelihood(pictures, composed.foreground, SIGMA)
    return mixture(pictures, shares, behind, composed.clear, before, SIGMA)


def saved(model: Drawing, pictures: Tensor, background: Tensor, objects: Objects) -> Tensor:
    """How many nats a picture would cost more without each object [M], over the pixels that it
    covers alone: what a part of something, or nothing, saves little of. 0 where there are many."""
    _, alphas = model.objects(objects.what)
    area = (model.extents(objects, alphas) > 0.5).flatten(1).sum(1).clamp_min(1)
    before = nats(model, pictures, background, objects)
    found = torch.zeros_like(objects.depths)
    for some in _of_few(objects).nonzero()[:, 0].split(AT_ONCE):
        after = _without(model, pictures, background, objects, some[:, None], None)
        found[some] = (after - before[objects.which[some]]) / area[some]
    return found


def _of_few(objects: Objects) -> Tensor:
    """Which objects [M] are of a picture that has not too many."""
    if not len(objects.which):
        return torch.zeros_like(objects.which, dtype=torch.bool)
    return (torch.bincount(objects.which) <= MOST)[objects.which]


def joined(model: Drawing, pictures: Tensor, background: Tensor, objects: Objects) -> Objects:
    """The objects, by picture, with pairs that touch made one where one box around both, seen anew,
    tells the picture as well: a large one is often found in parts."""
    for _ in range(ROUNDS):
        pairs, boxes = _touching(model, objects)
        if not len(pairs):
            break
        which = objects.which[pairs[:, 0]]
        shown = glimpses(pictures[which], boxes[:, None], model.glimpse)[:, 0]
        both = Objects(
            torch.arange(len(pairs), device=which.device), boxes, objects.depths[pairs].amax(1),
            objects.presences[pairs].amax(1), model.objects.posterior(shown).mean,
        )  # fmt: skip
        after = [
            _without(model, pictures, background, objects, pairs[some], both.at(some))
            for some in both.which.split(AT_ONCE)
        ]
        gain = nats(model, pictures, background, objects)[which] + WORTH - torch.cat(after)
        best = _best(gain, which, len(pictures))
        if not len(best):
            break
        kept = torch.ones_like(objects.which, dtype=torch.bool)
        kept[pairs[best].flatten()] = False
        objects = _together(objects.at(kept), both.at(best)._replace(which=which[best]))
    return objects


def _best(gain: Tensor, which: Tensor, count: int) -> Tensor:
    """Of each picture the pair that gains most, where one does."""
    most = gain.new_zeros(count).scatter_reduce(0, which, gain, "amax")
    first: dict[int, int] = {}
    for index in (gain >= most[which]).logical_and(gain > 0).nonzero()[:, 0].tolist():
        first.setdefault(int(which[index]), index)
    return torch.tensor(list(first.values()), dtype=torch.long, device=gain.device)


def _touching(model: Drawing, objects: Objects) -> tuple[Tensor, Tensor]:
    """Pairs [P, 2] of objects of one picture that touch, and boxes [P, 5] around them."""
    few = _of_few(objects).nonzero()[:, 0]
    tried = objects.at(few)
    _, alphas = model.objects(tried.what)
    wraps = tight(model.extents(tried, alphas))
    first, last = wraps[:, :2], wraps[:, 2:]
    apart = torch.maximum(first[:, None], first) - torch.minimum(last[:, None], last)
    near = (apart.amax(2) < NEAR) & (tried.which[:, None] == tried.which)
    pairs = near.triu(1).nonzero()
    low, high = first[pairs].amin(1), last[pairs].amax(1)
    halves = (AROUND * (high - low) / 2).clamp(SMALLEST, LARGEST)
    angles = torch.zeros_like(halves[:, :1])
    return few[pairs], torch.cat([(low + high - 1) / 2, halves, angles], dim=1)


def _without(
    model: Drawing, pictures: Tensor, background: Tensor, objects: Objects, left: Tensor,
    instead: Objects | None,
) -> Tensor:  # fmt: skip
    """Nats [P] of pictures whose objects `left` [P, k] are left out, one of `instead` in their
    place."""
    which = objects.which[left[:, 0]]
    stay = which[:, None] == objects.which
    stay.scatter_(1, left, False)
    trial, number = stay.nonzero().unbind(1)
    others = objects.at(number)._replace(which=trial)
    if instead is not None:
        here = torch.arange(len(left), device=which.device)
        others = _together(others, instead._replace(which=here))
    return nats(model, pictures[which], background[which], others)


def _together(first: Objects, more: Objects) -> Objects:
    """Both, by picture and falling presence."""
    both = Objects(*(torch.cat(parts) for parts in zip(first, more, strict=True)))
    order = both.presences.argsort(descending=True, stable=True)
    return both.at(order[both.which[order].argsort(stable=True)])
