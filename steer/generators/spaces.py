"""StyleGAN's mapped spaces as generators of their own: codes of w, or of one w for each layer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from steer.disk import cache_folder
from steer.errors import InputError, SteerError
from steer.files import Artefact, load, save
from steer.generators.base import Generator, LatentSpace
from steer.generators.style import StyleGenerator, in_unit_range

SPACES = ("z", "w", "w+")
#: Codes of the prior that mean and covariance of w are estimated from.
SAMPLES = 10_000
#: No eigenvalue of the covariance counts as less than this share of the largest.
FLOOR = 1e-6


@dataclass(frozen=True)
class Typical:
    """The typical set of w: mean [d], the symmetric root of the covariance [d, d], its inverse."""

    mean: Tensor
    root: Tensor
    inverse: Tensor


@torch.no_grad()
def typical(generator: StyleGenerator, samples: int = SAMPLES) -> Typical:
    """Mean and covariance of w over codes of the prior and all classes, at truncation 1.

    Estimated once for each network: what was found is kept beside downloads (`cache_folder`) under
    the checksum of the weights and the options that go with them.
    """
    made_of = f"{generator.checksum} {sorted(generator.config.items())} {samples}"
    name = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    path = cache_folder() / f"w-{name}.safetensors"
    kept = _kept(path, generator.w_dim) if generator.checksum else None
    if kept:
        return kept
    z = generator.sample(samples)
    w = torch.cat([generator.mapping(some.to(generator.device)).cpu() for some in z.split(1000)])
    w = w.double()
    values, vectors = torch.linalg.eigh(torch.cov(w.T, correction=0))
    roots = values.clamp_min(float(values.max()) * FLOOR).sqrt().clamp_min(1e-12)
    root, inverse = ((vectors * r) @ vectors.T for r in (roots, 1 / roots))
    found = Typical(*(each.float() for each in (w.mean(0), root, inverse)))
    if generator.checksum:
        _keep(path, found)
    return found


def _kept(path: Path, width: int) -> Typical | None:
    try:
        kept = Typical(**load(path, "typical").tensors) if path.exists() else None
    except (SteerError, TypeError, OSError):  # something else's, or nobody's: estimated anew
        return None
    sizes = {"mean": (width,), "root": (width, width), "inverse": (width, width)}
    fits = kept and all(
        (each.dtype, tuple(each.shape)) == (torch.float32, sizes[name])
        for name, each in vars(kept).items()
    )
    return kept if fits else None


def _keep(path: Path, found: Typical) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(Artefact("typical", vars(found)), path)
    except (SteerError, OSError):  # a cache that cannot be written costs a second next time
        return


class LayerSpace(LatentSpace):
    """w+: a code of w for each layer, side by side. Under the prior all of them are the same.

    >>> space = LayerSpace(layers=3, width=2)
    >>> space.parts
    {'layer 0': 2, 'layer 1': 2, 'layer 2': 2}
    >>> space.sample(1).unflatten(1, (3, 2)).std(1).tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, layers: int, width: int):
        super().__init__(layers * width, {f"layer {i}": width for i in range(layers)})
        object.__setattr__(self, "single", LatentSpace(width))

    single: LatentSpace

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Codes [n, dim], normal in each layer: items `first` to `first + n - 1`."""
        return self.single.sample(n, seed, first).repeat(1, len(self.parts))

    def std_along(self, u: np.ndarray) -> float:
        """Standard deviation of <u, z> under the prior, at least 1: where layers cancel each other
        out, a coordinate of 1 still is a move of at most 1 in each."""
        return max(1.0, float(np.sqrt(self.covariance(u[None])[0, 0])))

    def covariance(self, vectors: np.ndarray) -> np.ndarray:
        """Covariances [k, k] of <v, z> under the prior, for rows v of vectors [k, dim]: one w
        stands in every layer, so that it meets the sum of what v has in each.

        >>> LayerSpace(layers=2, width=1).covariance(np.array([[1.0, 1.0], [1.0, -1.0]])).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
        """
        sums = vectors.reshape(len(vectors), len(self.parts), -1).sum(1)
        return sums @ sums.T

    def project(self, z: Tensor) -> Tensor:
        """The nearest codes [B, dim] with every layer's in the ball of w."""
        return self.single.project(z.reshape(-1, self.single.dim)).reshape(z.shape)


