"""How far a picture is from a target: reconstruction errors, one number per picture.

An error is a callable `(pictures [B, C, H, W], targets [B, C, H, W], defined [B, 1, H, W] or None)`
to [B], that knows nothing of the pixels where `defined` is 0. `parse_loss` composes them by weight.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from steer.backbones import VGG, VGG_LEVELS, architecture, feature_maps, lpips_heads
from steer.errors import InputError
from steer.registry import Registry

Error = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Factories; each is handed those of height, device, sigma and backbone that its signature names.
losses: Registry[Callable[..., Error]] = Registry("loss", "steer.losses")


def masked_mean(values: Tensor, defined: Tensor | None) -> Tensor:
    """The mean of values [B, C, H, W] over the defined pixels and the channels: [B].

    NaN for a picture without defined pixels.

    >>> values = torch.tensor([[[[1.0, 5.0]]]])
    >>> masked_mean(values, torch.tensor([[[[1.0, 0.0]]]])).item()
    1.0
    """
    if defined is None:
        return values.mean(dim=(1, 2, 3))
    return (values * defined).sum(dim=(1, 2, 3)) / (values.shape[1] * defined.sum(dim=(1, 2, 3)))


def difference(pictures: Tensor, targets: Tensor, defined: Tensor | None) -> Tensor:
    """pictures - targets, 0 where undefined."""
    return pictures - targets if defined is None else (pictures - targets) * defined


@lru_cache(maxsize=64)
def gaussian_matrix(
    size: int, sigma: float, radius: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[size, size]: times a column of pixels, their convolution with a truncated Gaussian.

    Zeros stand outside the picture. As a product of small dense matrices the blur is faster under
    autograd than as a convolution.

    >>> blur = gaussian_matrix(4, 0.5, 1, torch.float32, torch.device("cpu"))
    >>> (blur @ torch.tensor([0.0, 1.0, 0.0, 0.0])).mul(100).round().tolist()
    [11.0, 79.0, 11.0, 0.0]
    """
    with torch.inference_mode(False), torch.no_grad():
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        away = torch.arange(size)[None, :] - torch.arange(size)[:, None]
        inside = away.abs() <= radius
        return (kernel[(away + radius).clamp(0, 2 * radius)] * inside).to(device, dtype)


def _matrix(size: int, sigma: float, truncate: float, like: Tensor) -> Tensor:
    return gaussian_matrix(size, sigma, int(truncate * sigma + 0.5), like.dtype, like.device)


