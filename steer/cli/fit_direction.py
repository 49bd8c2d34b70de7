"""steer fit-direction: u and g of a factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options
from steer.cli.options import Batch, Device, Json, Measure, OptionalModel, Quiet, Seed
from steer.cli.trajectories import (
    Constraint,
    Extent,
    Loss,
    Points,
    Sigma,
    Starts,
    Steps,
    follow_options,
)
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.files import Artefact
    from steer.trajectories import Trajectories

NAME = "fit-direction"


def command(
    trajectories: Annotated[
        list[str] | None,
        typer.Option("--trajectories", help="Trajectories to fit; several are merged."),
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            "--transform", "-t", help="Transform to follow without trajectories: translate-x ..."
        ),
    ] = None,
    model: OptionalModel = None,
    starts: Starts = 64,
    extent: Extent = None,
    points: Points = 5,
    steps: Steps = 20,
    loss: Loss = "blurred-mse",
    sigma: Sigma = None,
    constraint: Constraint = "ball",
    worst: Annotated[float, typer.Option(min=0, max=0.9, help="Share of codes to drop.")] = 0.1,
    threshold: Annotated[
        float | None, typer.Option(help="Drop codes with an error above this instead.")
    ] = None,
    smoothness: Annotated[float, typer.Option(min=0, help="Weight of g's smoothness.")] = 1.0,
    samples: Annotated[int, typer.Option(min=2, help="Codes to calibrate with.")] = 256,
    measure: Measure = None,
    batch: Batch = 32,
    out: Annotated[
        str | None, typer.Option("-o", "--out", help="Direction file, or - for a pipe.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit t = g(<u, z>) to trajectories, following the transform first where none are given.

    The direction is then calibrated: the measured property at each coordinate is kept with it.

    Example: steer fit-direction --transform zoom -o zoom.safetensors
    """
    target = options.save_or_pipe(out, f"{transform or 'direction'}.safetensors")
    options.refuse_json_on_stdout(json_, target)
    from steer.files import load, save
    from steer.fitting import fit_direction
    from steer.measures import finders
    from steer.trajectories import follow

    if measure is not None:
        finders.get(measure)  # says that there is none of that name before the work
    if trajectories:
        artefacts = [load(path, "trajectories") for path in trajectories]
        generator = options.open_generator(model, device, artefacts[0])
        known, source = _merged(trajectories, artefacts), artefacts[0].made["options"]
        followed = str(source["transform"])
        if transform not in (None, followed):
            raise InputError(f"expected trajectories of {transform}, got those of {followed}.")
    else:
        followed = transform or "translate-x"
        how = follow_options(followed, extent, points, steps, loss, sigma, constraint, seed)
        generator = options.open_generator(model, device)
        with options.progress(f"following {followed}", starts * points, quiet) as bar:
            known = follow(generator, how, starts, batch=batch, report=bar)
        source = {**how.facts, "starts": starts}
    direction = fit_direction(
        generator, followed, known, source=source, find=measure, samples=samples, seed=seed,
        worst=worst, threshold=threshold, smoothness=smoothness,
    )  # fmt: skip
    save(direction.artefact(), target)
    if json_:
        made = direction.artefact().made
        options.print_json({"output": target, **direction.facts, **made})


def _merged(names: list[str], artefacts: list[Artefact]) -> Trajectories:
    """All trajectories as one set; InputError where they are not of one generator and transform."""
    import torch

    from steer.trajectories import Trajectories

    def what(artefact: Artefact) -> tuple[str, str]:
        made = artefact.made
        followed = made.get("options", {}).get("transform")
        return str(followed), str(made.get("generator", {}).get("checksum"))[:12]

    for name, artefact in zip(names, artefacts, strict=True):
        if what(artefact) != what(artefacts[0]):
            raise InputError(
                f"expected trajectories of one transform and generator, {names[0]} holds "
                f"{what(artefacts[0])} and {name} {what(artefact)}."
            )
    columns = artefacts[0].tensors
    return Trajectories(**{c: torch.cat([a.tensors[c] for a in artefacts]) for c in columns})
