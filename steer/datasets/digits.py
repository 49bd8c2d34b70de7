"""Pictures of several handwritten digits, with their ground truth."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer.datasets.scenes import Truth, truth
from steer.disk import read_whole
from steer.errors import InputError
from steer.images import find_images, read_image

#: Side of a digit, and luminance above which a pixel is ink.
DIGIT, INK = 20, 0.05
#: First bytes of a gzip file, and of an idx file of bytes with three dimensions.
GZIP, IDX = b"\x1f\x8b", b"\x00\x00\x08\x03"


class MultiMNIST:
    """One to five white digits of 20x20 on black, 84x84, well apart.

    `digits` [N, 20, 20] are in [0, 1]; see `read_digits`. Each is put where it overlaps what is
    there by a tenth of a digit at most, or left out where no such place is found.

    >>> digits = torch.zeros(3, 20, 20)
    >>> digits[:, 4:16, 8:12] = 1
    >>> sums = MultiMNIST(digits)
    >>> sums.pictures(torch.arange(2)).shape, sums.truth(torch.arange(2)).present.shape
    (torch.Size([2, 1, 84, 84]), torch.Size([2, 5]))
    """

    size: int | None = None
    shape = (1, 84, 84)
    most = 5
    #: Places that are tried for a digit, and how much of it may lie over others.
    tries, overlap = 50, 0.1

    def __init__(self, digits: Tensor):
        self.digits = digits
        digest = hashlib.sha256(np.ascontiguousarray(digits.numpy()).tobytes()).hexdigest()
        self.name = f"multi-mnist of {len(digits)} digits ({digest[:12]})"

    def pictures(self, indices: Tensor) -> Tensor:
        """Pictures [B, 1, 84, 84] of integer indices [B]."""
        return self.alphas(indices).amax(1, keepdim=True)

    def truth(self, indices: Tensor) -> Truth:
        """Ground truth of the pictures of integer indices [B]; boxes are those of the ink."""
        alphas = self.alphas(indices)
        return truth(alphas, alphas.flatten(2).amax(2) > 0)

    def chosen(self, indices: Tensor) -> Tensor:
        """Which digit [B, 5] each is, -1 where there is none: what labels are looked up by."""
        drawn = [self._placed(int(index)) for index in indices]
        found = torch.full((len(drawn), self.most), -1)
        for row, places in zip(found, drawn, strict=True):
            row[: len(places)] = torch.tensor([which for which, _, _ in places], dtype=torch.long)
        return found

    def alphas(self, indices: Tensor) -> Tensor:
        """Ink [B, 5, 84, 84] of each digit alone."""
        alphas = torch.zeros(len(indices), self.most, *self.shape[1:])
        for scene, index in zip(alphas, indices.tolist(), strict=True):
            for alpha, (which, top, left) in zip(scene, self._placed(index), strict=False):
                alpha[top : top + DIGIT, left : left + DIGIT] = self.digits[which]
        return alphas

    def _placed(self, index: int) -> list[tuple[int, int, int]]:
        """Digits of a scene: which, top and left."""
        drawn = np.random.default_rng([3, index])
        room = self.shape[1] - DIGIT + 1
        placed: list[tuple[int, int, int]] = []
        for _ in range(drawn.integers(1, self.most + 1)):
            which = int(drawn.integers(len(self.digits)))
            for top, left in drawn.integers(0, room, (self.tries, 2)).tolist():
                shared = [max(0, DIGIT - abs(top - y)) * max(0, DIGIT - abs(left - x))
                          for _, y, x in placed]  # fmt: skip
                if max(shared, default=0) <= self.overlap * DIGIT**2:
                    placed.append((which, top, left))
                    break
        return placed


def read_digits(source: str) -> Tensor:
    """Digits [N, 20, 20] in a folder of pictures, white on black, or an idx file as MNIST's, packed
    by gzip or not: each is cut out by its ink, and centred.

    Raises InputError where there is none, one is empty or larger, or the file is damaged.
    """
    if not source:
        raise InputError("expected multi-mnist:FILE, got no file.")
    path = Path(source)
    if path.is_dir():
        pictures = {str(file): read_image(file).mean(0).numpy() for file in find_images([path])}
    else:
        pictures = {f"{path}, digit {i}": d for i, d in enumerate(_idx(path))}
    return torch.stack([_centred(picture, name) for name, picture in pictures.items()])


def _idx(path: Path) -> NDArray[np.float32]:
    """Pictures [N, h, w] of an idx file."""
    data = read_whole(path)
    try:
        data = gzip.decompress(data) if data[:2] == GZIP else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: expected a gzip file of digits, got a damaged one.") from error
    if data[:4] != IDX or len(data) < 16:
        raise InputError(f"{path}: expected a folder of digits or an idx file of pictures.")
    n, height, width = struct.unpack(">3I", data[4:16])
    if len(data) != 16 + n * height * width or not n:
        raise InputError(
            f"{path}: expected {n} pictures of {height}x{width}, got {len(data) - 16} bytes."
        )
    return np.frombuffer(data, np.uint8, offset=16).reshape(n, height, width) / np.float32(255)


def _centred(picture: NDArray[np.float32], name: str) -> Tensor:
    """The ink [20, 20] of a picture [h, w]."""
    rows, columns = (np.flatnonzero((picture > INK).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise InputError(f"{name}: expected a digit, white on black, got an empty picture.")
    ink = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if max(ink.shape) > DIGIT:
        raise InputError(
            f"{name}: expected a digit of {DIGIT}x{DIGIT} pixels or less, white on black, got "
            f"{ink.shape[0]}x{ink.shape[1]}."
        )
    before = [(DIGIT - side) // 2 for side in ink.shape]
    padding = [(b, DIGIT - b - side) for b, side in zip(before, ink.shape, strict=True)]
    return torch.from_numpy(np.pad(ink, padding))
