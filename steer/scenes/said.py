"""SAID: boxes one after another, each where most is left to tell (chapter 6 of Zeng 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, one_hot

from steer.datasets.scenes import tight
from steer.errors import InputError
from steer.scenes.boxes import glimpses, project
from steer.scenes.finding import Found, Objects, once, seen_at
from steer.scenes.gaussians import Gaussian, dense, lively, standard
from steer.scenes.objects import FIRST_PLACE, ObjectVAE

#: Side of the bottleneck that pictures, and what boxes show, are told through.
BOTTLENECK = 8
#: Half a box's sides where its code is 0, and how many times larger or smaller they are at most.
HALF, SPAN = 0.13, 2.5
#: A box's middle is no farther from the place that proposes it, in halves of such places.
REACH = 2.0
#: How much likelier, as a logit, a box is taken for each unit of error around it.
LOUD = 100.0
#: Variance of what is lost where pictures are kept in 8 bits: nothing is told more precisely.
ROUNDING = 1 / (12 * 255**2)

#: Logit of alphas at the start: what covers little learns nothing and covers less.
OPAQUE = 3.0
#: A box of which earlier ones have shown more than the rest mends what they told: no object.
FRESH = 0.5
#: Share of a part of a picture that counts as little.
LITTLE = 1e-3


@dataclass
class Glimpsed:
    """One box a picture: `where` [B, 4] and `what` [B, d] are its codes' distributions, `boxes`
    [B, 5], `z` [B, d] a sample of what, `error` [B] the sum of squares by which the VAE's 8 x 8
    pixels differ from those that it was shown, `inside` [B, 1, H, W] what lies in the box, `fresh`
    [B] the share of it that earlier boxes left, and `drawn` [B, 3, H, W] the pictures so far, with
    what the box shows over them."""

    where: Gaussian
    what: Gaussian
    boxes: Tensor
    z: Tensor
    error: Tensor
    inside: Tensor
    fresh: Tensor
    drawn: Tensor

    @property
    def cost(self) -> Tensor:
        """Code length [B] of what the box shows, in nats (equation 6.3)."""
        return self.what.divergence(standard(self.z))


class SAID(nn.Module):
    """Spatial attention for information detection, for pictures of `side` x `side`: a network is
    shown what is not yet told of a picture and says where to look, and a VAE tells what is there
    through 8 x 8 pixels, at most `most` times.

    With `scope` it is shown where it has looked before; with `alpha` what is told covers a part of
    its box, without all of it.

    Raises InputError for a side that is no multiple of 8.

    >>> model = SAID(side=64, width=4)
    >>> found = model.find(torch.rand(2, 3, 64, 64))
    >>> found.counts.shape, found.pictures.shape
    (torch.Size([2]), torch.Size([2, 3, 64, 64]))
    """

    family = "said"

    def __init__(
        self,
        side: int = 64,
        what: int = 10,
        width: int = 16,
        most: int = 9,
        scope: bool = True,
        alpha: bool = True,
    ):
        super().__init__()
        if side % 8:
            raise InputError(f"expected pictures of a multiple of 8 pixels a side, got {side}.")
        self.config: dict[str, Any] = {
            "family": self.family, "side": side, "what": what, "width": width, "most": most,
            "scope": scope, "alpha": alpha,
        }  # fmt: skip
        #: Where it comes from, and the checksum of its weights.
        self.identity: dict[str, Any] = {}
        self.side, self.most, self.scope, self.alpha = side, most, scope, alpha
        #: How many numbers tell a background, and what an object looks like.
        self.dims = (3 * BOTTLENECK**2, what)
        layers: list[nn.Module] = []
        for a, b in ((3 + scope, width), (width, 2 * width), (2 * width, 2 * width)):
            layers += [lively(nn.Conv2d(a, b, 4, 2, 1)), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.attention = dense(2 * width, 64, 9, quiet=0.1)
        self.objects = ObjectVAE(BOTTLENECK, what, width)
        with torch.no_grad():
            self.objects.decoder[-1].get_parameter("bias")[3] = OPAQUE

    def glimpse(
        self, pictures: Tensor, drawn: Tensor, scope: Tensor, noise: Tensor | None = None
    ) -> Glimpsed:
        """The next box of pictures [B, 3, H, W] of which `drawn` is told, `scope` [B, 1, H, W]
        being 0 where there was one; by standard normal noise [B, 4 + d], or by means."""
        if noise is None:
            noise = pictures.new_zeros(len(pictures), 4 + self.dims[1])
        where = self.where((pictures - drawn).abs(), scope)
        boxes = placed(where.sample(noise[:, :4]))
        shown = avg_pool2d(glimpses(pictures, boxes[:, None], 2 * BOTTLENECK)[:, 0], 2)
        what = self.objects.posterior(shown)
        z = what.sample(noise[:, 4:])
        told = self.objects(z)
        colours, covers, inside = self.projected(told, boxes)
        error = (told[0] - shown.detach()).square().sum((1, 2, 3))
        fresh = (inside * scope).mean((1, 2, 3)) / inside.mean((1, 2, 3)).clamp_min(1e-6)
        drawn = (1 - covers) * drawn + colours
        return Glimpsed(where, what, boxes, z, error, inside, fresh, drawn)

    def where(self, error: Tensor, scope: Tensor) -> Gaussian:
        """The next box's code [B, 4] where `error` [B, 3, H, W] is left in `scope` [B, 1, H, W].

        Each of 8 x 8 places, or as many as there are, proposes a box by the same two layers; taken
        is that of the most error as the network sees it, a choice with the gradient of a softmax.
        """
        seen = torch.cat([error, scope], dim=1) if self.scope else error
        features = self.features(seen).flatten(2).transpose(1, 2)
        out = self.attention(features).float()
        side = self.side // 8
        high = (error * scope if self.scope else error).mean(1, keepdim=True)
        loud = adaptive_avg_pool2d(high, side).flatten(1)
        soft = (out[..., 0] + LOUD * loud).softmax(1)
        taken = one_hot(soft.argmax(1), side**2)
        shares = taken + soft - soft.detach()
        middles = (2 * torch.arange(side, device=error.device) + 1) / side - 1
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        places = torch.stack([x, y], dim=2).flatten(0, 1) + out[..., 1:3].tanh() * REACH / side
        proposed = torch.cat([places, out[..., 3:]], dim=2)
        return Gaussian.of(torch.einsum("bn,bnc->bc", shares, proposed), FIRST_PLACE)

    def projected(
        self, told: tuple[Tensor, Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What colours [M, 3, 8, 8] and alphas [M, 1, 8, 8] show in boxes [M, 5]: colours
        [M, 3, H, W] times how far they cover what is behind, that [M, 1, H, W], and the inside of
        the box [M, 1, H, W]."""
        colours, alphas = told
        whole = torch.ones_like(alphas)
        alphas = alphas if self.alpha else whole
        corner = boxes.new_zeros(len(boxes), 2)
        parts = torch.cat([colours * alphas, alphas, whole], dim=1)
        drawn = project(parts, boxes, corner, self.side, self.side)
        return drawn[:, :3], drawn[:, 3:4], drawn[:, 4:]

    def behind(self, background: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] of the numbers [B, 192] of `bottleneck`."""
        small = background.unflatten(1, (3, BOTTLENECK, BOTTLENECK))
        size = (self.side, self.side)
        return interpolate(small, size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def draw(self, background: Tensor, objects: Objects) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] of background numbers [B, 192] and objects, the nearer over the
        farther, and the shares [M, H, W] of the objects."""
        pictures = self.behind(background)
        colours, covers, _ = self.projected(self.objects(objects.what), objects.boxes)
        masks = torch.zeros_like(covers[:, 0])
        for i in objects.depths.argsort(stable=True).tolist():
            picture = objects.which[i]
            pictures[picture] = (1 - covers[i]) * pictures[picture] + colours[i]
            masks[objects.which == picture] *= 1 - covers[i]
            masks[i] = covers[i, 0]
        return pictures, masks

    def look(
        self, pictures: Tensor, noise: Sequence[Tensor | None]
    ) -> Iterator[tuple[Glimpsed, Tensor]]:
        """One box after another, as many as there is noise for `glimpse`, and what each saves [B]
        in nats (equation 6.2); gradients go through one box at a time."""
        scope = torch.ones_like(pictures[:, :1])
        drawn = self.behind(bottleneck(pictures, scope))
        for each in noise:
            seen = self.glimpse(pictures, drawn, scope, each)
            yield seen, code_length(pictures - drawn) - code_length(pictures - seen.drawn)
            drawn, scope = seen.drawn.detach(), scope * (1 - seen.inside.detach())

    @torch.no_grad()
    def find(self, pictures: Tensor) -> Found:
        """The objects of pictures [B, 3, H, W] in [0, 1], by means: boxes until one costs more than
        it saves (section 6.2.3), less those that mostly lie in earlier ones.

        `presences` are the share of what a box saves that it does not cost, `depths` the order of
        boxes; the background is what is around them.
        """
        objects, looked_at = self._proposed(pictures)
        _, masks = self.draw(self._around(pictures, objects), objects)
        kept = once(tight(masks), objects, seen_at(masks))
        objects = objects.at(kept)
        background = self._around(pictures, objects)
        drawn, masks = self.draw(background, objects)
        return Found(objects, objects.presences, masks, tight(masks), background, drawn, looked_at)

    def _proposed(self, pictures: Tensor) -> tuple[Objects, Tensor]:
        """Boxes before the first that costs more than it saves, and how many [B] it took."""
        seen, saved = zip(*self.look(pictures, [None] * self.most), strict=True)
        presences = torch.stack(
            [1 - each.cost / nats.clamp_min(1e-6) for each, nats in zip(seen, saved, strict=True)],
            dim=1,
        )
        going = (presences > 0).cummin(1).values
        fresh = torch.stack([each.fresh for each in seen], dim=1)
        which, step = (going & (fresh >= FRESH)).nonzero(as_tuple=True)
        boxes, z = (torch.stack([getattr(s, name) for s in seen], 1) for name in ("boxes", "z"))
        objects = Objects(
            which, boxes[which, step], step.float(), presences[which, step], z[which, step]
        )
        return objects, (going.sum(1) + 1).clamp_max(self.most)

    def _around(self, pictures: Tensor, objects: Objects) -> Tensor:
        """Numbers [B, 192] of what lies outside of all boxes."""
        clear = torch.ones_like(pictures[:, :1])
        _, _, inside = self.projected(self.objects(objects.what), objects.boxes)
        for picture, each in zip(objects.which.tolist(), inside, strict=True):
            clear[picture] *= 1 - each
        return bottleneck(pictures, clear)


