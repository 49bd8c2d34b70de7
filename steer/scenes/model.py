"""The scene model: a picture as a background and objects in boxes (chapter 5 of the thesis)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steer.datasets.scenes import tight
from steer.errors import InputError
from steer.scenes.background import Background, Usual, mixed
from steer.scenes.boxes import glimpses, project, windows
from steer.scenes.finding import PRESENT, Found, Objects, once, seen_at
from steer.scenes.gaussians import Gaussian, taken
from steer.scenes.joining import joined, saved
from steer.scenes.objects import BoxDecoder, Cells, ObjectVAE, Prior

#: A proposal is looked at where the one before it in its cell is as present as this, or more; once
#: a model is trained, where it is so itself.
LOOKED_AT = 0.01


@dataclass
class Composed:
    """Pictures put together: the background's share [B, 1, H, W] of each pixel, the colours of
    what is before it [B, 3, H, W], and the sum of its objects' weights [B, 1, H, W]."""

    clear: Tensor
    foreground: Tensor
    weights: Tensor


@dataclass
class Inferred:
    """What the model makes of pictures; Gaussians and samples of them, cells in order of presence.

    `looked_at` [B, N, K] says which proposals the object VAE was asked about, in whose order those
    of `objects` are; `alphas` [M, 1, g, g] are theirs inside their boxes.
    """

    q_background: Gaussian
    background: Tensor
    q_presence: Gaussian
    presence: Tensor
    q_box: Gaussian
    box: Tensor
    looked_at: Tensor
    presences: Tensor
    q_what: Gaussian
    objects: Objects
    colours: Tensor
    alphas: Tensor


