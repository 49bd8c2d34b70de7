"""What StyleGAN2 and StyleGAN3 share: mapping network, w space, modulation, filters, reading."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping as Options
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.generators.planned import fill

NOISES = ("const", "none", "random")
SLOPE = 0.2
#: Keeps the variance of a normal variable through a leaky ReLU of that slope (nearly).
GAIN = math.sqrt(2)
TINY = 1e-8
#: No number that a checkpoint's options give is larger.
LARGEST = 1 << 16


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Normal numbers of a shape; unlike those of `torch.randn`, not drawn where `planned`."""
    return torch.empty(shape).normal_(std=std)


def exactly(x: Tensor) -> torch.autocast:
    """Full precision inside `torch.autocast`: for what is small, and scales all that follows."""
    return torch.autocast(x.device.type, enabled=False)


class EqualLinear(nn.Module):
    """Linear layer [inputs -> outputs] whose weights are stored near N(0, 1 / rate^2) and scaled
    when used: the equalised learning rate of Karras et al. 2018.

    >>> EqualLinear(8, 4)(torch.zeros(2, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(normal(outputs, inputs, std=1 / rate))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs] of [B, inputs]."""
        scale = self.rate / math.sqrt(self.weight.shape[1])
        with exactly(x):
            return torch.addmm(self.bias, x, self.weight.T, beta=self.rate, alpha=scale)


def normalised(x: Tensor) -> Tensor:
    """Rows [B, n] scaled to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + TINY).rsqrt()


class Mapping(nn.Module):
    """The network from z, and a class where there are any, to w.

    `features` are the widths from z over the hidden layers to w, `classes` the length of the class
    code, `embedding` what it is embedded in (the width of w where 0). z and the embedding are
    normalised each for itself, or as one where `joint`, as in the first StyleGAN2.

    >>> Mapping((8, 16, 16), classes=3)(torch.randn(2, 8 + 3)).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        features: Sequence[int],
        classes: int = 0,
        embedding: int = 0,
        rate: float = 0.01,
        joint: bool = False,
    ):
        super().__init__()
        self.z_dim, self.w_dim, self.classes = features[0], features[-1], classes
        self.rate, self.joint = rate, joint
        embedding = (embedding or self.w_dim) if classes else 0
        if classes:
            self.embed = EqualLinear(classes, embedding)
        widths = [features[0] + embedding, *features[1:]]
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            self.add_module(f"fc{index}", EqualLinear(inputs, outputs, rate))
        self.depth = len(features) - 1
        self.register_buffer("w_avg", torch.zeros(self.w_dim))

    def forward(self, codes: Tensor) -> Tensor:
        """w [B, w_dim] of codes [B, z_dim + classes]."""
        parts = [codes[:, : self.z_dim]]
        if self.classes:
            parts.append(self.embed(codes[:, self.z_dim :]))
        if self.joint:
            x = normalised(torch.cat(parts, dim=1))
        else:
            x = torch.cat([normalised(part) for part in parts], dim=1)
        for index in range(self.depth):
            x = F.leaky_relu(self.get_submodule(f"fc{index}")(x), SLOPE) * GAIN
        return x

    @property
    def config(self) -> dict[str, Any]:
        """What `read_mapping` cannot see in the tensors."""
        return {"lr_multiplier": self.rate} | ({"joint": True} if self.joint else {})

    @torch.no_grad()
    def estimate_mean(self, samples: int = 4096) -> None:
        """Sets the mean of w from codes of the prior; for networks without classes."""
        self.w_avg = self(LatentSpace(self.z_dim).sample(samples)).mean(0)


