"""Networks whose sizes are known and whose weights are still to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steer.checkpoints import match_state

DRAWS = {Tensor.normal_, Tensor.uniform_}


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be drawn into them."""

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS or getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def planned() -> Iterator[None]:
    """What is made inside has shapes and no memory; what says `device="cpu"` is real.

    That is the meta device without drawing, which there loads torch's compiler: a second and
    140 MB, more than the weights of most networks.

    >>> with planned():
    ...     layer = nn.Linear(10**6, 10**6)
    >>> layer.weight.device, layer.weight.shape
    (device(type='meta'), torch.Size([1000000, 1000000]))
    """
    with torch.device("meta"), _Undrawn():
        yield


def fill(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Give a planned network the tensors of `state`, in float32; they are taken out of it, so that
    none is held twice.

    Raises InputError unless names and shapes are the network's and all values finite.

    >>> with planned():
    ...     layer = nn.Linear(2, 1)
    >>> state = {"weight": torch.ones(1, 2).half(), "bias": torch.zeros(1)}
    >>> fill(layer, state, "x.pt")
    >>> layer(torch.ones(1, 2)).tolist(), state
    ([[2.0]], {})
    """
    match_state(network.state_dict(), state, where)
    taken = {name: single(state.pop(name)) for name in list(state)}
    network.load_state_dict(taken, assign=True)


def single(tensor: Tensor) -> Tensor:
    """A tensor in float32; itself where it is, or holds whole numbers (counts of batches)."""
    return tensor.float() if tensor.is_floating_point() else tensor
