"""Work over many items in pieces that fit the machine's memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from steer.errors import MachineError, out_of_memory
from steer.generators.base import Generator

R = TypeVar("R")
#: Pixels that a CPU holds at once with all that a search needs: 128 pictures of 64 x 64.
PIXELS = 2**19


def in_batches(work: Callable[[range], R], n: int, size: int) -> Iterator[R]:
    """Results of `work` on consecutive ranges of at most `size` of `n` items.

    When a piece runs out of memory the size is halved, once said on stderr, and the piece is tried
    again; MachineError when a single item does not fit.

    >>> [list(part) for part in in_batches(lambda items: items, 5, 2)]
    [[0, 1], [2, 3], [4]]
    """
    first = 0
    while first < n:
        items = range(first, min(first + size, n))
        try:
            result = work(items)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size = _halved(len(items), error)
            continue
        yield result
        first = items.stop


def affordable(generator: Generator, batch: int, copies: int = 1) -> int:
    """The batch, or on a CPU what large pictures, `copies` for each item, leave memory for.

    A GPU says when its memory is out, and `in_batches` halves the batch; a CPU ends the process.

    >>> from steer.generators.base import LatentSpace, PictureShape
    >>> affordable(Generator(LatentSpace(2), PictureShape(3, 256, 256)), 32)
    8
    """
    if generator.device.type != "cpu":
        return batch
    return min(batch, max(1, PIXELS // (math.prod(generator.picture[1:]) * copies)))


@torch.no_grad()
def draw(generator: Generator, z: Tensor, batch: int = 64) -> Tensor:
    """Pictures [n, C, H, W] in [0, 1], on the CPU, of codes [n, width].

    >>> from steer.generators import load
    >>> draw(load(device="cpu"), torch.zeros(2, 10)).shape
    torch.Size([2, 3, 64, 64])
    """
    return torch.cat(list(drawn(generator, z, lambda pictures: pictures.cpu(), batch)))


def drawn(
    generator: Generator, z: Tensor, use: Callable[[Tensor], R], batch: int = 64
) -> Iterator[R]:
    """What `use` makes of the pictures of codes [n, width], batch by batch."""

    @torch.no_grad()  # around the whole, it would end before the first batch
    def work(part: range) -> R:
        return use(generator(z[part.start : part.stop].to(generator.device)))

    return in_batches(work, len(z), affordable(generator, batch))


def _halved(size: int, error: BaseException) -> int:
    if size == 1:
        raise MachineError("out of memory with a batch of a single item.") from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"steer: out of memory; going on with batches of {size // 2}.", file=sys.stderr)
    return size // 2
