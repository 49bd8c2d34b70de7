"""AVAE beside what it is made of, on the same blocks with one budget (table 3.1 of the thesis), and
LSR-GAN over its lambda (tables of Zeng 2022).

Every kind is trained by `steer train-avae`, for as many steps; a run that is there already is kept.
MSE is of pictures in [-1, 1], perceptual distance and FID are by the extractor's features, FID of
samples against the training pictures as 8 bits show them. What reconstructions are judged on is
held out.

Run: python examples/figures/objectives.py TRAIN/ HELD_OUT/ --size 32 --width 32 --steps 5000
         --extractor tf_efficientnet_lite0=FILE -o out/
"""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from output import finish
from torch import Tensor

import steer
from steer.backbones import extractor
from steer.batches import in_batches
from steer.cli import app
from steer.datasets import open_dataset
from steer.disk import make_folder, save_json
from steer.images import to_png
from steer.losses import perceptual
from steer.picture_sets import describe, generated, pictures_at
from steer.scores import frechet_distance, sharpness
from steer.sheets import grid

#: Kind to the options of `steer train-avae`; {vae} and {each} are the runs of that seed.
KINDS = {
    "vae": "--objective vae --beta {beta}",
    "gan": "--objective gan",
    "vae-gan": "--objective vae-gan --beta {beta}",
    "bigan": "--objective bigan",
    "avae-a": "--objective avae --beta {beta} --plain",
    "avae-b": "--objective avae --beta {beta}",
    "avae-frozen": "--objective avae --vae {vae}",
    "vae-each": "--objective vae --beta {beta} --sigma picture",
    **{
        f"lsr-{v}": f"--objective lsr-gan --encoder {{each}} --lambda {v}"
        for v in (0.1, 1, 10, 100)
    },
}
#: What a kind's encoder comes from.
BEFORE = {
    "avae-frozen": "vae",
    **dict.fromkeys((k for k in KINDS if k.startswith("lsr")), "vae-each"),
}
SEVERAL = ("gan", "avae-a", "avae-b")
DRAWN = 8
BATCH = 100


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("train", help="folder or zip of pictures")
    options.add_argument("held_out", help="the same, to judge reconstructions on")
    options.add_argument("--extractor", required=True, help="a timm model: NAME, or NAME=FILE")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--seeds", type=int, default=3, help=f"of {', '.join(SEVERAL)}")
    options.add_argument("--size", type=int, default=32)
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--latent", type=int, default=100)
    options.add_argument("--steps", type=int, default=5000)
    options.add_argument("--beta", type=float, default=1.0, help="of every VAE, and VAE/GAN")
    options.add_argument("--rate", type=float, default=2e-4)
    options.add_argument("--bf16", action="store_true", help="as of train-avae")
    options.add_argument("-n", "--samples", type=int, default=4000, help="for the FID")
    options.add_argument("--pairs", type=int, default=1000, help="held-out pictures")
    options.add_argument("-o", "--out", type=Path, default=Path("objectives"))
    given = options.parse_args(arguments)

    make_folder(given.out)
    judge = Judge(given)
    rows, shown = [], {"pictures": list(judge.held_out[:DRAWN])}
    for kind in given.kinds:
        runs = [trained(kind, seed, given)
                for seed in range(given.seeds if kind in SEVERAL else 1)]  # fmt: skip
        rows.append(row(kind, [judge(run) for run in runs]))
        shown |= judge.drawn(kind, runs[0])
    sheet = to_png(grid(list(shown.values()), row_labels=list(shown)))
    finish(given.out, "objectives", rows, {"objectives": sheet})


def trained(kind: str, seed: int, given: Namespace) -> Path:
    """The folder of a run, trained where it is not there yet."""
    if kind in BEFORE:
        trained(BEFORE[kind], seed, given)
    runs = {
        name: given.out / f"{run}-{seed}" for name, run in (("vae", "vae"), ("each", "vae-each"))
    }
    out = given.out / f"{kind}-{seed}"
    kinds = [word.format(**runs, beta=given.beta) for word in KINDS[kind].split()]
    sizes = {"size": given.size, "width": given.width, "latent": given.latent, "seed": seed,
             "steps": given.steps, "rate": given.rate, "every": 500}  # fmt: skip
    how = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    flags = ["--resume", "-q", "-o", str(out), *["--bf16"] * given.bf16]
    app(["train-avae", given.train, *kinds, *how, *flags], standalone_mode=False)
    return out


