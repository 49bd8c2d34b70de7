"""The salient object of a picture: U2-Net (Qin et al. 2020, https://arxiv.org/abs/2005.09007)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steer.checkpoints import match_state, read_checkpoint
from steer.generators.planned import fill, planned
from steer.hub import locate

#: The published weights of the small network, 4.7 MB, at a fixed revision.
PUBLISHED = "netradrishti/u2net-saliency@85f8cd291a8e6bae53784c391b8171fa200c71fd:u2netp.pth"
#: Side of the pictures that the network was trained on.
SIDE = 320
#: Mean and standard deviation of ImageNet's colours.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Layers of each stage, down, then up again; the three in the middle do not halve their maps.
DEPTHS = (7, 6, 5, 4, 4, 4, 4, 4, 5, 6, 7)
#: Channels of each stage [in, middle, out], down, then up again.
SMALL = ((3, 16, 64), *[(64, 16, 64)] * 5, *[(128, 16, 64)] * 5)
FULL = (
    *((3, 32, 64), (64, 32, 128), (128, 64, 256), (256, 128, 512), (512, 256, 512)),
    *((512, 256, 512), (1024, 256, 512), (1024, 128, 256), (512, 64, 128), (256, 32, 64)),
    (128, 16, 64),
)
#: Pictures that the network sees at once; a CPU is a sixth faster with one at a time.
BATCH = 16
Shape = tuple[int, int, int]


def convolution(inside: int, outside: int, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution and ReLU; the batch norm between them is folded into the weights."""
    layer = nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(layer, nn.ReLU(inplace=True))


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Maps [B, C, h, w] at the size of others."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class ResidualU(nn.Module):
    """A U of `depth` convolutions within a block, added to what comes in (figure 2 of the paper).

    `flat` dilates the convolutions where the others halve their maps.
    """

    def __init__(self, shape: Shape, depth: int, flat: bool = False):
        super().__init__()
        inside, middle, outside = shape
        self.flat = flat
        widths = [outside, *[middle] * depth]
        dilations = [1 << i if flat else 1 for i in range(depth)]
        if not flat:
            dilations[-1] = 2
        self.entry = convolution(inside, outside)
        self.down = nn.ModuleList(
            convolution(a, b, d) for (a, b), d in zip(pairwise(widths), dilations, strict=True)
        )
        ends = [outside, *[middle] * (depth - 2)]
        self.up = nn.ModuleList(
            convolution(2 * middle, end, d)
            for end, d in zip(ends, dilations if flat else [1] * depth, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, out, H, W] of maps [B, in, H, W]."""
        x = self.entry(x)
        maps, last = [], len(self.down) - 1
        h = x
        for i, layer in enumerate(self.down):
            if not self.flat and 0 < i < last:
                h = F.max_pool2d(h, 2, stride=2, ceil_mode=True)
            h = layer(h)
            maps.append(h)
        h = maps.pop()
        for layer, skip in zip(reversed(self.up), reversed(maps), strict=True):
            h = layer(torch.cat([enlarged(h, skip), skip], dim=1))
        return h + x


class U2Net(nn.Module):
    """Soft masks of salient objects; `shapes` are SMALL (1.1 million weights) or FULL (44 million).

    >>> network = U2Net().eval()
    >>> with torch.no_grad():
    ...     network(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(self, shapes: tuple[Shape, ...] = SMALL):
        super().__init__()
        self.stages = nn.ModuleList(
            ResidualU(shape, depth, flat=4 <= i <= 6)
            for i, (shape, depth) in enumerate(zip(shapes, DEPTHS, strict=True))
        )
        # the sides, from the largest maps to the smallest
        outputs = [shape[2] for shape in (*reversed(shapes[6:]), shapes[5])]
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in outputs)
        self.mix = nn.Conv2d(len(outputs), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Masks [B, 1, H, W] in (0, 1) of standardised colours [B, 3, H, W]."""
        maps: list[Tensor] = []
        for i, stage in enumerate(self.stages[:6]):
            if i:
                x = F.max_pool2d(x, 2, stride=2, ceil_mode=True)
            x = stage(x)
            maps.append(x)
        decoded = [maps.pop()]
        for stage in self.stages[6:]:
            skip = maps.pop()
            decoded.append(stage(torch.cat([enlarged(decoded[-1], skip), skip], dim=1)))
        largest = decoded[-1]
        sides = zip(self.sides, reversed(decoded), strict=True)
        return torch.sigmoid(
            self.mix(torch.cat([enlarged(side(h), largest) for side, h in sides], 1))
        )


def u2net(model: str = PUBLISHED) -> U2Net:
    """The network with weights under their published names, from the Hub or a file, small or full.

    Raises InputError where they do not fit, MachineError where the Hub cannot be reached.
    """
    return _checked(model)[0]


@lru_cache(maxsize=2)
def _checked(model: str, sha256: str | None = None) -> tuple[U2Net, str]:
    """The network, and the SHA-256 of its weights; InputError where another one is wanted."""
    checkpoint = read_checkpoint(locate(model), sha256)
    state = {
        name: tensor
        for name, tensor in checkpoint.state.items()
        if not name.endswith("num_batches_tracked")
    }
    middle = state.get("stage1.rebnconv1.conv_s1.bias", torch.empty(0)).numel()
    shapes = FULL if middle == FULL[0][1] else SMALL
    match_state(published(shapes), state, checkpoint.origin)
    with planned():
        network = U2Net(shapes)
    fill(network, _folded(names(shapes), state), f"{checkpoint.origin}, batch norms folded,")
    # channels_last: 1.3 times as fast on a CPU
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return network, checkpoint.sha256


def names(shapes: tuple[Shape, ...]) -> dict[str, str]:
    """The name of each convolution here to its published name, without the batch norm's.

    >>> names(SMALL)["stages.6.up.2.0"]
    'stage5d.rebnconv3d'
    """
    stages = [*(f"stage{i}" for i in range(1, 7)), *(f"stage{i}d" for i in range(5, 0, -1))]
    table = {}
    for i, (stage, depth) in enumerate(zip(stages, DEPTHS, strict=True)):
        table[f"stages.{i}.entry.0"] = f"{stage}.rebnconvin"
        for k in range(depth):
            table[f"stages.{i}.down.{k}.0"] = f"{stage}.rebnconv{k + 1}"
        for k in range(depth - 1):
            table[f"stages.{i}.up.{k}.0"] = f"{stage}.rebnconv{k + 1}d"
    table |= {f"sides.{i}": f"side{i + 1}" for i in range(6)}
    return table | {"mix": "outconv"}


def published(shapes: tuple[Shape, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published tensors, batch norms included."""
    with planned():
        own = U2Net(shapes).state_dict()
    expected: dict[str, tuple[int, ...]] = {}
    for ours, theirs in names(shapes).items():
        weight = tuple(own[f"{ours}.weight"].shape)
        conv = theirs if not theirs.startswith("stage") else f"{theirs}.conv_s1"
        expected |= {f"{conv}.weight": weight, f"{conv}.bias": weight[:1]}
        if theirs.startswith("stage"):
            norm = ("weight", "bias", "running_mean", "running_var")
            expected |= {f"{theirs}.bn_s1.{each}": weight[:1] for each in norm}
    return expected


def _folded(table: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `U2Net`, batch norms (eps 1e-5) folded into the convolutions."""
    own: dict[str, Tensor] = {}
    for ours, theirs in table.items():
        if not theirs.startswith("stage"):
            own |= {
                f"{ours}.{each}": state[f"{theirs}.{each}"].float() for each in ("weight", "bias")
            }
            continue
        conv, norm = f"{theirs}.conv_s1", f"{theirs}.bn_s1"
        scale = (
            state[f"{norm}.weight"].float() / (state[f"{norm}.running_var"].float() + 1e-5).sqrt()
        )
        offset = state[f"{conv}.bias"].float() - state[f"{norm}.running_mean"].float()
        own[f"{ours}.weight"] = state[f"{conv}.weight"].float() * scale[:, None, None, None]
        own[f"{ours}.bias"] = offset * scale + state[f"{norm}.bias"].float()
    return own


class Salient:
    """The object is what a person would look at: the soft mask of U2-Net, as it comes out.

    `model` is a Hub id or a file of weights, and may end in #sha256=HEX, as `name` does, by which
    a direction calibrated with other weights is noticed. Pictures [B, C, H, W] of any size give
    masks [B, 1, 320, 320]; where they are not square, masks of their own size.
    """

    gate = 0.02
    has_weights = True

    def __init__(self, model: str = ""):
        place, _, wanted = model.partition("#sha256=")
        self.network, found = _checked(place or PUBLISHED, wanted or None)
        self.name = f"saliency:{place}#sha256={found}" if place else "saliency"

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        self.network.to(pictures.device)
        most = 1 if pictures.device.type == "cpu" else BATCH
        masks = [self.network(standardised(some.float())) for some in pictures.split(most)]
        is_square = pictures.shape[2] == pictures.shape[3]
        return torch.cat(masks if is_square else [enlarged(mask, pictures) for mask in masks])


def standardised(pictures: Tensor) -> Tensor:
    """What the network sees of pictures [B, C, H, W] in [0, 1]: colours [B, 3, 320, 320], divided
    by the picture's largest value, less ImageNet's mean, over its standard deviation."""
    size = (SIDE, SIDE)
    seen = F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)
    seen = seen.expand(-1, 3, -1, -1)
    seen = seen / seen.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    mean, std = (torch.tensor(each).to(seen)[:, None, None] for each in (MEAN, STD))
    return ((seen - mean) / std).contiguous(memory_format=torch.channels_last)
