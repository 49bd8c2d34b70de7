"""How control worsens as disentanglement falls (figure 5 of Plumerault et al. 2020).

For each model and transform: R^2 on held-out starts, the error of `--set` in open and closed loop,
and the distribution of the measured property at each coordinate alpha. Models are given, or trained
by `steer train-vae` on sprites, one for each beta and otherwise the same.

Run: python examples/figures/disentanglement.py VAE_dsprites btcvae_dsprites -o report/
     python examples/figures/disentanglement.py --beta 1 --beta 5 --beta 10 --beta 20 -o report/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from output import same_axes

import steer
from steer.cli import app
from steer.disk import make_folder, save_json, write_atomically
from steer.errors import InputError
from steer.images import read_image, to_png
from steer.plots import png, violins
from steer.sheets import grid

HEAD = ("model", "transform", "R² held out", "R² unpruned", "open loop RMS", "closed loop RMS",
        "reached", "mean std")  # fmt: skip
#: What is asked of positions; other properties are asked for what their model covers.
POSITIONS = [-0.2, -0.1, 0.0, 0.1, 0.2]
#: What models that are trained here have in common.
TRAINING = {"--widths": "16,32,32,32", "--broadcast": "16", "--likelihood": "gaussian",
            "--batch": "32", "--rate": "1e-3"}  # fmt: skip
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", nargs="*", help="anything that --model takes, worst first")
    options.add_argument("--beta", action="append", default=[], help="to train with; repeatable")
    options.add_argument("--steps", type=int, default=3000, help="of training")
    options.add_argument("--transform", action="append", help="repeatable; default: positions")
    options.add_argument("--starts", type=int, default=64)
    options.add_argument("--samples", type=int, default=256)
    options.add_argument("-o", "--out", type=Path, default=Path("disentanglement"))
    given = options.parse_args(arguments)

    names = given.transform or ["translate-x", "translate-y"]
    trained = [train(given.out, beta, given.steps) for beta in given.beta]
    models = [*given.models, *trained] or ["sprites"]
    judged = [judge(model, name, given.starts, given.samples)
              for model in models for name in names]  # fmt: skip
    rows, drawn = [row for row, _ in judged], [figure for _, figure in judged]
    table = markdown(rows)
    print(table)
    make_folder(given.out)
    save_json(given.out / "disentanglement.json", {"rows": rows})
    write_atomically(given.out / "disentanglement.md", (table + "\n").encode())
    write_atomically(given.out / "disentanglement.png", png(spreads(rows, names)))
    write_atomically(given.out / "violins.png", sheet(rows, drawn, len(names)))


def train(out: Path, beta: str, steps: int) -> str:
    """The folder of a run of `steer train-vae`; a run that was cut off goes on."""
    folder = out / f"beta{beta}-{steps}"
    options = {**TRAINING, "--beta": beta, "--steps": str(steps),
               "--warm-up": str(steps // 10), "--out": str(folder)}  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    app(["train-vae", "sprites", "--resume", *words], standalone_mode=False)
    return str(folder)


def judge(model: str, transform: str, starts: int, samples: int) -> tuple[Row, Figure | None]:
    """The direction fitted on a model: what control by it is worth, and its violins.

    NaN and None where a model has learned too little for a direction.
    """
    generator = steer.load(model)
    row: Row = {"model": generator.name, "transform": transform}
    values = POSITIONS if transform.startswith("translate") else None
    try:
        direction = steer.fit_direction(generator, transform, starts=starts, samples=samples)
        evaluation = steer.evaluate(generator, [direction], samples=samples, values=values)
    except InputError as error:
        print(f"{generator.name}, {transform}: {error}")
        nothing = ("held_out_r2", "unpruned_r2", "open_rms", "closed_rms", "reached")
        return {**row, **dict.fromkeys(nothing, np.nan), "alpha": [], "std": []}, None
    found, (measured,) = evaluation.table()[0], evaluation.measured
    loops = {loop: [a for a in found["accuracy"] if a["loop"] == loop]
             for loop in ("open", "closed")}  # fmt: skip
    row |= {
        "held_out_r2": direction.quality["held_out_r2"],
        "unpruned_r2": direction.quality["unpruned_r2"],
        "open_rms": pooled([a["rms"] for a in loops["open"]]),
        "closed_rms": pooled([a["rms_reached"] for a in loops["closed"]]),
        "reached": float(np.mean([a["reached"] for a in loops["closed"]] or [np.nan])),
        "alpha": [one["alpha"] for one in found["response"]],
        "std": [np.nan if one["std"] is None else one["std"] for one in found["response"]],
    }
    return row, violins(measured) if measured else None


def pooled(errors: list[float | None]) -> float:
    """Root mean square over values that are root mean squares themselves."""
    known = [e for e in errors if e is not None]
    return float(np.sqrt(np.mean(np.square(known)))) if known else np.nan


def markdown(rows: list[Row]) -> str:
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


def spreads(rows: list[Row], names: Sequence[str]) -> Figure:
    """The standard deviation at each alpha, a panel for each transform, a line for each model."""
    drawn = Figure(figsize=(5 * len(names), 3.8), layout="constrained")
    for axes, name in zip(np.atleast_1d(drawn.subplots(1, len(names))), names, strict=True):
        for row in (row for row in rows if row["transform"] == name):
            axes.plot(row["alpha"], row["std"], "o-", ms=3, label=row["model"])
        axes.set(title=name, ylim=(0, None), xlabel="coordinate α on u",
                 ylabel="standard deviation of the measured property")  # fmt: skip
        axes.legend(frameon=False)
    return drawn


def sheet(rows: list[Row], drawn: list[Figure | None], columns: int) -> bytes:
    """Violins, a line for each model; those of a transform share their axes, to be compared."""
    for first in range(columns):
        same_axes([figure for figure in drawn[first::columns] if figure])
    cells = [read_image(png(figure)) if figure else None for figure in drawn]
    lines = [cells[first : first + columns] for first in range(0, len(cells), columns)]
    models = [row["model"] for row in rows[::columns]]
    return to_png(grid(lines, models)) if any(drawn) else png(Figure())


if __name__ == "__main__":
    main()
