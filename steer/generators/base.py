"""What a generator is: latent codes in, pictures out, and the space that the codes live in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import chi
from torch import Tensor, nn

from steer.errors import InputError
from steer.registry import first_few, unknown

#: Classes that are named one by one in an error; of more, how many there are.
NAMED = 40


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

    def std_along(self, u: np.ndarray) -> float:
        """Standard deviation of <u, z> under the prior, for a unit vector u [dim]: what coordinates
        are counted in. A prior in which it depends on u has a `covariance` of its own too."""
        return 1.0

    def covariance(self, vectors: np.ndarray) -> np.ndarray:
        """Covariances [k, k] of <v, z> under the prior, for rows v of vectors [k, dim].

        >>> LatentSpace(2).covariance(np.array([[1.0, 0.0], [0.6, 0.8]])).tolist()
        [[1.0, 0.6], [0.6, 1.0]]
        """
        return self.std_along(np.eye(1, self.dim)[0]) ** 2 * (vectors @ vectors.T)

    def columns(self, parts: Sequence[str]) -> Tensor:
        """Which numbers [dim] of a code belong to parts, each named, or by its number from 0, or a
        range of numbers; InputError for those that are not there.

        >>> LatentSpace(4, {"coarse": 1, "middle": 1, "fine": 2}).columns(["coarse", "2"])
        tensor([ True, False,  True,  True])
        """
        names, lengths = list(self.parts), torch.tensor(list(self.parts.values()))
        chosen = torch.zeros(len(names), dtype=torch.bool)
        for part in parts:
            chosen[list(_numbers(part.strip(), names))] = True
        return chosen.repeat_interleave(lengths)

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


def _numbers(part: str, names: list[str]) -> Iterator[int]:
    """The numbers of a part, or of a range of parts."""
    ends = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
    if part in names:
        yield names.index(part)
    elif ends and int(ends[1]) <= int(ends[2] or ends[1]) < len(names):
        yield from range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    else:
        raise InputError(
            f"expected a part of the code ({first_few(names)}), its number from 0 to "
            f"{len(names) - 1} or a range such as 0-1, got {part!r}."
        )


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
        if text.isdecimal() and len(text) < 10 and int(text) < len(self.codes):
            return int(text)
        if text in self.names:
            return self.names.index(text)
        few = self.names if len(self.names) <= NAMED else ()
        known = few or (f"0 to {len(self.codes) - 1}",)
        raise unknown("class", text, known)

    def name(self, index: int) -> str:
        """What a class is called: its number, where names are not known."""
        return self.names[index] if self.names else str(index)

    def project(self, codes: Tensor) -> Tensor:
        """The nearest codes [B, width] no further from the classes' mean than the farthest class.

        >>> Condition(torch.tensor([[0.0], [2.0]])).project(torch.tensor([[5.0], [1.5]])).tolist()
        [[2.0], [1.5]]
        """
        mean, radius = (each.to(codes) for each in self._middle)
        away = codes - mean
        far = away.norm(dim=1, keepdim=True)
        return torch.where(far > radius, mean + away * (radius / far), codes)

    @cached_property
    def _middle(self) -> tuple[Tensor, Tensor]:
        """The classes' mean [width], and how far the farthest lies from it."""
        mean = self.codes.mean(0)
        return mean, (self.codes - mean).norm(dim=1).max()

    def nearest(self, codes: Tensor) -> Tensor:
        """The class [B] whose code lies nearest to each of codes [B, width]."""
        return torch.cdist(codes, self.codes.to(codes)).argmin(1)


class Generator(nn.Module):
    """Base of every generator, a plugin's included: set `latent` and `picture`, write `forward`.

    `forward` takes codes [B, width] and returns pictures [B, C, H, W] in [0, 1]. A generator that
    can guess the code of a picture overrides `encode`. A class-conditional one has a `condition`,
    whose numbers follow those of the latent space in every code.

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
    #: The space that codes live in: `z`, `w` or `w+`.
    space: str = "z"
    #: Classes that codes are drawn from, in turn; from all of them, at random, where it is None.
    classes: tuple[int, ...] | None = None

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

    @property
    def width(self) -> int:
        """Numbers in a code: those of the latent space, then those of the condition."""
        return self.latent.dim + (self.condition.width if self.condition else 0)

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Codes [n, width] of items `first` to `first + n - 1` of the seed's stream: z from the
        prior, then the code of the class.

        >>> class Told(Generator):
        ...     def __init__(self):
        ...         condition = Condition(torch.eye(3))
        ...         super().__init__(LatentSpace(2), PictureShape(1, 8, 8), condition)
        >>> told = Told()
        >>> told.classes = (2, 0)
        >>> told.sample(3)[:, 2:].tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
        """
        z = self.latent.sample(n, seed, first)
        if self.condition is None:
            return z
        return torch.cat([z, self.condition.codes.cpu()[self._labels(n, seed, first)]], dim=1)

    def _labels(self, n: int, seed: int, first: int) -> list[int]:
        """The class of each item."""
        assert self.condition is not None
        items = range(first, first + n)
        if self.classes:
            return [self.classes[item % len(self.classes)] for item in items]
        count = len(self.condition.codes)
        # a stream of its own: the same z comes with and without classes
        return [int(np.random.default_rng([seed, item, 1]).integers(count)) for item in items]

    def project(self, codes: Tensor) -> Tensor:
        """The nearest codes [B, width] that are typical: z in its ball, the condition among the
        classes."""
        z, condition = codes[:, : self.latent.dim], codes[:, self.latent.dim :]
        if self.condition is None:
            return self.latent.project(z)
        return torch.cat([self.latent.project(z), self.condition.project(condition)], dim=1)

    def free(self, parts: Sequence[str] | None = None, condition: bool = False) -> Tensor:
        """Which numbers [width] of a code a search may change: z or some of its parts, and the
        condition where asked. InputError for parts that are not there."""
        latent = self.latent
        if parts and not latent.parts:
            raise InputError(f"expected no parts for {self.name}, whose codes have none.")
        z = latent.columns(parts) if parts else torch.ones(latent.dim, dtype=torch.bool)
        rest = torch.full((self.width - latent.dim,), condition)
        return torch.cat([z, rest]).to(self.device)

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
        """What artefacts record: name, what `--model` was, family, checksum, verified, and the
        settings of `load` that are not the default."""
        settings = {
            "space": None if self.space == "z" else self.space,
            "truncation": self.truncation,
            "noise": self.noise,
            "classes": list(self.classes) if self.classes else None,
        }
        return {
            "name": self.name,
            "model": self.model,
            "family": self.family or self.name,
            "checksum": self.checksum,
            "verified": self.verified,
            **{name: value for name, value in settings.items() if value is not None},
        }
