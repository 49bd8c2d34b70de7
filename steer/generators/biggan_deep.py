"""BigGAN-deep (Brock et al. 2019), as published for pytorch-pretrained-BigGAN at 128, 256, 512."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import truncnorm
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

#: A block: whether it doubles the sides, and its channels in and out in units of the width.
Layer = tuple[bool, int, int]


def _alternating(*units: int) -> tuple[Layer, ...]:
    """Blocks that keep the sides and blocks that double them, in turn."""
    return tuple(layer for a, b in pairwise(units) for layer in ((False, a, a), (True, a, b)))


#: The published networks by the side of their pictures; the number of blocks tells which.
LAYERS = {
    128: _alternating(16, 16, 8, 4, 2, 1),
    256: _alternating(16, 16, 8, 8, 4, 2, 1),
    512: _alternating(16, 16, 8, 8, 4, 2, 1, 1),
}
#: No picture is larger.
LARGEST = 1024
#: What the published checkpoints call the convolutions of attention.
PUBLISHED_ATTENTION = {
    each: f"snconv1x1_{each}{'_conv' * (each == 'o')}" for each in ("theta", "phi", "g", "o")
}


class TruncatedNormalSpace(LatentSpace):
    """Codes whose numbers are standard normal, cut off at -2 and 2.

    The ball that inversion stays in is still the one of N(0, I), from which training drew.

    >>> space = TruncatedNormalSpace(128)
    >>> codes = space.sample(1000, seed=1)
    >>> std = space.std_along(np.eye(128)[0])
    >>> bool(codes.abs().max() <= 2), round(std, 3), round(float(codes.std()), 2)
    (True, 0.88, 0.88)
    """

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Codes [n, dim] from the prior: items `first` to `first + n - 1` of the seed's stream."""
        rows = [
            np.random.default_rng([seed, item]).random(self.dim) for item in range(first, first + n)
        ]
        codes = truncnorm.ppf(np.array(rows).reshape(n, self.dim), -2, 2)
        return torch.from_numpy(codes.astype(np.float32))

    def std_along(self, u: np.ndarray) -> float:
        """Standard deviation of <u, z> under the prior, for a unit vector u [dim]."""
        return float(truncnorm.std(-2, 2))


@dataclass(frozen=True)
class DeepSizes:
    """Sizes of a BigGAN-deep: `width` is the unit of the channels of `layers`, `attention` the
    index of the block before which attention sits, `rows` the number of stored statistics.

    >>> DeepSizes(LAYERS[256]).side
    256
    """

    layers: tuple[Layer, ...]
    width: int = 128
    attention: int = 8
    z_dim: int = 128
    embedding: int = 128
    classes: int = 1000
    rows: int = 51
    eps: float = 1e-4

    @property
    def side(self) -> int:
        """Side of the pictures."""
        return 4 * 2 ** sum(doubles for doubles, _, _ in self.layers)

    @property
    def chain(self) -> list[Layer | None]:
        """The layers in the order of their numbers in checkpoints, None for attention."""
        chain: list[Layer | None] = list(self.layers)
        if self.attention < len(chain):
            chain.insert(self.attention, None)
        return chain


