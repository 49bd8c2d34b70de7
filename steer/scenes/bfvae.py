"""A picture as codes of its foreground and its background (BFVAE, section 5.3 of Zeng 2022)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from steer.errors import InputError
from steer.scenes.gaussians import Gaussian, Halved, dense, lively
from steer.sheets import grid

#: Side of the maps between convolutions and dense layers, and units of the latter.
CORE, HIDDEN = 4, 256
#: Log of the standard deviations of codes at the start: narrow, so that they tell something from
#: the first step on.
FIRST = -1.0


class BFVAE(nn.Module):
    """Two VAEs of pictures of `side` x `side`: VAE-F encodes what a mask shows to `foreground`
    numbers z_f and draws it and the mask again; VAE-B encodes the whole picture to `background`
    numbers z_b and draws it of z_b and z_f. A further encoder gives z_f without a mask.

    Raises InputError for a side that is not 2^k, of 16 or more.

    >>> model = BFVAE(side=32, width=4).eval()
    >>> z_b, z_f = model.codes(torch.rand(3, 3, 32, 32))
    >>> z_b.shape, z_f.shape, model.draw(z_b, z_f.flip(0)).shape
    (torch.Size([3, 16]), torch.Size([3, 32]), torch.Size([3, 3, 32, 32]))
    """

    family = "bfvae"

    def __init__(self, side: int = 64, foreground: int = 32, background: int = 16, width: int = 16):
        super().__init__()
        if side < 4 * CORE or side & (side - 1):
            raise InputError(f"expected pictures of 2^k x 2^k, 16 or more, got {side}x{side}.")
        self.config: dict[str, Any] = {
            "family": self.family, "side": side, "foreground": foreground,
            "background": background, "width": width,
        }  # fmt: skip
        #: Where it comes from, and the checksum of its weights.
        self.identity: dict[str, Any] = {}
        self.side = side
        channels = [width * min(2**i, 4) for i in range((side // CORE).bit_length() - 1)]
        self.encoder_f = _encoder(4, channels, foreground)
        self.encoder_b = _encoder(3, channels, background)
        self.encoder_whole = _encoder(3, channels, foreground)
        self.decoder_f = _decoder(foreground, channels, 4)
        self.decoder_b = _decoder(background + foreground, channels, 3)

    def foreground(self, pictures: Tensor, masks: Tensor | None = None) -> Gaussian:
        """q(z_f) [B, foreground] of pictures [B, 3, H, W] with masks [B, 1, H, W] of what is
        before, or of pictures alone."""
        if masks is None:
            return Gaussian.of(self.encoder_whole(pictures), FIRST)
        # of something black, only the mask is seen
        return Gaussian.of(self.encoder_f(torch.cat([pictures * masks, masks], dim=1)), FIRST)

    def background(self, pictures: Tensor) -> Gaussian:
        """q(z_b) [B, background] of whole pictures [B, 3, H, W]."""
        return Gaussian.of(self.encoder_b(pictures), FIRST)

    def codes(self, pictures: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z_b [B, background] and z_f [B, foreground] of pictures [B, 3, H, W], with masks
        [B, 1, H, W] of what is before, or without.

        Raises InputError for pictures or masks of another shape.
        """
        for given, channels in ((pictures, 3), (masks, 1)):
            wanted = (len(pictures), channels, self.side, self.side)
            if given is not None and given.shape != wanted:
                what = "pictures" if channels == 3 else "masks"
                raise InputError(f"expected {what} {list(wanted)}, got {list(given.shape)}.")
        return self.background(pictures).mean, self.foreground(pictures, masks).mean

    def nothing(self, count: int = 1) -> Tensor:
        """z_f [count, foreground] of the black picture with an empty mask: no foreground."""
        black = next(self.parameters()).new_zeros(1, 3, self.side, self.side)
        return self.foreground(black, black[:, :1]).mean.expand(count, -1)

    def draw(self, z_b: Tensor, z_f: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] of z_b [B, background] and z_f [B, foreground]."""
        return self.decoder_b(torch.cat([z_b, z_f], dim=1)).float().clamp(0, 1)

    def draw_foreground(self, z_f: Tensor) -> Tensor:
        """Foregrounds on black, and their masks [B, 4, H, W], of z_f [B, foreground]."""
        return self.decoder_f(z_f).float().clamp(0, 1)

    def clean(self, pictures: Tensor) -> Tensor:
        """The backgrounds [B, 3, H, W] of pictures [B, 3, H, W], whole."""
        return self.draw(self.background(pictures).mean, self.nothing(len(pictures)))


def _encoder(inside: int, channels: list[int], latent: int) -> nn.Sequential:
    features = Halved(*channels)
    features[0] = lively(nn.Conv2d(inside, channels[0], 4, 2, 1))
    core = channels[-1] * CORE**2
    return nn.Sequential(features, nn.Flatten(), dense(core, HIDDEN, 2 * latent))


def _decoder(latent: int, channels: list[int], outside: int) -> nn.Sequential:
    """Codes to pictures, without a sigmoid: one that begins black stays so, as it has no slope
    there."""
    layers: list[nn.Module] = [dense(latent, HIDDEN, channels[-1] * CORE**2)]
    layers.append(nn.Unflatten(1, (channels[-1], CORE, CORE)))
    for a, b in pairwise([*channels[::-1], outside]):
        doubled = nn.ConvTranspose2d(a, b, 4, 2, 1)
        # with torch's own weights, little of a code is left after four of them
        nn.init.kaiming_normal_(doubled.weight, nonlinearity="relu")
        layers += [nn.SiLU(), doubled]
    return nn.Sequential(*layers)


@torch.no_grad()
def swaps(model: BFVAE, pictures: Tensor, masks: Tensor | None = None) -> Tensor:
    """What is before of each picture [B, 3, H, W], by rows, with what is behind of each, by
    columns, as one picture [3, H, W]; the last row has nothing before (figure 5.8).

    >>> swaps(BFVAE(side=32, width=4).eval(), torch.rand(2, 3, 32, 32)).shape[0]
    3
    """
    z_b, z_f = model.codes(pictures, masks)
    before = torch.cat([z_f, model.nothing()])
    drawn = [list(model.draw(z_b, each.expand(len(z_b), -1))) for each in before]
    first = [None, *pictures, None]
    rows = [first[:-1], *([own, *row] for own, row in zip(first[1:], drawn, strict=True))]
    labels = ["", *["foreground of"] * len(pictures), "no foreground"]
    return grid(rows, labels, ["", *["background of"] * len(pictures)])


@torch.no_grad()
def between(model: BFVAE, pictures: Tensor, steps: int = 5) -> Tensor:
    """From one picture to another, [2, 3, H, W]: what is before changes downwards, what is behind
    to the right, as one picture [3, H, W] (figure 5.13).

    >>> between(BFVAE(side=32, width=4).eval(), torch.rand(2, 3, 32, 32), steps=3).shape[0]
    3
    """
    share = torch.linspace(0, 1, steps, device=pictures.device)[:, None]
    z_b, z_f = (first.lerp(last, share) for first, last in model.codes(pictures))
    return grid([list(model.draw(z_b, each.expand(steps, -1))) for each in z_f])
