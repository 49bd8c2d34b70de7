"""Transformations are curved walks in pixel space (figure 8 of Plumerault et al. 2020).

Pictures that a generator made are transformed by T_t, t over the range of the transform. Reported:
the length of the walk over that of its chord (1 is straight), and the angle between the chord and
the first step: at 90 degrees the error to the far end says nothing of where to go.

Run: python examples/figures/curvature.py [MODEL ...] [--transform NAME ...] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray
from output import finish

import steer
from steer.plots import BLUE, RED, png
from steer.transforms import transforms

USUAL = ["translate-x", "zoom", "rotate", "brightness"]
#: Values of t, an odd number; every so many of them a picture is drawn.
STEPS, EVERY = 41, 10
Array = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", nargs="*", default=["sprites"], help="what --model takes")
    options.add_argument("--transform", nargs="+", default=USUAL, choices=transforms.names())
    options.add_argument("-n", "--count", type=int, default=32, help="pictures of each model")
    options.add_argument("-o", "--out", type=Path, default=Path("curvature"))
    given = options.parse_args(arguments)

    rows, walks = [], {}
    for model in given.models:
        generator = steer.load(model)
        pictures = steer.draw(generator, generator.sample(given.count, seed=1))
        for name in given.transform:
            found = [walk(picture, name) for picture in pictures]
            rows.append(row(generator.name, name, found))
            bends = np.array(rows[-1]["ratios"])
            walks[generator.name, name] = found[int(bends.argsort()[len(bends) // 2])]
    finish(given.out, "curvature", rows, {"curvature": png(figure(walks, len(given.transform)))})


def walk(picture: torch.Tensor, name: str) -> torch.Tensor:
    """T_t of a picture [C, H, W] for t over the whole range: [STEPS, C, H, W]."""
    reach = transforms.get(name).default_range
    t = torch.linspace(-reach, reach, STEPS)
    return transforms.get(name)(picture.expand(STEPS, -1, -1, -1), t)[0]


def row(model: str, name: str, walks: list[torch.Tensor]) -> dict[str, Any]:
    """Medians over the pictures."""
    ratios, angles = np.array([curvature(walk.flatten(1).double().numpy()) for walk in walks]).T
    warp = transforms.get(name)
    return {
        "model": model,
        "transform": f"{name} ±{warp.default_range:g} {warp.unit}",
        "length / chord": float(np.nanmedian(ratios)),
        "angle at the start (degrees)": float(np.nanmedian(angles)),
        "ratios": ratios.tolist(),
        "angles": angles.tolist(),
    }


def curvature(points: Array) -> tuple[float, float]:
    """Length of the polygon through points [n, d] over its chord; its angle to that at the start.

    >>> quarter = np.linspace(0, np.pi / 2, 1000)
    >>> np.round(curvature(np.stack([np.cos(quarter), np.sin(quarter)], axis=1)), 2).tolist()
    [1.11, 44.95]
    """
    steps, chord = np.diff(points, axis=0), points[-1] - points[0]
    lengths = np.linalg.norm(steps, axis=1)
    first = steps[np.flatnonzero(lengths)[0]] if lengths.any() else np.full_like(chord, np.nan)
    cosine = first @ chord / np.linalg.norm(first) / np.linalg.norm(chord)
    return lengths.sum() / np.linalg.norm(chord), np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def figure(walks: dict[tuple[str, str], torch.Tensor], columns: int) -> Figure:
    """The picture of median curvature for each model (rows) and transform, in its first two
    principal components: the walk in blue, its chord in red."""
    rows = len(walks) // columns
    drawn = Figure(figsize=(2.9 * columns, 2.9 * rows), layout="constrained")
    axes = np.ravel(drawn.subplots(rows, columns, squeeze=False))
    for panel, ((model, name), pictures) in zip(axes, walks.items(), strict=True):
        draw_walk(panel, pictures)
        panel.set_title(f"{model} · {name}", fontsize=9)
    return drawn


def draw_walk(axes: Axes, pictures: torch.Tensor) -> None:
    """Both components have one scale, so that what looks bent is bent."""
    points = pictures.flatten(1).double().numpy()
    middle = points - points.mean(axis=0)
    u, s, _ = np.linalg.svd(middle, full_matrices=False)
    x, y = (u * s)[:, :2].T
    x, y = x * np.sign(x[-1] - x[0] or 1), y * np.sign(y[len(y) // 2] - y[0] or 1)
    axes.plot(x[[0, -1]], y[[0, -1]], color=RED, lw=1.5)
    axes.plot(x, y, ".-", color=BLUE, ms=3, lw=1)
    for i in range(0, len(x), EVERY):
        cell = pictures[i].permute(1, 2, 0).numpy()
        image = OffsetImage(cell, zoom=25 / cell.shape[0], cmap="gray", clim=(0, 1))
        axes.add_artist(AnnotationBbox(image, (x[i], y[i]), pad=0.1))
    shares = s**2 / (s**2).sum()
    reach, across, up = 0.68 * np.ptp(x), (x.max() + x.min()) / 2, (y.max() + y.min()) / 2
    axes.set(aspect="equal", xticks=[], yticks=[], xlabel=f"component 1 ({shares[0]:.0%})",
             ylabel=f"component 2 ({shares[1]:.0%})", xlim=(across - reach, across + reach),
             ylim=(up - reach, up + reach))  # fmt: skip


if __name__ == "__main__":
    main()
