"""The one batched loop that every search goes through: many independent problems at once.

Every item of the batch has its own loss, optimiser state, stopping and status. An item's answer
does not depend on what else is in the batch (to float tolerance), and an item that has ended
costs no more evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

#: Losses [b] of codes [b, d], which belong to the items [b] of the whole problem.
Objective = Callable[[Tensor, Tensor], Tensor]
#: Maps codes [b, d] back into the set they must stay in.
Projection = Callable[[Tensor], Tensor]


class Status(IntEnum):
    """How the search for one item ended."""

    RUNNING = 0
    CONVERGED = 1
    BUDGET = 2
    OUTRUN = 3
    DIVERGED = 4

    @property
    def message(self) -> str:
        """What it means, for a person."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "the loss reached the tolerance",
    Status.BUDGET: "all steps were used",
    Status.OUTRUN: "another start of the same picture was better",
    Status.DIVERGED: "the loss was not finite",
}


class Solver(Protocol):
    """A first-order rule: `init` makes its state, `step` moves the codes."""

    def init(self, z: Tensor) -> dict[str, Tensor]:
        """State for codes [b, d]; every tensor has the items first."""
        ...

    def step(
        self, z: Tensor, gradient: Tensor, state: dict[str, Tensor], done: int, steps: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes and state after step number `done` (from 0) of `steps`."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015) with a learning rate that falls along a cosine.

    The papers' constant rate is `Adam(0.1, 0.1, (0.9, 0.999))`. The shorter memory of both moments
    halves the steps to its error on a 100-dimensional DCGAN (tests/benchmarks/test_search.py).
    """

    rate: float = 0.1
    final_rate: float = 0.02
    betas: tuple[float, float] = (0.8, 0.95)
    eps: float = 1e-8

    def init(self, z: Tensor) -> dict[str, Tensor]:
        """First and second moments, zero."""
        return {"mean": torch.zeros_like(z), "square": torch.zeros_like(z)}

    def step(
        self, z: Tensor, gradient: Tensor, state: dict[str, Tensor], done: int, steps: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One update with bias-corrected moments."""
        first, second = self.betas
        mean = state["mean"].lerp(gradient, 1 - first)
        square = state["square"].lerp(gradient * gradient, 1 - second)
        scale = math.sqrt(1 - second ** (done + 1)) / (1 - first ** (done + 1))
        update = mean * scale / (square.sqrt() + self.eps * math.sqrt(1 - second ** (done + 1)))
        return z - self.rate_at(done, steps) * update, {"mean": mean, "square": square}

    def rate_at(self, done: int, steps: int) -> float:
        """Learning rate of step number `done` of `steps`."""
        share = done / max(steps - 1, 1)
        fall = (1 + math.cos(math.pi * min(share, 1.0))) / 2
        return self.final_rate + (self.rate - self.final_rate) * fall


class Culling(NamedTuple):
    """Items of a group search for the same thing: one that converges ends the others.

    Successive halving: after the steps that `milestones` names, each group keeps that many items.
    """

    groups: Tensor
    milestones: Mapping[int, int]


@dataclass
class Result:
    """Per item of the batch: best codes [n, d], their loss, how it ended, evaluations spent.

    An evaluation is one forward and backward pass of the generator for one item.
    """

    z: Tensor
    loss: Tensor
    status: Tensor
    evaluations: Tensor
    history: list[Tensor] = field(default_factory=list)


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    steps: int,
    solver: Solver | None = None,
    project: Projection = lambda z: z,
    tolerance: float = 0.0,
    culling: Culling | None = None,
    keep_history: bool = False,
    report: Callable[[int, Tensor], None] | None = None,
) -> Result:
    """Minimises every row of `start` [n, d] by itself; returns the best codes seen.

    An item ends when its loss is at most `tolerance`, is not finite, or another item of its
    group outran it (`culling`). `history` holds, for each step, the best loss so far [n].

    >>> target = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    >>> found = minimise(lambda z, i: ((z - target[i]) ** 2).sum(1), torch.zeros(2, 2), steps=300)
    >>> bool(torch.allclose(found.z, target, atol=1e-4))
    True
    """
    solver = solver or Adam()
    n = len(start)
    best = Result(
        z=project(start.detach()).clone(),
        loss=torch.full((n,), math.inf, device=start.device),
        status=torch.full((n,), int(Status.RUNNING), device=start.device),
        evaluations=torch.zeros(n, dtype=torch.long, device=start.device),
    )
    items = torch.arange(n, device=start.device)
    z, state = best.z.clone(), solver.init(best.z)
    for done in range(steps):
        loss, gradient = value_and_gradient(objective, z, items)
        _record(best, items, z, loss, tolerance)
        if culling:
            _outrun(best, items, culling.groups)
        if culling and done + 1 in culling.milestones:
            _cull(best, items, culling.groups, culling.milestones[done + 1])
        if keep_history:
            best.history.append(best.loss.clone())
        if report:
            report(done + 1, best.loss)
        z, state = solver.step(z, gradient, state, done, steps)
        z = project(z)
        running = best.status[items] == Status.RUNNING
        if not bool(running.all()):
            items, z = items[running], z[running]
            state = {name: value[running] for name, value in state.items()}
        if not len(items):
            break
    best.status[best.status == Status.RUNNING] = int(Status.BUDGET)
    return best


def value_and_gradient(objective: Objective, z: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [b] and their gradients [b, d]; the sum's gradient is each item's own."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        loss = objective(z, items)
        (gradient,) = torch.autograd.grad(loss.sum(), z)
    return loss.detach(), gradient


def _record(best: Result, items: Tensor, z: Tensor, loss: Tensor, tolerance: float) -> None:
    """Keeps what is better than before, and ends items that converged or diverged."""
    best.evaluations[items] += 1
    better = loss < best.loss[items]
    best.loss[items] = torch.where(better, loss, best.loss[items]).to(best.loss.dtype)
    best.z[items] = torch.where(better[:, None], z, best.z[items])
    ended = torch.where(loss <= tolerance, int(Status.CONVERGED), best.status[items])
    best.status[items] = torch.where(loss.isfinite(), ended, int(Status.DIVERGED))


def _outrun(best: Result, items: Tensor, groups: Tensor) -> None:
    """Ends the running items of groups in which another one has converged."""
    converged = groups[best.status == Status.CONVERGED]
    lost = torch.isin(groups[items], converged) & (best.status[items] == Status.RUNNING)
    best.status[items[lost]] = int(Status.OUTRUN)


def _cull(best: Result, items: Tensor, groups: Tensor, keep: int) -> None:
    """Ends all but the `keep` best running items of each group; ties go to the earlier item."""
    order = items[best.loss[items].argsort(stable=True)]
    order = order[groups[order].argsort(stable=True)]
    place = torch.arange(len(order), device=order.device)
    _, counts = groups[order].unique_consecutive(return_counts=True)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    out = order[place - first >= keep]
    running = best.status[out] == Status.RUNNING
    best.status[out[running]] = int(Status.OUTRUN)
