"""Where the salient object is: the maps of pictures, and which barycentre of them follows a move.

Windows are cut out of each picture at known shifts, so that what they show moves by known amounts;
the table compares those with how far each way to read a map says that its object has moved.

Run: python examples/figures/salient_object.py photos/ --weights u2netp.safetensors -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label

import steer
from steer.disk import make_folder, save_json
from steer.images import find_images, fit, read_image
from steer.saliency import PUBLISHED, Salient
from steer.sheets import grid

SHIFTS = np.array([-0.08, -0.04, 0.04, 0.08])
#: Side of a window, as a share of the picture's.
SIDE = 0.8
Array = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("photos", nargs="*", type=Path, help="folders or files; else --model")
    options.add_argument("--model", help="pictures of a generator instead")
    options.add_argument("-n", type=int, default=9, help="how many of them")
    options.add_argument("--weights", default=PUBLISHED, help="of U2-Net: a file or a Hub id")
    options.add_argument("-o", "--out", type=Path, default=Path("salient_object"))
    given = options.parse_args(arguments)

    find = Salient(given.weights)
    if given.model:
        generator = steer.load(given.model)
        shown = list(generator(generator.sample(given.n, seed=5)).detach())
    else:
        shown = [read_image(path) for path in find_images(given.photos)]
    pictures = [fit(picture, 3, 320, 320) for picture in shown]
    errors = {name: np.array([]) for name in READINGS}
    for picture in pictures:
        maps = [mask(find, window(picture, shift)) for shift in (0.0, *SHIFTS)]
        for name, read in READINGS.items():
            at = np.array([read(one) for one in maps])
            errors[name] = np.append(errors[name], at[1:] - at[0] - SHIFTS)

    make_folder(given.out)
    masks = [torch.from_numpy(mask(find, picture)).float()[None] for picture in pictures]
    sheet = grid([pictures, masks], row_labels=["picture", "map"])
    steer.write_png(given.out / "salient_object.png", sheet)
    rows = {name: summary(error) for name, error in errors.items()}
    save_json(given.out / "salient_object.json", rows)
    print("| barycentre of | RMS error | median error | worst |\n| --- | --- | --- | --- |")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in row.values()) + " |")


def window(picture: torch.Tensor, shift: float) -> torch.Tensor:
    """The part [C, h, w] in which everything stands `shift` of its width further right."""
    height, width = (round(SIDE * side) for side in picture.shape[1:])
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    left -= round(shift * width)
    return picture[:, top : top + height, left : left + width]


def mask(find: Salient, picture: torch.Tensor) -> Array:
    return find(picture[None])[0, 0].double().numpy()


def barycentre(weights: Array) -> float:
    """Where the mass lies, as a fraction of the width from the middle."""
    places = (np.arange(weights.shape[1]) + 0.5) / weights.shape[1] - 0.5
    return float((weights.sum(0) @ places) / weights.sum())


def component(weights: Array) -> float:
    """The barycentre of the largest connected part over one half."""
    parts = label(weights > 0.5)
    if not parts.max():
        return barycentre(weights)
    largest = 1 + np.bincount(parts.ravel(), weights.ravel())[1:].argmax()
    return barycentre((parts == largest).astype(float))


def ellipse(weights: Array) -> float:
    """The middle of an ellipse fitted to the map: moments again and again of what lies within two
    standard deviations of it, the rest fading out."""
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    points, kept = np.stack([x.ravel(), y.ravel()]), weights.ravel()
    for _ in range(8):
        middle = (points * kept).sum(1) / kept.sum()
        away = points - middle[:, None]
        spread = (away * kept) @ away.T / kept.sum() + np.eye(2)
        beyond = np.einsum("ij,ij->j", away, np.linalg.solve(spread, away)) - 4
        kept = weights.ravel() * np.exp(-np.maximum(beyond, 0) / 2)
    return float(middle[0] / weights.shape[1] - 0.5)


def summary(error: Array) -> dict[str, float]:
    size = np.abs(error)
    return {"rms": float(np.sqrt(np.mean(error**2))), "median": float(np.median(size)),
            "worst": float(size.max())}  # fmt: skip


READINGS: dict[str, Callable[[Array], float]] = {
    "the whole map": barycentre,
    "its square": lambda weights: barycentre(weights**2),
    "its largest part": component,
    "a fitted ellipse": ellipse,
}


if __name__ == "__main__":
    main()
