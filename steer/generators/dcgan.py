"""Deep convolutional GANs in the layout of the PyTorch tutorial."""

from __future__ import annotations

import re

from torch import Tensor, nn

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.folded import Foldable
from steer.generators.planned import fill, planned


class DCGAN(Generator):
    """Transposed 4x4 convolutions with batch norm and ReLU between them, tanh at the end.

    `widths` are the channels from the code to the picture: `(100, 512, 256, 128, 64, 3)` makes
    64x64 pictures.

    >>> import torch
    >>> DCGAN((100, 64, 32, 16, 8, 3)).eval()(torch.zeros(2, 100)).shape
    torch.Size([2, 3, 64, 64])
    """

    family = "dcgan"

    def __init__(self, widths: tuple[int, ...]):
        size = 4 * 2 ** (len(widths) - 2)
        super().__init__(LatentSpace(widths[0]), PictureShape(widths[-1], size, size))
        layers: list[nn.Module] = []
        for index in range(len(widths) - 1):
            stride, padding = (1, 0) if index == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(
                    widths[index], widths[index + 1], 4, stride, padding, bias=False
                ),
                nn.BatchNorm2d(widths[index + 1]),
                nn.ReLU(),
            ]
        self.main = Foldable(*layers[:-2], nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of codes [B, latent]."""
        return (self.main(z[:, :, None, None]) + 1) / 2

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the tensors are a chain of `main.N.weight` transposed convolutions."""
        weights = _convolution_weights(checkpoint.state)
        return len(weights) > 1 and all(w.shape[2:] == (4, 4) for w in weights)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> DCGAN:
        """The network with the sizes of the checkpoint's tensors."""
        weights = _convolution_weights(checkpoint.state)
        widths = (weights[0].shape[0], *(w.shape[1] for w in weights))
        if widths[-1] not in (1, 3):
            raise InputError(
                f"{checkpoint.origin}: expected a generator whose last layer has 1 or 3 channels, "
                f"got {widths[-1]}."
            )
        with planned():
            dcgan = cls(widths)
        fill(dcgan, checkpoint.state, checkpoint.origin)
        return dcgan


def _convolution_weights(state: dict[str, Tensor]) -> list[Tensor]:
    numbered = [
        (int(found[1]), value)
        for name, value in state.items()
        if (found := re.fullmatch(r"main\.(\d+)\.weight", name)) and value.dim() == 4
    ]
    return [value for _, value in sorted(numbered, key=lambda pair: pair[0])]
