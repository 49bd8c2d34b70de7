"""steer decompose: pictures to scenes of objects that can be moved, and the models for that."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.options import Batch, Bf16, Device, Json, Quiet, Resume, Seed
from steer.cli.progress import is_terminal, progress
from steer.cli.training import Run, require_folder
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.scenes.bfvae import BFVAE
    from steer.scenes.decomposition import Decomposed
    from steer.scenes.scene import Scene
    from steer.scenes.stored import Finder

NAME = "decompose"
#: What only the training of a model takes.
TRAINING = (
    "objective", "size", "grid", "boxes", "turns", "scope", "alpha", "steps", "rate", "sigma",
    "beta", "object_prior", "rotation", "every", "bf16", "seed",
)  # fmt: skip
#: What only the decomposing of pictures takes.
DECOMPOSING = ("model", "align")


def command(
    context: typer.Context,
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures, folders of them, or - for a pipe.")
    ] = [],  # noqa: B006
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder or Hub id of a scene model, or scenes.")
    ] = "scenes",
    align: Annotated[str, typer.Option(help="crop or letterbox to the model's size.")] = "crop",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="Folder, scene.json of one picture, or - for a pipe."),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Train a model on a folder or zip of pictures, or a procedural set."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="scenes: boxes in cells; said: one box after another; bfvae.")
    ] = "scenes",
    size: Annotated[int, typer.Option(min=16, help="Side of a folder's pictures.")] = 64,
    grid: Annotated[int | None, typer.Option(min=1, help="Cells along a side: 8.")] = None,
    boxes: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Boxes that a cell may have: 1; a said's picture: 9."),
    ] = None,
    turns: Annotated[
        bool | None, typer.Option("--turns", help="Boxes have an angle, along their object.")
    ] = None,
    scope: Annotated[
        bool | None, typer.Option("--scope/--no-scope", help="A said sees where it has looked.")
    ] = None,
    alpha: Annotated[
        bool | None,
        typer.Option("--alpha/--no-alpha", help="What a said draws covers a part of its box."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 10_000,
    rate: Annotated[
        float | None,
        typer.Option(min=0, help="Learning rate of Adam at the start: 1e-3; a bfvae's: 2e-3."),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help="Standard deviation of a pixel around what is drawn: 0.15; said and bfvae: 0.1.",
        ),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(min=0, help="Weight of what a bfvae tells of backgrounds: 20.")
    ] = None,
    object_prior: Annotated[
        float | None, typer.Option(min=0, help="Weight of boxes that fit their objects: 10.")
    ] = None,
    rotation: Annotated[
        float | None, typer.Option(min=0, help="Weight of boxes along their objects: 1.")
    ] = None,
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
    stderr, the others are done, and the status is 3; with --resume those that an earlier run did
    stay as they are. A bfvae draws what is before each picture with what is behind each, as one
    picture.

    With --train, a model is trained on pictures without any labels (chapter 5 of Plumerault 2023;
    said and bfvae: chapters 6 and 5 of Zeng 2022), and -o is its folder.

    Example: steer decompose desk.png | steer render --scene - --move 0:0.1,0 -o moved.png
    """
    if train is not None:
        if pictures:
            raise InputError(f"expected no pictures beside --train {train}, got {pictures[0]}.")
        refuse_given(context, DECOMPOSING, f"beside --train {train}, which makes a model")
        from steer.cli.scene_training import train_scenes
        from steer.training.team import Team

        run = Run(require_folder(out or "scene-model"), every, resume, quiet, json_, Team(device))
        how = {"batch": batch, "seed": seed, "bf16": bf16, "steps": steps}
        given = {
            "grid": grid, "boxes": boxes, "turns": turns, "scope": scope, "alpha": alpha,
            "rate": rate, "sigma": sigma, "beta": beta, "object_prior": object_prior,
            "rotation": rotation,
        }  # fmt: skip
        train_scenes(context, run, objective, train, size, given, how)
        return
    refuse_given(context, TRAINING, "without --train")
    if not pictures:
        raise InputError("expected pictures to decompose, or --train DATA.")
    _decompose(pictures, model, align, out, batch, resume, device, json_, quiet)


def _decompose(
    pictures: list[str], model: str, align: str, out: str | None, batch: int, resume: bool,
    device: str, json_: bool, quiet: bool,
) -> None:  # fmt: skip
    from steer.images import find_images
    from steer.scenes.bfvae import BFVAE
    from steer.scenes.stored import load

    piped = [Path(text) for text in pictures if text == "-"]
    paths = piped + find_images(text for text in pictures if text != "-")
    if resume and "-" in (out, *pictures):
        raise InputError("expected files for --resume, got - for a pipe.")
    options.refuse_json_on_stdout(json_, out or "")
    network = load(model, device)
    failed: dict[str, str] = {}
    told: dict[str, Any]
    if isinstance(network, BFVAE):
        if resume:
            raise InputError(f"expected no --resume with {model}, which draws one picture.")
        told = _swap(network, paths, align, out, json_, failed)
    else:
        told = _take_apart(network, paths, align, out, batch, resume, quiet, json_, failed)
    for reason in failed.values():
        options.note(f"left out: {reason}")
    if json_:
        options.print_json({**told, "failed": failed})
    if failed:
        raise typer.Exit(3)


