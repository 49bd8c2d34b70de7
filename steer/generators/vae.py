"""Variational auto-encoders: this project's own checkpoints and the `disvae` ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.planned import fill, planned

#: No size that a config.json claims is larger.
LARGEST = 1 << 16
#: 99 % of a standard normal variable lie within this of 0.
NORMAL_99 = 2.5758


class Sigmoid(nn.Sigmoid):
    """In float32 whatever comes in: in bfloat16 all above a logit of 6.5 would be 1, and stay."""

    def forward(self, input: Tensor) -> Tensor:
        """Numbers in (0, 1)."""
        return super().forward(input.float())


class VAE(Generator):
    """Convolutional VAE (table 4.2 of the thesis; the same shape as `disvae`'s).

    The encoder halves the picture once for each of `widths` (4x4 convolutions, stride 2, ReLU),
    then goes through the `dense` layers to the mean and log variance of the code. The decoder
    mirrors it and ends in a sigmoid; or, where `broadcast` is the side of a grid, it is a spatial
    broadcast decoder (Watters et al. 2019), whose codes learn positions far sooner.

    >>> vae = VAE(PictureShape(3, 64, 64), latent=10)
    >>> pictures = vae(torch.zeros(2, 10))
    >>> pictures.shape, vae.encode(pictures).shape
    (torch.Size([2, 3, 64, 64]), torch.Size([2, 10]))
    """

    family = "vae"

    def __init__(
        self,
        picture: PictureShape,
        latent: int = 10,
        widths: Sequence[int] = (32, 32, 32, 32),
        dense: Sequence[int] = (256, 256),
        broadcast: int = 0,
    ):
        picture = PictureShape(*picture)
        if picture.channels not in (1, 3):
            raise InputError(f"expected pictures of 1 or 3 channels, got {picture.channels}.")
        super().__init__(LatentSpace(latent), picture)
        factor = 2 ** len(widths)
        if picture.height % factor or picture.width % factor:
            raise InputError(
                f"expected pictures whose sides are multiples of {factor} for {len(widths)} "
                f"halvings, got {picture.height}x{picture.width}."
            )
        self.config: dict[str, Any] = {
            "family": self.family,
            "picture": list(picture),
            "latent": latent,
            "widths": list(widths),
            "dense": list(dense),
            "broadcast": broadcast,
        }
        core = (widths[-1], picture.height // factor, picture.width // factor)
        sizes = [core[0] * core[1] * core[2], *dense]
        self.encoder = nn.Sequential(
            *_convolutions([picture.channels, *widths]),
            nn.Flatten(),
            *_dense([*sizes]),
            nn.Linear(sizes[-1], 2 * latent),
        )
        self.decoder = (
            _broadcast_decoder(picture, latent, widths[-1], broadcast)
            if broadcast
            else nn.Sequential(
                *_dense([latent, *reversed(sizes)]),
                nn.Unflatten(1, core),
                *_transposed_convolutions([*reversed(widths), picture.channels]),
                Sigmoid(),
            )
        )
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of codes [B, latent]."""
        return self.decoder(z)

    def encode(self, pictures: Tensor) -> Tensor:
        """Means [B, latent] of the approximate posterior."""
        return self.posterior(pictures)[0]

    def posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [B, latent], of the approximate posterior."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=1)
        return mean, log_variance

    @torch.no_grad()
    def standardise(self, pictures: Tensor, batch: int = 256) -> None:
        """Folds the mean and range of each latent into the weights, so that codes of pictures
        [B, C, H, W] have the prior's mean and 99 % range: reconstructions stay, samples come from
        where codes are.

        A latent that training keeps far from N(0, 1) makes samples that show nothing (a third of
        them, seen with sprites), and a flat factor's latent, matched by its deviation, samples past
        its ends. The diagonal case of fitting the density of codes after training (Ghosh et al.
        2020).
        """
        halves = [torch.stack(self.posterior(part)) for part in pictures.split(batch)]
        means, log_variances = torch.cat(halves, dim=1)
        shift = means.mean(0)
        noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(0))
        codes = means + noise.to(means.device) * (log_variances / 2).exp()
        scale = (codes - shift).abs().quantile(0.99, dim=0) / NORMAL_99
        weight, bias = list(self.encoder.parameters())[-2:]
        weight[: len(shift)] /= scale[:, None]
        bias[: len(shift)] = (bias[: len(shift)] - shift) / scale
        bias[len(shift) :] -= 2 * scale.log()
        weight, bias = list(self.decoder.parameters())[:2]
        of_codes = weight[:, : len(shift)]
        bias.add_(of_codes.flatten(1) @ shift)
        of_codes *= scale.reshape(-1, *[1] * (of_codes.dim() - 2))

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint is one that `steer train-vae` wrote."""
        return checkpoint.config.get("family") == cls.family

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> VAE:
        """The VAE that the checkpoint describes."""
        options = _described(checkpoint)
        with planned():  # the sizes are a claim that takes no memory until it is checked
            vae = cls(**options)
        fill(vae, checkpoint.state, checkpoint.origin)
        return vae


class DisVAE(VAE):
    """Reader of YannDubs/disentangling-vae checkpoints (`model.pt`, with or without `specs.json`).

    There the last encoder layer interleaves mean and log variance latent by latent.
    """

    family = "disvae"

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether the tensors are named as in disentangling-vae."""
        return {"encoder.mu_logvar_gen.weight", "decoder.convT1.weight"} <= checkpoint.state.keys()

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> VAE:
        """The network with its tensors under this project's names."""
        state = dict(checkpoint.state)
        large = "encoder.conv_64.weight" in state
        convolutions = ["conv1", "conv2", "conv3", *["conv_64"] * large]
        transposed = [*["convT_64"] * large, "convT1", "convT2", "convT3"]
        names = {
            "encoder": [*convolutions, "lin1", "lin2", "mu_logvar_gen"],
            "decoder": ["lin1", "lin2", "lin3", *transposed],
        }
        for end in ("weight", "bias"):
            key = f"encoder.mu_logvar_gen.{end}"
            if key in state and state[key].dim():
                state[key] = torch.cat([state[key][0::2], state[key][1::2]])
        size = 64 if large else 32
        width, channels = checkpoint.shape_of("encoder.conv1.weight", 4)[:2]
        with planned():
            vae = cls(
                PictureShape(channels, size, size),
                latent=checkpoint.shape_of("decoder.lin1.weight", 2)[1],
                widths=[width] * (4 if large else 3),
                dense=[checkpoint.shape_of(f"encoder.lin{i}.weight", 2)[0] for i in (1, 2)],
            )
        renamed = {}
        for half, layers in names.items():
            places = [n for n, m in getattr(vae, half).named_children() if list(m.parameters())]
            for place, layer in zip(places, layers, strict=True):
                for end in ("weight", "bias"):
                    renamed[f"{half}.{layer}.{end}"] = f"{half}.{place}.{end}"
        state = {renamed.get(name, name): value for name, value in state.items()}
        fill(vae, state, checkpoint.origin)
        return vae


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options of a VAE that a config.json holds; InputError where they make none."""
    known = ("picture", "latent", "widths", "dense", "broadcast")
    config, where = checkpoint.config, checkpoint.origin
    if missing := [name for name in known[:-1] if name not in config]:
        raise InputError(f"{where}: config.json of a VAE lacks {', '.join(missing)}.")
    options = {name: config[name] for name in known if name in config}
    for name, value in options.items():
        sizes = value if isinstance(value, list) else [value]
        least = 0 if name == "broadcast" else 1
        if isinstance(value, list) != (name in ("picture", "widths", "dense")) or any(
            type(size) is not int or not least <= size <= LARGEST for size in sizes
        ):
            raise InputError(f"{where}: expected sizes for {name} in config.json, got {value!r}.")
    if len(options["picture"]) != 3 or not options["widths"]:
        raise InputError(
            f"{where}: expected picture [C, H, W] and widths in config.json, got "
            f"{options['picture']} and {options['widths']}."
        )
    return options


class Broadcast(nn.Module):
    """Codes [B, d] to maps [B, d + 2, grid, grid]: at every place the code and the place's x, y."""

    def __init__(self, grid: int):
        super().__init__()
        # real where the network is planned, too
        centres = (torch.arange(grid, device="cpu") + 0.5) / grid * 2 - 1
        place = torch.stack([centres.expand(grid, grid), centres[:, None].expand(grid, grid)])
        self.register_buffer("place", place, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """The maps of codes [B, d]."""
        place: Tensor = self.place  # type: ignore[assignment]
        codes = z[:, :, None, None].expand(-1, -1, *place.shape[1:])
        return torch.cat([codes, place.expand(len(z), -1, -1, -1)], dim=1)


def _broadcast_decoder(picture: PictureShape, latent: int, width: int, grid: int) -> nn.Sequential:
    doublings = (picture.height // grid).bit_length() - 1
    if picture.height != picture.width or picture.height != grid * 2**doublings or doublings < 1:
        raise InputError(
            f"expected a broadcast grid that doubles to {picture.height}x{picture.width}, "
            f"got {grid}."
        )
    narrowing = [max(width // 2**i, 1) for i in range(doublings)]
    return nn.Sequential(
        Broadcast(grid),
        *(nn.Conv2d(latent + 2, width, 1), nn.ReLU()),
        *(nn.Conv2d(width, width, 1), nn.ReLU()),
        *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        *_transposed_convolutions([*narrowing, picture.channels]),
        Sigmoid(),
    )


def _initialise(layer: nn.Module) -> None:
    """Variance-keeping weights (He et al. 2015): with torch's own, which shrink the signal at each
    layer, training stays for thousands of steps where it draws no object."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight)
    elif isinstance(layer, nn.ConvTranspose2d):
        # each output pixel sees a quarter of the 4x4 kernel
        nn.init.normal_(layer.weight, std=(2 / (4 * layer.in_channels)) ** 0.5)
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _dense(sizes: Sequence[int]) -> list[nn.Module]:
    return [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]


def _convolutions(widths: Sequence[int]) -> list[nn.Module]:
    return [
        layer
        for a, b in pairwise(widths)
        for layer in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU())
    ]


def _transposed_convolutions(widths: Sequence[int]) -> list[nn.Module]:
    """Mirror of `_convolutions`, without the ReLU after the last one."""
    layers: list[nn.Module] = [
        layer
        for a, b in pairwise(widths)
        for layer in (nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.ReLU())
    ]
    return layers[:-1]
