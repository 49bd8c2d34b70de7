"""steer train-vae: a beta-VAE on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import Device, Json, Quiet, Resume, Seed
from steer.errors import InputError

NAME = "train-vae"


def command(
    data: Annotated[
        str, typer.Argument(help="A folder or zip of pictures, sprites, or sprites-grey.")
    ] = "sprites",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder that --model loads afterwards.")
    ] = Path("vae"),
    beta: Annotated[float, typer.Option(min=0, help="Weight of the divergence.")] = 1.0,
    latent: Annotated[int, typer.Option(min=1, help="Numbers in a code.")] = 10,
    widths: Annotated[str, typer.Option(help="Channels of the convolutions.")] = "32,32,32,32",
    dense: Annotated[str, typer.Option(help="Units of the dense layers.")] = "256,256",
    broadcast: Annotated[
        int, typer.Option(min=0, help="Grid of a spatial broadcast decoder; 0 mirrors the encoder.")
    ] = 0,
    likelihood: Annotated[str, typer.Option(help="bernoulli or gaussian.")] = "bernoulli",
    sigma: Annotated[
        float, typer.Option(min=1e-6, help="Standard deviation of gaussian pictures.")
    ] = 0.1,
    size: Annotated[int, typer.Option(min=8, help="Side of a folder's pictures.")] = 64,
    channels: Annotated[int, typer.Option(help="1 or 3, for a folder's pictures.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 100_000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a batch.")] = 128,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate of Adam at the start.")] = 5e-4,
    warm_up: Annotated[int, typer.Option(min=0, help="Steps until beta has its weight.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a beta-VAE and write it as a folder that --model loads.

    Example: steer train-vae sprites --beta 4 -o my-vae
    """
    import torch

    from steer.datasets import open_dataset
    from steer.generators import PictureShape, pick_device
    from steer.generators.vae import VAE
    from steer.training.loop import train
    from steer.training.vae import BetaVAE

    if str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    widths_, dense_ = _sizes(widths, "--widths"), _sizes(dense, "--dense")
    dataset = open_dataset(data, size, channels)
    chosen: dict[str, Any] = {
        "data": dataset.name,
        "latent": latent,
        "widths": widths_,
        "dense": dense_,
        "broadcast": broadcast,
        "picture": list(dataset.shape),
        "batch": batch,
        "seed": seed,
    }
    trained: dict[str, Any] = {
        "steps": steps,
        "beta": beta,
        "likelihood": likelihood,
        "sigma": sigma,
        "rate": rate,
        "warm_up": warm_up,
    }
    torch.manual_seed(seed)
    vae = VAE(PictureShape(*dataset.shape), latent, chosen["widths"], chosen["dense"], broadcast)
    vae.to(pick_device(device)).to(memory_format=torch.channels_last)
    with options.progress("training", steps, quiet, out) as bar:
        train(
            BetaVAE(vae, **trained),
            dataset,
            out,
            {**chosen, **trained},
            steps=steps,
            batch=batch,
            seed=seed,
            every=every,
            resume=resume,
            report=lambda step, stats: bar(step, stats["reconstruction"]),
        )
    if json_:
        options.print_json({"model": str(out), **chosen, **trained})


def _sizes(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"expected whole numbers joined by commas for {option}, got {text!r}.")
    return [int(part) for part in parts]
