"""Latent codes that follow a transform of the picture (Algorithm 1 of Plumerault et al. 2020)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steer.batches import affordable, in_batches
from steer.disk import make_folder
from steer.errors import InputError
from steer.files import Artefact, finished_shards, save, shard_path
from steer.generators.base import Generator
from steer.inversion import FEW, Search, only
from steer.optimise import Adam, Solver, minimise
from steer.transforms import Transform, transforms

#: Evaluations for each target where they are left open, for codes of up to FEW numbers and of more;
#: and how much of the moments before Adam keeps: little, since what is searched for is near.
FEW_STEPS, STEPS, BETAS = 7, 13, (0.5, 0.9)


@dataclass(frozen=True)
class Follow:
    """How a transform is followed.

    `extent` is T, the largest shift on each side (None: the transform's own default); `points` are
    the targets on each side, at T/points, 2 T/points .. T; `steps` the evaluations for each target
    (None: those that `settled` chooses).
    `naive` starts every target from z_0 instead of the code before it, with the evaluations that
    the recursion has spent by then (figure 10). `sides` leaves out one sign of the shift. `parts`
    of the code may move, all of it where it is None; what stands for the class never moves.
    """

    transform: str
    extent: float | None = None
    points: int = 5
    steps: int | None = None
    naive: bool = False
    sides: tuple[int, ...] = (-1, 1)
    parts: tuple[str, ...] | None = None
    search: Search = field(default_factory=lambda: Search(rate=0.1, final_rate=0.03))

    def __post_init__(self) -> None:
        for name in ("points", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected {name} of 1 or more, got {value}.")
        low, high = self.warp.limits
        largest = min(high if side > 0 else -low for side in self.sides)
        if not 0 < self.reach <= largest:
            raise InputError(
                f"expected an extent above 0 and at most {largest:g} {self.warp.unit} for "
                f"{self.transform}, got {self.reach:g}."
            )

    def settled(self, generator: Generator) -> Follow:
        """The same with the steps that it leaves open chosen by how many numbers codes have."""
        chosen = FEW_STEPS if generator.latent.dim <= FEW else STEPS
        return replace(self, steps=self.steps or chosen)

    @property
    def solver(self) -> Solver:
        """The rule of the steps."""
        return Adam(self.search.rate, self.search.final_rate, BETAS)

    @property
    def facts(self) -> dict[str, Any]:
        """What artefacts record."""
        search = self.search
        facts = {"parts": list(self.parts)} if self.parts else {}
        return {
            **facts,
            "transform": self.transform,
            "extent": self.reach,
            "points": self.points,
            "steps": self.steps,
            "naive": self.naive,
            "loss": search.loss,
            "sigma": search.sigma,
            "constraint": search.constraint,
            "rate": search.rate,
            "final_rate": search.final_rate,
            "tolerance": search.tolerance,
        }

    @property
    def warp(self) -> Transform:
        """T_t."""
        return transforms.get(self.transform)

    @property
    def reach(self) -> float:
        """T in the transform's unit."""
        return self.warp.default_range if self.extent is None else self.extent

    @property
    def shifts(self) -> Tensor:
        """delta_t [points] of one side, outward from 0."""
        return self.reach * torch.arange(1, self.points + 1) / self.points

    def check(self, generator: Generator) -> None:
        """Tries the largest shifts and the loss on blank pictures of the generator's shape.

        Raises InputError where the transform cannot be done to such pictures, the loss cannot be
        had, no pixel is left to compare, or the code has no such parts.
        """
        generator.free(self.parts)
        blank = torch.full((len(self.sides), *generator.picture), 0.5, device=generator.device)
        shift = self.reach * torch.tensor(self.sides, device=generator.device)
        with torch.no_grad():
            error = self.search.loss_for(generator)(blank, *self.warp(blank, shift))
        if not error.isfinite().all():
            raise InputError(
                f"expected an extent of {self.transform} that leaves pixels for "
                f"{self.search.loss} to compare, got {self.reach:g} {self.warp.unit}."
            )


@dataclass
class Trajectories:
    """S starts, each followed to P shifts.

    z_0 [S, width], z [S, P, width], shift [S, P] in the transform's unit, error [S, P] under the
    search's loss, evaluations [S].
    """

    z_0: Tensor
    z: Tensor
    shift: Tensor
    error: Tensor
    evaluations: Tensor

    def artefact(self, made: dict[str, Any]) -> Artefact:
        """The trajectories as they are saved."""
        return Artefact("trajectories", dict(vars(self)), made)

    @classmethod
    def of(cls, artefact: Artefact) -> Trajectories:
        """The trajectories that an artefact of that kind holds."""
        return cls(**artefact.tensors)


def follow(
    generator: Generator,
    how: Follow,
    starts: int = 50,
    *,
    first: int = 0,
    batch: int = 32,
    report: Callable[[int, float], None] = lambda done, error: None,
) -> Trajectories:
    """Trajectories of the starts `first` to `first + starts - 1` of the search's seed.

    Start i is the same however the work is cut. `report` is told the number of targets reached, out
    of `starts` times `points`, and the median error of the last ones.

    Raises InputError, before any work, where `how` does not suit the generator (`Follow.check`).

    >>> from steer.generators import load
    >>> how = Follow("translate-x", points=2, steps=5)
    >>> found = follow(load(device="cpu"), how, starts=3)
    >>> found.z.shape, found.shift[0].tolist()
    (torch.Size([3, 4, 10]), [-0.2..., -0.1..., 0.1..., 0.2...])
    """

    how = how.settled(generator)
    how.check(generator)

    def work(items: range) -> Trajectories:
        codes = generator.sample(len(items), how.search.seed, first + items.start)
        z_0 = how.search.projection(generator)(codes.to(generator.device))
        return _follow_batch(
            generator, how, z_0, lambda n, e: report(items.start * how.points + n, e)
        )

    parts = list(in_batches(work, starts, affordable(generator, batch, len(how.sides))))
    return Trajectories(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Trajectories)}
    )


