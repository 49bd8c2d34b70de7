"""What a VAE that was trained on other pictures is worth where there are few (chapter 4 of Zeng
2022): 100 pictures, 50 epochs, from its weights and from nothing.

The numbers are negative evidence lower bounds of held-out pictures in nats, of the VAE untouched,
tuned, and trained anew; codes are drawn from the posteriors by one seed.

Run: python examples/figures/transfer.py VAE_FOLDER PICTURES/ HELD_OUT/ -o out/
         where `steer train-avae OTHERS/ --objective vae -o VAE_FOLDER` was run before
"""

from __future__ import annotations

import random
import shutil
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from output import finish
from torch import Tensor

import steer
from steer.cli import app
from steer.datasets import open_dataset
from steer.disk import make_folder
from steer.generators.avae import AVAE
from steer.images import find_images, to_png
from steer.sheets import grid
from steer.training.avae import bound
from steer.training.team import Noise

DRAWN = 8


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("vae", help="folder of `steer train-avae --objective vae`")
    options.add_argument("pictures", help="folder to choose a few of")
    options.add_argument("held_out", help="folder to judge on")
    options.add_argument("--few", type=int, default=100)
    options.add_argument("--epochs", type=int, default=50)
    options.add_argument("--batch", type=int, default=20)
    options.add_argument("--pairs", type=int, default=500, help="held-out pictures")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("-o", "--out", type=Path, default=Path("transfer"))
    given = options.parse_args(arguments)

    before = opened(given.vae)
    held_out = open_dataset(given.held_out, before.picture.height, before.picture.channels)
    pictures = held_out.pictures(torch.linspace(0, held_out.size - 1, given.pairs).long())
    rows, shown = [], {"held out": list(pictures[:DRAWN]), "untouched": redrawn(before, pictures)}
    for seed in range(given.seeds):
        folder = chosen(given, seed)
        made = {name: trained(folder, name, seed, given) for name in ("tuned", "anew")}
        costs = {name: cost(vae, pictures) for name, vae in {"untouched": before, **made}.items()}
        rows.append({"seed": seed, **costs, "tuned is better": costs["tuned"] < costs["anew"]})
        if not seed:
            shown |= {name: redrawn(vae, pictures) for name, vae in made.items()}
    means = {
        name: statistics.mean(r[name] for r in rows) for name in ("untouched", "tuned", "anew")
    }
    better = f"{sum(row['tuned is better'] for row in rows)} of {len(rows)}"
    rows.append({"seed": "mean", **means, "tuned is better": better})
    sheet = to_png(grid(list(shown.values()), row_labels=list(shown)))
    finish(given.out, "transfer", rows, {"transfer": sheet})


def chosen(given: Namespace, seed: int) -> Path:
    """A folder of a few of the pictures."""
    folder = given.out / f"pictures-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    for i, path in enumerate(random.Random(seed).sample(find_images([given.pictures]), given.few)):  # noqa: S311
        shutil.copyfile(path, folder / f"{i}{path.suffix}")
    return folder


def trained(folder: Path, name: str, seed: int, given: Namespace) -> AVAE:
    """The VAE that learnt from a folder's pictures; a run that is there already is kept."""
    before, out = opened(given.vae), given.out / f"{name}-{seed}"
    sizes = {"size": before.picture.height, "channels": before.picture.channels,
             "width": before.config["width"], "latent": before.config["latent"],
             "sigma": before.config["encoder"]}  # fmt: skip
    how = {**sizes, "steps": given.few * given.epochs // given.batch, "batch": given.batch,
           "seed": seed, **({"from": given.vae} if name == "tuned" else {})}  # fmt: skip
    options = [word for key, value in how.items() for word in (f"--{key}", str(value))]
    flags = ["--objective", "vae", "--resume", "-q", "-o", str(out)]
    app(["train-avae", str(folder), *options, *flags], standalone_mode=False)
    return opened(str(out))


def opened(folder: str) -> AVAE:
    """A trained VAE."""
    vae = steer.load(folder, device="cpu")
    if not isinstance(vae, AVAE) or not vae.has_encoder:
        raise SystemExit(f"expected a folder of `steer train-avae --objective vae`, got {folder}.")
    return vae


@torch.no_grad()
def cost(vae: AVAE, pictures: Tensor) -> float:
    """Negative evidence lower bound of pictures [n, C, H, W] in nats, up to a constant."""
    mean, log_variance = vae.posterior(pictures)
    z = mean + (log_variance / 2).exp() * Noise(0).normal(*mean.shape)
    return sum(bound(vae.decoder(z), 2 * pictures - 1, mean, log_variance / 2)).item()


@torch.no_grad()
def redrawn(vae: AVAE, pictures: Tensor) -> list[Tensor]:
    """What the first pictures become."""
    return list(vae(vae.posterior(pictures[:DRAWN])[0]))


if __name__ == "__main__":
    main()
