"""The one batched loop: problems x solvers with known minima, and what batches must not change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steer.batches import in_batches
from steer.errors import MachineError
from steer.optimise import Adam, Culling, Status, minimise, value_and_gradient

PAPER = Adam(0.1, 0.1, (0.9, 0.999))


@dataclass(frozen=True)
class Descent:
    """A solver of somebody else's: gradient descent with a fixed rate."""

    rate: float

    def init(self, z):
        return {}

    def step(self, z, gradient, state, done, steps):
        return z - self.rate * gradient, state


class Problem:
    """Rows of targets [n, 3]; remembers which items were asked for, call by call."""

    def __init__(self, kind: str = "bowl", n: int = 4, seed: int = 0):
        noise = torch.Generator().manual_seed(seed)
        self.minimum = torch.randn(n, 3, generator=noise, dtype=torch.float64)
        self.kind, self.asked = kind, []

    def __call__(self, z: Tensor, items: Tensor) -> Tensor:
        self.asked.append(items.tolist())
        x = z - self.minimum[items]
        if self.kind == "bowl":
            return x.square().sum(1)
        if self.kind == "valley":  # curvatures 1 and 30
            return x[:, 0] ** 2 + 30 * x[:, 1] ** 2 + 5 * x[:, 2] ** 2
        if self.kind == "quartic":
            return (x.square() + x**4).sum(1)
        turned = x[:, 1] + x[:, 0] ** 2  # a bent valley: Rosenbrock's shape, minimum at x = 0
        return x[:, 0] ** 2 + 4 * turned**2 + x[:, 2] ** 2

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.minimum)


@pytest.mark.parametrize("kind", ["bowl", "valley", "quartic", "bent"])
@pytest.mark.parametrize(
    ("solver", "within"),
    [(None, 1e-2), (Adam(0.2, 0.001), 1e-3), (PAPER, 1e-2), (Descent(0.01), 2e-2)],
    ids=["default", "cosine", "paper", "descent"],
)
def test_known_minima(kind, solver, within):
    problem = Problem(kind)
    found = minimise(problem, problem.start, steps=600, solver=solver)
    assert (found.z - problem.minimum).abs().max() < within
    assert found.loss.max() < 30 * within**2
    assert (found.status == Status.BUDGET).all() and (found.evaluations == 600).all()


