"""Codes to what people look at: labelled grids and animations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, cat, einsum

from steer.batches import draw
from steer.directions import Direction
from steer.distributions import Mixture
from steer.errors import InputError
from steer.generators.base import Generator
from steer.knobs import Controlled, Setting, Status, control
from steer.sheets import grid, write_animation


@dataclass
class Frame:
    """The pictures [n, C, H, W] of one step of a traversal, or the only ones, with what was asked
    and measured where something was."""

    label: str
    pictures: Tensor
    settings: Sequence[Setting] = ()
    controlled: Controlled | None = None


def traversal(direction: Direction, low: float | None, high: float | None, steps: int) -> list:
    """Values from `low` to `high`; without them, what the generator shows of the factor.

    Measured values where the direction is calibrated, else amounts from the middle of the prior.
    Raises InputError where there is nothing to go through.
    """
    reach = direction.g(np.array([-1.5, 1.5])) + (direction.constant or 0.0)
    ends = [float(r) if given is None else given
            for r, given in zip(reach, (low, high), strict=True)]  # fmt: skip
    if steps < 2 or ends[0] == ends[1] or not np.isfinite(ends).all():
        raise InputError(
            f"expected a traversal of 2 or more steps between different values, got {steps} from "
            f"{ends[0]:g} to {ends[1]:g}."
        )
    return np.linspace(ends[0], ends[1], steps).tolist()


def frames(
    generator: Generator,
    z: Tensor,
    settings: Sequence[Setting],
    directions: dict[str, Direction],
    *,
    along: str | None = None,
    values: Sequence[float] = (),
    report: Callable[[int, str], None] = lambda done, label: None,
    batch: int = 64,
    **options: Any,
) -> list[Frame]:
    """A frame for each of `values` of the property `along`, or one with the settings alone.

    The settings hold in every frame. `report` is told how many frames are done and the label of the
    last; `options` are those of `steer.knobs.control`.
    """
    if along is None and not settings:
        return [Frame("", draw(generator, z, batch))]
    made = []
    asked_in_each = asked_by_step(settings, directions, along, values)
    for label, asked in zip(_labels(values) or [""], asked_in_each, strict=True):
        controlled = control(generator, z, asked, directions, batch=batch, **options)
        made.append(Frame(label, draw(generator, controlled.z, batch), asked, controlled))
        report(len(made), label)
    return made


def asked_by_step(
    settings: Sequence[Setting],
    directions: Mapping[str, Direction],
    along: str | None = None,
    values: Sequence[float] = (),
) -> list[list[Setting]]:
    """What is asked in each step: a value of the property `along` and the settings, or, without a
    traversal, the settings once.

    >>> asked_by_step([Setting("zoom", "set", -2.0)], {})
    [[Setting(name='zoom', mode='set', value=-2.0)]]
    """
    if along is None:
        return [list(settings)]
    return [[_step(directions[along], along, value), *settings] for value in values]


def _labels(values: Sequence[float]) -> list[str]:
    """Values for people to read: to a thousandth of their range, or finer."""
    extent = max(values, default=0.0) - min(values, default=0.0)
    digits = 3 - math.floor(math.log10(extent)) if extent else 6
    return [f"{round(value, digits) + 0.0:.10g}" for value in values]  # + 0.0: 0 has no minus


def _step(direction: Direction, along: str, value: float) -> Setting:
    """One step of a traversal: the measured value, or g's amount where nothing is measured."""
    return Setting(along, "set" if direction.constant is not None else "place", value)


