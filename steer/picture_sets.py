"""Sets of pictures, wherever they lie, and what networks see in them; none is in memory whole."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

import torch
from torch import Tensor

from steer.backbones import Extractor, Seen, joined
from steer.batches import PIXELS, affordable, in_batches
from steer.datasets import Dataset, is_procedural, open_dataset
from steer.disk import disk_error, read_whole
from steer.errors import InputError
from steer.generators.base import Generator
from steer.images import SUFFIXES, find_images, is_picture, quantise, read_image
from steer.scores import (
    Score,
    frechet_distance,
    inception_score,
    kernel_distance,
    mean_of,
    sharpness,
)

#: Side in pixels of the smallest picture that has a sharpness.
SMALLEST = 3
#: Told how many pictures are done.
Report = Callable[[float, str], None]


@dataclass
class Pictures:
    """A set of pictures that is never in memory whole: `read` makes those of a range of indices,
    each [C, H, W] as 8 bits show it; why others cannot be read goes into `failed`, by name."""

    name: str
    n: int
    read: Callable[[range], Iterator[Tensor]]
    failed: dict[str, str] = field(default_factory=dict)


def pictures_at(texts: Sequence[str], n: int) -> Pictures:
    """Pictures in files, folders, or a zip, or the first `n` of a procedural set by its name.

    Raises InputError where there is no such thing, or no picture in it.
    """
    if len(texts) == 1 and is_procedural(texts[0]):
        return procedural(open_dataset(texts[0]), n)
    if len(texts) == 1 and texts[0].lower().endswith(".zip"):
        return zipped(Path(texts[0]))
    paths = find_images(texts)
    return _stored(", ".join(texts), list(map(str, paths)), lambda name: read_whole(Path(name)))


def procedural(dataset: Dataset, n: int) -> Pictures:
    """The first `n` pictures of a data set, or all where it has fewer."""

    def read(items: range) -> Iterator[Tensor]:
        yield from quantise(dataset.pictures(torch.arange(items.start, items.stop)))

    return Pictures(dataset.name, n if dataset.size is None else min(n, dataset.size), read)


def zipped(path: Path) -> Pictures:
    """The pictures in a zip, hidden ones left out; InputError for a damaged one, or an empty."""
    with _zip_of_pictures(path):
        archive = zipfile.ZipFile(path)
        names = [n for n in sorted(archive.namelist()) if is_picture(n.rsplit("/", 1)[-1])]

    def member(name: str) -> bytes:
        with _zip_of_pictures(path):
            return archive.read(name)

    if not names:
        raise InputError(f"{path}: expected pictures ({', '.join(SUFFIXES)}) in it, found none.")
    return _stored(str(path), names, member)


@contextmanager
def _zip_of_pictures(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path}: expected a zip of pictures, got a damaged or locked one."
        ) from error
    except OSError as error:
        raise disk_error("read", path, error) from error


def _stored(place: str, names: list[str], load: Callable[[str], bytes]) -> Pictures:
    """Pictures whose bytes `load` fetches by name."""

    def read(items: range) -> Iterator[Tensor]:
        for name in names[items.start : items.stop]:
            try:
                picture = quantise(read_image(load(name), name=name))
                if min(picture.shape[1:]) < SMALLEST:
                    raise InputError(f"{name}: expected {SMALLEST}x{SMALLEST} pixels or more.")
                yield picture
            except InputError as error:
                failed[name] = str(error)

    failed: dict[str, str] = {}
    return Pictures(place, len(names), read, failed)


def generated(generator: Generator, codes: Callable[[range], Tensor], n: int) -> Pictures:
    """The pictures of `n` codes, of which `codes` gives those of a range of indices."""

    @torch.no_grad()
    def read(items: range) -> Iterator[Tensor]:
        for some in codes(items).split(affordable(generator, len(items))):
            yield from quantise(generator(some.to(generator.device))).cpu()

    return Pictures(generator.name, n, read)


@dataclass(frozen=True)
class Described:
    """What is kept of a set of pictures: what each extractor saw, sharpness [n], and the sizes
    (height, width) that there are."""

    name: str
    seen: list[Seen]
    sharpness: Tensor
    sizes: set[tuple[int, int]]

    @property
    def n(self) -> int:
        """Pictures that could be read."""
        return len(self.sharpness)


def describe(
    pictures: Pictures,
    extractors: Sequence[Extractor],
    batch: int = 64,
    report: Report = lambda done, said: None,
) -> Described:
    """Features, probabilities and sharpness of a set, `batch` pictures at a time: memory grows
    with their features alone.

    Raises InputError where no picture can be read.
    """

    def work(items: range) -> list[Described]:
        return [_described(some, extractors) for some in _groups(pictures.read(items))]

    parts: list[Described] = []
    for done in in_batches(work, pictures.n, batch):
        parts += done
        report(sum(part.n for part in parts) + len(pictures.failed), pictures.name)
    if not parts:
        raise InputError(
            f"expected a picture, none of {pictures.n} could be read: "
            f"{next(iter(pictures.failed.values()), 'none given')}"
        )
    return Described(
        pictures.name,
        [joined(seen) for seen in zip(*(part.seen for part in parts), strict=True)],
        torch.cat([part.sharpness for part in parts]),
        set().union(*(part.sizes for part in parts)),
    )


def _groups(pictures: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    """Few large pictures at once, many small ones."""
    held: list[Tensor] = []
    for picture in pictures:
        held.append(picture)
        if sum(each[0].numel() for each in held) >= PIXELS:
            yield held
            held = []
    if held:
        yield held


def _described(pictures: list[Tensor], extractors: Sequence[Extractor]) -> Described:
    return Described(
        "",
        [extractor(pictures) for extractor in extractors],
        torch.cat([sharpness(picture[None]) for picture in pictures]),
        {(picture.shape[1], picture.shape[2]) for picture in pictures},
    )


def compare_sets(
    a: Described, b: Described, extractors: Sequence[Extractor], seed: int = 0
) -> list[Score]:
    """FID and KID between two sets, and inception score and sharpness of each."""
    both = f"{a.name} against {b.name}"
    scores = []
    for by, of_a, of_b in zip(extractors, a.seen, b.seen, strict=True):
        distance = frechet_distance(of_a.features, of_b.features)
        kernel = kernel_distance(of_a.features, of_b.features, seed=seed)
        scores.append(Score("FID", distance, nan, by.name, both))
        scores.append(Score("KID", *kernel, by.name, both))
        for each, seen in ((a, of_a), (b, of_b)):
            if seen.probabilities is not None:
                found = inception_score(seen.probabilities, seed=seed)
                scores.append(Score("inception score", *found, by.name, each.name))
    return scores + [mean_of("sharpness", each.sharpness, "pixels", each.name) for each in (a, b)]
