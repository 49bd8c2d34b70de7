"""Pictures to latent codes (equations 1 to 3 of Plumerault et al. 2020), a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from steer.batches import affordable, drawn, in_batches
from steer.encoders import fitted, guess
from steer.errors import InputError
from steer.generators.base import Generator
from steer.losses import Loss, parse_loss
from steer.optimise import Adam, Culling, Projection, Solver, minimise

#: Pictures of the pool are compared at this side or their own smaller one.
POOLED_SIDE = 64
#: Strength of the regression that starts come from, as a share of the mean eigenvalue.
RIDGE = 0.1
#: Pixels of a pool's pictures, and how many of them there are at least.
POOLED_PIXELS, LEAST_POOL = 512 * 128**2, 16
#: Steps and restarts where they are left open; searches for few numbers get stuck more often.
STEPS, RESTARTS, FEW_RESTARTS, FEW = 150, 4, 6, 16
#: Told how many items are done, and the error there or what is done at the moment.
Report = Callable[[float, float | str], None]
#: Errors that every inversion is reported under, beside the loss that was minimised.
REPORTED = "blurred-mse+mse+l1+dssim"


@dataclass(frozen=True)
class Search:
    """How codes are searched for.

    `steps` is the length of the surviving start's search. `restarts` starts are tried per picture
    and halved after a fortieth of the steps (4 at least), again after three times that, and so on,
    so that from 160 steps on a search costs at most `steps * (1 + restarts * 0.1)` evaluations a
    picture. Where they are None, `settled` chooses them.

    `start` is where from: `encoder` (fitted to the generator, or its own), `prior` (`pool` codes
    are drawn from the prior and their pictures made: a linear regression of codes on pictures gives
    one start, the codes with the nearest pictures the others), or `auto`: both, the encoder first;
    where one was fitted and `restarts` is None, it alone. The pool is made once for all pictures,
    and costs forward passes only; of pictures larger than 128 x 128 it holds fewer, down to 16, so
    that it takes no longer than the search.

    `sigma` and `backbone` are those of the losses that take them (`steer.losses.parse_loss`).

    `condition` says whether what stands for the class is searched for too (`free`) or stays that of
    the start (`fixed`); `auto` frees it unless the generator's classes were chosen.
    """

    loss: str = "blurred-mse"
    sigma: float | None = None
    backbone: str | None = None
    steps: int | None = None
    restarts: int | None = None
    start: str = "auto"
    pool: int = 512
    rate: float = 0.1
    final_rate: float = 0.02
    constraint: str = "ball"
    condition: str = "auto"
    tolerance: float = 1e-7
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "pool"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected {name} of 1 or more, got {value}.")
        if self.constraint not in ("ball", "none"):
            raise InputError(f"expected constraint ball or none, got {self.constraint!r}.")
        if self.start not in ("auto", "encoder", "prior"):
            raise InputError(f"expected start auto, encoder or prior, got {self.start!r}.")
        if self.condition not in ("auto", "fixed", "free"):
            raise InputError(f"expected condition auto, fixed or free, got {self.condition!r}.")
        for name in ("rate", "final_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"expected {name} above 0, got {getattr(self, name)}.")
        if not self.tolerance >= 0:
            raise InputError(f"expected tolerance of 0 or more, got {self.tolerance}.")

    def settled(self, generator: Generator) -> Search:
        """The same search with what it leaves open chosen for a generator: by whether an encoder
        was fitted to it, and by how many numbers its codes have (tests/benchmarks/test_search.py).

        >>> from steer.generators import load
        >>> Search(restarts=2).settled(load(device="cpu")).steps
        150
        """
        if self.start == "auto" and self.restarts is None and fitted(generator):
            return replace(self, start="encoder").settled(generator)
        alone = self.start == "encoder"
        few = generator.latent.dim <= FEW
        return replace(
            self,
            steps=self.steps or STEPS,
            restarts=1 if alone else self.restarts or (FEW_RESTARTS if few else RESTARTS),
        )

    @property
    def solver(self) -> Solver:
        """The rule of the steps."""
        return Adam(self.rate, self.final_rate)

    def projection(self, generator: Generator, free: Tensor | None = None) -> Projection:
        """Back into the ball (equation 2), or nowhere; what is not free stays as it is."""
        if self.constraint == "none":
            return lambda z: z
        if free is None or bool(free.all()):
            return generator.project
        return lambda z: torch.where(free, generator.project(z), z)

    def free(self, generator: Generator) -> Tensor:
        """The numbers [width] of a code that an inversion searches for."""
        chosen = self.condition == "auto" and not generator.classes
        return generator.free(condition=chosen or self.condition == "free")

    def loss_for(self, generator: Generator) -> Loss:
        """The loss for the generator's pictures."""
        height, device = generator.picture.height, generator.device
        return parse_loss(self.loss, height, self.sigma, device, self.backbone)