class DeepBlock(nn.Module):
    """Bottleneck block (figure 16b of the paper) of maps [B, in, H, W].

    The skip keeps the first `outside` channels, and both ways double the sides where asked to.
    """

    def __init__(self, doubles: bool, inside: int, outside: int, sizes: DeepSizes):
        super().__init__()
        middle, condition = inside // 4, sizes.z_dim + sizes.embedding
        self.doubles, self.outside = doubles, outside
        self.norms = nn.ModuleList(
            ConditionalNorm(channels, condition, sizes.rows, sizes.eps)
            for channels in (inside, middle, middle, middle)
        )
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(inside, middle, 1, bias=False),
                upsampling_convolution(middle, middle, bias=False)
                if doubles
                else nn.Conv2d(middle, middle, 3, padding=1, bias=False),
                nn.Conv2d(middle, middle, 3, padding=1, bias=False),
                nn.Conv2d(middle, outside, 1),
            ]
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps [B, out, H, W], or [B, out, 2 H, 2 W] where the block doubles."""
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(norm(h, condition))
        # a slice of all channels would copy them on the way back
        skip = x if x.shape[1] == self.outside else x[:, : self.outside]
        return h.add_(F.interpolate(skip, scale_factor=2) if self.doubles else skip)


class BigGANDeep(Generator):
    """BigGAN-deep: codes [B, z_dim + embedding], z first, then the embedding of the class.

    Codes are in standard units: the network sees z = truncation * code, with the batch norms'
    statistics of that truncation. `truncation` (0, 1] trades variety for quality.

    >>> sizes = DeepSizes(((True, 2, 1),), width=8, attention=0, z_dim=6, embedding=4, rows=3)
    >>> biggan = BigGANDeep(sizes, Condition(torch.eye(4)))
    >>> biggan.truncation = 0.4
    >>> biggan(torch.zeros(2, 10)).shape
    torch.Size([2, 3, 8, 8])
    """

    family = "biggan-deep"

    def __init__(self, sizes: DeepSizes, condition: Condition):
        picture = PictureShape(3, sizes.side, sizes.side)
        super().__init__(TruncatedNormalSpace(sizes.z_dim), picture, condition)
        start, end = sizes.layers[0][1] * sizes.width, sizes.layers[-1][2] * sizes.width
        self.gen_z = nn.Linear(sizes.z_dim + sizes.embedding, 16 * start)
        self.layers = nn.ModuleList(
            DeepBlock(layer[0], layer[1] * sizes.width, layer[2] * sizes.width, sizes)
            if layer
            else Attention(sizes.layers[sizes.attention][1] * sizes.width)
            for layer in sizes.chain
        )
        self.norm = PlainNorm(end, sizes.rows, sizes.eps)
        self.to_rgb = nn.Conv2d(end, 3, 3, padding=1)
        self._truncation = 1.0

    @property
    def truncation(self) -> float:
        """How far samples keep to the middle of the prior, from 0 (excluded) to 1."""
        return self._truncation

    @truncation.setter
    def truncation(self, truncation: float) -> None:
        if not (isinstance(truncation, int | float) and 0 < truncation <= 1):
            raise InputError(f"expected a truncation above 0 and up to 1, got {truncation!r}.")
        self._truncation = float(truncation)
        truncate(self, self._truncation)

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures [B, 3, side, side] of codes [B, z_dim + embedding] in standard units."""
        z, condition = codes[:, : self.latent.dim], codes[:, self.latent.dim :]
        return self.pictures(self.truncation * z, condition)

    def pictures(self, z: Tensor, condition: Tensor) -> Tensor:
        """Pictures [B, 3, side, side] of z [B, z_dim] that is truncated already and embeddings
        [B, embedding]."""
        condition = torch.cat([z, condition], dim=1)
        # contiguous: as channels_last the convolutions round twice as much on a CPU
        x = self.gen_z(condition).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2).contiguous()
        for layer in self.layers:
            x = layer(x, condition)
        return (torch.tanh(self.to_rgb(self.norm(x))) + 1) / 2

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the tensors are named as in pytorch-pretrained-BigGAN."""
        return "generator.gen_z.weight_orig" in checkpoint.state

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> BigGANDeep:
        """The network with the sizes of a checkpoint's tensors, which are taken out of it.

        What shapes do not tell (which blocks double, eps) is read from the configuration, or is as
        published where there is none. Raises InputError where the tensors do not fit.
        """
        sizes = _sizes(checkpoint)
        weights = Weights(checkpoint, published(sizes))
        with planned():
            biggan = cls(sizes, Condition(torch.empty(0)))
        biggan.condition = classes(weights.take("embeddings.weight").T.contiguous())
        biggan.load_state_dict(_folded(weights, sizes), assign=True)
        biggan.truncation = 1.0
        return biggan.eval()


# --- reading checkpoints ---


def _sizes(checkpoint: Checkpoint) -> DeepSizes:
    """The sizes of a checkpoint, from its tensors and its configuration."""
    state = checkpoint.state
    embedding, number = checkpoint.shape_of("embeddings.weight", 2)
    condition = checkpoint.shape_of("generator.gen_z.weight_orig", 2)[1]
    rows, width = checkpoint.shape_of("generator.bn.running_means", 2)
    found = [
        each for name in state if (each := re.match(r"generator\.layers\.(\d+)\.(gamma)?", name))
    ]
    numbers = {int(each[1]) for each in found}
    attended = [int(each[1]) for each in found if each[2]]
    attention = attended[0] if attended else len(numbers)
    sizes = DeepSizes(
        layers=_layers(checkpoint, len(numbers) - len(attended)),
        width=width,
        attention=attention,
        z_dim=condition - embedding,
        embedding=embedding,
        classes=number,
        rows=rows,
        eps=_eps(checkpoint),
    )
    if sizes.z_dim < 1 or rows < 2 or width < 8:
        raise InputError(
            f"{checkpoint.origin}: expected 2 or more rows of statistics for 8 or more channels, "
            f"and gen_z to see more than the {embedding} numbers of a class, got {rows}, {width} "
            f"and {condition}."
        )
    return sizes


def _layers(checkpoint: Checkpoint, blocks: int) -> tuple[Layer, ...]:
    """The blocks that the configuration lists, or the published ones of that number."""
    listed = checkpoint.config.get("layers")
    if listed is None:
        for layers in LAYERS.values():
            if len(layers) == blocks:
                return layers
        known = ", ".join(str(len(layers)) for layers in LAYERS.values())
        raise InputError(
            f"{checkpoint.origin}: expected {known} blocks, or layers in config.json, got {blocks}."
        )
    if not (isinstance(listed, list) and listed and all(_is_layer(each) for each in listed)):
        raise InputError(
            f"{checkpoint.origin}: expected layers in config.json as a list of [doubles, channels "
            "in, channels out] where a block keeps or halves its channels."
        )
    layers = tuple((bool(doubles), inside, outside) for doubles, inside, outside in listed)
    if any(a[2] != b[1] for a, b in pairwise(layers)) or layers[-1][2] != 1:
        raise InputError(
            f"{checkpoint.origin}: expected layers in config.json that each take the channels of "
            f"the one before and end in 1, got {listed}."
        )
    if DeepSizes(layers).side > LARGEST:
        raise InputError(
            f"{checkpoint.origin}: expected pictures of at most {LARGEST} pixels a side, the "
            f"layers in config.json make {DeepSizes(layers).side}."
        )
    return layers


def _is_layer(listed: object) -> bool:
    """Whether a value of the configuration describes a block."""
    if not isinstance(listed, list) or [type(each) for each in listed] != [bool, int, int]:
        return False
    _, inside, outside = listed
    return outside >= 1 and inside in (outside, 2 * outside) and inside <= 64


def _eps(checkpoint: Checkpoint) -> float:
    """What batch norms add to variances."""
    eps = checkpoint.config.get("eps", 1e-4)
    if type(eps) not in (int, float) or not 0 < eps < math.inf:
        raise InputError(
            f"{checkpoint.origin}: expected a positive eps in config.json, got {eps!r}."
        )
    return float(eps)


def published(sizes: DeepSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a checkpoint.

    >>> len(published(DeepSizes(LAYERS[128])))
    506
    """
    condition = sizes.z_dim + sizes.embedding
    shapes: dict[str, tuple[int, ...]] = {"embeddings.weight": (sizes.embedding, sizes.classes)}

    def spectral(name: str, *shape: int, bias: bool = True) -> None:
        sides = {"orig": shape, "u": shape[:1], "v": (math.prod(shape[1:]),)}
        shapes.update({f"{name}.weight_{each}": side for each, side in sides.items()})
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def statistics(name: str, channels: int) -> None:
        for each in ("means", "vars"):
            shapes[f"{name}.running_{each}"] = (sizes.rows, channels)

    start, end = sizes.layers[0][1] * sizes.width, sizes.layers[-1][2] * sizes.width
    spectral("generator.gen_z", 16 * start, condition)
    inside = start
    for number, layer in enumerate(sizes.chain):
        name = f"generator.layers.{number}"
        if layer is None:
            shapes[f"{name}.gamma"] = (1,)
            for each, (rows, columns) in attention_shapes(inside).items():
                spectral(f"{name}.{PUBLISHED_ATTENTION[each]}", rows, columns, 1, 1, bias=False)
            continue
        inside, outside = (channels * sizes.width for channels in layer[1:])
        middle = inside // 4
        kernels = (
            (middle, inside, 1),
            (middle, middle, 3),
            (middle, middle, 3),
            (outside, middle, 1),
        )
        for i, (rows, columns, kernel) in enumerate(kernels):
            statistics(f"{name}.bn_{i}", columns)
            for each in ("scale", "offset"):
                spectral(f"{name}.bn_{i}.{each}", columns, condition, bias=False)
            spectral(f"{name}.conv_{i}", rows, columns, kernel, kernel)
        inside = outside
    statistics("generator.bn", end)
    shapes.update({f"generator.bn.{each}": (end,) for each in ("weight", "bias")})
    spectral("generator.conv_to_rgb", end, end, 3, 3)
    return shapes


