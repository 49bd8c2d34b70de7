"""Foregrounds and backgrounds told apart and swapped (table 5.2, figure 5.8 of Zeng 2022).

A BFVAE is given, or trained on one object before a background. A two-layer network learns the
object's shape and hue, and the hue of what is behind, from codes of pictures of the training, and
is tried on codes of others: z_f should tell the first two, z_b the last alone. Errors are root mean
squares over pixels, against the pictures that the data set itself draws.

Run: python examples/figures/bfvae.py [--model FOLDER] [--size 64] [--steps 6000] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from output import finish
from skimage.color import rgb2yiq
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from steer.datasets import OneObject
from steer.images import to_png
from steer.scenes.bfvae import BFVAE, between, swaps
from steer.scenes.stored import load
from steer.training.bfvae import Both, Masked
from steer.training.loop import batch_indices, train

#: First picture to judge on: training begins with the others.
FIRST = 10**9
#: Of a hue.
BINS = 4
DRAWN = 6


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", type=Path, help="folder; one is trained without")
    options.add_argument("--size", type=int, default=64, help="side of pictures, without --model")
    options.add_argument("--steps", type=int, default=6000, help="of training")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--beta", type=float, default=20.0, help="weight of the divergence of z_b")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("-n", type=int, default=20_000, help="codes that a classifier learns from")
    options.add_argument("--held-out", type=int, default=2000, help="pictures to judge on")
    options.add_argument("-o", "--out", type=Path, default=Path("bfvae"))
    given = options.parse_args(arguments)

    scenes = OneObject()
    if given.model is None:
        scenes.shape = (3, given.size, given.size)
        how = {"steps": given.steps, "batch": given.batch, "seed": given.seed}
        given.model = trained(scenes, given.out, given.beta, how)
    model = load(given.model, "cpu")
    scenes.shape = (3, model.side, model.side)
    data = Masked(scenes)
    learned = batch_indices(data, 0, given.n, given.seed)
    judged = FIRST + torch.arange(given.held_out)
    wanted = [attributes(scenes, indices) for indices in (learned, judged)]
    codes = [coded(model, data, indices) for indices in (learned, judged)]
    wrong = errors(model, scenes, judged)
    rows = [
        {"code": code, **{name: accuracy(codes[0][code], wanted[0][name], codes[1][code], labels)
                          for name, labels in wanted[1].items()}, **wrong[code]}
        for code in codes[0]
    ]  # fmt: skip
    pictures = data.pictures(judged[:DRAWN])[:, :3]
    drawn = {"bfvae": swaps(model, pictures), "between": between(model, pictures[:2])}
    finish(given.out, "bfvae", rows, {name: to_png(each) for name, each in drawn.items()})


def trained(scenes: OneObject, out: Path, beta: float, how: dict[str, int]) -> Path:
    """The folder of a run; one that was cut off goes on."""
    torch.manual_seed(how["seed"])
    objective = Both(BFVAE(scenes.shape[1]), steps=how["steps"], beta=beta)
    made = {"objective": "bfvae", "data": scenes.name, "beta": beta, **how}
    return train(objective, Masked(scenes), out / "model", made, **how, resume=True)


def attributes(scenes: OneObject, indices: Tensor) -> dict[str, np.ndarray]:
    """What is to be told [B], in whole numbers from 0 to 3."""
    layout = scenes.layout(indices)
    _, i, q = rgb2yiq(layout.colour[:, 0].numpy()).T
    turns = {
        "hue": np.arctan2(q, i) / (2 * np.pi) % 1,
        "hue behind": layout.background[:, 2].numpy(),
    }
    return {
        "shape": layout.shape[:, 0].numpy(),
        **{k: (BINS * v).astype(int) for k, v in turns.items()},
    }


@torch.no_grad()
def coded(model: BFVAE, data: Masked, indices: Tensor) -> dict[str, np.ndarray]:
    """Codes [B, d] of pictures with their masks, and without."""
    found = []
    for some in indices.split(500):
        pictures, masks = data.pictures(some).split([3, 1], dim=1)
        (z_b, z_f), (_, whole) = model.codes(pictures, masks), model.codes(pictures)
        found.append((z_f, whole, z_b))
    names = ("z_f by mask", "z_f", "z_b")
    return {
        name: torch.cat(parts).numpy()
        for name, parts in zip(names, zip(*found, strict=True), strict=True)
    }


def accuracy(
    codes: np.ndarray, labels: np.ndarray, others: np.ndarray, wanted: np.ndarray
) -> float:
    """Share of the other codes whose label a network knows that has learned from the first."""
    network = MLPClassifier((128, 128), early_stopping=True, random_state=0)
    return float(network.fit(codes, labels).score(others, wanted))


@torch.no_grad()
def errors(model: BFVAE, scenes: OneObject, indices: Tensor) -> dict[str, dict[str, float | None]]:
    """Of pictures drawn again, of foregrounds before others' backgrounds, of backgrounds alone."""
    pictures, masks = Masked(scenes).pictures(indices).split([3, 1], dim=1)
    layout = scenes.layout(indices)
    behind = layout.background.flip(0)
    swapped = scenes.draw(replace(layout, background=behind), masks)
    z_b, by_mask = model.codes(pictures, masks)
    found = {}
    for name, z_f in (("z_f by mask", by_mask), ("z_f", model.codes(pictures)[1])):
        again, other = model.draw(z_b, z_f), model.draw(z_b.flip(0), z_f)
        found[name] = {
            "redrawn": rms(again, pictures),
            "swapped": rms(other, swapped),
            "clean": None,
        }
    clean = rms(model.clean(pictures), scenes.backgrounds(layout.background).clamp(0, 1))
    return {**found, "z_b": {"redrawn": None, "swapped": None, "clean": clean}}


def rms(drawn: Tensor, real: Tensor) -> float:
    return (drawn - real).square().mean().sqrt().item()


if __name__ == "__main__":
    main()
