"""steer train-vae: a beta-VAE on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.given import refuse_given
from steer.cli.options import Bf16, Device, Json, Quiet, Resume, Seed
from steer.cli.training import Run, open_data, require_folder
from steer.errors import InputError

if TYPE_CHECKING:
    import torch

    from steer.generators.vae import VAE

NAME = "train-vae"
#: What makes a VAE's networks, beside the shape of its pictures.
SIZES = ("latent", "widths", "dense", "broadcast")


def command(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(help="A folder or zip of pictures, or a procedural set.")
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
    start: Annotated[
        str | None,
        typer.Option("--from", help="A vae to start from; its sizes are the model's."),
    ] = None,
    bf16: Bf16 = False,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a beta-VAE and write it as a folder that --model loads.

    Pictures that cannot be read are named on stderr, the others are trained on, and the status is
    3. A run that ended before its first checkpoint left nothing to go on with: its folder is free
    for another. Several GPUs: `accelerate launch -m steer train-vae ...`, where --batch is that of
    all together.

    Example: steer train-vae sprites --beta 4 -o my-vae
    """
    from steer.training.team import Team
    from steer.training.vae import BetaVAE

    require_folder(out)
    if likelihood == "bernoulli":
        refuse_given(context, ("sigma",), "with --likelihood bernoulli, which has no spread")
    if start:
        refuse_given(context, SIZES, f"with --from {start}, whose sizes stay")
    team = Team(device)
    widths_, dense_ = _sizes(widths, "--widths"), _sizes(dense, "--dense")
    dataset, left_out = open_data(context, data, size, channels)
    chosen: dict[str, Any] = {
        "data": dataset.name,
        "latent": latent,
        "widths": widths_,
        "dense": dense_,
        "broadcast": broadcast,
        "picture": list(dataset.shape),
        "batch": batch,
        "seed": seed,
        "bf16": bf16,
        "start": start,
    }
    trained: dict[str, Any] = {
        "steps": steps,
        "beta": beta,
        "likelihood": likelihood,
        "sigma": sigma,
        "rate": rate,
        "warm_up": warm_up,
    }
    vae = _started(dataset.shape, chosen, team.device)
    objective = BetaVAE(vae, **trained)
    chosen |= {name: vae.config[name] for name in SIZES}
    run = Run(out, every, resume, quiet, json_, team)
    run.train(objective, dataset, left_out, {**chosen, **trained})


def _started(shape: tuple[int, int, int], chosen: dict[str, Any], device: torch.device) -> VAE:
    """A VAE with weights drawn from the seed, or those of one that was trained before."""
    import torch

    from steer.generators import PictureShape, load
    from steer.generators.vae import VAE

    torch.manual_seed(chosen["seed"])
    if not (start := chosen["start"]):
        vae = VAE(PictureShape(*shape), *(chosen[name] for name in SIZES))
    else:
        before = load(start, device="cpu")
        if not isinstance(before, VAE) or tuple(before.picture) != tuple(shape):
            raise InputError(
                f"expected a vae of pictures {list(shape)} for --from, {start} holds "
                f"{before.family} of {list(before.picture)}."
            )
        vae = VAE(before.picture, *(before.config[name] for name in SIZES))
        vae.load_state_dict(before.state_dict())
        chosen["start"] = before.identity()["checksum"]
    return vae.to(device).to(memory_format=torch.channels_last)


def _sizes(text: str, option: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"expected whole numbers joined by commas for {option}, got {text!r}.")
    return [int(part) for part in parts]
