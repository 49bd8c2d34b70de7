"""Pictures to train on: folders, zips, and procedural sets that carry their ground truth."""

from __future__ import annotations

from steer.datasets.base import Dataset, WithTruth, datasets
from steer.datasets.digits import MultiMNIST, read_digits
from steer.datasets.resized import Resized
from steer.datasets.scenes import OneObject, Scenes, Truth
from steer.datasets.sprites import Factors, GreySprites, Sprites, TexturedSprites
from steer.datasets.stored import is_procedural, open_dataset

__all__ = [
    "Dataset",
    "Factors",
    "GreySprites",
    "MultiMNIST",
    "OneObject",
    "Resized",
    "Scenes",
    "Sprites",
    "TexturedSprites",
    "Truth",
    "WithTruth",
    "datasets",
    "is_procedural",
    "open_dataset",
    "read_digits",
]

for _kind in (Sprites, GreySprites, TexturedSprites, Scenes, OneObject):
    datasets.register(_kind.name, _kind)