def _take_apart(
    network: Finder, paths: list[Path], align: str, out: str | None, batch: int, resume: bool,
    quiet: bool, json_: bool, failed: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Writes the scenes of pictures; what --json says of them."""
    from steer.scenes.decomposition import decompose

    target = out or ("scenes" if len(paths) > 1 or is_terminal(sys.stdout) else "-")
    options.refuse_json_on_stdout(json_, target)
    places = _places(target, paths)
    made = {str(path): _made(path, places[str(path)], network, align) for path in paths if resume}
    rows = {name: _row(name, scene) for name, scene in made.items() if scene is not None}
    left = [path for path in paths if str(path) not in rows]
    with progress("decomposing", len(left), quiet) as bar:
        for done in decompose(network, left, align=align, batch=batch,
                              left_out=failed.__setitem__):  # fmt: skip
            _write(done, places[done.path], target.lower().endswith(".json"))
            rows[done.path] = _row(done.path, done.scene)
            bar(len(rows) + len(failed) - (len(paths) - len(left)), done.error)
    _require_some(rows, failed)
    return {"output": target, "pictures": [rows[str(p)] for p in paths if str(p) in rows]}


def _swap(
    network: BFVAE, paths: list[Path], align: str, out: str | None, json_: bool,
    failed: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Draws each picture's foreground before each one's background, as one picture."""
    import torch

    from steer.disk import write_stdout
    from steer.images import to_png, write_png
    from steer.scenes.bfvae import swaps
    from steer.scenes.decomposition import pictures_of

    target = out or options.save_or_pipe(None, "swapped.png")
    options.refuse_json_on_stdout(json_, target)
    options.check_place(target, (".png",))
    seen = {name: picture for name, _, picture in
            pictures_of(paths, network.side, align, failed.__setitem__)}  # fmt: skip
    _require_some(seen, failed)
    device = next(network.parameters()).device
    drawn = swaps(network, torch.stack(list(seen.values())).to(device))
    if target == "-":
        write_stdout(to_png(drawn))
    else:
        write_png(target, drawn)
    return {"output": target, "pictures": list(seen)}


def _require_some(done: Collection[str], failed: dict[str, str]) -> None:
    if not done:
        last = list(failed.values())[-1]
        raise InputError(f"expected a picture, none of {len(failed)} could be read: {last}")


def _places(target: str, paths: list[Path]) -> dict[str, str]:
    """The scene's file of each picture; InputError where that cannot be one of its own."""
    if target == "-" or Path(target).suffix.lower() == ".json":
        if len(paths) > 1:
            raise InputError(f"expected a folder for -o with {len(paths)} pictures, got {target}.")
        options.check_place(target)
        return {str(path): target for path in paths}
    from steer.disk import make_folder

    places: dict[str, str] = {}
    taken = {path.resolve() for path in paths}
    for path in paths:
        name = "picture" if str(path) == "-" else path.stem
        place = str(Path(target) / f"{name}.json")
        if place in places.values():
            raise InputError(f"expected pictures with names of their own, got two called {name}.")
        if Path(place).with_suffix(".png").resolve() in taken:
            raise InputError(
                f"expected another folder for -o than {target}, where {name}.png lies."
            )
        places[str(path)] = place
    make_folder(Path(target))
    return places


def _made(path: Path, place: str, model: Finder, align: str) -> Scene | None:
    """The scene that an earlier run wrote for a picture, whether it was edited since or not; none
    where it is damaged, or of another picture, model or fit."""
    from hashlib import sha256

    from steer.disk import read_whole
    from steer.scenes.scene import load_scene

    if not Path(place).exists():
        return None
    try:
        scene, data = load_scene(place), read_whole(path)
    except InputError:
        return None
    told = scene.made.get("options")
    if not isinstance(told, dict) or not isinstance(told.get("error"), float):
        return None
    found = scene.model.get("checksum"), told.get("sha256"), told.get("align")
    wanted = model.identity["checksum"], sha256(data).hexdigest(), align
    return scene if found == wanted else None


def _row(name: str, scene: Scene) -> dict[str, Any]:
    """What --json says of a picture."""
    return {"picture": name, "objects": len(scene), "error": scene.made["options"]["error"]}


def _write(done: Decomposed, place: str, alone: bool) -> None:
    """The scene, and in a folder a picture of it."""
    from steer.disk import write_atomically, write_stdout
    from steer.images import write_png

    if place == "-":
        write_stdout(done.scene.to_json())
        return
    if alone:
        write_atomically(Path(place), done.scene.to_json())
        return
    # the scene last: one that is there says that the picture of it is too
    write_png(Path(place).with_suffix(".png"), done.sheet())
    write_atomically(Path(place), done.scene.to_json())
