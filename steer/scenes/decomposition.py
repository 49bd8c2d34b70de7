"""Pictures on disk to scenes: bad ones left out by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from steer.batches import in_batches
from steer.disk import read_stdin, read_whole
from steer.errors import InputError
from steer.files import how_made
from steer.images import FITS, fit, read_image
from steer.registry import unknown
from steer.scenes.boxes import corners
from steer.scenes.scene import Scene
from steer.scenes.stored import Finder
from steer.sheets import coloured, grid, outlined


@dataclass(frozen=True)
class Decomposed:
    """A picture and the scene that it was taken for.

    `picture` [3, H, W] is what the model saw, `drawn` its reconstruction, `labels` [H, W] the
    object that most of each pixel is of, counted from 1, or 0; `error` is the mean square of the
    difference.
    """

    path: str
    scene: Scene
    picture: Tensor
    drawn: Tensor
    labels: Tensor
    error: float

    def sheet(self) -> Tensor:
        """The picture with its boxes, the reconstruction, and whose each pixel is, as one."""
        cells = {
            "boxes": outlined(self.picture, corners(self.scene.boxes)),
            "reconstruction": outlined(self.drawn, []),
            "objects": outlined(coloured(self.labels), []),
        }
        return grid([list(cells.values())], column_labels=list(cells))


def decompose(
    model: Finder,
    paths: list[Path],
    *,
    align: str = "crop",
    batch: int = 32,
    left_out: Callable[[str, str], None] = lambda path, reason: None,
) -> Iterator[Decomposed]:
    """The scenes of pictures on disk, `-` for standard input, in their order; `left_out` is told of
    those that cannot be read.

    Raises InputError for an unknown `align`.
    """
    for first in range(0, len(paths), batch):
        part = paths[first : first + batch]
        yield from _scenes(model, pictures_of(part, model.side, align, left_out), align)


def pictures_of(
    paths: list[Path], side: int, align: str, left_out: Callable[[str, str], None]
) -> list[tuple[str, str, Tensor]]:
    """Names, checksums and pictures [3, side, side] of those on disk that can be read; `left_out`
    is told of the others. InputError for an unknown `align`."""
    if align not in FITS:
        raise unknown("fit", align, FITS)
    photos: list[tuple[str, str, Tensor]] = []
    for path in paths:
        try:
            data = read_stdin() if str(path) == "-" else read_whole(path)
            picture = fit(read_image(data, str(path)), 3, side, side, align)
        except InputError as error:
            left_out(str(path), str(error))
        else:
            photos.append((str(path), hashlib.sha256(data).hexdigest(), picture))
    return photos


def _scenes(
    model: Finder, photos: list[tuple[str, str, Tensor]], align: str
) -> Iterator[Decomposed]:
    def work(items: range) -> list[Decomposed]:
        part = photos[items.start : items.stop]
        pictures = torch.stack([picture for _, _, picture in part])
        found, done = model.find(pictures.to(next(model.parameters()).device)).cpu(), []
        for i, (path, checksum, picture) in enumerate(part):
            drawn = found.pictures[i]
            error = (drawn - picture).square().mean().item()
            made = how_made("decompose", align=align, picture=Path(path).name, sha256=checksum,
                            error=error)  # fmt: skip
            scene = Scene.of(found, i, model.identity, made)
            done.append(Decomposed(path, scene, picture, drawn, found.labels[i], error))
        return done

    for done in in_batches(work, len(photos), len(photos) or 1):
        yield from done
