"""An evaluation as one HTML file: no scripts, nothing fetched, the same run the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from steer.accuracy import Accuracy, root_mean_square
from steer.batches import draw
from steer.disk import write_atomically
from steer.errors import InputError
from steer.evaluation import Evaluation, Measured
from steer.generators.base import Generator
from steer.holding import Held
from steer.images import to_png
from steer.knobs import Controlled, Setting, Status
from steer.page import document, number, percent, picture, table
from steer.plots import density_figure, leakage_figure, norms_figure, png, response_figure, violins
from steer.rendering import Frame, as_grid, frames, traversal

#: Items of a walk, and its longest row.
ITEMS, STEPS = 4, 7
#: Pixels of the pictures in it.
SIDE = 192


def write_report(
    path: Path, found: Evaluation, generator: Generator, made: Mapping[str, Any], command: str
) -> None:
    """`report` into a file, whole or not at all.

    Raises InputError for a name that is not in .html or a place that cannot be written.
    """
    if Path(path).suffix.lower() != ".html":
        raise InputError(f"cannot write {path}: expected a name in .html.")
    write_atomically(Path(path), report(found, generator, made, command).encode())


def report(found: Evaluation, generator: Generator, made: Mapping[str, Any], command: str) -> str:
    """An HTML page of an evaluation on `generator`: figures, walks and tables of each direction.

    `made` is what `steer.files.how_made` says, `command` the line that a shell would be given.
    """
    parts = [
        _facts(found, made),
        _line(command),
        _overview(found),
        _leakage(found),
        _parts(found),
        _held(found),
        *(_section(found, generator, i) for i in range(len(found.directions))),
    ]
    return document(f"Control of {generator.name}", parts)


# --- what the page says at its top ---


def _line(command: str) -> str:
    """A command that breaks between its words alone."""
    words = " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))
    return f"<pre><code>{words}</code></pre>"


def _facts(found: Evaluation, made: Mapping[str, Any]) -> str:
    generator = made.get("generator", {})
    unverified = "" if generator.get("verified") else ", unverified"
    settings = ("space", "truncation", "noise", "classes")
    measures = sorted({_told(d.find) for d in found.directions if d.find})
    facts = {
        "Generator": f"{generator.get('name')}, family {generator.get('family')}",
        "Checksum of its weights": f"{generator.get('checksum')}{unverified}",
        **{name.capitalize(): str(generator[name]) for name in settings if name in generator},
        "Measure of the object": ", ".join(measures) or "none",
        "Codes": f"{len(found.z)} of the prior, seed {made.get('seed')}",
        "Versions": ", ".join(f"{n} {v}" for n, v in sorted(made.get("versions", {}).items())),
    }
    lines = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()]
    return f"<dl>{''.join(lines)}</dl>"


def _told(find: str) -> str:
    """A measure without the folders that its weights lie in on one machine."""
    name, colon, rest = find.partition(":")
    return f"{name}{colon}{rest.rpartition('/')[2]}"


def _overview(found: Evaluation) -> str:
    rows = []
    for i, (direction, measured) in enumerate(zip(found.directions, found.measured, strict=True)):
        link = f'<a href="#direction-{i + 1}">{escape(direction.name)}</a>'
        r2 = number(direction.quality.get("held_out_r2"))
        rows.append([link, escape(direction.unit), r2, *_outcome(measured)])
    headings = (
        "direction", "unit", "R² of g, held out", "error, open loop", "error, closed loop",
        "reached", "unreachable", "not found", "KS distance", "rises",
    )  # fmt: skip
    return "<h2>Directions</h2>" + table(
        "Errors are root mean squares of the measured value less the one asked for, over all values"
        " asked for; in closed loop over the items that reached them. The KS distance is between"
        " the factor under the prior as measured and as modelled; it rises where the mean does from"
        " each coordinate to the next.",
        headings,
        rows,
    )


def _outcome(measured: Measured | None) -> list[str]:
    """Cells of one direction, over all its values."""
    if measured is None:
        return ["not measurable", *["–"] * 6]
    opened, closed = ([a for a in measured.accuracy if a.loop == loop] for loop in _LOOPS)
    off = root_mean_square(np.concatenate([a.error for a in opened])) if opened else None
    near = root_mean_square(np.concatenate([a.error[a.reached] for a in closed or opened]))
    ends = (Status.REACHED, Status.UNREACHABLE, Status.NO_OBJECT)
    shares = [np.mean([a.share(end) for a in closed]) if closed else None for end in ends]
    rises = "yes" if measured.monotone else "no"
    return [
        *map(number, (off, near if closed else None)),
        *map(percent, shares),
        number(measured.ks),
        rises,
    ]


_LOOPS = ("open", "closed")


def _leakage(found: Evaluation) -> str:
    caption = (
        "Leakage: how far each measured property moves while a direction moves its own factor by"
        " one unit (numbers: means in the property's unit), and in standard deviations of the"
        " prior per standard deviation of the factor (colour: root mean square)."
    )
    names = ", ".join(d.name for d in found.directions)
    return "<h2>What else moves</h2>" + picture(
        png(leakage_figure(found)), f"Leakage matrix of {names}", caption, wide=True
    )


def _parts(found: Evaluation) -> str:
    if not any(found.norms):
        return ""
    caption = "Squared norm of each direction in the parts of the code; they add up to 1."
    alt = f"Bars of the squared norms in {len(found.norms[0])} parts of the code"
    figure = picture(png(norms_figure(found)), alt, caption, wide=True)
    return "<h2>Where in the code</h2>" + figure


def _held(found: Evaluation) -> str:
    rows = [_held_row(one) for each in found.held for one in each]
    headings = (
        "set", "to", "held", "it changes, alone", "changes, held", "ratio", "tolerance",
        "a tenth or the tolerance", "all reached", "compared",
    )  # fmt: skip
    caption = (
        "One property set while the others are held: root mean square changes of the held one, in"
        " its unit, over the items whose own property came to the value both ways (compared)."
    )
    return "<h2>Several knobs</h2>" + table(caption, headings, rows) if rows else ""


def _held_row(one: Held) -> list[str]:
    row = one.row()
    return [
        escape(one.name),
        number(one.value),
        escape(one.held),
        *map(number, (one.alone, one.change, row["ratio"], one.tolerance)),
        {True: "yes", False: "no", None: "–"}[row["enough"]],
        *map(percent, (one.reached, one.compared)),
    ]


# --- one direction ---


def _section(found: Evaluation, generator: Generator, i: int) -> str:
    direction, measured = found.directions[i], found.measured[i]
    name, walk = direction.name, _walk(found, generator, i)
    if measured is None:
        figures = [picture(png(response_figure(direction)), f"g of {name}", "g, as it was fitted.")]
        tables = [f"<p>No property of the name {escape(name)} was measured.</p>"]
    else:
        figures = [picture(*figure) for figure in _figures(measured)]
        tables = [_accuracies(measured), _changes(measured)]
    return (
        f'<section><h2 id="direction-{i + 1}">{escape(name)}</h2>'
        f'<div class="figures">{walk}{"".join(figures)}</div>{"".join(tables)}</section>'
    )


def _walk(found: Evaluation, generator: Generator, i: int) -> str:
    direction = found.directions[i]
    walked = _walked(found, generator, i)
    originals = _smaller(draw(generator, found.z[:ITEMS])) if len(walked) == 1 else None
    values = ", ".join(frame.label for frame in walked)
    caption = f"{direction.name} ({direction.unit}) of the same items taken to {values} "
    measured = found.measured[i]
    if measured is None:
        caption += "by g"
    else:
        caption += f"in {measured.accuracy[-1].loop} loop; under each picture what is measured, "
        caption += "with a star where it is not the value"
    data = to_png(as_grid(walked, originals=originals))
    alt = f"{len(walked[0].pictures)} items at {len(walked)} values of {direction.name}: {values}"
    return picture(data, alt, f"{caption}.", wide=True, kind="walk")


def _walked(found: Evaluation, generator: Generator, i: int) -> list[Frame]:
    """Pictures of the first items at values of a direction: those that control came to, which are
    known already, or where nothing is measured those at which g puts them."""
    direction, measured, z = found.directions[i], found.measured[i], found.z[:ITEMS]
    if measured is None:
        values = traversal(direction, None, None, 5)
        name = direction.name
        walked = frames(generator, z, [], {name: direction}, along=name, values=values)
        return [replace(frame, pictures=_smaller(frame.pictures)) for frame in walked]
    ways = [a for a in measured.accuracy if a.loop == "closed"] or measured.accuracy
    ways = sorted(ways, key=lambda one: one.value)
    chosen = np.unique(np.linspace(0, len(ways) - 1, STEPS).round().astype(int))
    return [_frame(generator, direction.name, ways[k]) for k in chosen]


def _frame(generator: Generator, name: str, one: Accuracy) -> Frame:
    z, asked = one.z[:ITEMS], torch.full((len(one.z[:ITEMS]), 1), one.value)
    measured, status, spent = (
        torch.from_numpy(column[:ITEMS]) for column in (one.measured, one.status, one.evaluations)
    )
    outcome = Controlled(z, asked, measured[:, None], status, spent)
    setting = Setting(name, "set", one.value)
    return Frame(number(one.value), _smaller(draw(generator, z)), [setting], outcome)


def _smaller(pictures: Tensor) -> Tensor:
    """Pictures of at most SIDE pixels."""
    scale = min(1.0, SIDE / max(pictures.shape[2:]))
    size = [max(1, round(scale * side)) for side in pictures.shape[2:]]
    return interpolate(pictures, size, mode="bilinear", antialias=True)


def _figures(measured: Measured) -> list[tuple[bytes, str, str]]:
    """Pictures, what they show, and captions."""
    name, (mean, spread, _) = measured.direction.name, measured.response.T
    ends = f"from {number(np.nanmin(mean))} to {number(np.nanmax(mean))}"
    return [
        (
            png(violins(measured)),
            f"Violins of measured {name} at {len(mean)} coordinates, means {ends}, standard "
            f"deviation up to {number(np.nanmax(spread))}, with g over them",
            "What is measured at each coordinate (blue), its standard deviation (red), and g.",
        ),
        (
            png(response_figure(measured.direction)),
            f"Response curve of {name} with g over it",
            "The response that was kept when the direction was calibrated, and g.",
        ),
        (
            png(density_figure(measured)),
            f"Density of {name} under the prior, measured and modelled",
            "How often the generator shows each value: its bias.",
        ),
    ]


def _accuracies(measured: Measured) -> str:
    rows = [one.row() for one in measured.accuracy]
    extractors = list(rows[0]["perceptual"]) if rows else []
    cells = [
        [
            row["loop"],
            *map(number, (row["value"], row["rms"], row["rms_reached"])),
            percent(row["reached"]),
            percent(row["unreachable"]) if row["loop"] == "closed" else "–",
            percent(row["no_object"]),
            *map(number, (row["evaluations"], row["distance"])),
            *(number(row["perceptual"][name]) for name in extractors),
        ]
        for row in rows
    ]
    judges = [f"perceptual distance, {escape(name.partition('#')[0])}" for name in extractors]
    headings = (
        "loop", "asked", "error", "error of reached", "reached", "unreachable", "not found",
        "passes", "distance", *judges,
    )  # fmt: skip
    unit = escape(measured.factor.unit)
    caption = (
        f"Error asked against measured ({unit}), root mean square, and what the move costs: passes"
        " of the generator per item; distance in standard deviations of the prior, and distances"
        " of pictures, over the items that reached the value."
    )
    caption += "".join(f" Pictures are judged by {escape(name)}." for name in extractors)
    return table(caption, headings, cells)


def _changes(measured: Measured) -> str:
    rows = [one.row() for one in measured.accuracy]
    names = list(rows[0]["changes"]) if rows else []
    cells = [
        [row["loop"], number(row["value"]), *(_change(**row["changes"][name]) for name in names)]
        for row in rows
    ]
    caption = (
        "Change in the other measures, root mean square over the items that reached the value, in"
        " their own units, and under each in standard deviations of the prior."
    )
    return table(caption, ["loop", "asked", *map(escape, names)], cells) if names else ""


def _change(rms: float | None, relative: float | None) -> str:
    return f"{number(rms)}<small>{number(relative)}</small>"
