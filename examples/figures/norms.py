"""Squared norm of u in each part of a hierarchical code (figure 4 of Plumerault et al. 2020).

A direction is fitted for each transform on the whole code. Beside each bar stands what a direction
drawn at random would have: the part's share of the code. A part matters where the bar is above it,
and only as far as R^2 on held-out starts says that there is a direction at all.

Run: python examples/figures/norms.py MODEL [--space w+] [--class NAME] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from output import finish

import steer
from steer.evaluation import part_norms
from steer.plots import png

USUAL = ["translate-x", "translate-y", "zoom"]


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", nargs="?", default="sprites", help="what --model takes")
    options.add_argument("--space", default="z", help="z, or w+ of a StyleGAN")
    options.add_argument("--class", dest="classes", action="append", help="repeatable")
    options.add_argument("--transform", nargs="+", default=USUAL)
    options.add_argument("--starts", type=int, default=64)
    options.add_argument("--samples", type=int, default=64)
    options.add_argument("-o", "--out", type=Path, default=Path("norms"))
    given = options.parse_args(arguments)

    generator = steer.load(given.model, classes=given.classes, space=given.space)
    parts = generator.latent.parts
    if not parts:
        print(f"The codes of {generator.name} have no parts: try a BigGAN, or a StyleGAN in w+.")
        return
    random = {name: length / generator.latent.dim for name, length in parts.items()}
    directions = [
        steer.fit_direction(generator, name, starts=given.starts, samples=given.samples)
        for name in given.transform
    ]
    rows = [row(generator, direction) for direction in directions]
    rows.append({"model": generator.name, "transform": "at random", "R² held out": None, **random})
    finish(given.out, "norms", rows, {"norms": png(figure(rows, list(parts)))})


def row(generator: steer.Generator, direction: steer.Direction) -> dict[str, Any]:
    """Norms that add up to 1."""
    return {
        "model": generator.name,
        "transform": direction.name,
        "R² held out": direction.quality["held_out_r2"],
        **part_norms(direction, generator.latent),
    }


def figure(rows: Sequence[dict[str, Any]], parts: Sequence[str]) -> Figure:
    """A group of bars for each part, what chance gives as a line across it."""
    *fitted, random = rows
    drawn = Figure(figsize=(max(5.0, 1.5 + 0.9 * len(parts)), 3.4), layout="constrained")
    axes, width = drawn.subplots(), 0.8 / len(fitted)
    at, colours = np.arange(len(parts)), colormaps["cividis"](np.linspace(0.1, 0.9, len(fitted)))
    for i, found in enumerate(fitted):
        label = f"{found['transform']} (R² {found['R² held out']:.2f})"
        heights = [found[part] for part in parts]
        axes.bar(at + (i + 0.5) * width - 0.4, heights, width, color=colours[i], label=label)
    axes.hlines([random[part] for part in parts], at - 0.45, at + 0.45, color="#222222",
                linestyles="dashed", label="at random")  # fmt: skip
    axes.set_xticks(at, parts)
    axes.set(xlabel="part of the code", ylabel="squared norm of u", ylim=(0, 1.05))
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return drawn


if __name__ == "__main__":
    main()