@dataclass(frozen=True)
class BlurredMSE:
    """Equation 3 of Plumerault et al. 2020: the mean square of the Gaussian-blurred difference.

    Blurring forgives textures that the generator cannot place. The difference is zeroed outside
    the mask before it is blurred, so that no undefined pixel leaks in. `sigma` is in pixels.

    >>> black, white = torch.zeros(2, 1, 9, 9), torch.ones(2, 1, 9, 9)
    >>> BlurredMSE(sigma=0.1)(black, white).tolist()
    [1.0, 1.0]
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1000:
            raise InputError(
                f"blurred-mse expects a sigma above 0 and at most 1000 pixels; got {self.sigma:g}."
            )

    def __call__(self, pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
        x = difference(pictures, targets, defined)
        rows = _matrix(x.shape[-2], self.sigma, 4.0, x)
        columns = _matrix(x.shape[-1], self.sigma, 4.0, x)
        return masked_mean((rows @ (x @ columns.T)).square(), defined)


def mse(pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
    """Mean squared error over the defined pixels.

    >>> mse(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)).item()
    0.25
    """
    return masked_mean(difference(pictures, targets, defined).square(), defined)


def l1(pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
    """Mean absolute error over the defined pixels.

    >>> l1(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)).item()
    0.5
    """
    return masked_mean(difference(pictures, targets, defined).abs(), defined)


def dssim(pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
    """(1 - SSIM) / 2 of Wang et al. 2004: Gaussian windows of 11 pixels, sigma 1.5, range 1.

    The mean is over the windows that lie whole inside the picture and its defined pixels, and over
    the channels; scikit-image crops its borders the same way. NaN where there is no such window.

    >>> dssim(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).shape
    torch.Size([1])
    """
    height, width = pictures.shape[-2:]
    if min(height, width) < 11:
        raise InputError(f"dssim expects pictures of 11x11 or more; got {height}x{width}.")
    if defined is not None:
        pictures, targets = pictures * defined, targets * defined
    # Only the sum of the two variances is needed, so their squares share one blur.
    products = [pictures, targets, pictures**2 + targets**2, pictures * targets]
    # radius int(3.5 * 1.5 + 0.5) = 5
    rows = _matrix(height, 1.5, 3.5, pictures)[5:-5]
    columns = _matrix(width, 1.5, 3.5, pictures)[5:-5]
    x, y, squares, xy = (rows @ (plane @ columns.T) for plane in products)
    c1, c2 = 0.01**2, 0.03**2
    means = x * x + y * y
    ssim = ((2 * x * y + c1) * (2 * (xy - x * y) + c2)) / ((means + c1) * (squares - means + c2))
    whole = None if defined is None else -max_pool2d(-defined, 11, stride=1)
    return masked_mean((1 - ssim) / 2, whole)


class Perceptual:
    """Squared distance of a network's features, each level normalised over channels.

    As in equation 1 of Zhang et al. 2018 (LPIPS) with every channel weighing the same: per level
    the mean over its positions, then the mean over levels. Undefined pixels are painted in both
    pictures with the target's mean colour. `network` maps pictures [B, 3, H, W], normalised by
    `mean` and `std`, to a list of features [B, C_l, H_l, W_l].

    >>> class Edges(nn.Module):
    ...     def forward(self, pictures):
    ...         return [pictures.diff(dim=-1)]
    >>> Perceptual(Edges())(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)).shape
    torch.Size([2])
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        name: str = "",
    ):
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.mean = torch.tensor(mean)[:, None, None]
        self.std = torch.tensor(std)[:, None, None]

    def __call__(self, pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
        if defined is not None:
            known = defined.sum(dim=(2, 3), keepdim=True)
            colour = (targets * defined).sum(dim=(2, 3), keepdim=True) / known
            pictures = torch.where(defined > 0, pictures, colour)
            targets = torch.where(defined > 0, targets, colour)
        with torch.no_grad():
            wanted = self.features(targets)
        levels = zip(self.features(pictures), wanted, strict=True)
        return self.weighed([(a - b).square() for a, b in levels])

    def weighed(self, gaps: list[Tensor]) -> Tensor:
        """The distance [B] of squared differences [B, C_l, H_l, W_l]."""
        return torch.stack([gap.sum(1).mean(dim=(1, 2)) for gap in gaps]).mean(0)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The network's features [B, C_l, H_l, W_l], of length 1 over channels."""
        colour = pictures.expand(-1, 3, -1, -1)
        levels = self.network((colour - self.mean.to(colour)) / self.std.to(colour))
        return [nn.functional.normalize(level, dim=1, eps=1e-6) for level in levels]


class LPIPS(Perceptual):
    """Equation 1 of Zhang et al. 2018: channels weighted as people judged, levels summed.

    `heads` are the weights [C_l] of each level; the network is VGG16 (see `lpips`).
    """

    def __init__(self, network: nn.Module, heads: Sequence[Tensor], name: str = ""):
        super().__init__(network, name=name)
        self.heads = list(heads)

    def weighed(self, gaps: list[Tensor]) -> Tensor:
        """The distance [B] of squared differences [B, C_l, H_l, W_l]."""
        levels = [
            torch.einsum("bchw,c->bhw", gap, head.to(gap)).mean(dim=(1, 2))
            for gap, head in zip(gaps, self.heads, strict=True)
        ]
        return torch.stack(levels).sum(0)


def blurred_mse(height: int, sigma: float | None = None) -> BlurredMSE:
    """3 pixels of blur at a height of 128, and in proportion; or `sigma` pixels.

    >>> blurred_mse(64).sigma
    1.5
    """
    return BlurredMSE(3 * height / 128 if sigma is None else sigma)


@lru_cache(maxsize=2)
def perceptual(height: int, device: torch.device | str = "cpu", backbone: str = VGG) -> Perceptual:
    """The distance by a timm backbone: its name, or NAME=FILE with a file of its weights.

    Raises InputError for a name that timm lacks, a backbone that does not take pictures of
    `height`, and a file that does not fit it, MachineError where the weights cannot be had.
    """
    maps = feature_maps(backbone, height, device)
    return Perceptual(maps.network, maps.mean, maps.std, maps.name)


def lpips(height: int, device: torch.device | str = "cpu", backbone: str = VGG) -> LPIPS:
    """LPIPS by VGG16's weights from the Hub, or those of a file in vgg16.tv_in1k=FILE.

    Raises what `perceptual` does, and InputError for another backbone, or pictures too small.
    """
    if architecture(backbone) != architecture(VGG):
        raise InputError(f"expected {VGG} as the backbone of LPIPS; got {backbone!r}.")
    maps = feature_maps(backbone, height, device, VGG_LEVELS)
    return LPIPS(maps.network, lpips_heads(), maps.name)


losses.register("blurred-mse", blurred_mse)
losses.register("mse", lambda: mse)
losses.register("l1", lambda: l1)
losses.register("dssim", lambda: dssim)
losses.register("perceptual", perceptual)


@dataclass(frozen=True)
class Part:
    """One term of a loss."""

    name: str
    weight: float
    error: Error


@dataclass(frozen=True)
class Loss:
    """A weighted sum of errors: pictures, targets and the mask of defined pixels to [B].

    >>> loss = parse_loss("mse+l1:0.5", height=64)
    >>> loss.text
    'mse:1+l1:0.5'
    >>> loss(torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)).item()
    1.5
    """

    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The loss as `parse_loss` reads it, every weight written out."""
        return "+".join(f"{p.name}:{repr(p.weight).removesuffix('.0')}" for p in self.parts)

    def __call__(self, pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
        terms = [p.weight * p.error(pictures, targets, defined) for p in self.parts]
        return torch.stack(terms).sum(dim=0)

    def each(
        self, pictures: Tensor, targets: Tensor, defined: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Every part's own error [B], without its weight."""
        return {p.name: p.error(pictures, targets, defined) for p in self.parts}


def parse_loss(
    text: str,
    height: int,
    sigma: float | None = None,
    device: torch.device | str = "cpu",
    backbone: str | None = None,
) -> Loss:
    """The loss that `text` names: `NAME[:WEIGHT]` joined by `+`, weights 1 unless given.

    `height` is that of the pictures, in pixels. `sigma` (blurred-mse) and `backbone` (perceptual)
    replace those losses' own choice. Raises InputError for text that cannot be read, unknown
    names, weights that are not above 0, and an option that no named loss takes.

    >>> parse_loss("blurred-mse:1+dssim:0.1", height=64).parts[0].error
    BlurredMSE(sigma=1.5)
    """
    chosen = {"sigma": sigma, "backbone": backbone}
    options: dict[str, Any] = {k: v for k, v in chosen.items() if v is not None}
    terms = [_parse_term(term, text) for term in re.split(r"\+(?=\s*[A-Za-z])", text)]
    names = [name for name, _ in terms]
    if len(set(names)) < len(names):
        raise InputError(f"expected each loss once in {text!r}.")
    takes = {name: set(inspect.signature(losses.get(name)).parameters) for name in names}
    for key in options.keys() - set().union(*takes.values()):
        raise InputError(f"{key} was given, but no loss in {text!r} takes it.")
    options |= {"height": height, "device": device}
    return Loss(tuple(Part(n, w, _make(n, takes[n], options)) for n, w in terms))


def _make(name: str, takes: set[str], options: dict[str, Any]) -> Error:
    return losses.get(name)(**{key: options[key] for key in takes & options.keys()})


def _parse_term(term: str, text: str) -> tuple[str, float]:
    match = re.fullmatch(r"\s*([A-Za-z][\w-]*)\s*(?::\s*([^:\s]+)\s*)?", term)
    if match is None:
        raise InputError(f"expected NAME:WEIGHT terms joined by + in the loss {text!r}.")
    name, number = match[1], match[2] or "1"
    losses.get(name)
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"expected a weight above 0 for {name} in {text!r}; got {number}.")
    return name, weight
