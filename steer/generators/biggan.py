"""BigGAN (Brock et al. 2019) with flat or split codes: checkpoints of ajbrock/BigGAN-PyTorch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.generators.biggan_layers import (
    Attention,
    ConditionalNorm,
    PlainNorm,
    Weights,
    attention_shapes,
    attention_weights,
    classes,
    truncate,
    upsampling_convolution,
    upsampling_kernel,
)
from steer.generators.planned import planned

#: Added to variances, as in the original's batch norms.
EPS = 1e-5
#: No picture is larger.
LARGEST = 1024


class Block(nn.Module):
    """Residual block that doubles the sides of maps [B, in, H, W] (figure 15b of the paper)."""

    def __init__(self, inside: int, outside: int, width: int):
        super().__init__()
        self.norm1 = ConditionalNorm(inside, width, 1, EPS)
        self.norm2 = ConditionalNorm(outside, width, 1, EPS)
        self.conv1 = upsampling_convolution(inside, outside, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.skip = nn.Conv2d(inside, outside, 1, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps [B, out, 2 H, 2 W]."""
        h = self.conv2(self.norm2(self.conv1(self.norm1(x, condition)), condition))
        return h.add_(F.interpolate(self.skip(x), scale_factor=2))


@dataclass(frozen=True)
class Sizes:
    """`channels` at the start and after each block, and the blocks (from 0) that attention follows.

    `chunk` is the length of each part of a split code, 0 where the code is flat; `width` numbers
    stand for a class; `bottom` is the side of the first maps; `shared` tells whether batch norms
    share one embedding of the classes, and `spectral` whether weights come with spectral norms.
    """

    channels: tuple[int, ...]
    attention: tuple[int, ...]
    chunk: int
    dim: int
    width: int
    classes: int
    bottom: int = 4
    shared: bool = True
    spectral: bool = True

    @property
    def side(self) -> int:
        """Side of the pictures."""
        return self.bottom * 2 ** (len(self.channels) - 1)

    @property
    def parts(self) -> dict[str, int]:
        """The parts of a split code: one for the first maps, then one for each block."""
        return {f"level {i}": self.chunk for i in range(len(self.channels) * (self.chunk > 0))}


