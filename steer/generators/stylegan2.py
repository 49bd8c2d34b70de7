"""StyleGAN2 (Karras et al. 2020), in the layouts of NVIDIA's codes and of rosinality's."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators import rosinality, tensorflow
from steer.generators.base import PictureShape
from steer.generators.planned import planned
from steer.generators.style import (
    GAIN,
    SLOPE,
    EqualLinear,
    Mapping,
    StyleGenerator,
    bounded,
    demodulation,
    filled,
    low_pass,
    normal,
    number,
    options_of,
    read_mapping,
    scaled,
    upsample,
)

#: The low-pass filter of Karras et al. 2020, separable.
BINOMIAL = torch.tensor([[1.0, 3.0, 3.0, 1.0]]).T @ torch.tensor([[1.0, 3.0, 3.0, 1.0]]) / 64


class Style(NamedTuple):
    """What all layers share: the width of w, the bound on activations, whether noise is added,
    and the filter that goes with doubling the size, [n, n] or [n] where it is separable."""

    w_dim: int
    clamp: float | None
    noisy: bool
    taps: Tensor


class StyledConvolution(nn.Module):
    """3x3 convolution modulated by w, noise, bias and leaky ReLU; doubles the size where `up`."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], style: Style, up: bool):
        super().__init__()
        self.up, self.clamp = up, style.clamp
        self.affine = EqualLinear(style.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(normal(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", style.taps)
        if style.noisy:
            self.register_buffer("noise_const", normal(*size))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """Maps [B, outputs, H, W] of maps [B, inputs, h, w], w [B, w_dim] and noise [(B, 1,) H, W].

        The gain goes into the small tensors: max(x, 0.2 x) is homogeneous.
        """
        styles = self.affine(w)
        factors = demodulation(self.weight, styles) * GAIN
        x = scaled(x, styles)
        if self.up:
            taps: Tensor = self.resample_filter  # type: ignore[assignment]
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = low_pass(x, taps, padding=((len(taps) - 1) // 2, (len(taps) - 2) // 2))
            factors = factors * 4  # the zeros between samples count as samples
        else:
            x = F.conv2d(x, self.weight, padding=1)
        shift = self.bias[:, None, None] * GAIN
        if noise is not None:
            shift = shift + noise * (self.noise_strength * GAIN)
        x = F.leaky_relu(torch.addcmul(shift, x, factors[:, :, None, None]), SLOPE)
        return bounded(x, self.clamp)


class ToPicture(nn.Module):
    """1x1 convolution modulated by w, to the channels of the picture."""

    def __init__(self, inputs: int, outputs: int, style: Style):
        super().__init__()
        self.clamp = style.clamp
        self.affine = EqualLinear(style.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(normal(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Pictures [B, outputs, H, W] of maps [B, inputs, H, W] and w [B, w_dim]."""
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        return bounded(F.conv2d(scaled(x, styles), self.weight, self.bias), self.clamp)


class Block(nn.Module):
    """All layers of one size; the first starts from a learnt constant."""

    def __init__(
        self, inputs: int, outputs: int, colours: int, size: tuple[int, int], style: Style
    ):
        super().__init__()
        if inputs:
            self.conv0 = StyledConvolution(inputs, outputs, size, style, up=True)
        else:
            self.const = nn.Parameter(normal(outputs, *size))
        self.conv1 = StyledConvolution(outputs, outputs, size, style, up=False)
        self.torgb = ToPicture(outputs, colours, style)
        self.register_buffer("resample_filter", style.taps)

    @property
    def convolutions(self) -> list[StyledConvolution]:
        """One or two of them."""
        return [self.conv0, self.conv1] if hasattr(self, "conv0") else [self.conv1]

    def enlarged(self, picture: Tensor) -> Tensor:
        """A picture [B, C, H, W] at twice its size."""
        taps: Tensor = self.resample_filter  # type: ignore[assignment]
        return upsample(picture, taps, 2, ((len(taps) + 1) // 2, (len(taps) - 2) // 2))


class StyleGAN2(StyleGenerator):
    """StyleGAN2 with skip connections (configuration F, ADA, and `stylegan2` of StyleGAN3's code).

    `channels` are those of each size, which doubles from `start`. `noise` is `const` (the noise
    maps of the checkpoint), `none`, or `random`: drawn for each item by its code, so that a picture
    is the same in every batch.

    >>> generator = StyleGAN2(Mapping((8, 16, 16)), channels=(16, 16, 8)).eval()
    >>> ws = generator.map(torch.randn(2, 8))
    >>> ws.shape, generator.synthesise(ws).shape
    (torch.Size([2, 6, 16]), torch.Size([2, 3, 16, 16]))
    """

    family = "stylegan2"

    def __init__(
        self,
        mapping: Mapping,
        channels: Sequence[int],
        *,
        colours: int = 3,
        start: tuple[int, int] = (4, 4),
        clamp: float | None = None,
        noisy: bool = True,
        taps: Tensor = BINOMIAL,
    ):
        style = Style(mapping.w_dim, clamp, noisy, taps)
        sizes = [(start[0] << i, start[1] << i) for i in range(len(channels))]
        super().__init__(mapping, PictureShape(colours, *sizes[-1]), 2 * len(channels))
        self.synthesis = nn.ModuleDict(
            {
                f"b{4 << i}": Block(inputs, outputs, colours, sizes[i], style)
                for i, (inputs, outputs) in enumerate(pairwise([0, *channels]))
            }
        )
        self._noise = "const" if noisy else None
        #: What `from_checkpoint` cannot see in the tensors.
        self.config: dict[str, Any] = {
            "family": self.family,
            "mapping_kwargs": mapping.config,
            "synthesis_kwargs": {"conv_clamp": clamp},
        }

    def raw(self, ws: Tensor, items: Tensor) -> Tensor:
        """Pictures [B, C, H, W] before clamping of ws [B, num_ws, w_dim]; see StyleGenerator."""
        streams = _streams(items) if self.noise == "random" else []
        x = picture = None
        layer = 0
        for block in self.synthesis.values():
            assert isinstance(block, Block)
            if x is None:
                x = block.const.expand(len(ws), -1, -1, -1)
            for convolution in block.convolutions:
                x = convolution(x, ws[:, layer], self._noise_of(convolution, streams))
                layer += 1
            # the next block's first convolution is told the same w as this picture
            shown = block.torgb(x, ws[:, layer])
            picture = shown if picture is None else block.enlarged(picture) + shown
        assert picture is not None
        return picture

    def _noise_of(self, layer: StyledConvolution, streams: list[torch.Generator]) -> Tensor | None:
        if self.noise in (None, "none"):
            return None
        stored: Tensor = layer.noise_const  # type: ignore[assignment]
        if self.noise == "const":
            return stored
        drawn = torch.empty(len(streams), 1, *stored.shape)
        for item, stream in zip(drawn, streams, strict=True):
            item.normal_(generator=stream)
        return drawn.to(stored)

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the tensors are named as by NVIDIA, in either of its codes, or by rosinality."""
        named = {"mapping.fc0.weight", "synthesis.b4.const"} <= checkpoint.state.keys()
        return named or any(layout.recognises(checkpoint) for layout in (rosinality, tensorflow))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> StyleGAN2:
        """The network with the sizes of the checkpoint's tensors, which are taken out of it, and
        the options beside them.

        Without options: learning rates of 0.01 in the mapping, activations bounded to 256 where the
        options are those of StyleGAN3's code and unbounded elsewhere.
        """
        lacks_mean = False
        if rosinality.recognises(checkpoint):
            lacks_mean = "latent_avg" not in checkpoint.beside
            checkpoint = rosinality.translated(checkpoint)
        elif tensorflow.recognises(checkpoint):
            checkpoint = tensorflow.translated(checkpoint)
        state, where = checkpoint.state, checkpoint.origin
        options = options_of(checkpoint)
        for name, known in (("architecture", "skip"), ("activation", "lrelu")):
            if options.get(name, known) != known:
                raise InputError(
                    f"{where}: expected a StyleGAN2 with {name} {known}, got {options[name]!r}."
                )
        blocks = sum(bool(re.fullmatch(r"synthesis\.b\d+\.conv1\.bias", name)) for name in state)
        channels = [
            checkpoint.shape_of(f"synthesis.b{4 << i}.conv1.bias", 1)[0] for i in range(blocks)
        ]
        # only StyleGAN3's code gives the synthesis network's options beside the others
        later = bool(options) and not {"synthesis_kwargs", "family"} & options.keys()
        clamp = number(options, "conv_clamp", 256 if later else None, where)
        height, width = checkpoint.shape_of("synthesis.b4.const", 3)[1:]
        with planned():
            network = cls(
                read_mapping(checkpoint, options),
                channels,
                colours=checkpoint.shape_of("synthesis.b4.torgb.bias", 1)[0],
                start=(height, width),
                clamp=clamp,
                noisy=any(name.endswith(".noise_const") for name in state),
                taps=_filter(checkpoint),
            )
        network = filled(network, checkpoint, options)
        if lacks_mean:
            network.mapping.estimate_mean()
        return network


def _filter(checkpoint: Checkpoint) -> Tensor:
    """The resampling filter of a checkpoint: 1 to 2 dimensions, square."""
    taps = checkpoint.state.get("synthesis.b4.resample_filter", BINOMIAL)
    if taps.dim() not in (1, 2) or len(taps) < 2 or taps.shape[0] != taps.shape[-1]:
        raise InputError(
            f"{checkpoint.origin}: expected a square filter of 2 or more taps in "
            f"synthesis.b4.resample_filter, got shape {list(taps.shape)}."
        )
    return taps


def _streams(items: Tensor) -> list[torch.Generator]:
    """A stream of random numbers for each of items [B, ...], seeded by its bytes."""
    rows = items.detach().float().cpu().flatten(1).numpy()
    digests = (hashlib.sha256(row.tobytes()).digest() for row in rows)
    return [torch.Generator().manual_seed(int.from_bytes(d[:8], "big") >> 1) for d in digests]
