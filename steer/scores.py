"""How like two sets of pictures are, and how like pictures are one by one.

Every score by features stands beside the name of its extractor: those of different extractors are
not comparable.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from steer.backbones import VGG, architecture
from steer.batches import affordable, in_batches
from steer.disk import read_whole
from steer.errors import InputError
from steer.files import Artefact
from steer.generators.base import Generator
from steer.images import fit, luminance, read_image
from steer.losses import LPIPS, Error, Perceptual, dssim, mse
from steer.registry import first_few

#: Rows of features that are decomposed at once.
ROWS = 4096
#: Luminance that sharpness takes darker pixels for.
DARK = 1 / 32

# --- sets of features ---


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians of two sets of features [n, d] and [m, d] (FID: Heusel et
    al. 2017), in float64: |mean a - mean b|^2 + tr(A + B - 2 sqrt(A B)) of covariances A and B.

    Biased upwards where n or m is not well above d: comparable at equal n only. Raises InputError
    for sets of fewer than two.

    >>> a = torch.randn(50, 4)
    >>> abs(frechet_distance(a, a)) < 1e-9, round(frechet_distance(a, a + 2), 6)
    (True, 16.0)
    """
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    # sqrt(A B) has the trace of the singular values of root_a root_b^T
    cross = root_a @ root_b.T
    gram = cross @ cross.T if len(root_a) <= len(root_b) else cross.T @ cross
    trace = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * trace
    return max(0.0, float((mean_a - mean_b).square().sum() + spread))


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and a root R [min(n, d), d] of the covariance R^T R of features [n, d]."""
    if len(features) < 2:
        raise InputError(f"expected 2 or more pictures in each set, got {len(features)}.")
    mean = features.mean(0, dtype=torch.float64)
    root = mean.new_empty(0, len(mean))
    for rows in features.split(ROWS):
        root = torch.linalg.qr(torch.cat([root, rows.double() - mean]), mode="r")[1]
    return mean, root / math.sqrt(len(features) - 1)


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID (Binkowski et al. 2018) of features [n, d] and [m, d]: mean and standard deviation over
    random subsets of the unbiased squared MMD by the kernel (<x, y> / d + 1)^3.

    Subsets are of `size` features, or of as many as the smaller set has; where both sets are that
    small there is a single one, and no deviation.

    >>> a = torch.randn(40, 4)
    >>> kernel_distance(a, a + 1, subsets=3)[0] > kernel_distance(a, a, subsets=3)[0]
    True
    """
    size = min(size, len(a), len(b))
    if size < 2:
        raise InputError(f"expected 2 or more pictures in each set, got {size}.")
    random = torch.Generator().manual_seed(seed)
    if size == len(a) == len(b):
        subsets = 1  # there is one

    def chosen(features: Tensor) -> Tensor:
        return features[torch.randperm(len(features), generator=random)[:size]].double()

    values = torch.stack([_discrepancy(chosen(a), chosen(b)) for _ in range(subsets)])
    return float(values.mean()), _spread(values, correction=0)


def _discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased squared MMD of features [n, d] and [n, d] (equation 4 of Binkowski et al. 2018)."""
    n, d = a.shape
    kernels = [(x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1)) for kernel in kernels[:2]]
    return sum(within) - 2 * kernels[2].mean()


def inception_score(probabilities: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception score (Salimans et al. 2016) of class probabilities [n, k], in random order: mean
    and standard deviation over `splits` parts of exp(mean KL(p || mean p)).

    1 where every picture gives the same probabilities, k at most. No deviation of a single part.

    >>> round(inception_score(torch.eye(4).repeat(10, 1), splits=1)[0], 6)
    4.0
    """
    random = torch.Generator().manual_seed(seed)
    shuffled = probabilities[torch.randperm(len(probabilities), generator=random)].double()
    scores = []
    for part in shuffled.chunk(splits):
        divergence = torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()
        scores.append(divergence.exp())
    values = torch.stack(scores)
    return float(values.mean()), _spread(values, correction=1)


def _spread(values: Tensor, correction: int) -> float:
    """The standard deviation; of a single value there is none."""
    return float(values.std(correction=correction)) if len(values) > 1 else math.nan


def sharpness(pictures: Tensor) -> Tensor:
    """How much fine detail pictures [B, C, H, W] have: [B], the mean of the size of the Laplacian
    (0 1 0, 1 -4 1, 0 1 0) of luminance over the mean luminance of the 3x3 pixels around (equation
    3.4 of Zeng 2022, after San Pedro and Siersdorfer 2009), border pixels left out.

    Luminance under the line is floored at `DARK`. It depends on the size in pixels: comparable at
    equal sizes only. Raises InputError for less than 3x3 pixels.

    >>> sharpness(torch.eye(8).expand(2, 1, 8, 8))[0] > sharpness(torch.full((1, 1, 8, 8), 0.5))[0]
    tensor(True)
    """
    height, width = pictures.shape[2:]
    if min(height, width) < 3:
        raise InputError(f"sharpness expects pictures of 3x3 or more; got {height}x{width}.")
    y = luminance(pictures)
    middle = y[:, 1:-1, 1:-1]
    around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
    return ((around - 4 * middle).abs() / avg_pool2d(y.clamp_min(DARK), 3, 1)).mean(dim=(1, 2))


