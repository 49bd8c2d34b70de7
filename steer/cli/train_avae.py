"""steer train-avae: adversarial generators, with an encoder or without."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from steer.cli.given import refuse_given
from steer.cli.options import Bf16, Device, Json, Quiet, Resume, Seed
from steer.cli.training import Run, open_data, require_finite, require_folder

NAME = "train-avae"


def command(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(help="A folder or zip of pictures, or a procedural set.")
    ] = "sprites",
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder that --model loads afterwards.")
    ] = Path("avae"),
    objective: Annotated[
        str, typer.Option(help="avae, or to compare with: vae, gan, vae-gan, bigan, lsr-gan.")
    ] = "avae",
    latent: Annotated[int, typer.Option(min=1, help="Numbers of z.")] = 100,
    xi: Annotated[int, typer.Option(min=0, help="Numbers of xi, which carries the rest.")] = 0,
    width: Annotated[int, typer.Option(min=1, help="Channels next to the picture.")] = 128,
    exact: Annotated[
        bool,
        typer.Option("--exact/--plain", help="The latent loss of equation 3.12, or of 3.8."),
    ] = True,
    beta: Annotated[float, typer.Option(min=0, help="Weight of the divergence.")] = 1.0,
    gamma: Annotated[
        float, typer.Option(min=0, help="Weight of a vae-gan's error against realism.")
    ] = 0.01,
    sigma: Annotated[
        str, typer.Option(help="A vae's standard deviations: shared, or of each picture.")
    ] = "shared",
    vae_from: Annotated[
        str | None, typer.Option("--vae", help="Folder of a vae, which stays as it is.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Folder of a vae whose weights a vae starts with.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Folder whose encoder an lsr-gan reads with.")
    ] = None,
    weight: Annotated[
        float, typer.Option("--lambda", min=0, help="Weight of what an lsr-gan's encoder reads.")
    ] = 1.0,
    size: Annotated[int, typer.Option(min=16, help="Side of a folder's pictures.")] = 64,
    channels: Annotated[int, typer.Option(help="1 or 3, for a folder's pictures.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 50_000,
    batch: Annotated[int, typer.Option(min=2, help="Pictures a batch.")] = 64,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate of Adam.")] = 2e-4,
    average: Annotated[
        float, typer.Option(min=0, max=0.99999, help="Decay of the generator's running average.")
    ] = 0.999,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    bf16: Bf16 = False,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a generator whose codes are a VAE's and whose pictures are a GAN's.

    Pictures that cannot be read are named on stderr, the others are trained on, and the status is
    3. An lsr-gan wants --encoder, a folder trained before with --objective vae. Several GPUs:
    `accelerate launch -m steer train-avae ...`, where --batch is that of all together.

    Example: steer train-avae photos/ --size 64 --width 64 -o my-avae
    """
    import torch

    from steer.generators import PictureShape, load
    from steer.training.objectives import Blocks, objectives
    from steer.training.team import Team

    require_folder(out)
    build = objectives.get(objective)
    given = {
        "exact": exact, "beta": beta, "gamma": gamma, "sigma": sigma, "vae_from": vae_from,
        "start": start, "encoder": encoder, "weight": weight, "rate": rate, "average": average,
    }  # fmt: skip
    takes = inspect.signature(build).parameters
    without = tuple(name for name in given if name not in takes)
    refuse_given(context, without, f"for the objective {objective}")
    if vae_from:
        refuse_given(context, ("beta",), f"with --vae {vae_from}, which stays as it is")
    require_finite({"beta": beta, "gamma": gamma, "lambda": weight, "rate": rate})
    trained: dict[str, Any] = {name: value for name, value in given.items() if name in takes}
    dataset, left_out = open_data(context, data, size, channels)
    chosen: dict[str, Any] = {
        "objective": objective, "data": dataset.name, "picture": list(dataset.shape),
        "latent": latent, "xi": xi, "width": width, "batch": batch, "seed": seed, "steps": steps,
        "bf16": bf16,
    }  # fmt: skip
    team = Team(device)
    torch.manual_seed(seed)
    picture = PictureShape(*dataset.shape)
    blocks = Blocks(picture, latent, xi, width, team.device, shared=team.count > 1)
    what = build(blocks, **trained)
    # a folder is what it holds, wherever it lies
    for name in ("vae_from", "start", "encoder"):
        if trained.get(name):
            trained[name] = load(trained[name], device="cpu").identity()["checksum"]
    if vae_from:
        del trained["beta"]
    run = Run(out, every, resume, quiet, json_, team)
    run.train(what, dataset, left_out, {**chosen, **trained})
