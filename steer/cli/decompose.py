"""steer decompose: pictures to scenes of objects that can be moved, and the models for that."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.options import Batch, Bf16, Device, Json, Quiet, Resume, Seed
from steer.cli.progress import is_terminal, progress
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.scenes.decomposition import Decomposed

NAME = "decompose"
#: Runs of a training that found no objects, and how far apart their seeds are.
ATTEMPTS, SEEDS_APART = 3, 1000
#: What only the training of a model takes.
TRAINING = (
    "size", "grid", "boxes", "turns", "steps", "rate", "sigma", "object_prior", "rotation",
    "every", "bf16", "seed", "resume",
)  # fmt: skip
#: What only the decomposing of pictures takes.
DECOMPOSING = ("model", "align")


def command(
    context: typer.Context,
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures, folders of them, or - for a pipe.")
    ] = [],  # noqa: B006
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder or Hub id of a scene model.")
    ] = None,
    align: Annotated[str, typer.Option(help="crop or letterbox to the model's size.")] = "crop",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="Folder, scene.json of one picture, or - for a pipe."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Train a model on a folder or zip of pictures, or a procedural set."),
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of a folder's pictures.")] = 64,
    grid: Annotated[int, typer.Option(min=1, help="Cells along a side.")] = 4,
    boxes: Annotated[int, typer.Option(min=1, max=16, help="Boxes that a cell may have.")] = 4,
    turns: Annotated[
        bool, typer.Option("--turns", help="Boxes have an angle, along their object.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 10_000,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate of Adam at the start.")] = 1e-3,
    sigma: Annotated[
        float, typer.Option(min=1e-3, help="Standard deviation of a pixel around what is drawn.")
    ] = 0.15,
    object_prior: Annotated[
        float, typer.Option(min=0, help="Weight of boxes that fit their objects.")
    ] = 10.0,
    rotation: Annotated[
        float, typer.Option(min=0, help="Weight of boxes along their objects, with --turns.")
    ] = 1.0,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    batch: Batch = 32,
    bf16: Bf16 = False,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take pictures for scenes: a background, and objects in boxes that `render --scene` moves.

    A folder gets NAME.json and NAME.png of each picture. Those that cannot be read are named on
    stderr, the others are done, and the status is 3. With --train, a model is trained on pictures
    without any labels (chapter 5 of Plumerault 2023), and -o is its folder.

    Example: steer decompose desk.png -m my-scenes | steer render --scene - --move 0:0.1,0 -o m.png
    """
    if train is not None:
        if pictures:
            raise InputError(f"expected no pictures beside --train {train}, got {pictures[0]}.")
        refuse_given(context, DECOMPOSING, f"beside --train {train}, which makes a model")
        if not turns:
            refuse_given(context, ("rotation",), "without --turns")
        folder = Path(out or "scene-model")
        sizes = {"grid": grid, "most": boxes, "turns": turns}
        weights = {"object_prior": object_prior, "rotation": rotation, "sigma": sigma}
        how = {"batch": batch, "seed": seed, "bf16": bf16, "steps": steps, "rate": rate}
        _train(context, train, folder, size, sizes, {**weights, **how},
               every, resume, quiet, json_, device)  # fmt: skip
        return
    refuse_given(context, TRAINING, "without --train")
    if not pictures:
        raise InputError("expected pictures to decompose, or --train DATA.")
    if model is None:
        raise InputError("expected --model, a folder that decompose --train wrote.")
    _decompose(pictures, model, align, out, batch, device, json_, quiet)


def _decompose(
    pictures: list[str], model: str, align: str, out: str | None, batch: int, device: str,
    json_: bool, quiet: bool,
) -> None:  # fmt: skip
    from steer.images import find_images
    from steer.scenes.decomposition import decompose
    from steer.scenes.stored import load

    piped = [Path(text) for text in pictures if text == "-"]
    paths = piped + find_images(text for text in pictures if text != "-")
    target = out or ("scenes" if len(paths) > 1 or is_terminal(sys.stdout) else "-")
    options.refuse_json_on_stdout(json_, target)
    places = _places(target, paths)
    network = load(model, device)
    failed: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    with progress("decomposing", len(paths), quiet) as bar:
        for done in decompose(
            network, paths, align=align, batch=batch, left_out=failed.__setitem__
        ):
            _write(done, places[done.path])
            rows.append({"picture": done.path, "objects": len(done.scene), "error": done.error})
            bar(len(rows) + len(failed), done.error)
    for reason in failed.values():
        options.note(f"left out: {reason}")
    if json_:
        options.print_json({"output": target, "pictures": rows, "failed": failed})
    if failed:
        raise typer.Exit(3)


