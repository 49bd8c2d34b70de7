"""Scene models of a folder or the Hub, of each family."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

from steer.checkpoints import Checkpoint, read_checkpoint, save_checkpoint
from steer.errors import InputError
from steer.generators import EMBEDDED, pick_device
from steer.generators.planned import fill, planned
from steer.hub import locate
from steer.scenes.bfvae import BFVAE
from steer.scenes.model import SceneModel
from steer.scenes.said import SAID

#: What finds objects that can be moved; and those that take pictures apart in any way.
Finder: TypeAlias = SceneModel | SAID
Model: TypeAlias = Finder | BFVAE

#: The name of the model that comes with the package.
OWN = "scenes"
FAMILIES: dict[str, type[Model]] = {each.family: each for each in (SceneModel, SAID, BFVAE)}
#: What a model's config.json tells: whole numbers with the most of each, and switches.
NUMBERS = {
    "scenes": {
        "side": 1024, "grid": 64, "most": 16, "glimpse": 256, "what": 4096, "box": 4096,
        "presence": 4096, "components": 64, "width": 1024,
    },
    "said": {"side": 1024, "what": 4096, "width": 1024, "most": 64},
    "bfvae": {"side": 1024, "foreground": 4096, "background": 4096, "width": 1024},
}  # fmt: skip
SWITCHES: dict[str, tuple[str, ...]] = {"scenes": ("turns",), "said": ("scope", "alpha")}


def load(model: str | os.PathLike[str], device: str = "auto") -> Model:
    """The model of a folder or Hub id that `steer decompose --train` wrote, or of the package by
    its name, ready to use. Its `identity` says which weights it has.

    Raises InputError where there is none.
    """
    name = os.fspath(model)
    checkpoint = read_checkpoint(locate(str(EMBEDDED / name) if name == OWN else name))
    family, options = _described(checkpoint)
    with planned():
        try:
            network = FAMILIES[family](**options)
        except InputError as error:
            raise InputError(f"{checkpoint.origin}: {error}") from error
    fill(network, checkpoint.state, checkpoint.origin)
    network.identity = {"model": name, "checksum": checkpoint.sha256}
    return network.eval().requires_grad_(False).to(pick_device(device))


def load_finder(model: str | os.PathLike[str], device: str = "auto") -> Finder:
    """The same, of what finds objects."""
    network = load(model, device)
    if isinstance(network, BFVAE):
        raise InputError(f"expected a model that finds objects, {os.fspath(model)} is a bfvae.")
    return network


def with_prior(model: Model) -> SceneModel:
    """The model, where it has a prior of scenes; InputError otherwise."""
    if not isinstance(model, SceneModel):
        raise InputError(
            f"expected a model that was trained with the objective scenes, "
            f"{model.identity['model']} is of family {model.family}."
        )
    return model


def save(folder: Path, model: Model, trained: dict[str, Any]) -> None:
    """Writes `config.json`, `model.safetensors` and the card; `trained` says how."""
    card = CARD.format(family=model.family, options=json.dumps(trained, indent=2, sort_keys=True))
    save_checkpoint(folder, {**model.config, "trained": trained}, model.state_dict(), card)


def _described(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """The family and the options that a config.json holds; InputError where they make no model."""
    config, where = checkpoint.config, checkpoint.origin
    family = config.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"expected a scene model of steer decompose --train, {where} holds "
            f"{config.get('family', 'something else')!r:.40}."
        )
    options: dict[str, Any] = {name: config.get(name) is True for name in SWITCHES.get(family, ())}
    for name, most in NUMBERS[family].items():
        value = options[name] = config.get(name)
        if type(value) is not int or not 0 < value <= most:
            raise InputError(
                f"{where}: expected a whole number {name} from 1 to {most} in config.json of a "
                f"model of family {family}, got {value!r:.40}."
            )
    return family, options


CARD = """---
library_name: steer
tags: [scenes, {family}]
---
# A model of family {family}, trained by `steer decompose --train`

```json
{options}
```
"""