class Mapped(Generator):
    """A StyleGAN whose codes are standardised w: w = mean + root code, for one w or, in `w+`, for
    a w of each layer; its truncation pulls them to the network's own mean of w.

    >>> from steer.generators.style import Mapping
    >>> from steer.generators.stylegan2 import StyleGAN2
    >>> stylegan = StyleGAN2(Mapping((8, 16, 16)), channels=(16, 8)).eval().requires_grad_(False)
    >>> z = stylegan.sample(2, seed=1)
    >>> for space in ("w", "w+"):
    ...     mapped = Mapped(stylegan, space)
    ...     codes = mapped.sample(2, seed=1)
    ...     codes.shape, bool(torch.allclose(mapped(codes), stylegan(z), atol=1e-4))
    (torch.Size([2, 16]), True)
    (torch.Size([2, 64]), True)
    """

    def __init__(self, base: StyleGenerator, space: str):
        layers, width = base.num_ws, base.w_dim
        latent = LatentSpace(width) if space == "w" else LayerSpace(layers, width)
        super().__init__(latent, base.picture)
        self.base, self.space, self.family = base, space, base.family
        found = typical(base)
        for name in ("mean", "root", "inverse"):
            self.register_buffer(name, getattr(found, name).to(base.device), persistent=False)
        self.name, self.model = base.name, base.model
        self.checksum, self.verified = base.checksum, base.verified
        self.directions = base.directions

    @property
    def classes(self) -> tuple[int, ...] | None:
        """Classes that codes are drawn from."""
        return self.base.classes

    @classes.setter
    def classes(self, classes: tuple[int, ...] | None) -> None:
        self.base.classes = classes

    @property
    def truncation(self) -> float:
        """psi of the network."""
        return self.base.truncation

    @truncation.setter
    def truncation(self, psi: float) -> None:
        self.base.truncation = psi

    @property
    def noise(self) -> str | None:
        """Noise of the network."""
        return self.base.noise

    @noise.setter
    def noise(self, mode: str | None) -> None:
        self.base.noise = mode

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Codes [n, dim] of the w of the same items of z, with their classes."""
        with torch.no_grad():
            w = self.base.mapping(self.base.sample(n, seed, first).to(self.device))
            codes = self.codes_of(w[:, None].expand(-1, self._layers, -1))
        return codes.cpu()

    @property
    def _layers(self) -> int:
        return self.base.num_ws if self.space == "w+" else 1

    def codes_of(self, ws: Tensor) -> Tensor:
        """Codes [B, dim] of ws [B, layers, w_dim] (one layer in the space w) before truncation."""
        return ((ws - self.get_buffer("mean")) @ self.get_buffer("inverse")).flatten(1)

    def ws(self, codes: Tensor) -> Tensor:
        """ws [B, num_ws, w_dim], truncated, of codes [B, dim]; InputError for another shape."""
        if codes.dim() != 2 or codes.shape[1] != self.latent.dim:
            raise InputError(f"expected codes [B, {self.latent.dim}], got {list(codes.shape)}.")
        each = codes.unflatten(1, (self._layers, self.base.w_dim))
        ws = self.get_buffer("mean") + each @ self.get_buffer("root")
        ws = torch.lerp(self.base.mapping.w_avg, ws, self.truncation)
        return ws.expand(-1, self.base.num_ws, -1)

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [0, 1] of codes [B, dim]."""
        # random noise is drawn by the codes: ws are rounded otherwise in another batch
        return in_unit_range(self.base.raw(self.ws(codes), codes))


def in_space(generator: Generator, space: str) -> Generator:
    """The generator with codes of a space; InputError where it has no such space."""
    if space not in SPACES:
        raise InputError(f"expected a space {', '.join(SPACES)}, got {space!r}.")
    if space == "z":
        return generator
    if not isinstance(generator, StyleGenerator):
        raise InputError(f"expected a StyleGAN for the space {space}, {generator.name} has only z.")
    return Mapped(generator, space)