def combine(codes: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Latent arithmetic (equation 4.1 of Zeng 2022): of codes [n, width] every k that follow one
    another become one, [n / k, width], by k weights. The first `dim` numbers, z, are summed; what
    stands for the class stays, and must be the same in all k.

    Raises InputError where n is no multiple of k, or classes differ.

    >>> import torch
    >>> combine(torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), [1, 1, -1], dim=2)
    tensor([[0., 2.]])
    """
    n, k = len(codes), len(weights)
    if n % k:
        raise InputError(f"expected codes in groups of {k} for {k} weights to combine, got {n}.")
    groups = codes.unflatten(0, (n // k, k))
    z, told = groups[..., :dim], groups[:, 0, dim:]
    differs = (groups[..., dim:] != told[:, None]).flatten(1).any(1)
    if differs.any():
        first = int(differs.nonzero()[0]) * k
        raise InputError(
            f"expected codes of one class to combine, items {first} to {first + k - 1} differ in "
            "theirs: --class of steer invert keeps to one."
        )
    sums = einsum("gkd,k->gd", z, z.new_tensor(weights))
    if not sums.isfinite().all():
        raise InputError(f"expected weights that give finite codes, got {list(weights)}.")
    return cat([sums, told], dim=1)


def combined(names: Sequence[str], weights: Sequence[float]) -> list[str]:
    """What `combine` makes of pictures, in words.

    >>> combined(["a.png", "b.png", "c.png"], [1, 0.5, -1])
    ['+1 a.png +0.5 b.png -1 c.png']
    """
    signed = [f"{weights[i % len(weights)]:+g} {name}" for i, name in enumerate(names)]
    starts = range(0, len(signed), len(weights))
    return [" ".join(signed[first : first + len(weights)]) for first in starts]


def as_grid(shown: list[Frame], title: str = "", originals: Tensor | None = None) -> Tensor:
    """A labelled picture [3, H, W]: a row for each item of a traversal, or, for a single frame,
    the originals over the moved ones."""
    if len(shown) > 1:
        rows = [list(items) for items in zip(*(f.pictures for f in shown), strict=True)]
        marks = [list(items) for items in zip(*(_marks(f) for f in shown), strict=True)]
        return grid(rows, column_labels=[f.label for f in shown], title=title or None, marks=marks)
    (frame,) = shown
    columns = min(len(frame.pictures), 8)
    rows, labels, marks = [], [], []
    for first in range(0, len(frame.pictures), columns):
        part = slice(first, first + columns)
        if originals is not None:
            rows.append(_padded(list(originals[part]), columns))
            marks.append(_padded([], columns))
            labels.append("before")
        rows.append(_padded(list(frame.pictures[part]), columns))
        marks.append(_padded(_marks(frame)[part], columns))
        labels.append("after" if originals is not None else "")
    return grid(rows, row_labels=labels if any(labels) else None, title=title or None, marks=marks)


def _padded(cells: list, length: int) -> list:
    return cells + [None] * (length - len(cells))


def _marks(frame: Frame) -> list[str | None]:
    """The measured values under each picture; a star where the value was not reached."""
    if frame.controlled is None:
        return [None] * len(frame.pictures)
    measured = frame.controlled.measured
    measured = measured[:, ~measured.isnan().all(0)]  # without what cannot be measured
    if not measured.numel():
        return [None] * len(frame.pictures)
    marks: list[str | None] = []
    for row, status in zip(measured, frame.controlled.status, strict=True):
        missed = "" if status == Status.REACHED else " *"
        marks.append(" ".join("none" if v.isnan() else f"{v:.3f}" for v in row) + missed)
    return marks


def describe(settings: Sequence[Setting]) -> str:
    """The settings in words, for a title."""
    signs = {"set": "=", "place": "=", "shift": "+", "distribution": " ~ "}
    words = [
        f"{s.name}{signs[s.mode]}{'wanted' if isinstance(s.value, Mixture) else f'{s.value:g}'}"
        for s in settings
    ]
    return ", ".join(words)


def outcomes(shown: list[Frame], names: Sequence[str]) -> list[dict[str, Any]]:
    """Per picture its item, what was asked, what was measured and how it ended."""
    items = []
    for frame in shown:
        for i in range(len(frame.pictures)):
            item: dict[str, Any] = {"item": i}
            if names:
                item["source"] = names[i]
            if frame.controlled is not None:
                item |= _outcome(frame, i)
            items.append(item)
    return items


def _outcome(frame: Frame, i: int) -> dict[str, Any]:
    controlled = frame.controlled
    assert controlled is not None
    names = [s.name for s in frame.settings]
    return {
        "asked": dict(zip(names, controlled.asked[i].tolist(), strict=True)),
        "measured": dict(zip(names, controlled.measured[i].tolist(), strict=True)),
        "status": Status(int(controlled.status[i])).message,
        "evaluations": int(controlled.evaluations[i]),
    }


def write_film(shown: list[Frame], path: Path, fps: float) -> None:
    """The frames as a GIF or MP4 that plays there and back, the items side by side."""
    if len(shown) < 2:
        raise InputError(f"expected a traversal to animate as {path}, got a single frame.")
    pictures = [grid([list(frame.pictures)]) for frame in shown]
    write_animation(path, pictures + pictures[-2:0:-1], fps=fps)


def is_folder(out: str) -> bool:
    """Whether -o names a folder: it ends in a slash, is one, or has no suffix."""
    return bool(out) and (
        out.endswith(("/", "\\")) or Path(out).is_dir() or not re.search(r"\.\w+$", out)
    )
