"""Sets of pictures as the encoder of one generator sees them (section 4.4.1 of Zeng 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.batches import affordable, in_batches
from steer.errors import InputError
from steer.generators.base import Generator
from steer.images import fit
from steer.inversion import shrunk
from steer.picture_sets import Pictures

#: Parts of the cross-validation, and the fewest pictures of a set: two in each part.
FOLDS, LEAST = 5, 10
#: Neighbours that t-SNE looks at.
PERPLEXITY = 30.0
#: Told how many pictures, or parts, are done.
Report = Callable[[float, str], None]


@runtime_checkable
class Inferring(Protocol):
    """A generator whose encoder gives a Gaussian posterior, not just a code."""

    def posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [B, latent], of pictures [B, C, H, W]."""
        ...


@dataclass(frozen=True)
class Embedded:
    """What is kept of n pictures of a set: the encoder's means [n, d], the divergence [n] of each
    posterior from N(0, I) in nats (None of an encoder without posteriors), and pixels [n, p]."""

    name: str
    means: Tensor
    divergence: Tensor | None
    pixels: Tensor

    @property
    def kl(self) -> float | None:
        """The mean divergence in nats a picture; None where posteriors are points, too."""
        if self.divergence is None or not self.divergence.isfinite().all():
            return None
        return float(self.divergence.mean())


def require_encoder(generator: Generator) -> None:
    """InputError for a generator that has none."""
    if not generator.has_encoder:
        raise InputError(f"expected a generator with an encoder, {generator.name} has none.")


def embed(
    generator: Generator,
    pictures: Pictures,
    n: int = 500,
    seed: int = 0,
    batch: int = 64,
    report: Report = lambda done, said: None,
) -> Embedded:
    """Encodes `n` pictures drawn at random from a set, or all where it has fewer, each fitted to
    the generator's shape; those that cannot be read are named in `pictures.failed`.

    The divergence is from the prior N(0, I) that the generator samples from, in the codes of the
    generator as it is: of a VAE of `steer train-vae`, after its codes were standardised. Pixels are
    those of the fitted pictures, at 64x64 where they are larger.

    Raises InputError where there is no encoder, it gives numbers that are not finite, or fewer than
    `LEAST` pictures can be read.

    >>> from steer.generators import load
    >>> from steer.picture_sets import pictures_at
    >>> found = embed(load(device="cpu"), pictures_at(["sprites"], 10))
    >>> found.means.shape, found.pixels.shape
    (torch.Size([10, 10]), torch.Size([10, 12288]))
    """
    require_encoder(generator)
    order = torch.randperm(pictures.n, generator=torch.Generator().manual_seed(seed))
    chosen = order[:n].sort().values.tolist()

    def work(items: range) -> list[Embedded]:
        some = chosen[items.start : items.stop]
        read = [fit(p, *generator.picture) for i in some for p in pictures.read(range(i, i + 1))]
        return [_seen(generator, torch.stack(read))] if read else []

    parts: list[Embedded] = []
    for done in in_batches(work, len(chosen), affordable(generator, batch)):
        parts += done
        report(sum(len(part.means) for part in parts) + len(pictures.failed), pictures.name)
    count = sum(len(part.means) for part in parts)
    if count < LEAST:
        why = next((f": {reason}" for reason in pictures.failed.values()), ".")
        raise InputError(f"expected {LEAST} or more pictures in {pictures.name}, got {count}{why}")
    return _joined(parts, pictures.name, generator)


@torch.no_grad()
def _seen(generator: Generator, pictures: Tensor) -> Embedded:
    """What the encoder makes of pictures [b, C, H, W]."""
    placed = pictures.to(generator.device)
    pixels = shrunk(pictures).flatten(1)
    if not isinstance(generator, Inferring):
        codes = generator.encode(placed)
        assert codes is not None
        return Embedded("", codes.float().cpu(), None, pixels)
    mean, log_variance = (part.float().cpu() for part in generator.posterior(placed))
    divergence = (log_variance.exp() + mean**2 - log_variance - 1).sum(1) / 2
    return Embedded("", mean, divergence, pixels)


