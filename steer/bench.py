"""How fast searches are on this machine: ratios, each of two things in one run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from steer.encoders import fitted
from steer.generators.base import Generator
from steer.inversion import Search, invert
from steer.losses import Loss
from steer.optimise import Adam, minimise

#: Batches that are compared, pictures that are searched for, steps and rounds of what is timed.
ONE, SOME, MANY, PICTURES, TIMED, ROUNDS = 1, 32, 128, 16, 5, 5
#: The papers' search: so many steps of Adam at a constant rate from one sample of the prior.
CONSTANT_STEPS = 300
#: A projector's: steps, pictures, codes that its start is the mean of, rate, shares of the steps in
#: which that rises and falls, strength and share of its noise.
PROJECTOR_STEPS, PROJECTED, MEAN_OF = 1000, 2, 1000
RATE, RISES, FALLS, NOISE, NOISY = 0.1, 0.05, 0.25, 0.05, 0.75
#: Seeds of what is searched for, of where from, and of noise.
WANTED, BEGUN, NOISE_SEED = 11, 12, 13


@dataclass(frozen=True)
class Ratio:
    """What was measured, over what, and how much of it it is."""

    what: str
    over: str
    ratio: float


def ratios(
    generator: Generator,
    steps: int = PROJECTOR_STEPS,
    say: Callable[[str], None] = lambda what: None,
) -> Iterator[Ratio]:
    """The table, row by row; the projector's loop has so many `steps`, the papers' search three
    tenths of them.

    >>> from steer.generators import load
    >>> row = next(ratios(load(device="cpu")))
    >>> row.what, row.over, row.ratio > 0
    ('engine step, batch of 1', 'bare forward and backward pass', True)
    """
    search = Search().settled(generator)
    loss = search.loss_for(generator)
    for batch in (ONE, SOME):
        say(f"steps of {batch}")
        engine, bare = _step(generator, loss, batch), _bare(generator, batch)
        ratio = _median_ratio(engine, bare)
        yield Ratio(f"engine step, batch of {batch}", "bare forward and backward pass", ratio)
    say(f"steps of {MANY}")
    single, many = _step(generator, loss, ONE), _step(generator, loss, MANY)
    per_picture = MANY * _median_ratio(single, many)
    yield Ratio(f"pictures a second, batch of {MANY}", "one at a time", per_picture)
    with torch.no_grad():
        wanted = generator(generator.sample(PICTURES, WANTED).to(generator.device))
    yield from _evaluations(generator, wanted, max(1, round(0.3 * steps)), say)
    say("a projector's loop")
    yield _over_projector(generator, wanted, steps)


def _evaluations(
    generator: Generator, wanted: Tensor, steps: int, say: Callable[[str], None]
) -> Iterator[Ratio]:
    """Evaluations to the constant rate's error, with the encoder that was fitted and without."""
    say("a constant rate")
    search = Search(start="prior")
    loss, project = search.loss_for(generator), search.projection(generator)
    constant = minimise(
        lambda z, items: loss(generator(z), wanted[items], None),
        project(generator.sample(len(wanted), BEGUN).to(generator.device)),
        steps=steps, solver=Adam(0.1, 0.1, (0.9, 0.999)), project=project,
    )  # fmt: skip
    goal = constant.loss.median().item()
    kinds = {"without an encoder": search}
    if fitted(generator):
        kinds["from the fitted encoder"] = Search()
    for name, each in kinds.items():
        say(f"searches {name}")
        spent = reached(generator, wanted, each, goal).evaluations / steps
        yield Ratio(f"evaluations {name}", f"{steps} of Adam at a constant 0.1", spent)


@dataclass(frozen=True)
class Reached:
    """Evaluations and seconds a picture until the median error was a goal; inf where it never
    was."""

    evaluations: float
    seconds: float


def reached(generator: Generator, wanted: Tensor, search: Search, goal: float) -> Reached:
    """What a search of pictures [n, C, H, W], all at once, took; forward passes of its pool count
    half, shared by the pictures."""
    passed: list[tuple[float, float]] = []
    spent, start = 0.0, time.perf_counter()

    def count(module: object, codes: tuple[Tensor], pictures: Tensor) -> None:
        nonlocal spent
        spent += len(codes[0]) * (1.0 if pictures.requires_grad else 0.5)

    def watch(done: float, error: float | str) -> None:
        if not isinstance(error, str) and error <= goal and not passed:
            passed.append((spent / len(wanted), (time.perf_counter() - start) / len(wanted)))

    hook = generator.register_forward_hook(count)
    try:
        invert(generator, wanted, search, batch=len(wanted), report=watch)
    finally:
        hook.remove()
    return Reached(*passed[0]) if passed else Reached(math.inf, math.inf)


def _over_projector(generator: Generator, wanted: Tensor, steps: int) -> Ratio:
    start = time.perf_counter()
    errors = [project_one(generator, picture, steps) for picture in wanted[:PROJECTED]]
    seconds = (time.perf_counter() - start) / len(errors)
    ours = reached(generator, wanted, Search(), max(errors)).seconds
    over = f"a projector's loop of {steps} steps, one picture at a time, to equal error"
    return Ratio(f"pictures a second, {len(wanted)} at once", over, seconds / ours)


def project_one(generator: Generator, picture: Tensor, steps: int) -> float:
    """The error of a picture [C, H, W] after a loop in the manner of the projector of
    stylegan2-ada (Karras et al. 2020): from the mean code, with noise that fades and a rate that
    rises and falls, and no constraint."""
    device, search = generator.device, Search()
    loss = search.loss_for(generator)
    codes = generator.sample(MEAN_OF, BEGUN).to(device)
    code = codes.mean(0, keepdim=True).requires_grad_()
    spread = (codes - codes.mean(0)).square().sum(1).mean().sqrt()
    adam = torch.optim.Adam([code], lr=RATE, betas=(0.9, 0.999))
    stream = torch.Generator().manual_seed(NOISE_SEED)
    least = math.inf
    for step in range(steps):
        done = step / steps
        fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / FALLS))
        adam.param_groups[0]["lr"] = RATE * fall * min(1.0, done / RISES)
        strength = spread * NOISE * max(0.0, 1 - done / NOISY) ** 2
        noise = torch.randn(code.shape, generator=stream).to(device)
        error = loss(generator(code + strength * noise), picture[None], None)[0]
        adam.zero_grad()
        error.backward()
        adam.step()
        least = min(least, error.item())
    return least


def _step(generator: Generator, loss: Loss, batch: int) -> Callable[[], object]:
    """Some steps of the engine, with its history and the constraint, for a batch."""
    search = Search()
    start = generator.sample(batch, BEGUN).to(generator.device)
    with torch.no_grad():
        wanted = generator(generator.sample(batch, WANTED).to(generator.device))
    return lambda: minimise(
        lambda z, items: loss(generator(z), wanted[items], None),
        start, steps=TIMED, solver=search.solver, project=search.projection(generator),
        keep_history=True,
    )  # fmt: skip


def _bare(generator: Generator, batch: int) -> Callable[[], object]:
    start = generator.sample(batch, BEGUN).to(generator.device)

    def passes() -> None:
        for _ in range(TIMED):
            code = start.clone().requires_grad_()
            torch.autograd.grad(generator(code).sum(), code)

    return passes


def _median_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Median over rounds, in which both run after one another, of their times' ratio."""

    def timed(work: Callable[[], object]) -> float:
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        return time.perf_counter() - start

    first()
    second()
    return median(timed(first) / timed(second) for _ in range(ROUNDS))


def _wait() -> None:
    """Until a GPU has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