def in_unit_range(raw: Tensor) -> Tensor:
    """Pictures in [0, 1] of the network's output, which lies around [-1, 1].

    The clamp lets gradients through unchanged: where a pixel is cut off, a loss against a picture
    in [0, 1] pulls it back or is at rest, while the gradient of a plain clamp would be 0.

    >>> in_unit_range(torch.tensor([-3.0, 0.0, 1.5]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    pictures = (raw + 1) / 2
    return pictures.clamp(0, 1).detach() + (pictures - pictures.detach())


class StyleGenerator(Generator, ABC):
    """A mapping network from codes to w, and a synthesis network that is told w at each layer.

    Codes are z [B, z_dim], followed by the class code where there are classes. `truncation` (psi)
    pulls w to its mean: 1 leaves it, 0 gives the mean's picture.
    """

    mapping: Mapping
    config: dict[str, Any]

    def __init__(self, mapping: Mapping, picture: PictureShape, num_ws: int):
        # the network may be planned, what it is told are numbers
        classes = torch.eye(mapping.classes, device="cpu")
        condition = Condition(classes) if mapping.classes else None
        super().__init__(LatentSpace(mapping.z_dim), picture, condition)
        self.mapping = mapping
        #: Layers that are told w.
        self.num_ws = num_ws
        self._truncation = 1.0
        self._noise: str | None = None

    @property
    def w_dim(self) -> int:
        """Numbers in w."""
        return self.mapping.w_dim

    @property
    def truncation(self) -> float:
        """psi, from 0 to 2; InputError where it is set outside."""
        return self._truncation

    @truncation.setter
    def truncation(self, psi: float) -> None:
        if not (isinstance(psi, int | float) and 0 <= psi <= 2):
            raise InputError(f"expected a truncation psi from 0 to 2, got {psi!r}.")
        self._truncation = float(psi)

    @property
    def noise(self) -> str | None:
        """`const`, `none` or `random`; None for a network without noise, where it cannot be set."""
        return self._noise

    @noise.setter
    def noise(self, mode: str | None) -> None:
        if self._noise is None:
            raise InputError(f"{self.name} has no noise inputs, got noise {mode!r}.")
        if mode not in NOISES:
            raise InputError(f"expected noise {', '.join(NOISES)}, got {mode!r}.")
        self._noise = mode

    def map(self, codes: Tensor) -> Tensor:
        """ws [B, num_ws, w_dim], truncated, of codes [B, z_dim + classes]; one w for all layers."""
        width = self.latent.dim + self.mapping.classes
        if codes.dim() != 2 or codes.shape[1] != width:
            raise InputError(f"expected codes [B, {width}], got {list(codes.shape)}.")
        mean: Tensor = self.mapping.w_avg
        w = torch.lerp(mean, self.mapping(codes), self.truncation)
        return w[:, None].expand(-1, self.num_ws, -1)

    def synthesise(self, ws: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] of ws [B, num_ws, w_dim]; see `in_unit_range`."""
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise InputError(f"expected ws [B, {self.num_ws}, {self.w_dim}], got {list(ws.shape)}.")
        return in_unit_range(self.raw(ws, ws))

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] of codes [B, z_dim + classes]."""
        return in_unit_range(self.raw(self.map(codes), codes))

    @abstractmethod
    def raw(self, ws: Tensor, items: Tensor) -> Tensor:
        """Pictures [B, C, H, W] before clamping, around [-1, 1], of ws [B, num_ws, w_dim].

        Random noise is drawn for each row of `items` [B, ...] by its content.
        """


# --- modulation and filters ---


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """Factors [B, O] that give the outputs of `weight` [O, I, k, k], its inputs scaled by `styles`
    [B, I], unit variance again (equation 3 of Karras et al. 2020).

    Scaling inputs and outputs instead of the weights lets a batch share one convolution, and spares
    the gradient of each item's weights.
    """
    with exactly(styles):
        return (styles.square() @ weight.square().sum((2, 3)).T + TINY).rsqrt()


def scaled(x: Tensor, factors: Tensor) -> Tensor:
    """Maps [B, C, H, W] with each channel multiplied by its factor [B, C]."""
    return x * factors[:, :, None, None]


def bounded(x: Tensor, clamp: float | None) -> Tensor:
    """x clamped to [-clamp, clamp]; as it is for None."""
    return x if clamp is None else x.clamp(-clamp, clamp)


def upsample(x: Tensor, taps: Tensor, factor: int, padding: tuple[int, int]) -> Tensor:
    """Maps [B, C, H, W] with `factor` - 1 zeros after each sample, padded by `padding` (before,
    after; negative crops), low-pass filtered by `taps` [n] (separable) or [n, n].

    The result has side H * factor + sum(padding) - n + 1.

    >>> upsample(torch.ones(1, 1, 2, 2), torch.ones(2) / 2, 2, (1, 0))[0, 0, 0]
    tensor([1., 1., 1., 1.])
    """
    if taps.dim() == 1:
        x = _upsample(x, taps[:, None], (factor, 1), padding)
        return _upsample(x, taps[None, :], (1, factor), padding)
    return _upsample(x, taps, (factor, factor), padding)


def _upsample(
    x: Tensor, taps: Tensor, factors: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    channels = x.shape[1]
    gain = factors[0] * factors[1]
    kernel = (taps * gain).expand(channels, 1, -1, -1)
    # the transposed convolution is the full one: it starts `length - 1` samples early
    x = F.conv_transpose2d(x, kernel, stride=factors, groups=channels)
    (before, after), edges = padding, []
    for length, factor in zip(reversed(taps.shape), reversed(factors), strict=True):
        here = length > 1
        edges += [before - length + 1, factor + after - length] if here else [0, 0]
    return F.pad(x, edges) if any(edges) else x


def low_pass(x: Tensor, taps: Tensor, step: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Maps [B, C, H, W] padded by `padding` (before, after), convolved with `taps` [n] (separable)
    or [n, n], of which every `step`-th sample is kept.

    >>> low_pass(torch.ones(1, 1, 4, 4), torch.ones(2) / 2, step=2)[0, 0]
    tensor([[1., 1.],
            [1., 1.]])
    """
    channels = x.shape[1]
    if padding[0] != padding[1]:
        x, padding = F.pad(x, padding * 2), (0, 0)
    taps = taps.flip(tuple(range(taps.dim())))
    if taps.dim() == 2:
        kernel = taps.expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=step, padding=padding[0], groups=channels)
    column = taps[:, None].expand(channels, 1, -1, -1)
    x = F.conv2d(x, column, stride=(step, 1), padding=(padding[0], 0), groups=channels)
    row = taps[None, :].expand(channels, 1, -1, -1)
    return F.conv2d(x, row, stride=(1, step), padding=(0, padding[0]), groups=channels)