@dataclass(frozen=True)
class Score:
    """A number, what it is of, its standard deviation (NaN where there is none), and by which
    extractor; `own_loss` says that the codes were found by minimising the same."""

    score: str
    value: float
    std: float
    extractor: str
    of: str
    own_loss: bool = False


def mean_of(score: str, values: Tensor, by: str, of: str, own_loss: bool = False) -> Score:
    """The mean of values [n] as a score, with their standard deviation."""
    return Score(score, float(values.mean()), _spread(values, 1), by, of, own_loss)


# --- pictures one by one ---


def photos_inverted(latents: Artefact, paths: Sequence[Path]) -> list[Path]:
    """The photos that `steer invert` made latents of, in their order, found among `paths` by their
    checksums; none where the latents are of another command, or none of them is there.

    Raises InputError where only some are there.
    """
    made = latents.made
    wanted = made.get("checksums", []) if made.get("command") == "invert" else []
    if not wanted:
        return []
    found = {hashlib.sha256(read_whole(path)).hexdigest(): path for path in paths}
    missing = [n for n, c in zip(made["pictures"], wanted, strict=True) if c not in found]
    if len(missing) == len(wanted):
        return []
    if missing:
        raise InputError(
            f"expected every photo that was inverted, {len(missing)} of {len(wanted)} are not "
            f"there: {first_few(missing)}."
        )
    return [found[checksum] for checksum in wanted]


def refuse_own_features(made: Mapping[str, Any], extractor: str) -> None:
    """InputError where what was `made` minimised a distance by the same features: no score uses
    those that its own loss used.

    >>> refuse_own_features({"options": {"loss": "perceptual:1"}}, "vgg16.tv_in1k")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected another extractor than vgg16.tv_in1k: ...
    """
    options = made.get("options", {})
    if "perceptual" not in _terms(options):
        return
    own = options.get("backbone") or VGG
    if architecture(own) == architecture(extractor):
        raise InputError(
            f"expected another extractor than {extractor}: the codes were found by a loss of the "
            f"features of {own}."
        )


def _terms(options: Mapping[str, Any]) -> set[str]:
    """Names of the losses that were minimised."""
    return set(re.findall(r"[A-Za-z][\w-]*", str(options.get("loss", ""))))


@dataclass(frozen=True)
class Likeness:
    """A score of pairs of pictures: its name, by what, the error, and the loss that is the same."""

    score: str
    by: str
    error: Error
    loss: str = ""


def likenesses(height: int, width: int, distances: Sequence[Perceptual]) -> list[Likeness]:
    """MSE, SSIM (where pictures have the 11 pixels of its window), then the distances given."""
    found = [Likeness("MSE", "pixels", mse, "mse")]
    if min(height, width) >= 11:
        found.append(Likeness("SSIM", "pixels", ssim, "dssim"))
    names = ("LPIPS" if isinstance(each, LPIPS) else "perceptual" for each in distances)
    return found + [
        Likeness(name, each.name, each) for name, each in zip(names, distances, strict=True)
    ]


def ssim(pictures: Tensor, targets: Tensor, defined: Tensor | None = None) -> Tensor:
    """Structural similarity [B], 1 for equal pictures; see `steer.losses.dssim`."""
    return 1 - 2 * dssim(pictures, targets, defined)


@torch.no_grad()
def compare_pairs(
    generator: Generator,
    latents: Artefact,
    photos: Sequence[Path],
    by: Sequence[Likeness],
    batch: int = 64,
    report: Callable[[float, str], None] = lambda done, said: None,
) -> Tensor:
    """Scores [n, len(by)] of the pictures of n codes against the photos that they were found for,
    prepared for the generator as `steer invert` did."""
    align = latents.made["options"].get("align", "crop")
    codes, device = latents.tensors["z"].float(), generator.device

    def work(items: range) -> Tensor:
        some = photos[items.start : items.stop]
        photo = torch.stack([fit(read_image(p), *generator.picture, how=align) for p in some])
        drawn, target = generator(codes[items.start : items.stop].to(device)), photo.to(device)
        return torch.stack([each.error(drawn, target, None) for each in by], dim=1).cpu()

    parts: list[Tensor] = []
    for part in in_batches(work, len(photos), affordable(generator, batch)):
        parts.append(part)
        report(sum(map(len, parts)), "")
    return torch.cat(parts)


def pair_scores(rows: Tensor, by: Sequence[Likeness], made: Mapping[str, Any]) -> list[Score]:
    """The mean of each column of `compare_pairs`, and its standard deviation over the pairs."""
    own = _terms(made.get("options", {}))
    return [
        mean_of(each.score, rows[:, i], each.by, "pairs", each.loss in own)
        for i, each in enumerate(by)
    ]