def _follow_batch(
    generator: Generator, how: Follow, z_0: Tensor, report: Callable[[int, float], None]
) -> Trajectories:
    """Algorithm 1 for starts [b, width], both sides at once."""
    free, steps = generator.free(how.parts), how.steps or STEPS
    loss, project = how.search.loss_for(generator), how.search.projection(generator, free)
    with torch.no_grad():
        picture_0 = generator(z_0)
    side = torch.tensor(how.sides, device=z_0.device).repeat_interleave(len(z_0))
    origin = z_0.repeat(len(how.sides), 1)
    z = before = origin
    codes, errors, spent = [], [], torch.zeros(len(side), dtype=torch.long, device=z_0.device)
    for n, shift in enumerate(how.shifts.tolist(), start=1):
        # target: the start's picture, transformed, and where it is defined
        target, defined = how.warp(picture_0.repeat(len(how.sides), 1, 1, 1), side * shift)
        # z_n = argmin L(G(z), T(I_0)), from where the last two codes point
        result = minimise(
            lambda z, i, t=target, m=defined: loss(  # type: ignore[misc]
                generator(only(z, free)), t[i], m[i]
            ),
            origin if how.naive else project(2 * z - before),
            steps=steps * n if how.naive else steps,
            solver=how.solver,
            project=project,
            tolerance=how.search.tolerance,
        )
        before, z = z, result.z
        spent = result.evaluations if how.naive else spent + result.evaluations
        codes.append(result.z)
        errors.append(result.loss)
        report(n * len(z_0), float(result.loss.median()))
    return _ordered(how, z_0, side, torch.stack(codes, 1), torch.stack(errors, 1), spent)


def _ordered(
    how: Follow, z_0: Tensor, side: Tensor, codes: Tensor, errors: Tensor, spent: Tensor
) -> Trajectories:
    """Sides [sides * b, points, ...] to starts [b, P, ...], in the order of the shifts."""
    shift = side[:, None] * how.shifts.to(side.device)
    b = len(z_0)

    def by_start(values: Tensor) -> Tensor:
        return torch.cat(values.split(b), dim=1)

    shift = by_start(shift)
    order = shift[0].argsort()
    return Trajectories(
        z_0=z_0.cpu(),
        z=by_start(codes)[:, order].cpu(),
        shift=shift[:, order].float().cpu(),
        error=by_start(errors)[:, order].cpu(),
        evaluations=torch.stack(spent.split(b)).sum(0).cpu(),
    )


def follow_in_shards(
    generator: Generator,
    how: Follow,
    starts: int,
    folder: Path,
    made: dict[str, Any],
    *,
    shard: int = 64,
    batch: int = 32,
    resume: bool = False,
    report: Callable[[int, float], None] = lambda done, error: None,
) -> Path:
    """Trajectories in files of `shard` starts each, so that memory does not grow with `starts`.

    With `resume`, whole shards that were made the same way are kept. Under torchrun each process
    makes the shards of its rank. Raises InputError where the folder holds shards and not `resume`,
    or shards made with other options.
    """
    how.check(generator)
    make_folder(folder)
    count = math.ceil(starts / shard)
    made = {**made, "starts_in_a_shard": min(shard, starts)}
    done = finished_shards(folder, count, made)
    if done and not resume:
        raise InputError(
            f"{folder} already holds {len(done)} finished shards: pass --resume to go on with "
            "them, or name another output."
        )
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    for index in range(rank, count, world):
        first = index * shard
        if index not in done:
            part = follow(
                generator,
                how,
                min(shard, starts - first),
                first=first,
                batch=batch,
                report=lambda n, e, before=first: report(before * how.points + n, e),  # type: ignore[misc]
            )
            save(part.artefact({**made, "shard": index}), shard_path(folder, index, count))
        report(min(first + shard, starts) * how.points, math.nan)
    return folder
