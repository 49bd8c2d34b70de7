"""steer compare: ways to find one direction, in one table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Json,
    Measure,
    Model,
    Noise,
    Quiet,
    Seed,
    Space,
    Truncation,
)
from steer.errors import InputError

NAME = "compare"
HEADINGS = ("method", "r2", "open", "closed", "reached", "std", "leakage", "seconds", "evaluations")


def command(
    transform: Annotated[
        str, typer.Option("--transform", "-t", help="What the direction is of: translate-x ...")
    ] = "translate-x",
    model: Model = "sprites",
    methods: Annotated[
        str, typer.Option("--methods", help="Names joined by commas; all of them by default.")
    ] = "",
    starts: Annotated[int, typer.Option(min=4, help="Codes followed by trajectory.")] = 64,
    samples: Annotated[int, typer.Option(min=8, help="Codes the other methods measure.")] = 256,
    n: Annotated[int, typer.Option("-n", min=8, help="Codes to judge on.")] = 64,
    measure: Measure = None,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for the directions and the table.")
    ] = None,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a direction by several methods and judge all of them on the same codes.

    r2 is that of g on held-out codes; open and closed are the root mean square of the measured
    value less the one asked for, over five values and, closed, the items that reached them; std is
    that of the measured value at one coordinate; leakage the mean move of the other properties for
    a move by one standard deviation, in theirs; evaluations are pictures made to find it.

    Example: steer compare --transform translate-x -o report/
    """
    from steer.disk import make_folder, save_json
    from steer.files import how_made, save
    from steer.rivals import methods as known

    if out is not None and str(out) == "-":
        raise InputError("expected a folder for -o, got - for a pipe.")
    names = (
        [each.strip() for each in methods.split(",")] if methods else ["trajectory", *known.names()]
    )
    for name in names:
        if name != "trajectory":
            known.get(name)
    generator = options.open_generator(
        model, device, classes=class_, truncation=truncation, noise=noise, space=space
    )
    if out is not None:
        make_folder(out)
    rows = []
    with options.progress(f"comparing {transform}", len(names), quiet) as bar:
        for done, name in enumerate(names):
            bar(done, name)
            direction, row = _found(
                generator, name, transform, starts, samples, measure, seed, batch
            )
            row |= _judged(generator, direction, n, seed, batch)
            rows.append({heading: row[heading] for heading in HEADINGS})
            if out is not None:
                save(direction.artefact(), out / f"{name}.safetensors")
    made = how_made("compare", generator.identity(), seed=seed, transform=transform, n=n,
                    methods=names, starts=starts, samples=samples, measure=measure)  # fmt: skip
    if out is not None:
        save_json(out / "compare.json", {"rows": rows, "made": made})
    if json_:
        options.print_json({"rows": rows, "made": made})
    else:
        lines = [[str(row["method"]), *map(_number, list(row.values())[1:])] for row in rows]
        options.print_table(lines, HEADINGS, f"{transform} of {generator.name}")


def _found(
    generator: Any, method: str, transform: str, starts: int, samples: int,
    measure: str | None, seed: int, batch: int,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """The direction, and what it took."""
    from steer.fitting import fit_direction
    from steer.rivals import fit_by
    from steer.trajectories import Follow

    drawn = 0

    def count(module: Any, arguments: tuple, pictures: Any) -> None:
        nonlocal drawn
        drawn += len(pictures)

    hook, start = generator.register_forward_hook(count), time.perf_counter()
    try:
        if method == "trajectory":
            direction = fit_direction(
                generator, transform, starts=starts, find=measure, samples=samples, seed=seed
            )
        else:
            direction = fit_by(
                generator,
                method,
                Follow(transform),
                find=measure,
                samples=samples,
                seed=seed,
                batch=batch,
            )
    finally:
        hook.remove()
    took = {"seconds": time.perf_counter() - start, "evaluations": drawn}
    return direction, {"method": method, "r2": direction.quality["held_out_r2"]} | took


def _judged(generator: Any, direction: Any, n: int, seed: int, batch: int) -> dict[str, Any]:
    """Errors, spread and leakage on codes that no method has seen."""
    import numpy as np

    from steer.evaluation import evaluate
    from steer.knobs import Status

    judged = evaluate(generator, [direction], samples=n, seed=seed + 1, batch=batch)
    measured = judged.measured[0]
    if measured is None:
        raise InputError(f"expected a measurable property to compare, got {direction.name}.")
    loops = {
        loop: [one for one in measured.accuracy if one.loop == loop] for loop in ("open", "closed")
    }
    own = judged.names.index(direction.name)
    others = np.delete(judged.relative[0], own)
    return {
        "open": _mean_square(np.concatenate([one.error for one in loops["open"]])),
        "closed": _mean_square(
            np.concatenate([one.error[one.status == Status.REACHED] for one in loops["closed"]])
        ),
        "reached": float(np.mean([one.share(Status.REACHED) for one in loops["closed"]])),
        "std": float(np.nanmean(measured.response[:, 1])),
        "leakage": float(np.nanmean(others)),
    }


def _mean_square(error: Any) -> float:
    import numpy as np

    return float(np.sqrt(np.nanmean(error**2))) if np.isfinite(error).any() else float("nan")


def _number(value: float) -> str:
    return f"{value:.3g}"