class SceneModel(nn.Module):
    """Background, cells with several boxes, object VAE, learned prior; for pictures of `side` x
    `side`, `grid` x `grid` cells of up to `most` objects.

    Raises InputError where cells do not have 2^k pixels a side, 4 or more.

    >>> model = SceneModel(side=64, width=8)
    >>> seen = model(torch.rand(2, 3, 64, 64))
    >>> model.compose(seen.objects, seen.colours, seen.alphas, 2).foreground.shape
    torch.Size([2, 3, 64, 64])
    """

    family = "scenes"

    def __init__(
        self,
        side: int = 64,
        grid: int = 4,
        most: int = 4,
        glimpse: int = 16,
        what: int = 16,
        box: int = 8,
        presence: int = 4,
        components: int = 3,
        width: int = 32,
        turns: bool = False,
    ):
        super().__init__()
        cell = side // grid
        if side % grid or cell < 4 or cell & (cell - 1) or glimpse % 4:
            raise InputError(
                f"expected cells of 2^k pixels a side, 4 or more, and glimpses of a multiple of 4, "
                f"got {side} pixels in {grid} cells and glimpses of {glimpse}."
            )
        self.config: dict[str, Any] = {
            "family": self.family, "side": side, "grid": grid, "most": most, "glimpse": glimpse,
            "what": what, "box": box, "presence": presence, "components": components,
            "width": width, "turns": turns,
        }  # fmt: skip
        #: Where it comes from, and the checksum of its weights.
        self.identity: dict[str, Any] = {}
        self.side, self.grid, self.most, self.glimpse = side, grid, most, glimpse
        self.sizes = (presence, box, what)
        self.background = Background(side, components)
        #: How many numbers tell a background, and what an object looks like.
        self.dims = (self.background.dim, what)
        self.cells = Cells(side, grid, most, box, presence, width)
        self.decoder = BoxDecoder(grid, box, presence, turns)
        self.objects = ObjectVAE(glimpse, what, width)
        self.usual = Usual(self.background.dim)
        #: From which presence on a proposal of the prior is an object.
        self.least = nn.Buffer(torch.tensor(PRESENT))
        self.prior = Prior(grid, most, self.background.dim, presence, box, what)

    def noise_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes after the batch of the noise that `forward` takes."""
        cells, (presence, box, what) = (self.grid**2, self.most), self.sizes
        return (self.background.dim,), (*cells, presence + box), (*cells, what)

    def forward(self, pictures: Tensor, noise: list[Tensor] | None = None) -> Inferred:
        """Everything about pictures [B, 3, H, W], by standard normal `noise` of `noise_shapes`; by
        means without."""
        if noise is None:
            noise = [pictures.new_zeros(len(pictures), *shape) for shape in self.noise_shapes()]
        q_background = self.background.posterior(pictures)
        q_presence, presence, q_box, box = self.cells(pictures, noise[1])
        presences = self.decoder.presences(presence)
        order = presences.argsort(dim=2, descending=True)
        presences, presence, box, eps = (
            taken(part, order) for part in (presences, presence, box, noise[2])
        )
        boxes, depths = self.decoder.boxes(box)
        looked_at = torch.ones_like(presences, dtype=torch.bool)
        looked_at[:, :, 1:] = presences[:, :, :-1] >= LOOKED_AT
        if not self.training:
            looked_at &= presences >= LOOKED_AT
        q_what = self.objects.posterior(self._seen(pictures, boxes, looked_at))
        what = q_what.sample(eps[looked_at])
        colours, alphas = self.objects(what)
        return Inferred(
            q_background, q_background.sample(noise[0]),
            q_presence.ordered(order), presence, q_box.ordered(order), box,
            looked_at, presences, q_what,
            Objects(looked_at.nonzero()[:, 0], boxes[looked_at], depths[looked_at],
                    presences[looked_at], what),
            colours, alphas,
        )  # fmt: skip

    def _seen(self, pictures: Tensor, boxes: Tensor, looked_at: Tensor) -> Tensor:
        """Glimpses [M, 3, g, g] of the boxes [B, N, K, 5] that are looked at."""
        chosen, boxes = looked_at.flatten(1), boxes.flatten(1, 2)
        first = chosen.int().argsort(dim=1, descending=True, stable=True)
        first = first[:, : max(1, int(chosen.sum(1).max()))]
        shown = glimpses(
            pictures, boxes.gather(1, first[..., None].expand(-1, -1, 5)), self.glimpse
        )
        return shown[chosen.gather(1, first)]

    def compose(self, objects: Objects, colours: Tensor, alphas: Tensor, count: int) -> Composed:
        """`count` pictures of objects with colours [M, 3, g, g] and alphas [M, 1, g, g].

        An object covers what is behind it as far as it is opaque; among those that cover one pixel
        the shares go by their alphas times e to their depths, as far as they are there: one that
        hardly is, and so costs nothing, cannot lend its colours to the others. Each is drawn in its
        window alone.
        """
        total = colours.new_zeros(5, count * self.side**2)
        for _, pixels, drawn, covers, weights in self._in_windows(objects, colours, alphas):
            parts = [torch.log1p(-covers), weights, weights * drawn]
            sums = torch.cat([part.transpose(0, 1) for part in parts])
            total = total.index_add(1, pixels, sums.flatten(1))
        clear, weights, foreground = (
            total.view(5, count, self.side, self.side).transpose(0, 1).split([1, 1, 3], dim=1)
        )
        return Composed(clear.exp(), foreground / (weights + 1e-6), weights)

    def masks(self, objects: Objects, composed: Composed, alphas: Tensor) -> Tensor:
        """Each object's share [M, H, W] of every pixel of its picture; they and the background's
        add to 1."""
        ratio = ((1 - composed.clear) / (composed.weights + 1e-6)).flatten()
        return self._placed(objects, alphas, lambda _, weights, at: weights.flatten() * ratio[at])

    def extents(self, objects: Objects, alphas: Tensor) -> Tensor:
        """Each object's share [M, H, W] of every pixel, were it there for certain and alone."""
        certain = objects._replace(presences=torch.ones_like(objects.presences))
        return self._placed(certain, alphas, lambda covers, _, at: covers)

    def _placed(
        self, objects: Objects, alphas: Tensor, shares: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """[M, H, W] of `shares` of each window: told how far it covers what is behind, its weights,
        and which pixels it holds."""
        found = alphas.new_zeros(len(alphas), self.side**2)
        picture = objects.which * self.side**2
        colours = alphas.expand(-1, 3, -1, -1)
        for which, pixels, _, covers, weights in self._in_windows(objects, colours, alphas):
            values = shares(covers, weights, pixels).view(len(which), -1)
            places = pixels.view(len(which), -1) - picture[which][:, None]
            found[which] = found[which].scatter(1, places, values)
        return found.view(-1, self.side, self.side)

    def _in_windows(
        self, objects: Objects, colours: Tensor, alphas: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """For windows of one size each: which objects [m] they are of, which pixels of all pictures
        in a row they hold, their colours [m, 3, w, w], how far they cover what is behind, and their
        weights among others, both [m, 1, w, w]."""
        shown = torch.cat([colours, alphas], dim=1)
        for size, which, first in windows(objects.boxes, self.side, self.glimpse):
            drawn = project(shown[which], objects.boxes[which], first, size, self.side)
            there = objects.presences[which]
            covers = (drawn[:, 3:] * there[:, None, None, None]).clamp(0, 0.9999)
            weights = covers * (there * objects.depths[which]).exp()[:, None, None, None]
            pixels = self._pixels(objects.which[which], first, size)
            yield which, pixels, drawn[:, :3], covers, weights

    def _pixels(self, picture: Tensor, first: Tensor, size: int) -> Tensor:
        """Numbers of the pixels of windows [m, 2] in pictures [m], all pictures in a row."""
        places = torch.arange(size, device=first.device)
        rows = self.side * picture[:, None] + first[:, 1:] + places
        return (self.side * rows[:, :, None] + (first[:, :1] + places)[:, None]).flatten()

    def picture(self, background: Tensor, composed: Composed) -> Tensor:
        """Pictures [B, 3, H, W] of background codes [B, d] and what is before them."""
        behind = mixed(*self.background(background))
        return composed.clear * behind + (1 - composed.clear) * composed.foreground

    @torch.no_grad()
    def find(self, pictures: Tensor) -> Found:
        """The objects of pictures [B, 3, H, W] in [0, 1], by the means of the posteriors; parts of
        one are joined.

        >>> found = SceneModel(width=4).find(torch.rand(2, 3, 64, 64))
        >>> found.counts.shape, bool((found.objects.presences > 0.5).all())
        (torch.Size([2]), True)
        """
        seen = self(pictures)
        kept = (seen.objects.presences > PRESENT).nonzero()[:, 0]
        whole = self.extents(seen.objects.at(kept), seen.alphas[kept])
        kept = kept[once(tight(whole), seen.objects.at(kept), seen_at(whole))]
        objects = joined(self, pictures, seen.background, seen.objects.at(kept))
        while True:
            colours, alphas = self.objects(objects.what)
            composed = self.compose(objects, colours, alphas, len(pictures))
            masks = self.masks(objects, composed, alphas)
            if seen_at(masks).all():
                break
            objects = objects.at(seen_at(masks))
        return Found(
            objects, saved(self, pictures, seen.background, objects), masks, tight(masks),
            seen.background, self.picture(seen.background, composed),
            seen.looked_at.flatten(1).sum(1),
        )  # fmt: skip

    @torch.no_grad()
    def draw(self, background: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] of background codes [B, d] with objects before them, and those'
        shares [M, H, W] of their pixels."""
        colours, alphas = self.objects(objects.what)
        composed = self.compose(objects, colours, alphas, len(background))
        return self.picture(background, composed), self.masks(objects, composed, alphas)

    def priors(self, seen: Inferred) -> list[Gaussian]:
        """p(z_pres), p(z_box) and p(z_what) [B, N, K, ...] at what was seen."""
        what = seen.box.new_zeros(*seen.looked_at.shape, self.sizes[2])
        what[seen.looked_at] = seen.objects.what * seen.objects.presences[:, None]
        given = (seen.presence, seen.box * seen.presences[..., None], what)
        return self.prior(seen.background, lambda k, i, _: given[i][:, :, k])
