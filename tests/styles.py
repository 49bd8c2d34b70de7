"""Small StyleGANs whose weights follow a formula, and ways to damage their checkpoints."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from steer.checkpoints import Checkpoint
from steer.generators.style import Mapping, StyleGenerator
from steer.generators.stylegan2 import StyleGAN2
from steer.generators.stylegan3 import Design, StyleGAN3

KINDS = ("stylegan2", "stylegan2-classes", "stylegan3-t", "stylegan3-r-classes")


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose tensors are standard normal numbers seeded by the CRC-32 of their names,
    scaled by kind; filters stay."""
    made = {}
    for name, old in state.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(old.shape))
        new = torch.from_numpy(np.asarray(drawn)).to(old)
        layer, _, part = name.rpartition(".")
        if part.endswith("filter") or part == "transform":
            new = old
        elif part in ("noise_strength", "magnitude_ema"):
            new = 0.2 + 0.1 * new.abs()
        elif layer.startswith("mapping.fc") and part == "weight":
            new = 100 * new
        elif part in ("bias", "w_avg", "phases"):
            new = 0.2 * new + (layer.endswith(("affine", "input.affine")) * 1.0)
        made[name] = new
    return made


def tiny(kind: str) -> StyleGenerator:
    """A small network of each kind, with the weights of the formula."""
    network: StyleGenerator
    if kind == "stylegan2":
        network = StyleGAN2(Mapping((8, 12, 12)), (12, 10, 8))
    elif kind == "stylegan2-classes":
        network = StyleGAN2(Mapping((8, 12, 12), classes=3), (12, 8), colours=1, clamp=1.5)
    elif kind == "stylegan3-t":
        network = StyleGAN3(Mapping((8, 12)), 16, (8, 8, 6, 6, 6, 3))
    else:
        design = Design(margin_size=4, num_critical=1)
        network = StyleGAN3(
            *(Mapping((8, 12), classes=3), 16, (8, 8, 6, 6, 6, 3)),
            kernel=1,
            radial=True,
            design=design,
        )
    network.load_state_dict(weights(network.state_dict()))
    return network.eval().requires_grad_(False)


def codes_for(network: StyleGenerator, n: int = 3) -> Tensor:
    z = network.latent.sample(n, seed=1)
    if network.condition is None:
        return z
    classes = network.condition.codes[torch.arange(n) % len(network.condition.codes)]
    return torch.cat([z, classes], dim=1)


def as_checkpoint(network: StyleGenerator, **options) -> Checkpoint:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    return Checkpoint("net.pkl", {**network.config, **options}, state, "", False)


def drop(name):
    return lambda c: c.state.pop(name)


def put(name, *shape):
    return lambda c: c.state.update({name: torch.zeros(shape)})


def told_by(**options):
    return lambda c: c.config.update(options)


def told_within(**options):
    return lambda c: c.config["init_kwargs"].update(options)
