"""What BigGAN and BigGAN-deep share: their layers in evaluation mode, weights, classes by name.

All that is constant is folded into the weights when they are read: the spectral norms, the biases
before batch norms, and nearest upsampling into the convolution after it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steer.checkpoints import Checkpoint, match_state
from steer.errors import InputError
from steer.generators.base import Condition
from steer.generators.planned import single

# --- classes by name ---


class ImageNetClasses(Condition):
    """The 1,000 classes of ImageNet, each found by its number or by any of its synonyms.

    >>> classes = ImageNetClasses(torch.zeros(1000, 128))
    >>> classes.index("Golden Retriever"), classes.names[5]
    (207, 'electric ray, crampfish, numbfish, torpedo')
    """

    def __init__(self, codes: Tensor):
        object.__setattr__(self, "codes", codes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The synonyms of each class with commas between them, as timm ships them."""
        from timm.data import ImageNetInfo  # seconds to import: only where a name is asked for

        return tuple(ImageNetInfo().label_descriptions())

    def index(self, text: str) -> int:
        """The class of a number or a name in any case; the main name goes before other synonyms.

        InputError lists near matches, or the classes that share the name.
        """
        if text.isdecimal():
            if len(text) < 10 and int(text) < len(self.codes):
                return int(text)
            raise InputError(f"expected a class from 0 to {len(self.codes) - 1}, got {text[:20]}.")
        synonyms = [name.lower().split(", ") for name in self.names]
        wanted = " ".join(text.lower().split())
        found = (
            [i for i, names in enumerate(synonyms) if ", ".join(names) == wanted and len(names) > 1]
            or [i for i, names in enumerate(synonyms) if names[0] == wanted]
            or [i for i, names in enumerate(synonyms) if wanted in names]
        )
        if len(found) == 1:
            return found[0]
        if found:
            shared = ", ".join(f"{i} ({self.names[i]})" for i in found)
            raise InputError(f"several classes are called {text!r}: {shared}; give the number.")
        known = [name for names in synonyms for name in names]
        near = difflib.get_close_matches(wanted, known, n=5, cutoff=0.5)
        hint = f": did you mean {', '.join(near)}?" if near else "; give its number, 0 to 999."
        raise InputError(f"no ImageNet class is called {text!r}{hint}")


def classes(codes: Tensor) -> Condition:
    """The condition of embeddings [classes, width]: where there are 1,000, they are ImageNet's."""
    return ImageNetClasses(codes) if len(codes) == 1000 else Condition(codes)


# --- the pieces of the network ---


class Norm(nn.Module):
    """Batch norm with stored statistics, then ReLU: maps [B, C, H, W] to the same shape.

    `means` and `variances` [rows, C] are the statistics at truncations from 0 to 1 in equal steps;
    a single row holds for every truncation.
    """

    means: Tensor
    variances: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, rows: int, eps: float):
        super().__init__()
        self.eps = eps
        self.register_buffer("means", torch.zeros(rows, channels))
        self.register_buffer("variances", torch.ones(rows, channels))
        self.register_buffer("mean", torch.zeros(channels), persistent=False)
        self.register_buffer("scale", torch.full((channels,), (1 + eps) ** -0.5), persistent=False)

    def truncate(self, truncation: float) -> None:
        """Take the statistics of a truncation, interpolated linearly between rows."""
        place = truncation * (len(self.means) - 1)
        row = min(int(place), len(self.means) - 1)
        after = min(row + 1, len(self.means) - 1)
        self.mean = torch.lerp(self.means[row], self.means[after], place - row)
        variance = torch.lerp(self.variances[row], self.variances[after], place - row)
        self.scale = (variance + self.eps).rsqrt()

    def normalised(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """relu((x - mean) * scale * gain + bias), with gain and bias [C] or [B, C]."""
        gain = gain * self.scale
        bias = bias - self.mean * gain
        return torch.addcmul(bias[..., None, None], x, gain[..., None, None]).relu_()


class PlainNorm(Norm):
    """Batch norm with the same gain and bias for every picture, then ReLU."""

    def __init__(self, channels: int, rows: int, eps: float):
        super().__init__(channels, rows, eps)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps of maps, both [B, C, H, W]."""
        return self.normalised(x, self.gain, self.bias)


class ConditionalNorm(Norm):
    """Batch norm whose gain and bias are linear in a condition [B, width], then ReLU."""

    def __init__(self, channels: int, width: int, rows: int, eps: float):
        super().__init__(channels, rows, eps)
        self.affine = nn.Linear(width, 2 * channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps of maps, both [B, C, H, W]."""
        gain, bias = self.affine(condition).chunk(2, dim=1)
        return self.normalised(x, 1 + gain, bias)


class Attention(nn.Module):
    """Self-attention over places (Zhang et al. 2019): keys and values are pooled 2x2.

    >>> Attention(16)(torch.zeros(2, 16, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.widths = (channels // 8, channels // 2)
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key_value = nn.Conv2d(channels, sum(self.widths), 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps of maps, both [B, C, H, W]; the condition plays no part."""
        query = self.query(x).flatten(2).mT
        pooled = F.max_pool2d(self.key_value(x), 2).flatten(2).mT
        key, value = pooled.split(self.widths, dim=2)
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return self.out(attended.mT.unflatten(2, x.shape[2:])).add_(x)


def upsampling_convolution(inside: int, outside: int, bias: bool) -> nn.ConvTranspose2d:
    """Nearest upsampling by 2 and a 3x3 convolution in one, with weights of `upsampling_kernel`."""
    return nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1, bias=bias)


