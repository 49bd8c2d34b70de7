"""Generators with the blocks of AVAE (figure 3.5 of the thesis), with an encoder or without."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.folded import Foldable
from steer.generators.planned import fill, planned
from steer.generators.vae import LARGEST

#: Side of all filters, and of the maps that the code becomes.
FILTER, CORE = 5, 4
#: A latent with a posterior wider than this holds nothing of the picture.
COLLAPSED = 0.99
#: Whose the standard deviations of a posterior are: of all pictures, of each, of none.
SPREADS = ("shared", "picture", "point")


class Posterior(nn.Module):
    """q(z | x): a Gaussian around the output of `network`, whose standard deviations are learned
    directly and "shared" by all pictures, come out of the network for each "picture", or are
    nothing: a "point".

    `network` maps pictures in [-1, 1] to [B, latent], or [B, 2 latent] with those of each picture.
    """

    def __init__(self, network: nn.Module, latent: int, spread: str = "shared"):
        super().__init__()
        self.network, self.spread = network, spread
        if spread == "shared":
            self.log_sigma = nn.Parameter(torch.full((latent,), math.log(0.5)))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation, each [B, latent]."""
        out = self.network(pictures).float()
        if self.spread == "picture":
            mean, log_sigma = out.chunk(2, dim=1)
            return mean, log_sigma
        if self.spread == "point":
            return out, torch.full_like(out, -math.inf)
        return out, self.log_sigma.expand_as(out)


