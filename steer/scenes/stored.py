"""Scene models of a folder or the Hub."""

from __future__ import annotations

import os
from typing import Any

from steer.checkpoints import Checkpoint, read_checkpoint
from steer.errors import InputError
from steer.generators import pick_device
from steer.generators.planned import fill, planned
from steer.hub import locate
from steer.scenes.model import SceneModel

#: What a model of `config.json` may be told, and the most of each.
MOST = {
    "side": 1024, "grid": 64, "most": 16, "glimpse": 256, "what": 4096, "box": 4096,
    "presence": 4096, "components": 64, "width": 1024,
}  # fmt: skip


def load(model: str | os.PathLike[str], device: str = "auto") -> SceneModel:
    """The scene model of a folder or Hub id that `steer decompose --train` wrote, ready to use. Its
    `identity` says which weights it has.

    Raises InputError where there is none.
    """
    checkpoint = read_checkpoint(locate(os.fspath(model)))
    network = _planned(checkpoint)
    network.identity = {"model": os.fspath(model), "checksum": checkpoint.sha256}
    return network.eval().requires_grad_(False).to(pick_device(device))


def _planned(checkpoint: Checkpoint) -> SceneModel:
    with planned():
        network = SceneModel(**_described(checkpoint))
    fill(network, checkpoint.state, checkpoint.origin)
    return network


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options that a config.json holds; InputError where they make no scene model."""
    config, where = checkpoint.config, checkpoint.origin
    if config.get("family") != SceneModel.family:
        raise InputError(
            f"expected a scene model of steer decompose --train, {where} holds "
            f"{config.get('family', 'something else')!r:.40}."
        )
    options: dict[str, Any] = {"turns": config.get("turns") is True}
    for name, most in MOST.items():
        value = options[name] = config.get(name)
        if type(value) is not int or not 0 < value <= most:
            raise InputError(
                f"{where}: expected a whole number {name} from 1 to {most} in config.json of a "
                f"scene model, got {value!r:.40}."
            )
    side, grid, glimpse = options["side"], options["grid"], options["glimpse"]
    if side % grid or (side // grid) & (side // grid - 1) or glimpse % 4:
        raise InputError(
            f"{where}: expected sides of 2^k cells and glimpses of a multiple of 4 pixels in "
            f"config.json of a scene model, got {side} / {grid} and {glimpse}."
        )
    return options
