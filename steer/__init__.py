"""Knobs on pretrained image generators.

>>> import steer
>>> sprites = steer.load("sprites", device="cpu")
>>> z = sprites.sample(4, seed=3)
>>> knob = steer.open_direction(sprites.directions["translate-x"])
>>> moved = steer.control(sprites, z, [steer.Setting("translate-x", "set", 0.2)],
...                       {"translate-x": knob}, exact=True)
>>> bool(((moved.measured - 0.2).abs() < 0.005).all())
True
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public name to the module that defines it; nothing is imported before it is asked for.
_PUBLIC = {
    "load": "steer.generators",
    "Generator": "steer.generators",
    "LatentSpace": "steer.generators",
    "PictureShape": "steer.generators",
    "Search": "steer.inversion",
    "invert": "steer.inversion",
    "Follow": "steer.trajectories",
    "follow": "steer.trajectories",
    "Direction": "steer.directions",
    "fit_direction": "steer.fitting",
    "open_direction": "steer.fitting",
    "Setting": "steer.knobs",
    "control": "steer.knobs",
    "draw": "steer.batches",
    "frames": "steer.rendering",
    "as_grid": "steer.rendering",
    "evaluate": "steer.evaluation",
    "convert": "steer.conversion",
    "push": "steer.sharing",
    "pull": "steer.sharing",
    "read_image": "steer.images",
    "write_png": "steer.images",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'steer' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
