"""What a picture shows: where its object is, how large, how turned, how bright.

A finder says where the object is, as a soft mask (a threshold would make the measure jump); a
property reads one number off the mask or off the picture, in the unit of the transform of the same
name. A transform without a property of its name is not measurable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from scipy.stats import circmean
from torch import Tensor

from steer.errors import InputError
from steer.images import luminance
from steer.registry import Registry
from steer.saliency import Salient
from steer.transforms import chroma, transforms

# (l1 - l2) / (l1 + l2) of the second moments, under which a shape is too round to have an axis.
_AXIS = 0.1
# Length of the mean chroma vector over the mean chroma, under which hues cancel to none.
_RESULTANT = 0.05
# Spread of luminance and mean chroma that are rounding, not contrast and colour: a quarter of
# one step of 8 bits.
_FLAT = 1e-3


class Finder(Protocol):
    """Finds the object of each picture: pictures [B, C, H, W] to soft masks [B, 1, H, W].

    A plugin's class is registered with `finders`; Measure makes an instance when it is chosen.
    """

    @property
    def name(self) -> str: ...

    @property
    def gate(self) -> float:
        """A mask whose mean is under this holds no object."""
        ...

    def __call__(self, pictures: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Intensity:
    """The object is what is bright: the mask is the luminance.

    >>> Intensity()(torch.full((2, 3, 4, 4), 0.25)).shape
    torch.Size([2, 1, 4, 4])
    """

    name: str = "intensity"
    gate: float = 0.003

    def __call__(self, pictures: Tensor) -> Tensor:
        return luminance(pictures)[:, None]


@dataclass(frozen=True)
class Background:
    """The object is what differs from the background: the median colour of the picture's border.

    The difference is the root mean square over channels; it counts from `low` on, fully at `high`,
    smoothly in between: with a wide ramp, subpixel moves of sprites and chairs measure truest.

    >>> picture = torch.full((1, 3, 8, 8), 0.9)
    >>> picture[..., 2:4, 2:6] = 0.1
    >>> Background()(picture).sum().item()
    8.0
    """

    name: str = "background"
    gate: float = 0.003
    low: float = 0.02
    high: float = 0.4

    def __call__(self, pictures: Tensor) -> Tensor:
        border = torch.cat(
            [
                pictures[:, :, 0],
                pictures[:, :, -1],
                pictures[:, :, 1:-1, 0],
                pictures[:, :, 1:-1, -1],
            ],
            dim=-1,
        )
        colour = border.median(dim=-1).values[:, :, None, None]
        square = (pictures - colour).square().mean(dim=1, keepdim=True)
        # The floor keeps the gradient of the root finite on the background itself.
        distance = square.clamp_min(1e-12).sqrt()
        s = ((distance - self.low) / (self.high - self.low)).clamp(0, 1)
        return s * s * (3 - 2 * s)


# Factories, so that a finder with weights loads them when it is chosen, not when it is listed.
finders: Registry[Callable[..., Finder]] = Registry("measure", "steer.measures")
finders.register("intensity", Intensity)
finders.register("background", Background)
finders.register("saliency", Salient)


def finder_factory(text: str) -> tuple[Callable[..., Finder], tuple[str, ...]]:
    """The factory that `NAME` or `NAME:WEIGHTS` names, and its argument; nothing is loaded.

    Raises InputError for a name that is not known, or weights for a finder that has none.

    >>> finder_factory("intensity")
    (<class 'steer.measures.Intensity'>, ())
    """
    name, colon, weights = text.partition(":")
    factory = finders.get(name)
    if colon and not (weights and getattr(factory, "has_weights", False)):
        raise InputError(f"expected a measure's name, or saliency:FILE, got {text!r}.")
    return factory, (weights,) if weights else ()


def finder(text: str) -> Finder:
    """The finder that `NAME` or `NAME:WEIGHTS` names, ready to use."""
    factory, argument = finder_factory(text)
    return factory(*argument)


@dataclass(frozen=True)
class Property:
    """One number that a picture shows.

    `compute` maps masks [B, 1, H, W] or pictures [B, C, H, W], as `needs` says, to [B], in float64;
    NaN where the number does not exist. `tolerance` is what counts as exact for control. Where
    another property's direction moves it, `moved_by` names that one, and `in_movers_unit` maps
    values [n] into its unit.

    >>> turned = properties.get("rotate")
    >>> turned.difference(torch.tensor([85.0]), torch.tensor([-85.0])).item()
    -10.0
    >>> area = properties.get("area")
    >>> area.moved_by, area.in_movers_unit(torch.tensor([0.25, 1.0])).tolist()
    ('zoom', [-1.0, 0.0])
    """

    name: str
    unit: str
    tolerance: float
    period: float | None
    needs: Literal["mask", "picture"]
    compute: Callable[[Tensor], Tensor]
    moved_by: str | None = None
    in_movers_unit: Callable[[Tensor], Tensor] = lambda value: value

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """a - b, wrapped into (-period/2, period/2] where the property is periodic."""
        if self.period is None:
            return a - b
        return self.period / 2 - torch.remainder(self.period / 2 - (a - b), self.period)

    def opened(self, values: Tensor) -> Tensor:
        """Values [n] (NaN: not found) on a line: a periodic property is cut open opposite its
        circular mean.

        >>> properties.get("rotate").opened(torch.tensor([80.0, 89.0, -88.0])).round().tolist()
        [80.0, 89.0, 92.0]
        """
        found = values[~values.isnan()]
        if self.period is None or not len(found):
            return values
        mean = circmean(found.numpy(), low=-self.period / 2, high=self.period / 2)
        middle = torch.as_tensor(mean).to(values)
        return middle + self.difference(values, middle)


properties: Registry[Property] = Registry("property", "steer.properties")


def others(names: Sequence[str], own: str) -> list[str]:
    """Those of the properties `names` that say something else than the property `own`, each thing
    once: zoom and area are one, which is called zoom.

    >>> others(["translate-x", "zoom", "area"], "zoom")
    ['translate-x']
    >>> others(["translate-x", "zoom", "area"], "translate-x")
    ['zoom']
    """
    movers = {name: properties.get(name).moved_by or name for name in names}
    one = properties.get(own).moved_by or own if own in properties else own
    return [n for n, mover in movers.items() if mover != one and (mover == n or mover not in names)]


class Measure:
    """The named properties of each picture, of the object that `find` finds.

    Calling it with pictures [B, C, H, W] gives [B, len(names)] in float64. NaN stands where no
    object is found (the mean of the mask is under the finder's gate) or the property does not
    exist (no axis, no colour). Raises InputError for a name that is not known or not measurable.

    >>> picture = torch.zeros(1, 1, 8, 8)
    >>> picture[..., 2:4, 4:6] = 1
    >>> Measure(["translate-x", "translate-y", "zoom", "area"])(picture).tolist()
    [[0.125, -0.125, -2.0, 0.0625]]
    """

    def __init__(self, names: Sequence[str], find: str | Finder = "intensity"):
        if not names:
            raise InputError(f"expected properties to measure, of {', '.join(properties.names())}.")
        self.names = list(names)
        self.properties = [_property(name) for name in self.names]
        self.find = finder(find) if isinstance(find, str) else find

    def __call__(self, pictures: Tensor) -> Tensor:
        needs = {item.needs for item in self.properties}
        seen = {need: self._see(pictures, need) for need in needs}
        return torch.stack([item.compute(seen[item.needs]) for item in self.properties], dim=1)

    def difference(self, a: Tensor, b: Tensor, name: str) -> Tensor:
        """a - b of the property `name`, wrapped where it is periodic."""
        return _property(name).difference(a, b)

    def _see(self, pictures: Tensor, need: str) -> Tensor:
        """The pictures, or the masks of their objects, NaN where none is found."""
        if need == "picture":
            return pictures.double()
        mask = self.find(pictures).double()
        found = mask.mean(dim=(1, 2, 3), keepdim=True) >= self.find.gate
        return torch.where(found, mask, torch.nan)


def _property(name: str) -> Property:
    if name in transforms and name not in properties:
        raise InputError(
            f"{name} is not measurable: no property of that name is known; "
            f"measurable are {', '.join(properties.names())}."
        )
    return properties.get(name)


def _moments(mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean x and y, and variances xx, yy, xy [B] of masks [B, 1, H, W], in pixels, y down."""
    height, width = mask.shape[-2:]
    weight = mask[:, 0] / mask.sum(dim=(1, 2, 3))[:, None, None]
    x = torch.arange(width).to(mask) + 0.5
    y = torch.arange(height).to(mask) + 0.5
    columns, rows = weight.sum(dim=1), weight.sum(dim=2)
    mean_x, mean_y = columns @ x, rows @ y
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    xy = torch.einsum("bhw,bh,bw->b", weight, dy, dx)
    return mean_x, mean_y, (columns * dx * dx).sum(1), (rows * dy * dy).sum(1), xy


def _area(mask: Tensor) -> Tensor:
    return mask.mean(dim=(1, 2, 3))


def _area_in_zoom(area: Tensor) -> Tensor:
    # no picture shows less than the floor, and what is asked may be 0 or less
    return area.clamp_min(1e-6).log2() / 2


def _rotate(mask: Tensor) -> Tensor:
    """The principal axis, degrees counter-clockwise from the horizontal, in (-90, 90]."""
    _, _, xx, yy, xy = _moments(mask)
    anisotropy = torch.hypot(xx - yy, 2 * xy) / (xx + yy)
    angle = torch.rad2deg(torch.atan2(-2 * xy, xx - yy)) / 2
    angle = torch.where(angle <= -90, angle + 180, angle)
    return torch.where(anisotropy >= _AXIS, angle, torch.nan)


def _contrast(pictures: Tensor) -> Tensor:
    spread = luminance(pictures).std(dim=(-2, -1), correction=0)
    return torch.where(spread >= _FLAT, spread.log2(), torch.nan)


def _mean_chroma(pictures: Tensor) -> Tensor:
    return chroma(pictures).square().sum(dim=1).clamp_min(1e-24).sqrt().mean(dim=(-2, -1))


def _saturation(pictures: Tensor) -> Tensor:
    mean = _mean_chroma(pictures)
    return torch.where(mean >= _FLAT, mean.log2(), torch.nan)


def _hue(pictures: Tensor) -> Tensor:
    """The angle from I towards Q of the mean chroma vector: the hues' mean, weighted by chroma."""
    i, q = chroma(pictures).mean(dim=(-2, -1)).unbind(dim=1)
    mean = _mean_chroma(pictures)
    clear = (mean >= _FLAT) & (torch.hypot(i, q) >= _RESULTANT * mean)
    return torch.where(clear, torch.rad2deg(torch.atan2(q, i)), torch.nan)


for _item in (
    Property(
        "translate-x", "width", 0.005, None, "mask", lambda m: _moments(m)[0] / m.shape[-1] - 0.5
    ),
    Property(
        "translate-y", "height", 0.005, None, "mask", lambda m: _moments(m)[1] / m.shape[-2] - 0.5
    ),
    Property("zoom", "log2", 0.02, None, "mask", lambda m: _area(m).log2() / 2),
    Property("area", "fraction", 0.005, None, "mask", _area, "zoom", _area_in_zoom),
    Property("rotate", "degrees", 1.0, 180.0, "mask", _rotate),
    Property(
        "brightness", "luminance", 0.005, None, "picture", lambda p: luminance(p).mean(dim=(1, 2))
    ),
    Property("contrast", "log2", 0.02, None, "picture", _contrast),
    Property("saturation", "log2", 0.02, None, "picture", _saturation),
    Property("hue", "degrees", 1.0, 360.0, "picture", _hue),
):
    properties.register(_item.name, _item)
