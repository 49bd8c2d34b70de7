"""How like the data scenes are that are sampled from the learned prior (section 5.4 of Plumerault
2023), beside independent Gaussian priors in the manner of SPACE (Lin et al. 2020).

Counts, sizes and positions are compared with those that the model finds in held-out pictures, by
the Kolmogorov-Smirnov distance. The independent prior draws each proposal by itself, without its
cell, the background and what was drawn before: presence by how often proposals are present, boxes
from one Gaussian that has the mean and the spread of all codes of boxes that are.

Run: python examples/figures/scene_samples.py MODEL [--data scenes] [-n 1000] -o out/
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from output import Row, finish
from scenes import FIRST
from scipy.stats import ks_2samp
from torch import Tensor

from steer.batches import in_batches
from steer.datasets import open_dataset
from steer.images import to_png
from steer.scenes.finding import PRESENT
from steer.scenes.model import SceneModel
from steer.scenes.sampling import sample
from steer.scenes.scene import draw
from steer.scenes.stored import load, with_prior
from steer.sheets import grid, outlined

DRAWN = 12
#: What is compared: how many objects, half the geometric mean of a box's sides, and its place.
NAMES = ("count", "size", "x", "y")


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("model", help="folder or Hub id")
    options.add_argument("--data", default="scenes")
    options.add_argument("-n", "--pictures", type=int, default=1000)
    options.add_argument("-o", "--out", type=Path, default=Path("scene-samples"))
    given = options.parse_args(arguments)

    model = with_prior(load(given.model, "cpu"))
    pictures = open_dataset(given.data).pictures(torch.arange(FIRST, FIRST + given.pictures))
    codes, there = seen(model, pictures)
    real = [boxes[present] for boxes, present in zip(decoded(model, codes), there, strict=True)]
    scenes = sample(model, given.pictures, seed=0)
    drawn = {
        "learned prior": [scene.boxes for scene in scenes],
        "independent Gaussians": independent(model, codes, there, given.pictures),
    }
    wanted = numbers(real)
    rows: list[Row] = []
    for name, boxes in drawn.items():
        have = numbers(boxes)
        distances = {f"KS {each}": float(ks_2samp(wanted[each], have[each]).statistic)
                     for each in NAMES}  # fmt: skip
        mean = sum(map(len, boxes)) / len(boxes)
        rows.append({"prior": name, **distances, "objects": mean})
    shown = [outlined(draw(model, [scene])[0][0].cpu(), []) for scene in scenes[:DRAWN]]
    rows.append({"prior": "found in held-out pictures", **{f"KS {each}": None for each in NAMES},
                 "objects": sum(map(len, real)) / len(real)})  # fmt: skip
    sheet = grid([shown[: DRAWN // 2], shown[DRAWN // 2 :]])
    finish(given.out, "scene_samples", rows, {"samples": to_png(sheet)})


@torch.no_grad()
def seen(model: SceneModel, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Means of z_box [n, N, K, d] in pictures [n, 3, H, W], and which are present [n, N, K]."""

    def work(items: range) -> list[tuple[Tensor, Tensor]]:
        found = model(pictures[items.start : items.stop])
        return list(zip(found.box, found.presences > PRESENT, strict=True))

    codes, there = zip(*(pair for part in in_batches(work, len(pictures), 50) for pair in part),
                       strict=True)  # fmt: skip
    return torch.stack(codes), torch.stack(there)


def decoded(model: SceneModel, codes: Tensor) -> Tensor:
    """Boxes [n, N, K, 5] of codes [n, N, K, d]."""
    with torch.no_grad():
        return model.decoder.boxes(codes)[0]


def independent(model: SceneModel, codes: Tensor, there: Tensor, n: int) -> list[Tensor]:
    """Boxes of n scenes whose proposals know nothing of each other, nor of their cells."""
    stream = torch.Generator().manual_seed(0)
    mean, spread = codes[there].mean(0), codes[there].std(0)
    drawn = mean + spread * torch.randn(n, *codes.shape[1:], generator=stream)
    present = torch.rand(n, *there.shape[1:], generator=stream) < there.float().mean()
    return [boxes[each] for boxes, each in zip(decoded(model, drawn), present, strict=True)]


def numbers(boxes: Sequence[Tensor]) -> dict[str, list[float]]:
    """What is compared, of scenes with boxes [m, 5]."""
    whole = torch.cat(list(boxes))
    size = (whole[:, 2] * whole[:, 3]).sqrt()
    parts = (size.tolist(), whole[:, 0].tolist(), whole[:, 1].tolist())
    return dict(zip(NAMES, ([float(len(each)) for each in boxes], *parts), strict=True))


if __name__ == "__main__":
    main()