# --- reading checkpoints ---

N = TypeVar("N", bound=StyleGenerator)


def options_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the network was made with (`init_kwargs`), the synthesis network's own raised to the
    top, where both generations of NVIDIA's code look for it."""
    options = checkpoint.config.get("init_kwargs", checkpoint.config)
    if not isinstance(options, dict):
        raise InputError(f"{checkpoint.origin}: expected a dict of init_kwargs, got {options!r}.")
    for name in ("mapping_kwargs", "synthesis_kwargs"):
        if not isinstance(options.get(name, {}), dict):
            raise InputError(
                f"{checkpoint.origin}: expected a dict of {name}, got {options[name]!r}."
            )
    return {**options, **options.get("synthesis_kwargs", {})}


def number(
    options: Options[str, Any], name: str, default: float | None, where: str, least: float = 0
) -> Any:
    """A number above `least` among options, a whole one where the default is; InputError
    where it is something else.

    >>> number({"conv_clamp": 256}, "conv_clamp", None, "x.pkl")
    256
    """
    value = options.get(name, default)
    if value is None and name == "conv_clamp":
        return None
    kind = "a whole number" if isinstance(default, int) else "a number"
    is_number = type(value) in (int, float)
    if not is_number or not least < value <= LARGEST or (type(default) is int and value % 1):
        raise InputError(
            f"{where}: expected {kind} above {least:g} and up to {LARGEST:g} for {name}, got "
            f"{value!r}."
        )
    return int(value) if isinstance(default, int) else value


def read_mapping(checkpoint: Checkpoint, options: Options[str, Any]) -> Mapping:
    """The mapping network with the widths of the checkpoint's tensors."""
    state = checkpoint.state
    depth = next(i for i in range(len(state) + 1) if f"mapping.fc{i}.weight" not in state)
    outputs = [checkpoint.shape_of(f"mapping.fc{i}.weight", 2)[0] for i in range(depth)]
    inputs = checkpoint.shape_of("mapping.fc0.weight", 2)[1]
    embedding = classes = 0
    if "mapping.embed.weight" in state:
        embedding, classes = checkpoint.shape_of("mapping.embed.weight", 2)
    if embedding >= inputs:
        raise InputError(
            f"{checkpoint.origin}: expected mapping.fc0 to take z beside a class embedding of "
            f"{embedding} numbers, it takes {inputs}."
        )
    given = options.get("mapping_kwargs", {})
    if given.get("activation", "lrelu") != "lrelu":
        raise InputError(
            f"{checkpoint.origin}: expected a mapping network with activation lrelu, got "
            f"{given['activation']!r}."
        )
    rate = number(given, "lr_multiplier", 0.01, checkpoint.origin)
    joint = given.get("joint", False) is True
    return Mapping((inputs - embedding, *outputs), classes, embedding, rate, joint)


def filled(network: N, checkpoint: Checkpoint, options: Options[str, Any]) -> N:
    """A planned network with the checkpoint's tensors, which are taken out of it, as its own.

    Raises InputError where names or shapes differ, or where the sizes in its configuration do.
    """
    where = checkpoint.origin
    found = {
        "z_dim": network.latent.dim,
        "c_dim": network.mapping.classes,
        "w_dim": network.w_dim,
        "img_channels": network.picture.channels,
        "img_resolution": network.picture.height,
    }
    for name, size in found.items():
        if options.get(name, size) != size:
            raise InputError(
                f"{where}: expected {name} {options[name]!r} by its configuration, its tensors "
                f"are of a network with {size}."
            )
    if network.picture.channels not in (1, 3):
        raise InputError(
            f"{where}: expected pictures of 1 or 3 channels, got {network.picture.channels}."
        )
    fill(network, checkpoint.state, where)
    return network