def test_adam_takes_the_steps_of_torchs_adam():
    problem = Problem("bent")
    weights = problem.start.clone().requires_grad_()
    theirs = torch.optim.Adam([weights], lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    steps = 25
    for _ in range(steps):
        theirs.zero_grad()
        problem(weights, torch.arange(4)).sum().backward()
        theirs.step()
    z, state = problem.start, PAPER.init(problem.start)
    for done in range(steps):
        _, gradient = value_and_gradient(problem, z, torch.arange(4))
        z, state = PAPER.step(z, gradient, state, done, steps)
    assert torch.allclose(z, weights.detach(), atol=1e-9)


def test_the_rate_falls_along_a_cosine():
    solver = Adam(0.2, 0.01)
    assert solver.rate_at(0, 101) == pytest.approx(0.2)
    assert solver.rate_at(50, 101) == pytest.approx(0.105)
    assert solver.rate_at(100, 101) == pytest.approx(0.01)
    assert Adam(0.1, 0.1).rate_at(7, 20) == pytest.approx(0.1)
    assert math.isfinite(solver.rate_at(0, 1))


@given(st.permutations(range(6)), st.integers(1, 5))
@settings(max_examples=20)
def test_an_items_answer_depends_on_nothing_else_in_the_batch(order, cut):
    problem = Problem("bent", n=6)
    whole = minimise(problem, problem.start, steps=40, tolerance=1e-3)

    def part(rows: list[int]):
        chosen = torch.tensor(rows)
        return minimise(
            lambda z, items: problem(z, chosen[items]), problem.start[chosen], steps=40,
            tolerance=1e-3,
        )  # fmt: skip

    for rows in (order[:cut], order[cut:]):
        found = part(rows)
        assert torch.allclose(found.z, whole.z[rows], atol=1e-12)
        assert torch.equal(found.status, whole.status[rows])
        assert torch.equal(found.evaluations, whole.evaluations[rows])


def test_a_converged_item_ends_and_costs_nothing_more():
    problem = Problem("bowl")
    start = problem.start
    start[2] = problem.minimum[2]
    found = minimise(problem, start, steps=200, tolerance=1e-4)
    assert (found.status == Status.CONVERGED).all() and (found.loss <= 1e-4).all()
    assert found.evaluations[2] == 1
    assert problem.asked[0] == [0, 1, 2, 3] and problem.asked[1] == [0, 1, 3]
    counted = [sum(items.count(i) for items in problem.asked) for i in range(4)]
    assert found.evaluations.tolist() == counted
    assert len(problem.asked) == max(counted) < 200


def test_a_diverging_item_is_named_and_keeps_its_best():
    problem = Problem("bowl")

    def cliff(z, items):
        loss = problem(z, items)
        return torch.where((items == 1) & (loss < 0.5 * start_loss[1]), torch.nan, loss)

    start_loss = problem(problem.start, torch.arange(4))
    problem.asked.clear()
    found = minimise(cliff, problem.start, steps=100)
    assert found.status.tolist() == [Status.BUDGET, Status.DIVERGED, Status.BUDGET, Status.BUDGET]
    assert found.z.isfinite().all() and found.loss[1] < start_loss[1]
    assert found.evaluations[1] < 100 and (found.evaluations[[0, 2, 3]] == 100).all()
    assert (found.z[[0, 2, 3]] - problem.minimum[[0, 2, 3]]).abs().max() < 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_never_was_finite_diverges_at_once(bad):
    found = minimise(lambda z, i: z.sum(1) * 0 + bad, torch.ones(2, 3), steps=5)
    assert (found.status == Status.DIVERGED).all() and (found.evaluations == 1).all()
    assert torch.equal(found.z, torch.ones(2, 3)) and found.loss.isinf().all()


def test_the_projection_holds_at_the_start_and_after_every_step():
    problem, seen = Problem("bowl"), []

    def ball(z):
        return z / z.norm(dim=1, keepdim=True).clamp_min(0.5) * 0.5

    def watched(z, items):
        seen.append(z.detach().norm(dim=1).max().item())
        return problem(z, items)

    found = minimise(watched, problem.start + 3, steps=300, project=ball, solver=Descent(0.05))
    assert max(seen) <= 0.5 + 1e-9
    # the nearest point of the ball to a minimum outside of it lies on the same ray (Adam, whose
    # steps know each coordinate's sign more than its size, stays elsewhere on the border)
    assert (problem.minimum.norm(dim=1) > 0.5).all()
    assert torch.allclose(found.z, ball(problem.minimum), atol=1e-3)


def test_the_best_codes_are_kept_not_the_last():
    z = torch.zeros(1, 1)
    found = minimise(lambda z, i: (z[:, 0] - 1) ** 2, z, steps=9, solver=Descent(2.5))
    assert found.loss.item() == 1.0 and found.z.item() == 0.0  # every step goes further away


def test_history_is_the_best_so_far():
    problem = Problem("bowl")
    told = []
    found = minimise(
        problem, problem.start, steps=30, keep_history=True,
        report=lambda step, loss: told.append((step, loss.clone())),
    )  # fmt: skip
    history = torch.stack(found.history)
    assert history.shape == (30, 4) and (history.diff(dim=0) <= 0).all()
    assert torch.equal(history[-1], found.loss)
    assert [step for step, _ in told] == list(range(1, 31))
    assert minimise(problem, problem.start, steps=3).history == []


# --- culling ---


def test_each_group_keeps_its_best():
    minimum = torch.zeros(1, 1)
    start = torch.tensor([[4.0], [1.0], [2.0], [3.0], [0.5], [6.0], [5.0], [7.0]])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    asked = []

    def objective(z, items):
        asked.append(items.tolist())
        return (z - minimum).square().sum(1)

    found = minimise(
        objective, start, steps=6, solver=Adam(0.01, 0.01),
        culling=Culling(groups, {2: 2, 4: 1}),
    )  # fmt: skip
    assert asked == [list(range(8))] * 2 + [[1, 2, 4, 6]] * 2 + [[1, 4]] * 2
    assert found.evaluations.tolist() == [2, 6, 4, 2, 6, 2, 4, 2]
    lost = [Status.OUTRUN] * 8
    lost[1] = lost[4] = Status.BUDGET
    assert found.status.tolist() == lost


def test_a_tie_goes_to_the_earlier_item():
    found = minimise(
        lambda z, i: z.square().sum(1), torch.ones(4, 2), steps=3,
        culling=Culling(torch.tensor([5, 5, 2, 2]), {1: 1}),
    )  # fmt: skip
    assert found.evaluations.tolist() == [3, 1, 3, 1]


def test_a_group_with_a_converged_item_is_done():
    """Another start of a picture that was found costs nothing more."""
    start = torch.tensor([[0.0], [4.0], [3.0], [2.0]])
    found = minimise(
        lambda z, i: z.square().sum(1), start, steps=50, tolerance=1e-6, solver=Adam(0.01, 0.01),
        culling=Culling(torch.tensor([0, 0, 1, 1]), {10: 1}),
    )  # fmt: skip
    assert found.status.tolist() == [Status.CONVERGED, Status.OUTRUN, Status.OUTRUN, Status.BUDGET]
    assert found.evaluations.tolist() == [1, 1, 10, 50]


def test_every_status_has_words():
    assert len({status.message for status in Status}) == len(Status)


# --- batches ---


@given(st.integers(0, 40), st.integers(1, 50))
def test_batches_cover_everything_once_in_order(n, size):
    parts = list(in_batches(list, n, size))
    assert [i for part in parts for i in part] == list(range(n))
    assert all(len(part) <= size for part in parts)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_batch_once_and_says_so(error, capsys):
    def work(items):
        if len(items) > 3:
            raise error("no room")
        return list(items)

    parts = list(in_batches(work, 10, 8))
    assert parts == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "steer: out of memory; going on with batches of 4.",
        "steer: out of memory; going on with batches of 2.",
    ]


def test_a_single_item_that_does_not_fit_is_the_machines_fault():
    def work(items):
        raise MemoryError

    with pytest.raises(MachineError, match="a single item"):
        list(in_batches(work, 2, 1))


def test_other_errors_go_through():
    def work(items):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        list(in_batches(work, 2, 1))
