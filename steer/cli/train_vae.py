"""steer train-vae: a beta-VAE on pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.options import Bf16, Device, Json, Quiet, Resume, Seed
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    import torch

    from steer.datasets import Dataset
    from steer.generators.vae import VAE
    from steer.training.loop import Objective
    from steer.training.team import Team

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

    if str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    _refuse_what_does_nothing(context, data, likelihood, start)
    team = Team(device)
    widths_, dense_ = _sizes(widths, "--widths"), _sizes(dense, "--dense")
    dataset, left_out = open_data(data, size, channels)
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
    run(objective, dataset, left_out, out, {**chosen, **trained}, every, resume, quiet, json_, team)


def run(
    objective: Objective,
    dataset: Dataset,
    left_out: list[InputError],
    out: Path,
    chosen: dict[str, Any],
    every: int,
    resume: bool,
    quiet: bool,
    json_: bool,
    team: Team,
    judge: Callable[[int, dict[str, float]], None] = lambda step, stats: None,
) -> None:
    """Train, with a bar, and say what came of it; status 3 where pictures were left out. `judge`
    is told each step's numbers, and may end the run by an error."""
    from steer.training.loop import STATE, train

    for reason in left_out if team.leads else []:
        options.note(f"left out: {reason}")
    silent = quiet or not team.leads

    def report(step: int, stats: dict[str, float]) -> None:
        bar(step, next(iter(stats.values())))
        judge(step, stats)

    with progress("training", chosen["steps"], silent, out / STATE) as bar:
        train(
            objective, dataset, out, chosen,
            steps=chosen["steps"], batch=chosen["batch"], seed=chosen["seed"],
            every=every, resume=resume, team=team, bf16=chosen["bf16"],
            report=report,
        )  # fmt: skip
    if json_ and team.leads:
        reasons = [str(reason) for reason in left_out]
        options.print_json({"model": str(out), "left_out": reasons, **chosen})
    if left_out:
        raise typer.Exit(3)


def _refuse_what_does_nothing(
    context: typer.Context, data: str, likelihood: str, start: str | None
) -> None:
    from steer.datasets import is_procedural

    if is_procedural(data):
        beside = f"with the procedural set {data}, whose pictures have a shape of their own"
        refuse_given(context, ("size", "channels"), beside)
    if likelihood == "bernoulli":
        refuse_given(context, ("sigma",), "with --likelihood bernoulli, which has no spread")
    if start:
        refuse_given(context, SIZES, f"with --from {start}, whose sizes stay")


def open_data(data: str, size: int, channels: int) -> tuple[Dataset, list[InputError]]:
    """The pictures, and why some of a folder or zip cannot be read."""
    from steer.datasets import open_dataset

    left_out: list[InputError] = []
    return open_dataset(data, size, channels, left_out.append), left_out


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