class Judge:
    """Scores of a run, kept in its folder."""

    def __init__(self, given: Namespace):
        self.given = given
        everything = open_dataset(given.held_out, given.size)
        chosen = torch.linspace(0, everything.size - 1, min(given.pairs, everything.size)).long()
        self.held_out = everything.pictures(chosen)
        self.distance = perceptual(given.size, backbone=given.extractor)
        self.extractor = extractor(given.extractor)

    @cache  # noqa: B019
    def features(self) -> Tensor:
        """What the extractor sees [n, d] in the training pictures."""
        return describe(pictures_at([self.given.train], 0), [self.extractor]).seen[0].features

    def __call__(self, run: Path) -> dict[str, float]:
        kept, how = run / "scores.json", {"samples": self.given.samples, "pairs": self.given.pairs,
                                          "extractor": self.extractor.name}  # fmt: skip
        before = json.loads(kept.read_text()) if kept.exists() else {}
        if before.get("how") != how:
            before = {"how": how, "scores": self.scores(run)}
            save_json(kept, before)
        return before["scores"]

    @torch.no_grad()
    def scores(self, run: Path) -> dict[str, float]:
        generator, name = steer.load(str(run)), self.extractor.name
        samples = generated(generator, lambda items: generator.sample(len(items), 0, items.start),
                            self.given.samples)  # fmt: skip
        seen = describe(samples, [self.extractor])
        found = {
            f"FID {name}": frechet_distance(seen.seen[0].features, self.features()),
            "sharpness of samples": seen.sharpness.mean().item(),
        }
        if generator.has_encoder:
            redrawn = reconstructed(generator, self.held_out)
            pairs = zip(redrawn.split(BATCH), self.held_out.split(BATCH), strict=True)
            away = torch.cat([self.distance(*pair) for pair in pairs])
            found |= {
                "MSE": 4 * (redrawn - self.held_out).square().mean().item(),
                f"perceptual {name}": away.mean().item(),
                "sharpness": sharpness(redrawn).mean().item(),
            }
        return found

    def drawn(self, kind: str, run: Path) -> dict[str, list[Tensor]]:
        """Reconstructions and samples by label."""
        generator = steer.load(str(run))
        rows = {f"{kind}, samples": list(steer.draw(generator, generator.sample(DRAWN, seed=0)))}
        if generator.has_encoder:
            rows[kind] = list(reconstructed(generator, self.held_out[:DRAWN]))
        return rows


@torch.no_grad()
def reconstructed(generator: steer.Generator, pictures: Tensor) -> Tensor:
    """Pictures [n, C, H, W] of the codes of pictures."""

    def work(items: range) -> Tensor:
        some = pictures[items.start : items.stop].to(generator.device)
        return generator(generator.encode(some)).cpu()

    return torch.cat(list(in_batches(work, len(pictures), BATCH)))


def row(kind: str, scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and the deviation of the FID; a dash where a kind has no encoder."""
    means = {name: statistics.mean(each[name] for each in scores) for name in scores[0]}
    fid = next(name for name in means if name.startswith("FID"))
    perceptual_ = fid.replace("FID", "perceptual")
    several = len(scores) > 1
    return {
        "kind": kind,
        "seeds": len(scores),
        "MSE": means.get("MSE"),
        perceptual_: means.get(perceptual_),
        fid: means[fid],
        "deviation of FID": statistics.stdev(each[fid] for each in scores) if several else None,
        "sharpness": means.get("sharpness"),
        "sharpness of samples": means["sharpness of samples"],
        "all": list(scores),
    }


if __name__ == "__main__":
    main()