class BigGAN(Generator):
    """BigGAN of ajbrock/BigGAN-PyTorch: codes [B, dim + width], z first, then what stands for the
    class: an embedding, or one-hot where the classes share none.

    >>> sizes = Sizes((16, 8, 8), attention=(0,), chunk=4, dim=12, width=5, classes=3)
    >>> biggan = BigGAN(sizes, Condition(torch.eye(3, 5)))
    >>> biggan.latent.parts
    {'level 0': 4, 'level 1': 4, 'level 2': 4}
    >>> biggan(torch.zeros(2, 17)).shape
    torch.Size([2, 3, 16, 16])
    """

    family = "biggan"

    def __init__(self, sizes: Sizes, condition: Condition):
        space = LatentSpace(sizes.dim, sizes.parts)
        super().__init__(space, PictureShape(3, sizes.side, sizes.side), condition)
        self.chunk = sizes.chunk
        start, end = sizes.channels[0], sizes.channels[-1]
        self.linear = nn.Linear(sizes.chunk or sizes.dim, start * sizes.bottom**2)
        self.first = nn.Unflatten(1, (start, sizes.bottom, sizes.bottom))
        self.blocks = nn.ModuleList(
            Block(inside, outside, sizes.width + sizes.chunk)
            for inside, outside in pairwise(sizes.channels)
        )
        self.attention = nn.ModuleDict(
            {str(i): Attention(sizes.channels[i + 1]) for i in sizes.attention}
        )
        self.norm = PlainNorm(end, 1, EPS)
        self.to_rgb = nn.Conv2d(end, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures [B, 3, side, side] of codes [B, dim + width]."""
        return self.pictures(codes[:, : self.latent.dim], codes[:, self.latent.dim :])

    def pictures(self, z: Tensor, condition: Tensor) -> Tensor:
        """Pictures [B, 3, side, side] of z [B, dim] and conditions [B, width]."""
        conditions = [condition] * len(self.blocks)
        if self.chunk:
            z, *levels = z.split(self.chunk, dim=1)
            conditions = [torch.cat([condition, level], dim=1) for level in levels]
        x = self.first(self.linear(z))
        for i, (block, each) in enumerate(zip(self.blocks, conditions, strict=True)):
            x = block(x, each)
            if str(i) in self.attention:
                x = self.attention[str(i)](x)
        return (torch.tanh(self.to_rgb(self.norm(x))) + 1) / 2

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the tensors are named as in BigGAN-PyTorch."""
        return {"linear.weight", "blocks.0.0.conv1.weight"} <= checkpoint.state.keys()

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> BigGAN:
        """The network with the sizes of a checkpoint's tensors, which are taken out of it.

        The code is split where the batch norms see more numbers than a class has. Raises
        InputError where the tensors, or what the configuration says of them, do not fit.
        """
        for name in [name for name in checkpoint.state if re.search(r"\.(u|sv)[1-9]\d*$", name)]:
            del checkpoint.state[name]  # singular vectors after the first divide nothing
        sizes = _sizes(checkpoint)
        weights = Weights(checkpoint, published(sizes))
        with planned():
            biggan = cls(sizes, Condition(torch.empty(0)))
        shared = weights.take("shared.weight") if sizes.shared else torch.eye(sizes.classes)
        biggan.condition = classes(shared)
        biggan.load_state_dict(_folded(weights, sizes), assign=True)
        truncate(biggan, 1.0)
        return biggan.eval()


# --- reading checkpoints ---


def _sizes(checkpoint: Checkpoint) -> Sizes:
    """The sizes that the tensors' shapes and names tell, checked against the configuration's."""
    state, where = checkpoint.state, checkpoint.origin
    depth = 0
    while f"blocks.{depth}.0.conv1.weight" in state:
        depth += 1
    outside, inside = (
        [checkpoint.shape_of(f"blocks.{i}.0.conv1.weight", 4)[side] for i in range(depth)]
        for side in (0, 1)
    )
    rows, columns = checkpoint.shape_of("linear.weight", 2)
    gain = checkpoint.shape_of("blocks.0.0.bn1.gain.weight", 2)
    shared = "shared.weight" in state
    number, width = checkpoint.shape_of("shared.weight", 2) if shared else (gain[0], gain[0])
    chunk = gain[1] - width if shared else 0
    bottom = math.isqrt(rows // inside[0])
    attention = tuple(i for i in range(depth) if f"blocks.{i}.1.gamma" in state)
    if any(outside[i] < 8 for i in attention):
        raise InputError(f"{where}: expected attention over 8 or more channels, got fewer.")
    if chunk < 0 or not 1 <= bottom << depth <= LARGEST:
        raise InputError(
            f"{where}: expected pictures of 1 to {LARGEST} pixels a side and batch norms that see "
            f"the {width} numbers of a class, got {bottom << depth} and {gain[1]}."
        )
    sizes = Sizes(
        channels=(inside[0], *outside),
        attention=attention,
        chunk=chunk,
        dim=chunk * (depth + 1) if chunk else columns,
        width=width,
        classes=number,
        bottom=bottom,
        shared=shared,
        spectral="linear.u0" in state,
    )
    for name, found in {"resolution": sizes.side, "n_classes": number}.items():
        if checkpoint.config.get(name, found) != found:
            raise InputError(
                f"{where}: expected {name} {checkpoint.config[name]!r} as config.json says, the "
                f"tensors have {found}."
            )
    return sizes


def published(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]
        if sizes.spectral:
            shapes.update({f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)})

    def statistics(name: str, channels: int) -> None:
        shapes.update({f"{name}.stored_{each}": (channels,) for each in ("mean", "var")})

    if sizes.shared:
        shapes["shared.weight"] = (sizes.classes, sizes.width)
    start, end = sizes.channels[0], sizes.channels[-1]
    layer("linear", start * sizes.bottom**2, sizes.chunk or sizes.dim)
    for i, (inside, outside) in enumerate(pairwise(sizes.channels)):
        block = f"blocks.{i}.0"
        for norm, channels in (("bn1", inside), ("bn2", outside)):
            statistics(f"{block}.{norm}", channels)
            for each in ("gain", "bias"):
                if sizes.shared:
                    layer(f"{block}.{norm}.{each}", channels, sizes.width + sizes.chunk, bias=False)
                else:
                    shapes[f"{block}.{norm}.{each}.weight"] = (sizes.classes, channels)
        layer(f"{block}.conv1", outside, inside, 3, 3)
        layer(f"{block}.conv2", outside, outside, 3, 3)
        layer(f"{block}.conv_sc", outside, inside, 1, 1)
        if i in sizes.attention:
            shapes[f"blocks.{i}.1.gamma"] = ()
            for each, (rows, columns) in attention_shapes(outside).items():
                layer(f"blocks.{i}.1.{each}", rows, columns, 1, 1, bias=False)
    statistics("output_layer.0", end)
    shapes.update({f"output_layer.0.{each}": (end,) for each in ("gain", "bias")})
    layer("output_layer.2", 3, end, 3, 3)
    return shapes


def _folded(weights: Weights, sizes: Sizes) -> dict[str, Tensor]:
    """The state dict of a `BigGAN`."""
    take, normalised = weights.take, weights.normalised
    own = {
        "linear.weight": normalised("linear"),
        "linear.bias": take("linear.bias"),
        "norm.gain": take("output_layer.0.gain"),
        "norm.bias": take("output_layer.0.bias"),
        **_statistics(weights, "output_layer.0", "norm"),
        "to_rgb.weight": normalised("output_layer.2"),
        "to_rgb.bias": take("output_layer.2.bias"),
    }
    for i in range(len(sizes.channels) - 1):
        theirs, ours = f"blocks.{i}.0", f"blocks.{i}"
        own[f"{ours}.conv1.weight"] = upsampling_kernel(normalised(f"{theirs}.conv1"))
        own[f"{ours}.conv2.weight"] = normalised(f"{theirs}.conv2")
        own[f"{ours}.skip.weight"] = normalised(f"{theirs}.conv_sc")
        own[f"{ours}.conv2.bias"] = take(f"{theirs}.conv2.bias") + take(f"{theirs}.conv_sc.bias")
        for norm in ("1", "2"):
            own.update(_statistics(weights, f"{theirs}.bn{norm}", f"{ours}.norm{norm}"))
            affine = [normalised(f"{theirs}.bn{norm}.{each}") for each in ("gain", "bias")]
            if not sizes.shared:
                affine = [each.T for each in affine]
            own[f"{ours}.norm{norm}.affine.weight"] = torch.cat(affine)
        own[f"{ours}.norm2.means"] -= take(f"{theirs}.conv1.bias")
        if i in sizes.attention:
            attended = attention_weights(weights, f"blocks.{i}.1", ("theta", "phi", "g", "o"))
            own.update({f"attention.{i}.{name}": each for name, each in attended.items()})
    return own


def _statistics(weights: Weights, theirs: str, ours: str) -> dict[str, Tensor]:
    """The one row of statistics of a batch norm."""
    return {
        f"{ours}.means": weights.take(f"{theirs}.stored_mean")[None].clone(),
        f"{ours}.variances": weights.take(f"{theirs}.stored_var")[None],
    }
