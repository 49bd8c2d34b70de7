"""Objectives by name, with the blocks of figure 3.5 of the thesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from steer.errors import InputError
from steer.generators import load
from steer.generators.avae import AVAE as Trained
from steer.generators.avae import SPREADS, Posterior, down, posterior, up
from steer.generators.base import PictureShape
from steer.registry import Registry
from steer.training.avae import AVAE, VAE
from steer.training.bigan import BiGAN, Pairs
from steer.training.gan import GAN
from steer.training.lsr_gan import LSRGAN
from steer.training.parts import Parts
from steer.training.vae_gan import VAEGAN

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Blocks:
    """Networks for pictures of one shape; each call draws another from torch's own stream.

    >>> blocks = Blocks(PictureShape(1, 16, 16), latent=2, xi=1, width=4)
    >>> blocks.generator()(torch.zeros(3, 3)).shape
    torch.Size([3, 1, 16, 16])
    """

    picture: PictureShape
    latent: int = 100
    xi: int = 0
    width: int = 128
    device: torch.device | str = "cpu"
    #: Whether several processes train: batch norms are then over the batch of all.
    shared: bool = False

    @property
    def dim(self) -> int:
        """Numbers in a code: z, then xi."""
        return self.latent + self.xi

    def generator(self) -> nn.Sequential:
        """Codes [B, latent + xi] to pictures."""
        return self._placed(up(self.picture, self.dim, self.width))

    def decoder(self) -> nn.Sequential:
        """Codes [B, latent] to pictures."""
        return self._placed(up(self.picture, self.latent, self.width))

    def critic(self) -> nn.Sequential:
        """Pictures to logits [B, 1]."""
        return self._placed(down(self.picture, 1, self.width))

    def posterior(self, sigma: str = "shared") -> Posterior:
        """Pictures to Gaussians of z."""
        return self._placed(posterior(self.picture, self.latent, self.width, sigma))

    def pairs(self) -> Pairs:
        """Pictures with codes to logits [B, 1]."""
        trunk = down(self.picture, 1, self.width)[:-1]
        features = trunk(torch.zeros(2, *self.picture)).shape[1]
        return self._placed(Pairs(trunk, features, self.dim))

    def trained(self, folder: str, *kinds: str) -> Trained:
        """A generator with an encoder that was trained before, by one of the objectives `kinds`, of
        this shape and as many latents.

        Raises InputError for another one.
        """
        found = load(folder, device=str(self.device))
        if not isinstance(found, Trained) or found.encoder is None:
            raise InputError(f"expected a folder of train-avae with an encoder, {folder} has none.")
        if found.objective not in kinds:
            raise InputError(
                f"expected a folder of train-avae --objective {' or '.join(kinds)}, {folder} is of "
                f"{found.objective or 'another command'}."
            )
        latent = found.config["latent"]
        if (tuple(found.picture), latent) != (tuple(self.picture), self.latent):
            raise InputError(
                f"expected an encoder of {self.latent} latents for pictures {list(self.picture)}, "
                f"{folder} has {latent} for {list(found.picture)}."
            )
        return self._placed(found)

    def _placed(self, network: Network) -> Network:
        if self.shared and any(weight.requires_grad for weight in network.parameters()):
            if torch.device(self.device).type != "cuda":
                raise InputError(
                    "expected GPUs for several processes: the batch norms of these networks go "
                    "over the batch of all, which torch does on GPUs alone."
                )
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return network.to(self.device).to(memory_format=torch.channels_last)


#: Name to a function of blocks and options, which are those that its signature names.
objectives: Registry[Callable[..., Parts]] = Registry("objective", "steer.objectives")


@objectives.register("vae")
def vae(
    blocks: Blocks,
    *,
    rate: float = 2e-4,
    beta: float = 1.0,
    sigma: str = "shared",
    start: str | None = None,
) -> VAE:
    """Encoder and decoder; `sigma` is "shared" by all pictures or of each "picture". Training
    starts from the networks in the folder `start`, where one is given."""
    _refuse_xi(blocks, "vae")
    if sigma not in SPREADS[:2]:
        raise InputError(f"expected standard deviations shared or picture, got {sigma!r}.")
    posterior, decoder = blocks.posterior(sigma), blocks.decoder()
    if start:
        before = blocks.trained(start, "vae")
        assert before.encoder is not None
        _require_alike(before, blocks.width, sigma, start)
        posterior.load_state_dict(before.encoder.state_dict())
        decoder.load_state_dict(before.decoder.state_dict())
    return VAE(posterior, decoder, beta=beta, rate=rate)


def _require_alike(before: Trained, width: int, sigma: str, folder: str) -> None:
    """InputError where weights of a folder do not fit networks of these options."""
    options = {"width": width, "sigma": sigma, "xi": 0}
    old = {**before.config, "sigma": before.config["encoder"]}
    if other := [f"--{k} {old[k]}, not {v}" for k, v in options.items() if old[k] != v]:
        raise InputError(f"expected the options of {folder} with --from: {', '.join(other)}.")


@objectives.register("gan")
def gan(blocks: Blocks, *, rate: float = 2e-4, average: float = 0.999) -> GAN:
    """Generator and critic."""
    return GAN(blocks.generator(), blocks.critic(), blocks.dim, rate=rate, average=average)


@objectives.register("avae")
def avae(
    blocks: Blocks,
    *,
    rate: float = 2e-4,
    average: float = 0.999,
    beta: float = 1.0,
    exact: bool = True,
    vae_from: str | None = None,
) -> AVAE:
    """All four; `vae_from` is a folder of `vae`, whose networks stay as they are."""
    if vae_from:
        before = blocks.trained(vae_from, "vae")
        assert before.encoder is not None
        if before.encoder.spread != "shared":
            raise InputError(
                f"expected a vae with --sigma shared for --vae, {vae_from} has one for each "
                f"{before.encoder.spread}."
            )
        pair = VAE(
            before.encoder.requires_grad_(False), before.decoder.requires_grad_(False), rate=rate
        )
    else:
        pair = VAE(blocks.posterior(), blocks.decoder(), beta=beta, rate=rate)
    return AVAE(
        pair, blocks.generator(), blocks.critic(), blocks.dim,
        rate=rate, average=average, exact=exact, frozen=vae_from is not None,
    )  # fmt: skip


@objectives.register("vae-gan")
def vae_gan(
    blocks: Blocks,
    *,
    rate: float = 2e-4,
    average: float = 0.999,
    beta: float = 1.0,
    gamma: float = 0.01,
) -> VAEGAN:
    """The generator decodes; errors are counted in the critic's features."""
    _refuse_xi(blocks, "vae-gan")
    parts = blocks.posterior(), blocks.generator(), blocks.critic()
    return VAEGAN(*parts, blocks.dim, rate=rate, average=average, beta=beta, gamma=gamma)


@objectives.register("bigan")
def bigan(blocks: Blocks, *, rate: float = 2e-4, average: float = 0.999) -> BiGAN:
    """The critic sees codes, too."""
    _refuse_xi(blocks, "bigan")
    parts = blocks.posterior("point"), blocks.generator(), blocks.pairs()
    return BiGAN(*parts, blocks.dim, rate=rate, average=average)


@objectives.register("lsr-gan")
def lsr_gan(
    blocks: Blocks,
    *,
    encoder: str | None = None,
    rate: float = 2e-4,
    average: float = 0.999,
    weight: float = 1.0,
) -> LSRGAN:
    """A GAN that the encoder of a folder, `encoder`, reads."""
    if encoder is None:
        raise InputError("expected --encoder FOLDER for lsr-gan: a VAE that was trained before.")
    frozen = blocks.trained(encoder, "vae", "avae").encoder
    assert frozen is not None
    parts = frozen, blocks.generator(), blocks.critic()
    return LSRGAN(*parts, blocks.dim, rate=rate, average=average, weight=weight)


def _refuse_xi(blocks: Blocks, name: str) -> None:
    if blocks.xi:
        raise InputError(f"expected no xi for {name}, whose code is all in z, got {blocks.xi}.")
