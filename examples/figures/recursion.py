"""Recursive against naive optimisation (figure 10 of Plumerault et al. 2020, 4.6 of the thesis).

Codes that follow T_t step by step, each search started from the last one's end (equation 5), beside
searches straight from z_0 (equation 4) with as many evaluations. Reported: the error at each t, and
what is left of the error to the farthest t on the way there. That is twice the transform's own
range: far enough for an object to leave the place where it was.

Run: python examples/figures/recursion.py [MODEL ...] [--transform NAME] [--extent T] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from output import finish
from torch import Tensor

import steer
from steer.images import to_png
from steer.optimise import minimise
from steer.plots import BLUE, RED, png
from steer.sheets import grid
from steer.transforms import transforms

COLOURS = {"recursive": BLUE, "naive": RED}


class Found(NamedTuple):
    """One method, starts first: the error at each t, and on the way to the last t, after every
    `steps` evaluations, the codes and their error to it."""

    error: Tensor
    codes: Tensor
    left: Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", nargs="*", default=["sprites"], help="what --model takes")
    options.add_argument("--transform", default="translate-x")
    options.add_argument("--extent", type=float, help="the last t; default: twice the transform's")
    options.add_argument("--starts", type=int, default=48)
    options.add_argument("--points", type=int, default=5, help="targets, up to the last t")
    options.add_argument("--steps", type=int, default=20, help="evaluations for each target")
    options.add_argument("-o", "--out", type=Path, default=Path("recursion"))
    given = options.parse_args(arguments)

    search = steer.Search(rate=0.1, final_rate=0.03, tolerance=0.0)
    extent = given.extent or 2 * transforms.get(given.transform).default_range
    how = steer.Follow(given.transform, extent, given.points, given.steps, sides=(1,),
                       search=search)  # fmt: skip
    rows, sheets = [], {}
    drawn = Figure(figsize=(9, 3 * len(given.models)), layout="constrained")
    panels = drawn.subplots(len(given.models), 2, squeeze=False)
    for model, axes in zip(given.models, panels, strict=True):
        generator = steer.load(model)
        found, ends = compare(generator, how, given.starts)
        rows += table(generator, how, found)
        curves(axes, generator, how, found)
        sheets[f"recursion-{generator.name}"] = to_png(sheet(generator, how, found, ends))
    finish(given.out, "recursion", rows, {"recursion": png(drawn), **sheets})


def compare(
    generator: steer.Generator, how: steer.Follow, starts: int
) -> tuple[dict[str, Found], list[Tensor]]:
    """Both methods from the same starts; the starts' pictures and their last targets, grey where
    nothing is known of them."""
    loss = how.search.loss_for(generator)
    both = {name: steer.follow(generator, replace(how, naive=name == "naive"), starts)
            for name in COLOURS}  # fmt: skip
    z_0 = both["naive"].z_0.to(generator.device)
    pictures = steer.draw(generator, z_0).to(generator.device)
    target, defined = how.warp(pictures, how.reach)

    def error(z: Tensor, items: Tensor) -> Tensor:
        return loss(generator(z), target[items], defined[items])

    codes = {"recursive": both["recursive"].z, "naive": way(error, z_0, how, generator)}
    everyone = torch.arange(len(z_0))
    with torch.no_grad():
        left = {name: [error(z, everyone) for z in codes[name].to(z_0).unbind(1)]
                for name in codes}  # fmt: skip
    found = {name: Found(both[name].error, codes[name], torch.stack(left[name], 1).cpu())
             for name in COLOURS}  # fmt: skip
    return found, [pictures, target * defined + 0.9 * (1 - defined)]


def way(
    error: Callable[[Tensor, Tensor], Tensor], z_0: Tensor, how: steer.Follow,
    generator: steer.Generator,
) -> Tensor:  # fmt: skip
    """Codes [starts, points, width] that the naive search passes, every `steps` evaluations."""
    passed = []

    def watched(z: Tensor, items: Tensor) -> Tensor:
        passed.append(z.detach().cpu())
        return error(z, items)

    minimise(watched, z_0, steps=how.points * how.steps, solver=how.search.solver,
             project=how.search.projection(generator))  # fmt: skip
    return torch.stack(passed[how.steps - 1 :: how.steps], dim=1)


def table(
    generator: steer.Generator, how: steer.Follow, found: dict[str, Found]
) -> list[dict[str, Any]]:
    """At each t the median error and that of the worst tenth, over the starts."""
    recursive, naive = found["recursive"].error, found["naive"].error
    return [
        {
            "model": generator.name,
            "t": shift,
            "evaluations": (n + 1) * how.steps,
            **{name: each.error[:, n].median().item() for name, each in found.items()},
            **{f"{name}, worst tenth": each.error[:, n].quantile(0.9).item()
               for name, each in found.items()},
            "recursive is better": (recursive[:, n] < naive[:, n]).double().mean().item(),
        }
        for n, shift in enumerate(how.shifts.tolist())
    ]  # fmt: skip


def curves(
    axes: Sequence[Axes], generator: steer.Generator, how: steer.Follow, found: dict[str, Found]
) -> None:
    """The median, and the range of the middle eight tenths of the starts, on both panels."""
    spent = how.steps * np.arange(1, how.points + 1)
    for name, each in found.items():
        for panel, x, errors in ((axes[0], how.shifts, each.error), (axes[1], spent, each.left)):
            low, middle, high = np.quantile(errors.numpy(), (0.1, 0.5, 0.9), axis=0)
            panel.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, lw=0)
            panel.plot(x, middle, "o-", ms=3, color=COLOURS[name], label=name)
            panel.set(yscale="log", ylabel=how.search.loss)
    axes[0].set(xlabel=f"t of {how.transform} ({how.warp.unit})", title=generator.name)
    axes[1].set(xlabel="evaluations", title=f"left on the way to t = {how.reach:g}")
    axes[1].legend(frameon=False)


def sheet(
    generator: steer.Generator, how: steer.Follow, found: dict[str, Found], ends: list[Tensor]
) -> Tensor:
    """What both draw on the way to the last t, from the start of the median naive error."""
    start = int(found["naive"].left[:, -1].argsort()[len(ends[0]) // 2])
    first, target = (pictures[start].cpu() for pictures in ends)
    rows = [[first, *steer.draw(generator, each.codes[start]), target] for each in found.values()]
    spent = [str((n + 1) * how.steps) for n in range(how.points)]
    title = f"{generator.name}: pictures by evaluations"
    return grid(rows, list(found), ["start", *spent, "target"], title)


if __name__ == "__main__":
    main()
