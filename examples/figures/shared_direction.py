"""One direction for several classes, measured on others (figure 2 of Plumerault et al. 2020).

Trajectories of the classes given by --class are merged into one fit. The direction is then measured
on them and on the --held-out classes, which it has never seen: where it is shared, the
distribution at each coordinate and the error of control are alike.

Run: python examples/figures/shared_direction.py --model biggan --class "golden retriever"
         --class "sports car" --held-out daisy --measure saliency -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from output import finish, same_axes

import steer
from steer.evaluation import Measured
from steer.images import read_image, to_png
from steer.knobs import Status
from steer.plots import png, violins
from steer.sheets import grid


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="sprites", help="a conditional generator")
    options.add_argument("--class", dest="fitted", action="append", default=[], help="repeatable")
    options.add_argument("--held-out", action="append", default=[], help="repeatable")
    options.add_argument("--transform", default="translate-x")
    options.add_argument("--measure", help="how the object is found, such as saliency")
    options.add_argument("--starts", type=int, default=64)
    options.add_argument("--samples", type=int, default=128)
    options.add_argument("-o", "--out", type=Path, default=Path("shared_direction"))
    given = options.parse_args(arguments)

    if steer.load(given.model).condition is None:
        print(f"{given.model} has no classes to share a direction: try --model biggan.")
        return
    if not (given.fitted and given.held_out) or {*given.fitted} & {*given.held_out}:
        options.error("expected --class and --held-out, of different classes")
    groups = {"fitted on": given.fitted, "held out": given.held_out}
    loaded = {name: steer.load(given.model, classes=group) for name, group in groups.items()}
    direction = steer.fit_direction(
        loaded["fitted on"], given.transform,
        starts=given.starts, samples=given.samples, find=given.measure,
    )  # fmt: skip
    judged = {name: measure(generator, direction, given.samples)
              for name, generator in loaded.items()}  # fmt: skip
    rows = [row(name, groups[name], measured) for name, measured in judged.items()]
    figures = [violins(measured) for measured in judged.values()]
    same_axes(figures)
    drawn = [[read_image(png(figure))] for figure in figures]
    labels = [f"{name}: {', '.join(groups[name])}" for name in judged]
    sheet = to_png(grid(drawn, row_labels=labels, title=f"{given.model}: {given.transform}"))
    finish(given.out, "shared_direction", rows, {"shared_direction": sheet})


def measure(generator: steer.Generator, direction: steer.Direction, samples: int) -> Measured:
    """The direction as it is, on the generator's classes."""
    (measured,) = steer.evaluate(generator, [direction], samples=samples).measured
    if measured is None:
        raise SystemExit(f"{direction.name} cannot be measured: choose another --transform.")
    return measured


def row(name: str, classes: Sequence[str], measured: Measured) -> dict[str, Any]:
    """What the direction is worth on these classes."""
    mean, std, found = measured.response.T
    of = {loop: [a for a in measured.accuracy if a.loop == loop]
          for loop in ("open", "closed")}  # fmt: skip
    r2 = measured.direction.quality["held_out_r2"] if name == "fitted on" else None
    return {
        "classes": f"{name}: {', '.join(classes)}",
        "R² on held-out starts": r2,
        "mean at α = -2": float(np.interp(-2, measured.alphas, mean)),
        "at 2": float(np.interp(2, measured.alphas, mean)),
        "std": float(np.nanmean(std)),
        "open RMS": float(np.sqrt(np.nanmean([a.error**2 for a in of["open"]]))),
        "closed reached": float(np.mean([each.share(Status.REACHED) for each in of["closed"]])),
        "found": float(found.mean()),
        "alphas": measured.alphas.tolist(),
        "stds": std.tolist(),
        "means": mean.tolist(),
    }


if __name__ == "__main__":
    main()
