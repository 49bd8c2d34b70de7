"""Reconstruction losses and the ball (figures 6 and 7, table 2 of Plumerault et al. 2020).

Pictures that the generator made, and photos where a folder is given, are inverted by each loss with
one budget of evaluations. Every reconstruction is scored by all losses, and by a backbone's
features, which no search has used.

Run: python examples/figures/reconstruction_losses.py [MODEL ...] [--photos FOLDER]
         [--backbone tf_efficientnet_lite0=FILE] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from output import finish
from torch import Tensor

import steer
from steer.images import find_images, fit, to_png
from steer.inversion import Inversion, Pool
from steer.losses import Error, parse_loss, perceptual
from steer.sheets import grid

#: Pictures of each kind that are drawn.
DRAWN = 3


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", nargs="*", default=["sprites"], help="what --model takes")
    options.add_argument("--photos", help="a folder of pictures to invert beside generated ones")
    options.add_argument("--backbone", help="a timm model that scores: NAME, or NAME=FILE")
    options.add_argument("-n", "--count", type=int, default=16, help="generated pictures")
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--restarts", type=int, default=2)
    options.add_argument("--sigma", type=float, nargs="+", default=[1, 3, 5, 10],
                         help="blurs, in pixels at a height of 128")  # fmt: skip
    options.add_argument("-o", "--out", type=Path, default=Path("reconstruction_losses"))
    given = options.parse_args(arguments)

    rows, pictures = [], {}
    for model in given.models:
        generator = steer.load(model)
        ways = searches(generator, given)
        # where searches start from is the same for every loss
        pools = {way.constraint: Pool(generator, way) for way in ways.values()}
        found = {
            kind: (targets, {name: steer.invert(generator, targets, way, pool=pools[way.constraint])
                             for name, way in ways.items()})
            for kind, targets in wanted(generator, given).items()
        }  # fmt: skip
        judges = scores(generator, given.backbone)
        rows += [row(generator, kind, name, inversion, targets, judges)
                 for kind, (targets, inversions) in found.items()
                 for name, inversion in inversions.items()]  # fmt: skip
        pictures[f"reconstruction_losses-{generator.name}"] = to_png(sheet(generator, found))
    finish(given.out, "reconstruction_losses", rows, pictures)


def searches(generator: steer.Generator, given: Namespace) -> dict[str, steer.Search]:
    """Every blur and loss in the ball of equation 2, then the losses of figure 7 without it."""
    at_128 = generator.picture.height / 128
    blurs = {f"blurred σ={s:g}": ("blurred-mse", s * at_128) for s in given.sigma}
    others = {"MSE": ("mse", None), "DSSIM": ("dssim", None),
              "blurred σ=3 + 0.1 DSSIM": ("blurred-mse+dssim:0.1", 3 * at_128)}  # fmt: skip
    without = {"blurred σ=3": ("blurred-mse", 3 * at_128), **others}
    # no tolerance: every search spends the whole budget; from the prior: none has an encoder's help
    common = {"steps": given.steps, "restarts": given.restarts, "tolerance": 0.0, "start": "prior"}
    return {
        f"{name}{suffix}": steer.Search(loss, sigma, constraint=constraint, **common)
        for ways, constraint, suffix in (
            (blurs | others, "ball", ""),
            (without, "none", ", no ball"),
        )
        for name, (loss, sigma) in ways.items()
    }


def wanted(generator: steer.Generator, given: Namespace) -> dict[str, Tensor]:
    """The targets [n, C, H, W] by kind; photos are cropped to the generator's shape."""
    kinds = {"generated": steer.draw(generator, generator.sample(given.count, seed=1))}
    if given.photos:
        photos = [steer.read_image(path) for path in find_images([given.photos])]
        kinds["photos"] = torch.stack([fit(photo, *generator.picture) for photo in photos])
    return kinds


def scores(generator: steer.Generator, backbone: str | None) -> dict[str, Error]:
    """What reconstructions are judged by; the backbone goes by its name."""
    height = generator.picture.height
    judges: dict[str, Error] = {n: parse_loss(n, height) for n in ("blurred-mse", "mse", "dssim")}
    if backbone:
        judges[backbone.partition("=")[0]] = perceptual(height, backbone=backbone)
    return judges


def row(
    generator: steer.Generator, kind: str, name: str, found: Inversion, targets: Tensor,
    judges: dict[str, Error],
) -> dict[str, Any]:  # fmt: skip
    """Mean scores of one loss, and how far out its codes lie."""
    with torch.no_grad():
        each = {judge: score(found.pictures, targets, None) for judge, score in judges.items()}
    norms = found.z[:, : generator.latent.dim].norm(dim=1)
    return {
        "model": generator.name,
        "pictures": kind,
        "minimised": name,
        **{judge: values.mean().item() for judge, values in each.items()},
        f"std of {list(each)[-1]}": list(each.values())[-1].std(correction=0).item(),
        "evaluations": found.evaluations.float().mean().item(),
        "norm of z": norms.mean().item(),
        "largest": norms.max().item(),
        "radius": generator.latent.radius,
        "scores": [values.tolist() for values in each.values()],
    }


def sheet(
    generator: steer.Generator, found: dict[str, tuple[Tensor, dict[str, Inversion]]]
) -> Tensor:
    """A row for each picture: it, then its reconstructions with the norm of their codes."""
    rows, marks, dim = [], [], generator.latent.dim
    for targets, ways in found.values():
        for i in range(min(DRAWN, len(targets))):
            rows.append([targets[i], *(way.pictures[i] for way in ways.values())])
            norms = [f"{way.z[i, :dim].norm():.1f}" for way in ways.values()]
            marks.append([None, *norms])
    title = f"{generator.name}: reconstructions with ‖z‖, radius {generator.latent.radius:.1f}"
    names = next(iter(found.values()))[1]
    return grid(rows, column_labels=["picture", *names], title=title, marks=marks)


if __name__ == "__main__":
    main()
