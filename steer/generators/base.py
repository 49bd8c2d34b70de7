"""What a generator is: latent codes in, pictures out, and the space that the codes live in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import chi
from torch import Tensor, nn

from steer.registry import unknown


class PictureShape(NamedTuple):
    """Channels (1 or 3), height and width of the pictures a generator makes."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class LatentSpace:
    """Codes z of `dim` numbers with the prior N(0, I), and the ball that typical codes live in.

    `parts` names consecutive slices of a hierarchical code with their lengths.

    >>> space = LatentSpace(10)
    >>> space.sample(3, seed=1).shape
    torch.Size([3, 10])
    >>> bool(torch.equal(space.sample(3, seed=1)[2], space.sample(1, seed=1, first=2)[0]))
    True
    >>> round(space.radius, 2)
    4.82
    """

    dim: int
    parts: dict[str, int] = field(default_factory=dict)

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Codes [n, dim] from the prior: items `first` to `first + n - 1` of the seed's stream.

        Item i of a seed is the same however the stream is cut.
        """
        rows = [
            np.random.default_rng([seed, item]).standard_normal(self.dim)
            for item in range(first, first + n)
        ]
        return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(n, self.dim))

    @property
    def std(self) -> float:
        """Standard deviation of one number of the prior."""
        return 1.0

    @cached_property
    def radius(self) -> float:
        """Radius of the ball that inversion stays in.

        Equation 2 of Plumerault et al. 2020 has sqrt(d), the limit for large d; where d is small
        that would cut off half of the prior, so this is at least the 99 % quantile of the norm.
        """
        return max(math.sqrt(self.dim), float(chi.ppf(0.99, self.dim)))

    def project(self, z: Tensor) -> Tensor:
        """The nearest codes [B, dim] inside the ball of `radius`."""
        norms = z.norm(dim=1, keepdim=True)
        return z * (self.radius / norms.clamp_min(self.radius))


@dataclass(frozen=True)
class Condition:
    """What a class-conditional generator is told: a row of `codes` [classes, width] for each class
    (an embedding, or one-hot), and the classes' names where they are known.

    >>> Condition(torch.eye(3), ("cat", "dog", "fox")).index("dog")
    1
    """

    codes: Tensor
    names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that stand for a class."""
        return self.codes.shape[1]

    def index(self, text: str) -> int:
        """The class of a name or a number; InputError lists near matches."""
        if text.isdecimal() and int(text) < len(self.codes):
            return int(text)
        if text in self.names:
            return self.names.index(text)
        known = self.names or (f"0 to {len(self.codes) - 1}",)
        raise unknown("class", text, known)


class Generator(nn.Module):
    """Base of every generator, a plugin's included: set `latent` and `picture`, write `forward`.

    `forward` takes codes [B, latent.dim] and returns pictures [B, C, H, W] in [0, 1]. A generator
    that can guess the code of a picture overrides `encode`. A class-conditional one has a
    `condition`, whose numbers follow those of the latent space in every code:
    [B, latent.dim + condition.width].

    >>> class Ramp(Generator):
    ...     def __init__(self):
    ...         super().__init__(LatentSpace(2), PictureShape(1, 8, 8))
    ...     def forward(self, z):
    ...         ramp = torch.linspace(-1, 1, 8).expand(8, 8)
    ...         return torch.sigmoid(z[:, :1, None, None] * ramp + z[:, 1:, None, None] * ramp.T)
    >>> Ramp()(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 8, 8])
    """

    #: What checkpoints of this kind are called in `config.json`.
    family: str = ""
    #: How far samples keep to the middle of the prior, 0 to 1; None where there is no such thing.
    truncation: float | None = None
    #: How noise inputs are filled: `const`, `none` or `random`; None where there are none.
    noise: str | None = None

    def __init__(
        self, latent: LatentSpace, picture: PictureShape, condition: Condition | None = None
    ):
        super().__init__()
        self.latent = latent
        self.picture = picture
        self.condition = condition
        self.name = type(self).__name__.lower()
        self.model = self.name
        self.checksum: str | None = None
        self.verified = False
        #: Directions that come with the generator, by name.
        self.directions: dict[str, Path] = {}

    def encode(self, pictures: Tensor) -> Tensor | None:
        """Codes [B, dim] guessed for pictures [B, C, H, W]; None where there is no encoder."""
        return None

    @property
    def has_encoder(self) -> bool:
        """Whether `encode` gives codes."""
        return type(self).encode is not Generator.encode

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def identity(self) -> dict[str, Any]:
        """What artefacts record: name, what `--model` was, family, checksum, verified."""
        return {
            "name": self.name,
            "model": self.model,
            "family": self.family or self.name,
            "checksum": self.checksum,
            "verified": self.verified,
        }
