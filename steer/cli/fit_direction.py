"""steer fit-direction: u and g of a factor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from steer.cli.progress import progress
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
    from steer.generators import Generator
    from steer.trajectories import Follow, Trajectories

NAME = "fit-direction"
#: Options of trajectories and their fit that other methods have no use for.
UNUSED = (
    *("trajectories", "starts", "points", "steps", "constraint", "parts"),
    *("worst", "threshold", "smoothness"),
)
#: Under this held-out R^2 a direction is remarked on, and under this share of pairs in order.
TELLS_LITTLE = 0.1
HARDLY_APART = 0.6
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
            "measure of the property tells what to look for. Their R^2 is of values measured along "
            "their own line, not of trajectories."
        ),
    ] = "trajectory",
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            help="With group-means: latents with more of the property, then --group again: those "
            "with less, told apart by a person or a classifier.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="What two groups differ in where no measure knows it: t then counts standard "
            "deviations of the prior.",
        ),
    ] = None,
    model: OptionalModel = None,
    starts: Starts = 64,
    extent: Extent = None,
    points: Points = 5,
    steps: Steps = None,
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
    Between two groups of codes it points to the first, whichever way the measured property goes.

    Example: steer fit-direction --transform zoom -o zoom.safetensors
    """
    _refuse_incomplete_groups(group or [], method, transform, name)
    target = options.save_or_pipe(out, f"{name or transform or 'direction'}.safetensors")
    options.refuse_json_on_stdout(json_, target)
    from steer.files import load
    from steer.fitting import fit_direction
    from steer.rivals import require_new_name
    from steer.trajectories import Follow

    if method != "trajectory":
        unused = UNUSED if method == "walk" else (*UNUSED, "extent", "loss", "sigma")
        refuse_given(context, unused, f"with --method {method}, which follows no code")
    if name is not None:
        require_new_name(name)
        refuse_given(context, ("measure", "samples", "batch"), "with --name, which is not measured")
    given = [load(path, "trajectories") for path in trajectories or []]
    groups = [load(path, "latents") for path in group or []]
    how: str | Follow
    if given:
        refuse_given(context, FOLLOWING, "beside --trajectories, which were followed already")
        how = _followed(given[0], transform)
    else:
        how = follow_options(
            transform or "translate-x", extent, points, steps, loss, sigma, constraint, seed, parts
        )
    followed = how.transform if isinstance(how, Follow) else how
    if name is None:
        _refuse_what_does_nothing(context, followed, threshold)
    made_before = [*given, *groups]
    generator = options.open_generator(
        model, device, made_before[0] if made_before else None,
        classes=_classes(made_before) or class_, truncation=truncation, noise=noise, space=space,
    )  # fmt: skip
    if method != "trajectory":
        assert isinstance(how, Follow)
        direction = _by_another_method(
            generator, method, how, list(zip(group or [], groups, strict=True)), name, quiet,
            find=measure, samples=samples, seed=seed, batch=batch,
        )  # fmt: skip
        _keep(direction, target, json_)
        return
    bar_is_off = quiet or bool(given)
    with progress(f"following {followed}", starts * points, bar_is_off) as bar:
        direction = fit_direction(
            generator, how, _merged(trajectories or [], given), starts=starts, seed=seed,
            find=measure, samples=samples, batch=batch, report=bar,
            source=given[0].made["options"] if given else None,
            worst=worst, threshold=threshold, smoothness=smoothness,
        )  # fmt: skip
    _keep(direction, target, json_)


def _by_another_method(
    generator: Generator,
    method: str,
    how: Follow,
    groups: list[tuple[str, Artefact]],
    name: str | None,
    quiet: bool,
    **common: Any,
) -> Direction:
    """By a method of `steer.rivals`, or between two groups; InputError where the groups' codes are
    not of the generator."""
    from steer.calibration import ALPHAS
    from steer.generators import require_same
    from steer.rivals import fit_by, fit_groups

    for path, artefact in groups:
        require_same(artefact.made.get("generator", {}), generator, f"latents {path}")
    codes = [options.codes_of(artefact, generator) for _, artefact in groups]
    title = f"measuring {how.transform}"
    with progress(title, len(ALPHAS), quiet or name is not None) as bar:
        common["report"] = lambda done: bar(done, method)
        if not groups:
            return fit_by(generator, method, how, **common)
        more, less = codes
        source = [Path(path).name for path, _ in groups]
        return fit_groups(generator, more, less, name or how.transform, source=source, **common)


def _keep(direction: Direction, target: str, json_: bool) -> None:
    from steer.calibration import falls
    from steer.files import save

    artefact = direction.artefact()
    save(artefact, target)
    told, auc = (direction.quality.get(f"held_out_{what}", 1.0) for what in ("r2", "auc"))
    if falls(direction):
        options.note(f"the measured {direction.name} falls along this direction.")
    elif told < TELLS_LITTLE:
        options.note(f"this tells little of {direction.name}: R^2 held out is {told:.2f}.")
    chance = 0.5 + 2 * direction.quality.get("held_out_auc_error", 0.0)
    if auc < max(HARDLY_APART, chance):
        options.note(
            f"this hardly tells the groups apart: of left-out pairs {auc:.0%} are in order."
        )
    if json_:
        options.print_json({"output": target, **direction.facts, **artefact.made})


def _refuse_incomplete_groups(
    groups: list[str], method: str, transform: str | None, name: str | None
) -> None:
    """InputError unless there are two groups, of one named property, for group-means; or none."""
    if not groups and name is None:
        return
    if method != "group-means":
        raise InputError(
            f"expected --method group-means with --group or --name, got --method {method}."
        )
    if len(groups) != 2:
        raise InputError(
            "expected --group twice, latents with more of the property and latents with less, got "
            f"{len(groups)}."
        )
    if (transform is None) == (name is None):
        raise InputError(
            "expected either --transform or --name to say what the two groups differ in, got "
            f"{'none' if name is None else 'both'}."
        )


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
