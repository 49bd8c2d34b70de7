"""Scenes on the command line: edits of `steer render --scene`, and what `steer show` says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from steer.scenes.scene import Scene
    from steer.scenes.stored import Finder

#: Edits in the order in which they are made, with the numbers that each takes after the object's.
EDITS = {
    "move": ("moved", ("X", "Y")),
    "scale": ("scaled", ("FACTOR",)),
    "rotate": ("rotated", ("DEGREES",)),
    "depth": ("deepened", ("AMOUNT",)),
    "copy": ("copied", ("X", "Y")),
}
WITH_SCENE = {"scene_file", *EDITS, "remove", "out", "model", "device", "json_", "quiet"}


def render_scene(
    context: typer.Context, file: str, edits: dict[str, Any], out: str | None, model: str | None,
    device: str, json_: bool,
) -> None:  # fmt: skip
    """Draws a scene with its objects changed: a picture, or where -o ends in .json the scene."""
    others = tuple(str(p.name) for p in context.command.params if p.name not in WITH_SCENE)
    refuse_given(context, others, "with --scene, which is drawn as it is")
    target = out if out is not None else options.save_or_pipe(None, "render.png")
    options.refuse_json_on_stdout(json_, target)
    options.check_place(target, (".png", ".json"))
    from steer.disk import write_atomically, write_stdout
    from steer.images import to_png
    from steer.scenes.scene import load_scene

    scene = edited(load_scene(file), edits)
    if target.lower().endswith(".json"):
        data = scene.to_json()
    else:
        data = to_png(picture_of(scene, open_model(scene, model, device)))
    if target == "-":
        write_stdout(data)
    else:
        write_atomically(Path(target), data)
    if json_:
        options.print_json({"output": target, "objects": rows(scene)})


def sample_scenes(
    model: str | None, n: int, seed: int, keep: str | None, relations: list[str], out: str,
    device: str, json_: bool,
) -> None:  # fmt: skip
    """Writes scenes from the prior, and a picture of each, into a folder."""
    if out == "-":
        raise InputError("expected a folder for -o with --scenes, got - for a pipe.")
    from steer.disk import make_folder, write_atomically
    from steer.images import to_png
    from steer.scenes.sampling import Relation, sample
    from steer.scenes.scene import load_scene
    from steer.scenes.stored import OWN, load, with_prior

    wanted = [Relation.parse(text) for text in relations]
    kept = None if keep is None else load_scene(keep)
    found = load(model or OWN, device) if kept is None else open_model(kept, model, device)
    network = with_prior(found)
    drawn = sample(network, n, seed, kept=kept, relations=wanted)
    make_folder(Path(out))
    for number, scene in enumerate(drawn):
        place = Path(out) / f"{number:05d}.json"
        write_atomically(place, scene.to_json())
        write_atomically(place.with_suffix(".png"), to_png(picture_of(scene, network)))
    if json_:
        options.print_json({"output": out, "objects": [len(scene) for scene in drawn]})


def edited(scene: Scene, edits: dict[str, Any]) -> Scene:
    """The scene after edits by option: texts NUMBER:VALUES, and the numbers to remove."""
    for option, (method, names) in EDITS.items():
        for text in edits[option]:
            scene = getattr(scene, method)(*_parsed(text, option, names))
    return scene.without(*edits["remove"])


def _parsed(text: str, option: str, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The object's number, and what stands behind the colon."""
    number, colon, rest = text.partition(":")
    values = rest.split(",")
    if not (number.strip().isdecimal() and len(number) < 9 and colon and len(values) == len(names)):
        raise InputError(f"expected NUMBER:{','.join(names)} after --{option}, got {text!r}.")
    return (int(number), *(options.number(value, f"--{option} {number}") for value in values))


def open_model(scene: Scene, model: str | None, device: str) -> Finder:
    """The scene's model; InputError where it is not on this machine, or is another."""
    from steer.hub import cached
    from steer.scenes.stored import OWN, load_finder

    name = str(scene.model.get("model")) if model is None else model
    if model is None and name != OWN and not cached(name):
        raise InputError(
            f"expected the scene model {name} on this machine, which the file was made with: name "
            "it with --model to fetch it."
        )
    network = load_finder(name, device)
    if network.identity["checksum"] != scene.model.get("checksum"):
        raise InputError(f"expected the weights that the scene was found by, {name} has others.")
    return network


def picture_of(scene: Scene, model: Finder) -> Tensor:
    """The picture [3, H, W] of a scene."""
    from steer.scenes.scene import draw

    return draw(model, [scene])[0][0].cpu()


def annotated(scene: Scene, device: str) -> bytes:
    """The scene's picture as PNG with its boxes, and their numbers."""
    from steer.images import to_png
    from steer.scenes.boxes import corners
    from steer.sheets import outlined

    return to_png(
        outlined(picture_of(scene, open_model(scene, None, device)), corners(scene.boxes))
    )


def describe(scene: Scene) -> dict[str, Any]:
    """The objects of a scene by number, its model, and how it was made."""
    objects = {str(number): row for number, row in enumerate(rows(scene))}
    return {"kind": "scene", "objects": objects, "model": scene.model, "made": scene.made}


def rows(scene: Scene) -> list[dict[str, float]]:
    """Boxes and what else a person may read of each object."""
    from steer.scenes.scene import PLACES

    return [
        {**dict(zip(PLACES, box, strict=True)), "depth": depth, "presence": presence}
        for box, depth, presence in zip(
            scene.boxes.tolist(), scene.depths.tolist(), scene.presences.tolist(), strict=True
        )
    ]
