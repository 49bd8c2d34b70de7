"""Control against reconstruction: small VAEs on sprites over architecture and beta, and given ones.

How the embedded generator's options were chosen. Reconstruction is the mean squared error on
sprites that training has not seen; control is the standard deviation of the measured position at a
stated coordinate, averaged over coordinates from -2 to 2, and R^2 on held-out starts.

Run: python examples/sprites_table.py --steps 3000 --beta 1 --beta 4 --beta 20 -o runs/
     python examples/sprites_table.py --model steer/embedded/sprites
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch

import steer
from steer.cli import app
from steer.datasets import open_dataset
from steer.errors import InputError

HEAD = ("model", "MSE", "std x", "std y", "R² x", "R² y")
ARCHITECTURES = {"mirrored": 0, "broadcast": 16}
#: Sprites from here on have not been trained on.
UNSEEN = 10**9


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", action="append", default=[], help="existing folder; repeatable")
    options.add_argument("--beta", action="append", default=[], help="to train with; repeatable")
    options.add_argument("--architecture", action="append", choices=ARCHITECTURES)
    options.add_argument("--steps", default="3000", help="of training")
    options.add_argument("--starts", type=int, default=64, help="that directions are fitted on")
    options.add_argument("--samples", type=int, default=256, help="that control is measured on")
    options.add_argument("-o", "--out", type=Path, default=Path("runs"))
    given = options.parse_args(arguments)

    kinds = given.architecture or list(ARCHITECTURES)
    models = [
        train(given.out, kind, beta, given.steps) for kind, beta in product(kinds, given.beta)
    ]
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for model in [*models, *given.model]:
        print(row(model, given.starts, given.samples), flush=True)


def train(out: Path, kind: str, beta: str, steps: str) -> str:
    """The folder of a run of `steer train-vae`; a run that was cut off goes on."""
    folder = out / f"{kind}-beta{beta}-{steps}"
    options = {
        "--beta": beta,
        "--steps": steps,
        "--broadcast": str(ARCHITECTURES[kind]),
        "--widths": "16,32,64,64",
        "--batch": "64",
        "--rate": "1e-3",
        "--likelihood": "gaussian",
        "--warm-up": str(int(steps) // 10),
        "--out": str(folder),
    }
    if not (folder / "model.safetensors").exists():
        words = [word for pair in options.items() for word in pair]
        app(["train-vae", "sprites", "--resume", *words], standalone_mode=False)
    return str(folder)


def row(model: str, starts: int, samples: int) -> str:
    """One line of the table."""
    generator = steer.load(model)
    axes = ("translate-x", "translate-y")
    spreads, scores = zip(
        *(spread_and_r2(generator, axis, starts, samples) for axis in axes), strict=True
    )
    numbers = [f"{reconstruction(generator):.5f}", *(f"{s:.4f}" for s in spreads),
               *(f"{s:.3f}" for s in scores)]  # fmt: skip
    return f"| {generator.name} | {' | '.join(numbers)} |"


@torch.no_grad()
def reconstruction(generator: steer.Generator, count: int = 512) -> float:
    """Mean squared error of encoding and decoding unseen sprites."""
    pictures = open_dataset("sprites").pictures(torch.arange(UNSEEN, UNSEEN + count))
    codes = generator.encode(pictures.to(generator.device))
    return float(((steer.draw(generator, codes) - pictures) ** 2).mean())


def spread_and_r2(
    generator: steer.Generator, axis: str, starts: int, samples: int
) -> tuple[float, float]:
    """Mean standard deviation of the measured position at a coordinate; R^2 on held-out starts.

    NaN where a model has learned too little for a direction, or for an object to be found.
    """
    try:
        direction = steer.fit_direction(generator, axis, starts=starts, samples=samples)
    except InputError as error:
        print(f"{generator.name}, {axis}: {error}")
        return np.nan, np.nan
    near = np.abs(direction.alphas) <= 2
    spread = direction.response[near, 1].mean() if near.any() else np.nan
    return float(spread), direction.quality["held_out_r2"]


if __name__ == "__main__":
    main()