def _folded(weights: Weights, sizes: DeepSizes) -> dict[str, Tensor]:
    """The state dict of a `BigGANDeep`."""
    take, normalised = weights.take, weights.normalised
    own = {
        "gen_z.weight": normalised("generator.gen_z"),
        "gen_z.bias": take("generator.gen_z.bias"),
        "norm.gain": take("generator.bn.weight"),
        "norm.bias": take("generator.bn.bias"),
        "norm.means": take("generator.bn.running_means"),
        "norm.variances": take("generator.bn.running_vars"),
        # of the published layer's channels only the first three are looked at
        "to_rgb.weight": normalised("generator.conv_to_rgb")[:3].clone(),
        "to_rgb.bias": take("generator.conv_to_rgb.bias")[:3].clone(),
    }
    for number, layer in enumerate(sizes.chain):
        name = f"layers.{number}"
        part = (
            _block(weights, f"generator.{name}", layer[0])
            if layer
            else attention_weights(
                weights, f"generator.{name}", tuple(PUBLISHED_ATTENTION.values())
            )
        )
        own.update({f"{name}.{each}": tensor for each, tensor in part.items()})
    return own


def _block(weights: Weights, name: str, doubles: bool) -> dict[str, Tensor]:
    """The state dict of a `DeepBlock`. A bias before a batch norm comes off the norm's means."""
    own, bias = {}, torch.zeros(1)
    for i in range(4):
        norm = f"{name}.bn_{i}"
        own[f"norms.{i}.means"] = weights.take(f"{norm}.running_means") - bias
        own[f"norms.{i}.variances"] = weights.take(f"{norm}.running_vars")
        own[f"norms.{i}.affine.weight"] = torch.cat(
            [weights.normalised(f"{norm}.{each}") for each in ("scale", "offset")]
        )
        kernel = weights.normalised(f"{name}.conv_{i}")
        own[f"convs.{i}.weight"] = upsampling_kernel(kernel) if doubles and i == 1 else kernel
        bias = weights.take(f"{name}.conv_{i}.bias")
    own["convs.3.bias"] = bias
    return own
