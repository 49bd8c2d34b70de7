"""Fitting of an encoder to a generator, on pictures drawn as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2.functional import gaussian_blur

from steer.encoders import Encoder, keep
from steer.generators.base import Generator
from steer.inversion import Search, invert
from steer.sheets import side_by_side
from steer.training.team import Noise

#: Seed of the codes: another one than those that anybody samples by.
SEED = 2**31 - 1
#: Codes that mean and deviation are those of.
STANDARD = 1024
#: Share of the steps in which the learning rate grows.
WARM_UP = 0.03
#: Half of the pictures are spread as photos are: standard deviations of the shift, as a share of
#: the side, of each channel's log contrast and of its brightness, of the noise, and of the widest
#: blur in pixels at a height of 64.
SHARE, SHIFT, CONTRAST, BRIGHTNESS, GRAIN, BLUR = 0.5, 0.02, 0.1, 0.05, 0.02, 1.0


@dataclass(frozen=True)
class Gain:
    """What an encoder spares: evaluations a picture `without` one, and `with_it` to the same median
    error; `seconds` that one takes."""

    without: float
    with_it: float
    seconds: float

    def pays_from(self, spent: float) -> float:
        """How many pictures until seconds that were spent are won back; inf where never.

        >>> Gain(without=190, with_it=40, seconds=0.01).pays_from(300)
        200.0
        """
        spared = (self.without - self.with_it) * self.seconds
        return spent / spared if spared > 0 else math.inf


def gain(generator: Generator, pictures: int = 16) -> Gain:
    """Measured on pictures of the generator's own, that neither search has seen; with_it is inf
    where the search from the encoder ends before.

    Raises InputError where no encoder was fitted.
    """
    with torch.no_grad():
        shown = generator(generator.sample(pictures, SEED - 2).to(generator.device))
    search = Search(start="encoder", tolerance=0.0).settled(generator)
    start = time.perf_counter()
    plain = invert(generator, shown, Search(start="prior", tolerance=0.0))
    evaluations = plain.evaluations.float().mean().item()
    seconds = (time.perf_counter() - start) / (evaluations * pictures)
    medians: list[float] = []
    invert(generator, shown, search, report=lambda _, loss: medians.append(float(loss)))
    goal = plain.loss.median().item()
    reached = [at for at, median in enumerate(medians, start=1) if median <= goal]
    return Gain(evaluations, float(reached[0]) if reached else math.inf, seconds)


class Codes:
    """A data set whose items are codes of a generator, [B, width] instead of pictures."""

    name = "codes"
    size: int | None = None

    def __init__(self, generator: Generator):
        self.generator = generator
        self.shape: tuple[int, int, int] = generator.picture

    def pictures(self, indices: Tensor) -> Tensor:
        """Codes [B, width] of consecutive indices [B]."""
        first = int(indices[0])
        assert int(indices[-1]) - first == len(indices) - 1
        return self.generator.sample(len(indices), SEED, first)


class Encoding:
    """The mean square error of standardised codes, on pictures of the generator of which some are
    spread as photos are; the learning rate falls along a cosine."""

    def __init__(self, generator: Generator, encoder: Encoder, *, steps: int, rate: float = 5e-3):
        self.generator, self.encoder = generator, encoder.train()
        self.steps, self.rate = steps, rate
        codes = generator.sample(STANDARD, SEED - 1).to(generator.device)
        encoder.mean.copy_(codes.mean(0))
        encoder.deviation.copy_(codes.std(0).clamp_min(1e-6))
        adam = torch.optim.AdamW(encoder.parameters(), lr=rate, betas=(0.9, 0.98))
        self.optimisers: dict[str, torch.optim.Adam] = {"encoder": adam}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return self.encoder.parameters()

    def step(self, pictures: Tensor, step: int, noise: Noise) -> dict[str, float]:
        """One update on codes [B, width], which come in the place of pictures."""
        codes, optimiser = pictures, self.optimisers["encoder"]
        with torch.no_grad():
            shown = spread(self.generator(codes).float(), noise)
        wanted = (codes - self.encoder.mean) / self.encoder.deviation
        loss = (self.encoder.standardised(shown) - wanted).square().mean()
        grown = min(1.0, (step + 1) / (WARM_UP * self.steps))
        for group in optimiser.param_groups:
            group["lr"] = grown * self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"code error": loss.item()}

    @torch.no_grad()
    def preview(self, pictures: Tensor) -> Tensor:
        """Pictures of codes over those of the guesses."""
        shown = self.generator(pictures)
        self.encoder.eval()
        drawn = self.generator(self.generator.project(self.encoder(shown)))
        self.encoder.train()
        return side_by_side(shown, drawn)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state."""
        optimiser = self.optimisers["encoder"].state_dict()
        return {"encoder": self.encoder.state_dict(), "optimiser": optimiser}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.encoder.load_state_dict(state["encoder"])
        self.optimisers["encoder"].load_state_dict(state["optimiser"])

    def export(self, folder: Path, options: dict[str, Any], pictures: Callable[[], Tensor]) -> None:
        """Writes the encoder's folder."""
        keep(folder, self.encoder.eval(), options)


def spread(pictures: Tensor, noise: Noise) -> Tensor:
    """Pictures [B, C, H, W], most of them shifted, blurred, in other colours and noisy.

    >>> spread(torch.rand(4, 3, 16, 16), Noise(0)).shape
    torch.Size([4, 3, 16, 16])
    """
    b, c, height, _ = pictures.shape
    drawn = noise.normal(b, 4 + 2 * c)
    chosen, blur = torch.special.ndtr(drawn[:, :2]).unbind(1)
    moved = identity(b, pictures.device)
    moved[:, :, 2] = 2 * SHIFT * drawn[:, 2:4]
    grid = affine_grid(moved, list(pictures.shape), align_corners=False)
    seen = grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    soft = gaussian_blur(seen, [7, 7], [BLUR * height / 64] * 2).float()
    seen = torch.lerp(seen, soft, blur[:, None, None, None])
    contrast, brightness = drawn[:, 4:, None, None].split(c, dim=1)
    seen = 0.5 + (seen - 0.5) * (CONTRAST * contrast).exp() + BRIGHTNESS * brightness
    seen = seen + GRAIN * noise.normal(b, *pictures.shape[1:])
    return torch.where(chosen[:, None, None, None] < SHARE, seen.clamp(0, 1), pictures)


def identity(count: int, device: torch.device) -> Tensor:
    """Affine maps [B, 2, 3] that leave pictures as they are."""
    return torch.eye(2, 3, device=device).repeat(count, 1, 1)
