"""What scene models find in pictures whose objects are known (table 5.1 of Plumerault 2023).

Pictures are of indices that no training comes to. A grid of 16 x 16 cells of one object would ask
its object VAE about 256 boxes of a picture; "looked at" is how many these do. Pictures of another
size than a model's are resized.

Run: python examples/figures/scenes.py MODEL... [--data scenes] [-n 500] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from output import finish

from steer.datasets import Resized, WithTruth, datasets, open_dataset
from steer.errors import InputError
from steer.images import to_png
from steer.scenes.boxes import corners
from steer.scenes.evaluation import evaluate
from steer.scenes.stored import load_finder
from steer.sheets import coloured, grid, outlined

#: First picture that is looked at: training begins with the others.
FIRST = 10**9
DRAWN = 6


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", nargs="+", help="folders or Hub ids")
    options.add_argument("--data", default="scenes", help=f"of {', '.join(datasets.names())}")
    options.add_argument("-n", "--pictures", type=int, default=500)
    options.add_argument("-o", "--out", type=Path, default=Path("scenes"))
    given = options.parse_args(arguments)

    dataset = open_dataset(given.data)
    if not isinstance(dataset, WithTruth):
        raise InputError(f"expected a set whose objects are known, got {given.data}.")
    last = dataset.size or FIRST + given.pictures
    indices = torch.arange(max(0, last - given.pictures), last)
    rows, shown = [], {}
    for name in given.models:
        model = load_finder(name)
        shape = (3, model.side, model.side)
        fitted = dataset if dataset.shape == shape else Resized(dataset, model.side)
        rows.append({"model": Path(name).name, **evaluate(model, fitted, indices)})
        shown[name] = sheet(model, fitted.pictures(indices[:DRAWN]))
    pictures = {
        f"{i}-{Path(name).name}": to_png(each) for i, (name, each) in enumerate(shown.items())
    }
    finish(given.out, "scenes", rows, pictures)


def sheet(model: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures with what was found in them, reconstructions, and whose each pixel is."""
    found = model.find(pictures.to(next(model.parameters()).device)).cpu()
    boxes = [found.objects.boxes[found.of(i)] for i in range(len(pictures))]
    rows = {
        "boxes": [outlined(p, corners(b)) for p, b in zip(pictures, boxes, strict=True)],
        "reconstruction": [outlined(p, []) for p in found.pictures],
        "objects": [outlined(coloured(labels), []) for labels in found.labels],
    }
    return grid(list(rows.values()), row_labels=list(rows))


if __name__ == "__main__":
    main()
