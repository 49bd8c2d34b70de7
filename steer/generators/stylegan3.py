"""StyleGAN3 (Karras et al. 2021), t and r: signals without aliasing, free of noise."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import signal
from scipy.special import j1
from torch import Tensor, nn
from torch.nn import functional as F

from steer.checkpoints import Checkpoint
from steer.errors import InputError
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
    normalised,
    number,
    options_of,
    read_mapping,
    scaled,
    upsample,
)

#: Name of a layer's bias: its place, side and channels.
LAYER = re.compile(r"synthesis\.L(\d+)_\d+_\d+\.bias")
#: What these options lie above; others above 0.
LEAST = {"num_critical": -1, "margin_size": -1, "filter_size": 1, "lrelu_upsampling": 1}


@dataclass(frozen=True)
class Design:
    """How bandwidths grow over the layers (section 3 and appendix C of Karras et al. 2021), under
    the names and with the defaults of NVIDIA's code.

    Frequencies are in cycles per picture side, sizes in samples.
    """

    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    filter_size: int = 6
    lrelu_upsampling: int = 2
    conv_clamp: float | None = 256.0
    output_scale: float = 0.25

    def bands(self, resolution: int, layers: int) -> list[Band]:
        """What each of `layers` layers before the last, and the last, puts out.

        >>> [band.size for band in Design().bands(32, 8)]
        [36, 36, 36, 52, 52, 52, 52, 32, 32]
        """
        nyquist = resolution / 2
        place = np.minimum(np.arange(layers + 1) / (layers - self.num_critical), 1)
        cutoffs = self.first_cutoff * (nyquist / self.first_cutoff) ** place
        last_stopband = nyquist * self.last_stopband_rel
        stopbands = self.first_stopband * (last_stopband / self.first_stopband) ** place
        rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands, resolution))))
        half_widths = np.maximum(stopbands, rates / 2) - cutoffs
        sizes = rates + 2 * self.margin_size
        sizes[-2:] = resolution
        if not ((rates >= 1) & (half_widths > 0) & (cutoffs < rates)).all():
            raise InputError(f"expected bands that grow to {resolution} pixels, got {self}.")
        columns = (cutoffs, half_widths, rates.astype(int), sizes.astype(int))
        return [Band(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


class Band(NamedTuple):
    """A signal: cut-off frequency, half the width of the transition band, samples per picture side,
    and samples of its side with the margin."""

    cutoff: float
    half_width: float
    rate: int
    size: int

    def taps(self, length: int, rate: int, radial: bool = False) -> Tensor:
        """A Kaiser-windowed low-pass filter for this band in a signal of `rate` samples per side:
        [length], or [length, length] for the jinc, which is the same in all directions."""
        if not radial:
            width = 2 * self.half_width
            taps = signal.firwin(length, self.cutoff, width=width, fs=rate)
            return torch.as_tensor(taps, dtype=torch.float32)
        x = (np.arange(length) - (length - 1) / 2) / rate
        distance = np.pi * np.hypot(x, x[:, None])
        jinc = j1(2 * self.cutoff * distance) / distance
        beta = signal.kaiser_beta(signal.kaiser_atten(length, 4 * self.half_width / rate))
        window = np.kaiser(length, beta)
        taps = jinc * window * window[:, None]
        return torch.as_tensor(taps / taps.sum(), dtype=torch.float32)


class FourierInput(nn.Module):
    """Random waves in a plane that w turns and shifts, mixed by a learnt matrix."""

    def __init__(self, w_dim: int, channels: int, band: Band):
        super().__init__()
        self.band = band
        self.weight = nn.Parameter(normal(channels, channels))
        self.affine = EqualLinear(w_dim, 4)
        # real where the network is `planned`, too; at first no w turns or shifts
        nn.init.zeros_(self.affine.weight)
        self.affine.bias = nn.Parameter(torch.eye(4, device="cpu")[0].clone())
        waves = torch.randn(channels, 2, device="cpu")
        radii = waves.norm(dim=1, keepdim=True)
        # uniform in a disc, the radius from a normal pair's
        waves = waves / (radii * (radii.square() / 4).exp()) * band.cutoff
        self.register_buffer("freqs", waves)
        self.register_buffer("phases", torch.rand(channels, device="cpu") - 0.5)
        self.register_buffer("transform", torch.eye(3, device="cpu"))

    def forward(self, w: Tensor) -> Tensor:
        """Maps [B, C, size, size] of w [B, w_dim]."""
        freqs, phases, user = (self.get_buffer(n) for n in ("freqs", "phases", "transform"))
        motion = self.affine(w)
        motion = motion / motion[:, :2].norm(dim=1, keepdim=True)
        cos, sin, x, y = motion.unbind(1)
        turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
        shift = -(turn @ torch.stack([x, y], dim=1)[..., None])
        linear, offset = turn @ user[:2, :2], turn @ user[:2, 2:] + shift
        phases = phases + (freqs @ offset)[..., 0]
        freqs = freqs @ linear
        rate, cutoff, size = self.band.rate, self.band.cutoff, self.band.size
        # what a user's zoom pushes beyond the band fades out
        amplitudes = 1 - (freqs.norm(dim=2) - cutoff) / (rate / 2 - cutoff)
        places = (torch.arange(size, device=w.device, dtype=w.dtype) + (0.5 - size / 2)) / rate
        along_x = freqs[..., :1] * places
        along_y = freqs[..., 1:] * places + phases[..., None]
        waves = torch.sin(2 * math.pi * (along_y[..., None] + along_x[:, :, None]))
        waves = scaled(waves, amplitudes.clamp(0, 1))
        weight = self.weight / math.sqrt(len(self.weight))
        return F.conv2d(waves, weight[:, :, None, None])


class Layer(nn.Module):
    """Convolution modulated by w, then bias and leaky ReLU at a higher rate, filtered."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        w_dim: int,
        before: Band,
        after: Band,
        design: Design,
        radial: bool,
    ):
        outputs, inputs, kernel = shape
        super().__init__()
        self.clamp = design.conv_clamp
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(normal(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("magnitude_ema", torch.ones(()))
        rate = max(before.rate, after.rate) * design.lrelu_upsampling
        self.up, self.down = rate // before.rate, rate // after.rate
        up_length, down_length = self.up * design.filter_size, self.down * design.filter_size
        self.register_buffer("up_filter", before.taps(up_length, rate))
        self.register_buffer("down_filter", after.taps(down_length, rate, radial))
        wanted = (after.size - 1) * self.down + up_length + down_length - 1
        padding = wanted - (before.size + kernel - 1) * self.up
        # the samples' places are the middles of their intervals
        first = (padding + self.up) // 2
        self.padding = (first, padding - first)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Maps [B, outputs, H, W] of maps [B, inputs, h, w] and w [B, w_dim]."""
        magnitude, up_taps, down_taps = (
            self.get_buffer(name) for name in ("magnitude_ema", "up_filter", "down_filter")
        )
        styles = normalised(self.affine(w))
        weight = self.weight * self.weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        factors = demodulation(weight, styles) * (GAIN * magnitude.rsqrt())
        x = F.conv2d(scaled(x, styles), weight, padding=weight.shape[-1] - 1)
        x = torch.addcmul(self.bias[:, None, None] * GAIN, x, factors[:, :, None, None])
        x = bounded(F.leaky_relu(upsample(x, up_taps, self.up, self.padding), SLOPE), self.clamp)
        return low_pass(x, down_taps, self.down)


class ToPicture(nn.Module):
    """1x1 convolution modulated by w, to the channels of the picture."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, design: Design):
        super().__init__()
        self.design = design
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(normal(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("magnitude_ema", torch.ones(()))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Pictures [B, outputs, H, W] of maps [B, inputs, H, W] and w [B, w_dim]."""
        gain = self.get_buffer("magnitude_ema").rsqrt() / math.sqrt(self.weight.shape[1])
        x = F.conv2d(scaled(x, self.affine(w) * gain), self.weight, self.bias)
        return bounded(x, self.design.conv_clamp) * self.design.output_scale


class StyleGAN3(StyleGenerator):
    """StyleGAN3-t, or StyleGAN3-r where `kernel` is 1 and `radial` is set.

    `channels` are those of each layer, the picture's last.

    >>> generator = StyleGAN3(Mapping((8, 16)), 16, channels=(8, 8, 8, 8, 8, 3)).eval()
    >>> ws = generator.map(torch.randn(2, 8))
    >>> ws.shape, generator.synthesise(ws).shape
    (torch.Size([2, 7, 16]), torch.Size([2, 3, 16, 16]))
    """

    family = "stylegan3"

    def __init__(
        self,
        mapping: Mapping,
        resolution: int,
        channels: Sequence[int],
        *,
        kernel: int = 3,
        radial: bool = False,
        design: Design | None = None,
    ):
        design = design or Design()
        picture = PictureShape(channels[-1], resolution, resolution)
        super().__init__(mapping, picture, len(channels) + 1)
        last = len(channels) - 1
        if resolution < 4 or resolution & (resolution - 1) or last <= design.num_critical:
            raise InputError(
                "expected a StyleGAN3 whose side is a power of 2 and which has more layers than "
                f"num_critical, got side {resolution}, {last} layers, {design.num_critical}."
            )
        bands, w_dim = design.bands(resolution, last), mapping.w_dim
        layers: dict[str, nn.Module] = {"input": FourierInput(w_dim, channels[0], bands[0])}
        for i in range(last):
            j = max(i - 1, 0)
            critical = i >= last - design.num_critical
            layers[f"L{i}_{bands[i].size}_{channels[i]}"] = Layer(
                (channels[i], channels[j], kernel),
                *(w_dim, bands[j], bands[i], design),
                radial and not critical,
            )
        name = f"L{last}_{resolution}_{channels[last]}"
        layers[name] = ToPicture(channels[last - 1], channels[last], w_dim, design)
        self.synthesis = nn.ModuleDict(layers)
        #: What `from_checkpoint` cannot see in the tensors.
        self.config: dict[str, Any] = {
            "family": self.family,
            "mapping_kwargs": mapping.config,
            **asdict(design),
        }

    def raw(self, ws: Tensor, items: Tensor) -> Tensor:
        """Pictures [B, C, H, W] before clamping of ws [B, num_ws, w_dim]."""
        first, *others = self.synthesis.values()
        x = first(ws[:, 0])
        for index, layer in enumerate(others, start=1):
            x = layer(x, ws[:, index])
        return x

    @property
    def input_transform(self) -> Tensor:
        """[3, 3]: where in the plane of waves each place of the picture looks, in picture sides
        from its middle, x to the right and y down; the inverse of what the picture does.

        Settable: a shift of [0, 2] by t moves the picture to the left by t sides.
        """
        return self.synthesis["input"].get_buffer("transform")

    @input_transform.setter
    def input_transform(self, matrix: Tensor) -> None:
        if matrix.shape != (3, 3):
            raise InputError(f"expected a transform [3, 3], got {list(matrix.shape)}.")
        self.input_transform.copy_(matrix)

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether there are a mapping network and waves."""
        return {"mapping.fc0.weight", "synthesis.input.freqs"} <= checkpoint.state.keys()

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> StyleGAN3:
        """The network with the sizes of the checkpoint's tensors and the options beside them, or
        their defaults. Its filters are the checkpoint's."""
        state, where = checkpoint.state, checkpoint.origin
        options = options_of(checkpoint)
        names = {int(m[1]): m[0] for m in map(LAYER.fullmatch, state) if m}
        if sorted(names) != list(range(len(names))) or len(names) < 2:
            raise InputError(
                f"{where}: expected layers synthesis.L0_... and on without a gap, got "
                f"{sorted(names)}."
            )
        biases = [names[i] for i in range(len(names))]
        first = biases[0].removesuffix(".bias")
        design = {
            name: number(options, name, default, where, LEAST.get(name, 0))
            for name, default in asdict(Design()).items()
        }
        with planned():
            network = cls(
                read_mapping(checkpoint, options),
                int(biases[-1].split("_")[1]),
                [checkpoint.shape_of(name, 1)[0] for name in biases],
                kernel=checkpoint.shape_of(f"{first}.weight", 4)[-1],
                radial=f"{first}.down_filter" in state and state[f"{first}.down_filter"].dim() == 2,
                design=Design(**design),
            )
        return filled(network, checkpoint, options)
