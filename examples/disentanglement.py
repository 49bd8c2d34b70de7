"""How control worsens as disentanglement falls (figure 5 of Plumerault et al. 2020).

For each model and transform: R^2 on held-out starts, the error of `--set` in open and closed loop,
and the standard deviation of the measured property at each coordinate alpha.

Run: python examples/disentanglement.py VAE_dsprites betaH_dsprites btcvae_dsprites -o report/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import steer
from steer.disk import make_folder, save_json, write_atomically
from steer.plots import png

HEAD = ("model", "transform", "R² held out", "R² unpruned", "open loop RMS", "closed loop RMS",
        "reached", "mean std")  # fmt: skip
#: What is asked of positions; other properties are asked for what their model covers.
POSITIONS = [-0.2, -0.1, 0.0, 0.1, 0.2]


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", nargs="+", help="anything that --model takes, worst first")
    options.add_argument("--transform", action="append", help="repeatable; default: positions")
    options.add_argument("--starts", type=int, default=64)
    options.add_argument("--samples", type=int, default=256)
    options.add_argument("-o", "--out", type=Path, default=Path("disentanglement"))
    given = options.parse_args(arguments)

    names = given.transform or ["translate-x", "translate-y"]
    rows = [judge(model, name, given.starts, given.samples)
            for model in given.models for name in names]  # fmt: skip
    table = markdown(rows)
    print(table)
    make_folder(given.out)
    save_json(given.out / "disentanglement.json", {"rows": rows})
    write_atomically(given.out / "disentanglement.md", (table + "\n").encode())
    write_atomically(given.out / "disentanglement.png", png(figure(rows, names)))


def judge(model: str, transform: str, starts: int, samples: int) -> dict[str, Any]:
    """One row: the direction fitted on a model, and what control by it is worth."""
    generator = steer.load(model)
    direction = steer.fit_direction(generator, transform, starts=starts, samples=samples)
    values = POSITIONS if transform.startswith("translate") else None
    found = steer.evaluate(generator, [direction], samples=samples, values=values).table()[0]
    loops = {loop: [a for a in found["accuracy"] if a["loop"] == loop]
             for loop in ("open", "closed")}  # fmt: skip
    return {
        "model": generator.name,
        "transform": transform,
        "held_out_r2": direction.quality["held_out_r2"],
        "unpruned_r2": direction.quality["unpruned_r2"],
        "open_rms": pooled([a["rms"] for a in loops["open"]]),
        "closed_rms": pooled([a["rms_reached"] for a in loops["closed"]]),
        "reached": float(np.mean([a["reached"] for a in loops["closed"]] or [np.nan])),
        "alpha": [one["alpha"] for one in found["response"]],
        "std": [np.nan if one["std"] is None else one["std"] for one in found["response"]],
    }


def pooled(errors: list[float | None]) -> float:
    """Root mean square over values that are root mean squares themselves."""
    known = [e for e in errors if e is not None]
    return float(np.sqrt(np.mean(np.square(known)))) if known else np.nan


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table; `closed loop RMS` is over the items that reached the value."""
    lines = [" | ".join(HEAD), " | ".join(["---"] * len(HEAD))]
    for row in rows:
        std = np.nanmean(row["std"] or [np.nan])
        lines.append(
            f"{row['model']} | {row['transform']} | {row['held_out_r2']:.3f} | "
            f"{row['unpruned_r2']:.3f} | {row['open_rms']:.4f} | {row['closed_rms']:.4f} | "
            f"{100 * row['reached']:.1f} % | {std:.4f}"
        )
    return "\n".join(f"| {line} |" for line in lines)


def figure(rows: list[dict[str, Any]], names: Sequence[str]) -> Figure:
    """The standard deviation at each alpha, a panel for each transform, a line for each model."""
    drawn = Figure(figsize=(5 * len(names), 3.8), layout="constrained")
    for axes, name in zip(np.atleast_1d(drawn.subplots(1, len(names))), names, strict=True):
        for row in (row for row in rows if row["transform"] == name):
            axes.plot(row["alpha"], row["std"], "o-", ms=3, label=row["model"])
        axes.set(title=name, ylim=(0, None), xlabel="coordinate α on u",
                 ylabel="standard deviation of the measured property")  # fmt: skip
        axes.legend(frameon=False)
    return drawn


if __name__ == "__main__":
    main()
