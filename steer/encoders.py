"""Encoders fitted to generators: codes guessed for pictures, for searches to start from."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from steer.checkpoints import read_checkpoint, save_checkpoint
from steer.disk import cache_folder
from steer.errors import InputError
from steer.generators.base import Generator, PictureShape
from steer.generators.planned import fill, planned
from steer.hub import locate

#: Pictures are seen at this side, or their own smaller one.
SIDE = 128
#: A timm network that learns in minutes on two cores.
BACKBONE = "resnet10t"
#: What holds a finished encoder of a folder.
CONFIG = "config.json"


class Encoder(nn.Module):
    """A timm network from pictures [B, C, H, W] in [0, 1] to codes [B, width].

    It is fitted to codes that are standardised, by the `mean` and the `deviation` [width] of some.

    Raises InputError for a backbone that timm lacks.

    >>> encoder = Encoder(PictureShape(3, 32, 32), width=10)
    >>> encoder.eval()(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, picture: PictureShape, width: int, backbone: str = BACKBONE):
        super().__init__()
        import timm

        if not timm.is_model(backbone):
            raise InputError(f"expected a timm model as backbone; got {backbone!r}.")
        self.picture, self.width, self.backbone = picture, width, backbone
        self.network = timm.create_model(
            backbone, pretrained=False, num_classes=width, in_chans=picture.channels
        )
        #: That of its weights, once they are kept.
        self.checksum = ""
        self.mean = nn.Buffer(torch.zeros(width))
        self.deviation = nn.Buffer(torch.ones(width))

    def forward(self, pictures: Tensor) -> Tensor:
        """Codes [B, width]."""
        return self.mean + self.deviation * self.standardised(pictures)

    def standardised(self, pictures: Tensor) -> Tensor:
        """The same [B, width], before they get their mean and deviation."""
        height, width = (min(side, SIDE) for side in self.picture[1:])
        seen = 4 * adaptive_avg_pool2d(pictures, (height, width)) - 2
        return self.network(seen.contiguous(memory_format=torch.channels_last)).float()


def place_of(generator: Generator) -> Path:
    """The folder of the encoder fitted to a generator: beside downloads, under the checksum of its
    weights and the space of its codes."""
    sizes = f"{generator.width} {tuple(generator.picture)}"
    key = hashlib.sha256(f"{generator.checksum} {generator.space} {sizes}".encode()).hexdigest()
    return cache_folder() / f"encoder-{key[:32]}"


def guess(generator: Generator, pictures: Tensor) -> Tensor | None:
    """Codes [B, width] for pictures [B, C, H, W], by the encoder that was fitted to the generator,
    or its own; None where it has neither.

    The class of a generator whose classes are chosen is the nearest of those.

    Raises InputError where the fitted encoder's files are damaged.
    """
    encoder = fitted(generator)
    if encoder is None:
        return generator.encode(pictures)
    codes, condition = encoder(pictures), generator.condition
    if condition is None or not generator.classes:
        return codes
    told = condition.codes[list(generator.classes)].to(codes)
    nearest = torch.cdist(codes[:, generator.latent.dim :], told).argmin(1)
    return torch.cat([codes[:, : generator.latent.dim], told[nearest]], dim=1)


def fitted(generator: Generator) -> Encoder | None:
    """The encoder that was fitted to the generator, ready to use; None where there is none."""
    config = place_of(generator) / CONFIG
    if generator.checksum is None or not config.exists():
        return None
    sizes = (tuple(generator.picture), generator.width)
    return _opened(str(config.parent), config.stat().st_mtime_ns, *sizes, generator.device)


@lru_cache(maxsize=2)
def _opened(
    folder: str, changed: int, picture: tuple[int, int, int], width: int, device: torch.device
) -> Encoder:
    checkpoint = read_checkpoint(locate(folder))
    with planned():
        encoder = Encoder(PictureShape(*picture), width, str(checkpoint.config.get("backbone")))
    fill(encoder, checkpoint.state, checkpoint.origin)
    encoder.checksum = checkpoint.sha256
    return encoder.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)


def keep(folder: Path, encoder: Encoder, made: dict[str, Any]) -> None:
    """Writes the encoder's folder; `made` says how."""
    state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    config = {"family": "encoder", "backbone": encoder.backbone, "fitted": made}
    save_checkpoint(folder, config, state, CARD.format(**made))


CARD = """---
library_name: steer
---
# An encoder of {model}, by `steer fit-encoder`

{samples} pictures of the generator's own, seed {seed}.
"""