def placed(codes: Tensor) -> Tensor:
    """Boxes [B, 5] of codes [B, 4]: anywhere in the picture, and of about one size.

    >>> placed(torch.zeros(1, 4))
    tensor([[0.0000, 0.0000, 0.1300, 0.1300, 0.0000]])
    """
    place, size = codes.split(2, dim=1)
    halves = HALF * SPAN ** size.tanh()
    return torch.cat([place / 2, halves, torch.zeros_like(codes[:, :1])], dim=1)


def bottleneck(pictures: Tensor, clear: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] as 3 x 8 x 8 numbers [B, 192]: means of what is `clear` [B, 1, H, W],
    those of the whole picture where little is.

    >>> bottleneck(torch.full((1, 3, 64, 64), 0.5), torch.ones(1, 1, 64, 64)).unique()
    tensor([0.5000])
    """
    colours, shares = (
        (adaptive_avg_pool2d(part, BOTTLENECK), part.mean((2, 3), keepdim=True))
        for part in (pictures * clear, clear)
    )
    whole = colours[1] / shares[1].clamp_min(1e-6)
    return ((colours[0] + LITTLE * whole) / (shares[0] + LITTLE)).flatten(1)


def code_length(residual: Tensor) -> Tensor:
    """N log sigma [B] of residuals [B, C, H, W], each of N numbers and a standard deviation sigma:
    what it takes to tell them, in nats, but for a constant (section 6.2.1).

    >>> round(code_length(torch.full((1, 3, 2, 2), 0.5)).item(), 3)  # 12 log 0.5
    -8.318
    """
    count = residual[0].numel()
    return count / 2 * (residual.square().mean((1, 2, 3)) + ROUNDING).log()