class AVAE(Generator):
    """Maps a code, z then xi, to a picture; the encoder gives the z of a picture.

    `width` is the channels of the layer next to the picture; each further one has twice as many.
    `encoder` is one of `SPREADS`, or "" for none (a plain DCGAN of 5x5 filters). With `exact` (the
    loss of equation 3.12) the code of a picture is its posterior mean over sqrt(1 - sigma^2).

    Raises InputError for pictures that are not 2^k x 2^k, of 16 or more.

    >>> avae = AVAE(PictureShape(3, 32, 32), latent=6, xi=2, width=4).eval()
    >>> pictures = avae(torch.zeros(2, 8))
    >>> pictures.shape, avae.encode(pictures).shape
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 8]))
    """

    family = "avae"

    def __init__(
        self,
        picture: PictureShape,
        latent: int = 100,
        xi: int = 0,
        width: int = 128,
        encoder: str = "shared",
        exact: bool = True,
    ):
        picture = PictureShape(*picture)
        parts = {"z": latent, "xi": xi} if xi else {}
        super().__init__(LatentSpace(latent + xi, parts), picture)
        self.config: dict[str, Any] = {
            "family": self.family,
            "picture": list(picture),
            "latent": latent,
            "xi": xi,
            "width": width,
            "encoder": encoder,
            "exact": exact,
        }
        self.decoder = up(picture, latent + xi, width)
        self.exact = exact
        #: That of `steer train-avae` which it was trained by, where that is known.
        self.objective = ""
        self.encoder = posterior(picture, latent, width, encoder) if encoder else None

    def forward(self, z: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of codes [B, latent + xi]."""
        return (self.decoder(z) + 1) / 2

    @property
    def has_encoder(self) -> bool:
        """Whether it was trained with one."""
        return self.encoder is not None

    def posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [B, latent], of the approximate posterior."""
        assert self.encoder is not None
        mean, log_sigma = self.encoder(2 * pictures - 1)
        return mean, 2 * log_sigma

    def encode(self, pictures: Tensor) -> Tensor | None:
        """Codes [B, latent + xi] of pictures [B, C, H, W]."""
        if self.encoder is None:
            return None
        mean, log_sigma = self.encoder(2 * pictures - 1)
        if self.objective == "vae":
            return mean  # what its decoder was trained on
        return completed(mean, log_sigma, self.latent.sample(1), self.exact)

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint is one that `steer train-avae` wrote."""
        return checkpoint.config.get("family") == cls.family

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> AVAE:
        """The generator that the checkpoint describes."""
        options = _described(checkpoint)
        with planned():
            avae = cls(**options)
        trained = checkpoint.config.get("trained")
        avae.objective = str(trained.get("objective", "")) if isinstance(trained, dict) else ""
        fill(avae, checkpoint.state, checkpoint.origin)
        return avae


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options that a config.json holds; InputError where they make no generator."""
    config, where = checkpoint.config, checkpoint.origin
    options = {}
    for name, kind in (("picture", list), ("latent", int), ("xi", int), ("width", int),
                       ("encoder", str), ("exact", bool)):  # fmt: skip
        value = options[name] = config.get(name)
        numbers = value if kind is list and type(value) is list else [value]
        fits = type(value) is kind and (kind is not list or len(numbers) == 3)
        sizes = [number for number in numbers if kind in (int, list)]
        if not fits or any(type(n) is not int or not 0 <= n <= LARGEST for n in sizes):
            raise InputError(
                f"{where}: expected {kind.__name__} for {name} in config.json of an avae, got "
                f"{value!r}."
            )
    if options["encoder"] not in ("", *SPREADS):
        raise InputError(
            f"{where}: expected an encoder {', '.join(SPREADS)}, got {options['encoder']}."
        )
    return options


def posterior(picture: PictureShape, latent: int, width: int, spread: str) -> Posterior:
    """An encoder whose standard deviations are those of `spread`, one of `SPREADS`."""
    own = spread == "picture"
    return Posterior(down(picture, latent * (1 + own), width), latent, spread)


def completed(mean: Tensor, log_sigma: Tensor, drawn: Tensor, exact: bool) -> Tensor:
    """Codes [B, dim] for a generator of posterior means [B, latent].

    Under the loss of equation 3.12 (`exact`) that is mu / sqrt(1 - sigma^2). What the posterior
    leaves open, collapsed latents and xi, is taken from `drawn` [1, dim].

    >>> mean, sigma = torch.tensor([[0.6, 3.0]]), torch.tensor([[0.8, 1.0]])
    >>> completed(mean, sigma.log(), torch.tensor([[7.0, 8.0, 9.0]]), exact=True).round(decimals=4)
    tensor([[1., 8., 9.]])
    """
    sigma = log_sigma.exp()
    z = mean / (1 - sigma**2).clamp_min(1 - COLLAPSED**2).sqrt() if exact else mean
    drawn = drawn.to(z).expand(len(z), -1)
    known = torch.where(sigma > COLLAPSED, drawn[:, : z.shape[1]], z)
    return torch.cat([known, drawn[:, z.shape[1] :]], dim=1)


def widths(picture: PictureShape, width: int) -> list[int]:
    """Channels of the layers from the picture to 4x4 maps: width, 2 width, 4 width ...

    >>> widths(PictureShape(3, 64, 64), 128)
    [128, 256, 512, 1024]
    """
    side = picture.height
    if picture.width != side or side < 4 * CORE or side & (side - 1):
        raise InputError(
            f"expected pictures of 2^k x 2^k, 16 or more, got {picture.height}x{picture.width}."
        )
    channels = [width << i for i in range((side // CORE).bit_length() - 1)]
    if channels[-1] > LARGEST:
        raise InputError(
            f"expected {LARGEST} channels or fewer in every layer, a width of {width} for pictures "
            f"of {side}x{side} makes {channels[-1]}."
        )
    return channels


def up(picture: PictureShape, latent: int, width: int) -> nn.Sequential:
    """Codes [B, latent] to pictures [B, C, H, W] in [-1, 1]: generator and decoder."""
    narrowing = widths(picture, width)[::-1]
    layers: list[nn.Module] = [
        nn.Linear(latent, narrowing[0] * CORE**2, bias=False),
        nn.Unflatten(1, (narrowing[0], CORE, CORE)),
        nn.BatchNorm2d(narrowing[0]),
        nn.ReLU(),
    ]
    for a, b in pairwise(narrowing):
        layers += [_doubling(a, b), nn.BatchNorm2d(b), nn.ReLU()]
    return _drawn(Foldable(*layers, _doubling(width, picture.channels, True), nn.Tanh()))


def down(picture: PictureShape, units: int, width: int) -> nn.Sequential:
    """Pictures [B, C, H, W] in [-1, 1] to [B, units]: critic (one unit) and encoder."""
    widening = widths(picture, width)
    layers = [_halving(picture.channels, width, True), nn.LeakyReLU(0.2)]
    for a, b in pairwise(widening):
        layers += [_halving(a, b), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    return _drawn(Foldable(*layers, nn.Flatten(), nn.Linear(widening[-1] * CORE**2, units)))


def _halving(inside: int, outside: int, bias: bool = False) -> nn.Module:
    return nn.Conv2d(inside, outside, FILTER, 2, FILTER // 2, bias=bias)


def _doubling(inside: int, outside: int, bias: bool = False) -> nn.Module:
    return nn.ConvTranspose2d(inside, outside, FILTER, 2, FILTER // 2, 1, bias=bias)


def _drawn(network: nn.Sequential) -> nn.Sequential:
    """Weights as of Radford et al. 2015: N(0, 0.02^2), those of batch norms around 1."""
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.02)
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
