"""How often no cell of a grid has more objects than it may propose (figure 5.2 of Plumerault 2023).

Of N objects uniformly over G cells, a cell has a Poisson number of mean N / G; with up to K boxes a
cell, the probability is P(number <= K)^G. Grids that propose as many boxes in all are compared.

Run: python examples/figures/capacity.py [--objects 24] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from output import finish
from scipy.stats import poisson

from steer.plots import png


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--objects", type=float, default=24, help="that are expected a picture")
    options.add_argument("--boxes", type=int, nargs="+", default=[1, 2, 4, 8], help="of a cell")
    options.add_argument("--most", type=int, default=1024, help="boxes in all")
    options.add_argument("-o", "--out", type=Path, default=Path("capacity"))
    given = options.parse_args(arguments)

    rows = [
        {"boxes in all": cells * boxes, "cells": cells, "boxes a cell": boxes,
         "probability": float(fits(given.objects, cells, boxes))}
        for boxes in given.boxes
        for cells in (side**2 for side in range(1, 1 + int(np.sqrt(given.most / boxes))))
    ]  # fmt: skip
    finish(given.out, "capacity", rows, {"capacity": png(figure(rows, given.objects))})


def fits(objects: float, cells: int, boxes: int) -> float:
    """Probability that no cell has more than `boxes` objects.

    >>> round(fits(24, cells=16, boxes=4), 3)
    0.741
    """
    return poisson.cdf(boxes, objects / cells) ** cells


def figure(rows: Sequence[dict[str, float]], objects: float) -> Figure:
    """A line for each number of boxes a cell, over boxes in all."""
    drawn = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = drawn.subplots()
    kinds = sorted({row["boxes a cell"] for row in rows})
    colours = colormaps["cividis"](np.linspace(0, 0.9, len(kinds)))
    for kind, colour in zip(kinds, colours, strict=True):
        points = [(r["boxes in all"], r["probability"]) for r in rows if r["boxes a cell"] == kind]
        axes.plot(*zip(*points, strict=True), ".-", color=colour, label=f"{kind} a cell")
    axes.set(xlabel="boxes in all", ylabel="probability that no cell is full", xscale="log",
             title=f"{objects:g} objects", ylim=(-0.02, 1.02))  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return drawn


if __name__ == "__main__":
    main()
