"""What every script of this folder does in the end: a table on the screen, numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from steer.disk import make_folder, save_json, write_atomically

Row = Mapping[str, Any]


def finish(out: Path, name: str, rows: Sequence[Row], pictures: Mapping[str, bytes]) -> None:
    """Prints the rows, and writes them as `NAME.md` and `NAME.json`, and each PNG as its name."""
    text = table(rows)
    print(text)
    make_folder(out)
    write_atomically(out / f"{name}.md", (text + "\n").encode())
    save_json(out / f"{name}.json", {"rows": rows})
    for stem, data in pictures.items():
        write_atomically(out / f"{stem}.png", data)


def table(rows: Sequence[Row]) -> str:
    """Rows as markdown; lists are for the JSON alone.

    >>> print(table([{"t": 0.2, "error": 0.012345, "all": [1, 2]}]))
    | t | error |
    | --- | --- |
    | 0.2 | 0.0123 |
    """
    heads = [key for key, value in rows[0].items() if not isinstance(value, list)] if rows else []
    lines = [heads, ["---"] * len(heads), *([shown(row[head]) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """A cell: three digits of a number, a dash for what is not known."""
    if value is None or value != value:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def same_axes(figures: Sequence[Figure]) -> None:
    """Gives figures of one kind the same ranges on their y axes, so that they can be compared."""
    for axes in zip(*(figure.axes for figure in figures), strict=True):
        low, high = np.transpose([each.get_ylim() for each in axes])
        for each in axes:
            each.set_ylim(low.min(), high.max())