def upsampling_kernel(weight: Tensor) -> Tensor:
    """The transposed kernel [in, out, 4, 4] that does what a kernel [out, in, 3, 3] does after
    nearest upsampling by 2, with 16 products for each number that comes in where that takes 36.

    >>> x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    >>> slow = F.conv2d(F.interpolate(x, scale_factor=2), w, padding=1)
    >>> fast = F.conv_transpose2d(x, upsampling_kernel(w), stride=2, padding=1)
    >>> torch.allclose(slow, fast, atol=1e-5)
    True
    """
    kernel = weight.new_zeros(weight.shape[1], weight.shape[0], 4, 4)
    few = 32  # channels at a time, so that no second copy of all is made
    for part, own in zip(weight.split(few), kernel.split(few, dim=1), strict=True):
        flipped = part.transpose(0, 1).flip(2, 3)
        for down, across in product((0, 1), repeat=2):  # each pixel stands for two by two
            own[..., down : down + 3, across : across + 3] += flipped
    return kernel


# --- reading checkpoints ---


class Weights:
    """Tensors taken out of a checkpoint one by one, so that no weight is held twice."""

    def __init__(self, checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]]):
        match_state(expected, checkpoint.state, checkpoint.origin)
        self.state, self.origin = checkpoint.state, checkpoint.origin

    def take(self, name: str) -> Tensor:
        """The tensor called `name`, in float32."""
        return single(self.state.pop(name))

    def normalised(self, name: str) -> Tensor:
        """The weight of layer `name` divided by its spectral norm, where it has one.

        With u and v stored, sigma = u^T W v (Miyato et al. 2018). ajbrock's layers store u alone
        and take one step of the power iteration in evaluation mode too: v = W^T u / |W^T u|, and
        sigma = |W v|.
        """
        if f"{name}.weight_orig" in self.state:
            weight = self.take(f"{name}.weight_orig")
            u, v = self.take(f"{name}.weight_u"), self.take(f"{name}.weight_v")
            sigma = u @ (weight.flatten(1) @ v)
        else:
            weight = self.take(f"{name}.weight")
            if f"{name}.u0" not in self.state:
                return weight
            u = self.take(f"{name}.u0")[0]
            sigma = (weight.flatten(1) @ F.normalize(u @ weight.flatten(1), dim=0)).norm()
        if not (sigma != 0 and sigma.isfinite()):
            raise InputError(f"{self.origin}: the spectral norm of {name} is {float(sigma)}.")
        return weight / sigma


def attention_shapes(channels: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of the four 1x1 convolutions of an attention layer as it is published."""
    eighth, half = channels // 8, channels // 2
    return {
        "theta": (eighth, channels),
        "phi": (eighth, channels),
        "g": (half, channels),
        "o": (channels, half),
    }


def attention_weights(
    weights: Weights, name: str, convolutions: Sequence[str]
) -> dict[str, Tensor]:
    """The state dict of an `Attention` from its four convolutions; gamma goes into the last."""
    query, key, value, out = (weights.normalised(f"{name}.{each}") for each in convolutions)
    return {
        "query.weight": query,
        "key_value.weight": torch.cat([key, value]),
        "out.weight": out * weights.take(f"{name}.gamma"),
    }


def truncate(network: nn.Module, truncation: float) -> None:
    """Make every batch norm of a network take the statistics of a truncation."""
    for module in network.modules():
        if isinstance(module, Norm):
            module.truncate(truncation)
