"""Pictures to train on: folders, zips, and procedural sets that carry their ground truth."""

from __future__ import annotations

from steer.datasets.base import Dataset, datasets
from steer.datasets.sprites import Factors, GreySprites, Sprites, TexturedSprites
from steer.datasets.stored import open_dataset

__all__ = [
    "Dataset",
    "Factors",
    "GreySprites",
    "Sprites",
    "TexturedSprites",
    "datasets",
    "open_dataset",
]

for _kind in (Sprites, GreySprites, TexturedSprites):
    datasets.register(_kind.name, _kind)
