"""Networks trained to tell pictures apart: timm's, and the Inception of the published FID.

A network is named NAME or NAME=FILE, and its own `name` stands beside each number that it gives:
scores of different extractors are not comparable.
"""

from __future__ import annotations

import difflib
import io
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from steer.batches import PIXELS
from steer.checkpoints import read_checkpoint
from steer.disk import read_whole
from steer.errors import InputError, MachineError
from steer.files import check_finite
from steer.hub import cached, locate
from steer.images import quantise

#: The network whose FID is compared across papers.
INCEPTION = "inception"
#: The backbone of LPIPS, and the last ReLU of each of its five levels.
VGG, VGG_LEVELS = "vgg16.tv_in1k", (0, 1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A timm model with weights from a file, or where `state` is None timm's own, from the Hub."""

    model: str
    name: str
    state: dict[str, Tensor] | None = field(repr=False)

    def create(self, **options: Any) -> Any:
        """The network, in float32, with nothing to learn.

        Raises MachineError where the weights cannot be had.
        """
        import timm

        # timm would warn that the classifier, which feature maps do without, was left out.
        logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
        overlay = {"state_dict": self.state} if self.state else None
        try:
            if self.state is None:
                _fetch(self.model)
            network = timm.create_model(
                self.model, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
        except (OSError, MachineError) as error:
            own = isinstance(error, MachineError)
            reason = str(error).rstrip(".") if own else type(error).__name__
            raise MachineError(
                f"the weights of {self.model} from the Hub could not be fetched ({reason}); "
                f"a local file can be given as {self.model}=FILE."
            ) from error
        return network.eval().requires_grad_(False)


def _fetch(model: str) -> None:
    """Has timm's weights in the Hub's cache where they are a safetensors file; without a network
    timm would try again for a minute."""
    import timm

    config = timm.get_pretrained_cfg(model)
    source = f"{config.hf_hub_id}:model.safetensors" if config and config.hf_hub_id else None
    if source and not cached(source):
        with suppress(InputError):  # of another kind, which timm knows
            locate(source)


def find(text: str) -> Backbone:
    """The backbone that NAME or NAME=FILE names.

    Raises InputError, with near matches, for a name that timm lacks, and for a file that does not
    fit it.
    """
    import timm

    model, _, file = text.partition("=")
    if not (timm.is_model(model) and (file or timm.is_model_pretrained(model))):
        near = difflib.get_close_matches(model, timm.list_models(pretrained=True))
        hint = f", near matches are {', '.join(near)}" if near else ""
        raise InputError(f"expected a timm model with weights as backbone; got {model!r}{hint}.")
    if file:
        state, digest = _read_weights(model, file)
        return Backbone(model, stamped(model, digest), state)
    config = timm.get_pretrained_cfg(model)
    assert config is not None  # it has weights
    return Backbone(model, f"{config.architecture}.{config.tag}".rstrip("."), None)


def stamped(name: str, digest: str) -> str:
    """A name with the beginning of the SHA-256 of its weights.

    >>> stamped("vgg16", "0123456789abcdef")
    'vgg16#sha256=0123456789ab'
    """
    return f"{name}#sha256={digest[:12]}"


def architecture(text: str) -> str:
    """What two backbones share whose features are alike, whatever their weights.

    >>> architecture("vgg16.tv_in1k=weights.safetensors"), architecture("vgg16#sha256=01")
    ('vgg16', 'vgg16')
    """
    return text.partition("=")[0].partition("#")[0].partition(".")[0]


def _read_weights(name: str, source: str) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file, checked to be that of the timm model `name`; its SHA-256."""
    import timm

    checkpoint = read_checkpoint(locate(source))
    state = checkpoint.state
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    wrong = [
        key
        for key in wanted.keys() | state.keys()
        if key not in wanted or key not in state or wanted[key].shape != state[key].shape
    ]
    if wrong:
        raise InputError(
            f"expected weights of {name} in {source}; {len(wrong)} tensors are missing, extra or "
            f"misshaped, among them {min(wrong)}."
        )
    check_finite(state, source)
    return state, checkpoint.sha256


# --- maps of features, of pictures as large as they come ---


@dataclass(frozen=True)
class Maps:
    """A network from standardised pictures [B, 3, H, W] to its levels [B, C_l, H_l, W_l]."""

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    name: str


def feature_maps(
    text: str,
    height: int,
    device: torch.device | str = "cpu",
    levels: tuple[int, ...] | None = None,
) -> Maps:
    """The levels of a timm backbone, or those of them that `levels` counts.

    Raises InputError for a backbone that does not take pictures of `height`, and what `find` and
    `Backbone.create` raise.
    """
    import timm

    backbone = find(text)
    options = {} if levels is None else {"out_indices": levels}
    network = backbone.create(features_only=True, **options)
    _check_features(network, backbone.model, height)
    config = timm.data.resolve_model_data_config(network)
    return Maps(network.to(device), config["mean"], config["std"], backbone.name)


def lpips_heads() -> list[Tensor]:
    """Weights [C_l] of VGG16's five levels in LPIPS, version 0.1, which torchmetrics ships."""
    wheel = distribution("torchmetrics")
    path = Path(str(wheel.locate_file("torchmetrics/functional/image/lpips_models/vgg.pth")))
    state = torch.load(io.BytesIO(read_whole(path)), map_location="cpu", weights_only=True)
    return [state[f"lin{level}.model.1.weight"].flatten().float() for level in VGG_LEVELS]


def _check_features(network: Any, name: str, height: int) -> None:
    """Some of timm's networks take one size only, and some put the channels last."""
    try:
        with torch.no_grad():
            levels = network(torch.zeros(1, 3, height, height))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"the backbone {name} does not take pictures of height {height}: {error}"
        ) from error
    if [level.shape[1] for level in levels] != network.feature_info.channels():
        raise InputError(
            f"expected features [B, C, H, W] of the backbone {name}; got {list(levels[-1].shape)}."
        )


# --- one row of features a picture ---


@dataclass(frozen=True)
class Seen:
    """What an extractor makes of pictures: features [B, d] and, where it knows classes, their
    probabilities [B, k]; on the CPU."""

    features: Tensor
    probabilities: Tensor | None


def joined(parts: Iterable[Seen]) -> Seen:
    """The rows of several batches."""
    features, chances = zip(*((part.features, part.probabilities) for part in parts), strict=True)
    knows_classes = chances[0] is not None
    return Seen(torch.cat(features), torch.cat(chances) if knows_classes else None)


def _most(size: tuple[int, int], device: torch.device) -> int:
    """Pictures that a network sees at once: on a CPU few, which is no slower."""
    return max(1, PIXELS // math.prod(size)) if device.type == "cpu" else sys.maxsize


class Extractor(Protocol):
    """Pooled features of pictures [C, H, W] in [0, 1], grey or in colour, each of any size."""

    name: str
    #: Numbers in a row of features.
    dim: int
    #: Height and width to which every picture is resized.
    size: tuple[int, int]

    def __call__(self, pictures: Sequence[Tensor]) -> Seen: ...


class Pooled:
    """A timm model's features just before its classifier, and its classes' probabilities.

    Pictures are seen whole (nothing is cropped), as 8 bits show them, resized to the size that the
    model was trained on by antialiased bicubic interpolation, clamped to [0, 1] and standardised
    with the model's mean and standard deviation; grey ones as three equal channels.
    """

    def __init__(self, text: str, device: torch.device | str = "cpu"):
        import timm

        backbone = find(text)
        self.name = backbone.name
        self.device = torch.device(device)
        self.network = backbone.create().to(self.device, memory_format=torch.channels_last)
        config = timm.data.resolve_model_data_config(self.network)
        self.size: tuple[int, int] = tuple(config["input_size"][1:])
        self.mean, self.std = (torch.tensor(config[k])[:, None, None] for k in ("mean", "std"))
        self.dim = self._see(torch.zeros(1, 3, *self.size)).features.shape[1]

    def __call__(self, pictures: Sequence[Tensor]) -> Seen:
        seen = torch.stack([self.prepared(picture) for picture in pictures])
        return joined(self._see(part) for part in seen.split(_most(self.size, self.device)))

    def prepared(self, picture: Tensor) -> Tensor:
        """What the network sees [3, h, w] of a picture [C, H, W], before it is standardised."""
        shown = quantise(picture)[None]
        resized = interpolate(shown, self.size, mode="bicubic", antialias=True)[0]
        return resized.clamp(0, 1).expand(3, -1, -1)

    @torch.no_grad()
    def _see(self, pictures: Tensor) -> Seen:
        standard = ((pictures - self.mean) / self.std).to(
            self.device, memory_format=torch.channels_last
        )
        maps = self.network.forward_features(standard)
        features = self.network.forward_head(maps, pre_logits=True).flatten(1)
        knows_classes = self.network.num_classes > 0
        scores = self.network.forward_head(maps).softmax(1).cpu() if knows_classes else None
        return Seen(features.cpu(), scores)


class Inception:
    """The Inception of 2015 by which FIDs are compared across papers: torch-fidelity's network.

    2048 features and, as its inception score has them, probabilities of 1008 classes from scores
    without their bias. Pictures in 8 bits are resized to 299x299 as TensorFlow 1 did, by bilinear
    interpolation that is not antialiased, or the numbers would not be the published ones; grey ones
    as three equal channels. The published weights are weights-inception-2015-12-05-6726825d.pth,
    among the releases of torch-fidelity.

    Raises InputError for a file of other weights, MachineError where torch-fidelity is missing.
    """

    dim = 2048
    size = (299, 299)

    def __init__(self, file: str, device: torch.device | str = "cpu"):
        checkpoint = read_checkpoint(locate(file))
        check_finite(checkpoint.state, file)
        self.name = stamped(INCEPTION, checkpoint.sha256)
        self.device = torch.device(device)
        self.network = _inception(checkpoint.state, file).to(self.device)

    def __call__(self, pictures: Sequence[Tensor]) -> Seen:
        alike = (torch.stack(list(some)) for _, some in groupby(pictures, lambda p: p.shape))
        most = _most(self.size, self.device)
        return joined(self._see(part) for group in alike for part in group.split(most))

    @torch.no_grad()
    def _see(self, pictures: Tensor) -> Seen:
        shown = (quantise(pictures.expand(-1, 3, -1, -1)) * 255).round()
        features, scores = self.network(shown.to(self.device, torch.uint8))
        return Seen(features.cpu(), scores.softmax(1).cpu())


def _inception(state: dict[str, Tensor], file: str) -> Any:
    """torch-fidelity's network with these weights.

    Its constructor reads a pickle without care: it is handed one of our own, of tensors alone.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MachineError(
            f"the extractor {INCEPTION} needs the package torch-fidelity, which is not installed."
        ) from error
    buffer = io.BytesIO()
    torch.save({name: tensor.float() for name, tensor in state.items()}, buffer)
    buffer.seek(0)
    try:
        return FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"], buffer)
    except RuntimeError as error:
        raise InputError(f"expected torch-fidelity's weights of Inception in {file}.") from error


def extractor(text: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor that `text` names: inception=FILE, or a timm model as NAME or NAME=FILE."""
    name, _, file = text.partition("=")
    if name != INCEPTION:
        return Pooled(text, device)
    if not file:
        raise InputError(
            f"expected {INCEPTION}=FILE, with torch-fidelity's weights of it; got {text!r}."
        )
    return Inception(file, device)