def _joined(parts: list[Embedded], name: str, generator: Generator) -> Embedded:
    """Batches after one another; InputError where a mean is no number."""
    means, pixels = (torch.cat([getattr(p, of) for p in parts]) for of in ("means", "pixels"))
    if not means.isfinite().all():
        raise InputError(
            f"expected finite codes of {name}, {generator.name} encodes some pictures as none."
        )
    divergences = [part.divergence for part in parts if part.divergence is not None]
    return Embedded(name, means, torch.cat(divergences) if divergences else None, pixels)


@dataclass(frozen=True)
class Accuracy:
    """The share of a set's pictures that a linear classifier finds to be of this set: of those that
    it was fitted to, and of those held out."""

    train: float
    held_out: float


def separability(
    sets: Sequence[Tensor], seed: int = 0, report: Report = lambda done, said: None
) -> list[Accuracy]:
    """How well each of k sets of features [n_i, d] is told from the others linearly (table 4.1 of
    Zeng 2022).

    Multinomial logistic regression with scikit-learn's penalty (C = 1), in which sets weigh alike
    whatever their n, so that guessing is right 1 / k of the time. Features are standardised over
    all pictures. Each picture is held out once, in one of `FOLDS` stratified parts, at random;
    `report` is told how many are done.

    >>> far = separability([torch.randn(20, 3), torch.randn(20, 3) + 9])
    >>> [each.held_out for each in far]
    [1.0, 1.0]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    features = _rotated(torch.cat(list(sets)))
    label = np.repeat(np.arange(len(sets)), [len(each) for each in sets])
    train, held_out = np.zeros(len(label)), np.zeros(len(label))
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for done, (fitted, rest) in enumerate(parts.split(features, label), start=1):
        classifier = LogisticRegression(class_weight="balanced", max_iter=10_000)
        right = classifier.fit(features[fitted], label[fitted]).predict(features) == label
        train[fitted] += right[fitted] / (FOLDS - 1)
        held_out[rest] = right[rest]
        report(done, "")
    return [
        Accuracy(float(train[label == k].mean()), float(held_out[label == k].mean()))
        for k in range(len(sets))
    ]


def _rotated(features: Tensor) -> NDArray[np.float32]:
    """Features [n, d] standardised, then turned into [n, min(n, d)]: all distances stay, and so do
    the answers of a classifier with a quadratic penalty, found five times sooner for d = 12288."""
    centred = features - features.mean(0)
    scaled = centred / centred.std(0).clamp_min(torch.finfo(torch.float32).eps)
    return torch.linalg.qr(scaled.T, mode="r")[1].T.contiguous().numpy()


def tsne(means: Tensor, seed: int = 0) -> NDArray[np.float64]:
    """Places [n, 2] of codes [n, d] on a map that keeps neighbours (van der Maaten and Hinton 2008,
    by scikit-learn), with the paper's perplexity of 30, or less for fewer than 91 codes.

    Raises InputError where all codes are one.

    >>> tsne(torch.randn(20, 4)).shape
    (20, 2)
    """
    from sklearn.manifold import TSNE

    if bool((means == means[0]).all()):
        raise InputError("expected codes that differ for a map, the encoder gives all the same.")
    perplexity = min(PERPLEXITY, (len(means) - 1) / 3)
    start = "pca" if means.shape[1] > 1 else "random"
    search = TSNE(perplexity=perplexity, init=start, random_state=seed)
    return search.fit_transform(means.double().numpy()).astype(np.float64)


def short_names(texts: Sequence[str]) -> list[str]:
    """The last parts of places, where those tell them apart.

    >>> short_names(["photos/cats", "dogs.zip"]), short_names(["a/cats", "b/cats"])
    (['cats', 'dogs.zip'], ['a/cats', 'b/cats'])
    """
    names = [Path(text).name or text for text in texts]
    return names if len(set(names)) == len(names) else list(texts)
