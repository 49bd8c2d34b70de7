"""Generators on the Hub and elsewhere that have a name."""

from __future__ import annotations

from dataclasses import dataclass

from steer.generators.base import PictureShape


@dataclass(frozen=True)
class Known:
    """A generator by name: what `--model` would be, what it is, and its licence in a sentence."""

    source: str
    family: str
    picture: PictureShape
    latents: int
    licence: str


KNOWN: dict[str, Known] = {}
