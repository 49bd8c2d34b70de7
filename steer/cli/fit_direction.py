"""steer fit-direction: u and g of a factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Json,
    Measure,
    Noise,
    OptionalModel,
    Parts,
    Quiet,
    Seed,
    Space,
    Truncation,
)
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
    from steer.directions import Direction
    from steer.files import Artefact
    from steer.trajectories import Trajectories

NAME = "fit-direction"
#: Options of trajectories and their fit that other methods have no use for.
UNUSED = (
    *("trajectories", "starts", "points", "steps", "constraint", "parts"),
    *("worst", "threshold", "smoothness"),
)
#: Under this held-out R^2 a direction is remarked on.
TELLS_LITTLE = 0.1
#: Options that say how a transform is followed.
FOLLOWING = (
    *("starts", "extent", "points", "steps", "loss", "sigma", "constraint", "parts"),
    *("class_", "truncation", "noise", "space"),
)


#: Settings of a generator and options that trajectories of one direction share.
SETTINGS = ("space", "truncation", "noise")
SHARED = ("parts", "loss", "sigma", "constraint")


def command(
    context: typer.Context,
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
    method: Annotated[
        str,
        typer.Option(
            help="trajectory, or for comparison walk, pca, closed-form or group-means, which a "
            "measure of the property tells what to look for."
        ),
    ] = "trajectory",
    model: OptionalModel = None,
    starts: Starts = 64,
    extent: Extent = None,
    points: Points = 5,
    steps: Steps = 20,
    loss: Loss = "blurred-mse",
    sigma: Sigma = None,
    constraint: Constraint = "ball",
    parts: Parts = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
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
    """Fit t = g(<u, z>) to trajectories, following the transform first where none are given, or
    find u by another method.

    The direction is then calibrated: the measured property at each coordinate is kept with it.

    Example: steer fit-direction --transform zoom -o zoom.safetensors
    """
    target = options.save_or_pipe(out, f"{transform or 'direction'}.safetensors")
    options.refuse_json_on_stdout(json_, target)
    from steer.files import load
    from steer.fitting import fit_direction
    from steer.trajectories import Follow

    if method != "trajectory":
        unused = UNUSED if method == "walk" else (*UNUSED, "extent", "loss", "sigma")
        refuse_given(context, unused, f"with --method {method}, which follows no code")
    given = [load(path, "trajectories") for path in trajectories or []]
    how: str | Follow
    if given:
        refuse_given(context, FOLLOWING, "beside --trajectories, which were followed already")
        how = _followed(given[0], transform)
    else:
        how = follow_options(
            transform or "translate-x", extent, points, steps, loss, sigma, constraint, seed, parts
        )
    followed = how.transform if isinstance(how, Follow) else how
    _refuse_what_does_nothing(context, followed, threshold)
    generator = options.open_generator(
        model, device, given[0] if given else None,
        classes=_classes(given) or class_, truncation=truncation, noise=noise, space=space,
    )  # fmt: skip
    if method != "trajectory":
        from steer.rivals import fit_by

        assert isinstance(how, Follow)
        direction = fit_by(
            generator, method, how, find=measure, samples=samples, seed=seed, batch=batch
        )
        _keep(direction, target, json_)
        return
    bar_is_off = quiet or bool(given)
    with options.progress(f"following {followed}", starts * points, bar_is_off) as bar:
        direction = fit_direction(
            generator, how, _merged(trajectories or [], given), starts=starts, seed=seed,
            find=measure, samples=samples, batch=batch, report=bar,
            source=given[0].made["options"] if given else None,
            worst=worst, threshold=threshold, smoothness=smoothness,
        )  # fmt: skip
    _keep(direction, target, json_)


def _keep(direction: Direction, target: str, json_: bool) -> None:
    from steer.files import save

    artefact = direction.artefact()
    save(artefact, target)
    told = direction.quality["held_out_r2"]
    if told < TELLS_LITTLE:
        options.note(f"this tells little of {direction.name}: R^2 held out is {told:.2f}.")
    if json_:
        options.print_json({"output": target, **direction.facts, **artefact.made})


def _refuse_what_does_nothing(
    context: typer.Context, followed: str, threshold: float | None
) -> None:
    from steer.measures import properties

    if threshold is not None:
        refuse_given(context, ("worst",), "beside --threshold, which drops codes instead of it")
    if followed not in properties:
        refuse_given(context, ("measure", "samples"), f"with {followed}, which is not measurable")


def _classes(given: list[Artefact]) -> list[str]:
    """The classes of all trajectories, or the word for all of them where some chose none."""
    chosen = [artefact.made.get("generator", {}).get("classes") for artefact in given]
    if not any(chosen):
        return []
    return list(dict.fromkeys(str(c) for each in chosen for c in each)) if all(chosen) else ["all"]


def _followed(artefact: Artefact, transform: str | None) -> str:
    """What the trajectories follow; InputError where another transform is asked for."""
    followed = str(artefact.made.get("options", {}).get("transform"))
    if transform not in (None, followed):
        raise InputError(f"expected trajectories of {transform}, got those of {followed}.")
    return followed


def _merged(names: list[str], artefacts: list[Artefact]) -> Trajectories | None:
    """All trajectories as one set; InputError where they are not of one generator and transform."""
    import torch

    from steer.trajectories import Trajectories

    def what(artefact: Artefact) -> str:
        made_with, chosen_ = artefact.made.get("generator", {}), artefact.made.get("options", {})
        checksum = str(made_with.get("checksum"))[:12]
        chosen = [f"{name} {made_with[name]}" for name in SETTINGS if name in made_with]
        chosen += [f"{name} {chosen_[name]}" for name in SHARED if name in chosen_]
        return f"{_followed(artefact, None)} ({', '.join([f'weights {checksum}', *chosen])})"

    for name, artefact in zip(names, artefacts, strict=True):
        if what(artefact) != what(artefacts[0]):
            raise InputError(
                f"expected trajectories of one transform and generator, {names[0]} holds "
                f"{what(artefacts[0])} and {name} {what(artefact)}."
            )
    if not artefacts:
        return None
    columns = artefacts[0].tensors
    return Trajectories(**{c: torch.cat([a.tensors[c] for a in artefacts]) for c in columns})
