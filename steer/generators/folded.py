"""Layers as they are quickest to run while nothing is trained."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Foldable(nn.Sequential):
    """Layers whose batch norms are folded into the convolutions before them, and whose weights lie
    channels last, as long as the layers are in evaluation mode and none is trained.

    The folded weights are kept until one of the layers' own changes; `state_dict` has these alone.

    >>> layers = Foldable(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.allclose(layers(x), nn.Sequential(*layers)(x), atol=1e-6), len(layers.state_dict())
    (True, 7)
    """

    def forward(self, x: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and any(w.requires_grad for w in self.parameters())
        if self.training or trained:
            return super().forward(x)
        # a tensor that is replaced lies elsewhere, one that is changed counts it
        own = tuple((t.data_ptr(), t._version) for t in chain(self.parameters(), self.buffers()))
        kept: tuple[object, nn.Sequential] | None = self.__dict__.get("_folded")
        if kept is None or kept[0] != own:
            kept = (own, folded(self))
            self.__dict__["_folded"] = kept
        return kept[1](x)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_folded"}


def folded(layers: nn.Sequential) -> nn.Sequential:
    """The same function of what goes in, without the batch norms that follow convolutions."""
    done: list[nn.Module] = []
    for layer in layers:
        before = done[-1] if done else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, CONVOLUTIONS):
            transposed = isinstance(before, nn.ConvTranspose2d)
            done[-1] = fuse_conv_bn_eval(before, layer, transposed)
        else:
            done.append(deepcopy(layer))
    return nn.Sequential(*done).requires_grad_(False).to(memory_format=torch.channels_last)
