"""Work over many items in pieces that fit the machine's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from steer.errors import MachineError, out_of_memory

R = TypeVar("R")


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


def _halved(size: int, error: BaseException) -> int:
    if size == 1:
        raise MachineError("out of memory with a batch of a single item.") from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"steer: out of memory; going on with batches of {size // 2}.", file=sys.stderr)
    return size // 2