@dataclass
class Inversion:
    """Per picture: codes [n, width], loss [n], status [n], evaluations [n], pictures [n, C, H, W],
    and the error [n] under every reported loss by name."""

    z: Tensor
    loss: Tensor
    status: Tensor
    evaluations: Tensor
    pictures: Tensor
    errors: dict[str, Tensor]


def invert(
    generator: Generator,
    pictures: Tensor,
    search: Search | None = None,
    *,
    batch: int = 32,
    pool: Pool | None = None,
    report: Report = lambda done, said: None,
) -> Inversion:
    """Codes whose pictures come nearest to `pictures` [n, C, H, W] in [0, 1].

    Every picture is a problem of its own: its answer does not depend on the others, nor on `batch`.
    `pool` is one made before with the same generator and search, for several calls to share.
    `report` is told how many pictures are done, with the share of those at work, and their median
    loss; before that, what is done of the pool.

    Raises InputError where there are none, or they are not of the generator's shape.

    >>> from steer.generators import load
    >>> sprites = load(device="cpu")
    >>> z = sprites.latent.sample(2, seed=5)
    >>> found = invert(sprites, sprites(z), Search(steps=40))
    >>> bool((found.loss < 1e-3).all())
    True
    """
    search = (search or Search()).settled(generator)
    expected = tuple(generator.picture)
    if tuple(pictures.shape[1:]) != expected or not len(pictures):
        raise InputError(
            f"expected one or more pictures of shape {expected} for {generator.name}, "
            f"got {tuple(pictures.shape)}."
        )
    if pool is None and search.start != "encoder":
        pool = Pool(generator, search, lambda said: report(0, said))
    batch = affordable(generator, batch, search.restarts or 1)

    def work(items: range) -> Inversion:
        targets = pictures[items.start : items.stop].to(generator.device)

        def said(step: int, loss: float) -> None:
            report(items.start + len(items) * (step - 1) / (search.steps or 1), loss)

        return _invert_batch(generator, targets, search, pool, said)

    return _joined(list(in_batches(work, len(pictures), batch)))