def _places(target: str, paths: list[Path]) -> dict[str, str]:
    """The scene's file of each picture; InputError where that cannot be one of its own."""
    if target == "-" or Path(target).suffix.lower() == ".json":
        if len(paths) > 1:
            raise InputError(f"expected a folder for -o with {len(paths)} pictures, got {target}.")
        options.check_place(target)
        return {str(path): target for path in paths}
    from steer.disk import make_folder

    make_folder(Path(target))
    places: dict[str, str] = {}
    for path in paths:
        name = "picture" if str(path) == "-" else path.stem
        place = str(Path(target) / f"{name}.json")
        if place in places.values():
            raise InputError(f"expected pictures with names of their own, got two called {name}.")
        places[str(path)] = place
    return places


def _write(done: Decomposed, place: str) -> None:
    """The scene, and in a folder a picture of it."""
    from steer.disk import write_atomically, write_stdout
    from steer.images import write_png

    if place == "-":
        write_stdout(done.scene.to_json())
        return
    write_atomically(Path(place), done.scene.to_json())
    write_png(Path(place).with_suffix(".png"), done.sheet())


def _train(
    context: typer.Context, data: str, folder: Path, size: int, sizes: dict[str, Any],
    trained: dict[str, Any], every: int, resume: bool, quiet: bool, json_: bool, device: str,
) -> None:  # fmt: skip
    import torch

    from steer.cli.train_vae import open_data, run
    from steer.datasets import is_procedural
    from steer.scenes.model import SceneModel
    from steer.training.loop import STATE
    from steer.training.scenes import Scenes, Swallowed
    from steer.training.team import Team

    if is_procedural(data):
        beside = f"with the procedural set {data}, whose pictures have a shape of their own"
        refuse_given(context, ("size",), beside)
    dataset, left_out = open_data(data, size, 3)
    channels, height, width = dataset.shape
    if channels != 3 or height != width or height % sizes["grid"] or _odd(height // sizes["grid"]):
        raise InputError(
            f"expected square pictures of 3 channels and cells of 2^k pixels, got "
            f"{list(dataset.shape)} and {sizes['grid']} cells along a side."
        )
    team = Team(device)
    names = ("steps", "rate", "sigma", "object_prior", "rotation")
    for attempt in range(_attempt(folder) if resume else 0, ATTEMPTS):
        seed = trained["seed"] + attempt * SEEDS_APART
        torch.manual_seed(seed)
        model = SceneModel(height, **sizes).to(team.device)
        objective = Scenes(model, **{name: trained[name] for name in names})
        chosen = {"objective": "scenes", "data": dataset.name, **model.config, **trained,
                  "seed": seed, "attempt": attempt}  # fmt: skip
        try:
            run(objective, dataset, left_out, folder, chosen, every, resume, quiet, json_, team,
                objective.judge)  # fmt: skip
            return
        except Swallowed as failed:
            team.wait()
            if team.leads:
                (folder / STATE).unlink(missing_ok=True)
            if attempt + 1 == ATTEMPTS:
                raise
            options.note(f"{failed} Beginning anew with seed {seed + SEEDS_APART}.")


def _attempt(folder: Path) -> int:
    """Which attempt an interrupted run was at."""
    from steer.training.loop import OPTIONS

    try:
        attempt = json.loads((folder / OPTIONS).read_text())["attempt"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0
    return attempt if type(attempt) is int and 0 <= attempt < ATTEMPTS else 0


def _odd(cell: int) -> bool:
    """Whether a cell's side is no power of two, of 4 or more."""
    return cell < 4 or bool(cell & (cell - 1))