class Pool:
    """Codes from the prior with their pictures, from which starts are taken."""

    def __init__(
        self,
        generator: Generator,
        search: Search,
        say: Callable[[str], None] = lambda said: None,
    ):
        self.project = search.projection(generator)
        self.free = search.free(generator)
        most = max(LEAST_POOL, POOLED_PIXELS // math.prod(generator.picture[1:]))
        codes = generator.sample(min(search.pool, most), search.seed)
        self.codes = self.project(codes.to(generator.device))
        pictures: list[Tensor] = []
        for some in drawn(generator, self.codes, shrunk):
            pictures.append(some)
            say(f"{sum(map(len, pictures))} of {len(self.codes)} starts drawn")
        self.pictures = torch.cat(pictures)
        # ridge regression of codes on pictures, in its dual form
        features = _features(self.pictures)
        self.mean = features.mean(0)
        self.features = features - self.mean
        gram = self.features @ self.features.T
        gram.diagonal().add_(RIDGE * gram.trace() / len(gram) + torch.finfo(gram.dtype).eps)
        self.mean_code = self.codes.mean(0)
        self.weights = torch.linalg.solve(gram, self.codes - self.mean_code)

    def regressed(self, targets: Tensor) -> Tensor:
        """Codes [b, width] that a linear model of the pool gives targets [b, C, H, W]; what is not
        searched for is that of the nearest picture."""
        features = _features(targets) - self.mean
        codes = self.project(self.mean_code + features @ self.features.T @ self.weights)
        nearest = self.codes[torch.cdist(features, self.features).argmin(1)]
        return torch.where(self.free, codes, nearest)

    def nearest(self, target: Tensor, loss: Loss, count: int) -> Tensor:
        """The `count` codes [count, width] whose pictures have the least loss to target
        [C, H, W]."""
        errors = loss(self.pictures, shrunk(target[None]).expand_as(self.pictures), None)
        return self.codes[errors.argsort(stable=True)[:count]]


def shrunk(pictures: Tensor) -> Tensor:
    """Pictures [b, C, H, W] of at most POOLED_SIDE a side."""
    height, width = (min(side, POOLED_SIDE) for side in pictures.shape[2:])
    return adaptive_avg_pool2d(pictures, (height, width))


def _features(pictures: Tensor) -> Tensor:
    """Pictures at 16x16 or their own smaller size, flattened [b, -1]."""
    height, width = (min(side, 16) for side in pictures.shape[2:])
    return adaptive_avg_pool2d(pictures, (height, width)).flatten(1)


@torch.no_grad()
def _starts(generator: Generator, targets: Tensor, search: Search, pool: Pool | None) -> Tensor:
    """Starts [b, restarts, d]: the encoder's, the regression's, then the nearest of the pool."""
    starts, count = [], search.restarts or 1
    encoded = guess(generator, targets) if search.start != "prior" else None
    if encoded is not None:
        starts.append(search.projection(generator)(encoded)[:, None])
    elif search.start == "encoder":
        raise InputError(
            f"expected a generator with an encoder, {generator.name} has none: steer fit-encoder "
            f"makes one."
        )
    if pool is not None:
        starts.append(pool.regressed(targets)[:, None])
        # a cheap loss, whatever is minimised: it is asked for every picture of the pool
        loss = parse_loss("blurred-mse", pool.pictures.shape[2], device=generator.device)
        rest = max(count - len(starts), 0)
        starts.append(torch.stack([pool.nearest(target, loss, rest) for target in targets]))
    return torch.cat(starts, dim=1)[:, :count]


def milestones(steps: int, restarts: int) -> dict[int, int]:
    """Successive halving: after how many steps how many starts go on.

    >>> milestones(200, 4)
    {5: 2, 15: 1}
    """
    plan, keep, at = {}, restarts, max(steps // 40, 4)
    while keep > 1:
        keep = (keep + 1) // 2
        plan[at] = keep
        at = 3 * at
    return plan


def _invert_batch(
    generator: Generator,
    targets: Tensor,
    search: Search,
    pool: Pool | None,
    report: Callable[[int, float], None],
) -> Inversion:
    loss, free = search.loss_for(generator), search.free(generator)
    starts = _starts(generator, targets, search, pool)
    (b, r, d), steps = starts.shape, search.steps or STEPS
    owner = torch.arange(b, device=starts.device).repeat_interleave(r)
    result = minimise(
        lambda z, items: loss(generator(only(z, free)), targets[owner[items]], None),
        starts.reshape(b * r, d),
        steps=steps,
        solver=search.solver,
        project=search.projection(generator, free),
        tolerance=search.tolerance,
        culling=Culling(owner, milestones(steps, r)),
        report=lambda step, losses: report(step, float(losses.reshape(b, r).amin(1).median())),
    )
    winner = result.loss.reshape(b, r).argmin(1) + torch.arange(b, device=starts.device) * r
    z = result.z[winner]
    with torch.no_grad():
        pictures = generator(z)
        reported = _reported(generator).each(pictures, targets, None)
    return Inversion(
        z=z,
        loss=result.loss[winner],
        status=result.status[winner],
        evaluations=result.evaluations.reshape(b, r).sum(1),
        pictures=pictures,
        errors={**reported, **loss.each(pictures, targets, None)},
    )


def only(codes: Tensor, free: Tensor) -> Tensor:
    """The same codes [b, width], with gradients through the free numbers alone: Adam leaves the
    others where they are."""
    return codes if bool(free.all()) else torch.where(free, codes, codes.detach())


def _reported(generator: Generator, smallest: int = 11) -> Loss:
    """The reported errors that pictures of the generator's size have: dssim needs 11 pixels."""
    height, width = generator.picture[1:]
    names = REPORTED if min(height, width) >= smallest else REPORTED.removesuffix("+dssim")
    return parse_loss(names, height, device=generator.device)


def _joined(parts: list[Inversion]) -> Inversion:
    """Batches after one another, on the CPU."""

    def join(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts]).cpu()

    columns = {f.name: join(f.name) for f in fields(Inversion) if f.name != "errors"}
    errors = {n: torch.cat([part.errors[n] for part in parts]).cpu() for n in parts[0].errors}
    return Inversion(**columns, errors=errors)
