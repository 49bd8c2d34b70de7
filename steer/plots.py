"""Figures of directions and their evaluation; the only importer of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from steer.comparison import Compared
from steer.directions import Direction
from steer.disk import write_atomically
from steer.errors import InputError
from steer.evaluation import Evaluation, Measured
from steer.measures import properties

BLUE, RED, INK, FADED = "#2166ac", "#b2182b", "#222222", "#777777"
COORDINATE = "coordinate α on u (standard deviations of the prior)"
#: Units as axis labels say them.
UNITS = {
    "width": "fraction of the width",
    "height": "fraction of the height",
    "log2": "log2, octaves",
    "fraction": "fraction of the area",
}
Array = NDArray[np.float64]


def save_all(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Every figure of an evaluation as PNG in a folder that is there; the paths.

    `leakage.png`, `norms.png` where codes have parts, and for each measurable direction
    `N-NAME-response.png` and `N-NAME-density.png`, counted from 1.
    """
    figures = {"leakage": leakage_figure(evaluation)}
    if any(evaluation.norms):
        figures["norms"] = norms_figure(evaluation)
    for i, measured in enumerate(evaluation.measured, start=1):
        if measured:
            figures[f"{i}-{measured.direction.name}-response"] = violins(measured)
            figures[f"{i}-{measured.direction.name}-density"] = density_figure(measured)
    paths = [Path(folder) / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    write_atomically(Path(path), png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file.

    >>> png(Figure())[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def violins(measured: Measured) -> Figure:
    """The measured distribution at each coordinate in blue, its standard deviation in red, g + c
    drawn over it (figures 2 and 5 of Plumerault et al. 2020)."""
    figure, axes = _figure()
    direction, response = measured.direction, measured.response
    for alpha, values in zip(measured.alphas, measured.unwrapped(), strict=True):
        found = values[~np.isnan(values)]
        if len(found):
            _violin(axes, alpha, found)
    axes.plot([], [], color=BLUE, lw=6, alpha=0.4, label="measured")
    _draw_g(axes, direction, measured.alphas)
    _label(axes, direction)
    _draw_spread(axes, measured.alphas, response[:, 1], measured.factor.unit)
    _draw_not_found(axes, measured.alphas, response[:, 2])
    _legend(figure)
    return figure


def response_figure(direction: Direction) -> Figure:
    """g of a direction with the response that its calibration has measured, where there is one."""
    figure, axes = _figure()
    alphas = direction.alphas
    _draw_g(axes, direction, np.linspace(-3, 3, 2) if alphas is None else alphas)
    _label(axes, direction)
    if alphas is None or direction.response is None:
        axes.set_title(f"{_literal(direction.name)} · no measured response", fontsize=10)
    else:
        mean, spread, share = direction.response.T
        axes.fill_between(alphas, mean - spread, mean + spread, color=BLUE, alpha=0.2, lw=0)
        axes.plot(alphas, mean, "o", color=BLUE, ms=4, label="measured, mean and std")
        _draw_not_found(axes, alphas, share)
    _legend(figure)
    return figure


def density_figure(measured: Measured) -> Figure:
    """Density of the factor under the prior, measured and by the model (equation 6)."""
    figure, axes = _figure()
    found = measured.prior[~np.isnan(measured.prior)]
    bins = np.histogram_bin_edges(found, max(8, round(np.sqrt(len(found)))))
    axes.hist(found, bins=bins.tolist(), density=True, color=BLUE, alpha=0.4, label="measured")
    half = (bins[1] - bins[0]) / 2
    values = np.linspace(bins[0] - 6 * half, bins[-1] + 6 * half, 801)
    # as wide as a bin: g is straight between knots, so that its slope, and the density, jump
    density = (measured.cumulative(values + half) - measured.cumulative(values - half)) / (2 * half)
    axes.plot(values, density, color=INK, label="model (equation 6), averaged over a bin")
    axes.set_xlabel(_named(measured.direction))
    axes.set_ylabel("density under the prior")
    axes.set_title(f"{measured.direction.name} · KS distance {measured.ks:.3f}", fontsize=10)
    _legend(figure)
    return figure


def leakage_figure(evaluation: Evaluation) -> Figure:
    """How much each direction moves every property per unit of its own t, as a heat map.

    The numbers are means, in the units of row and column; the colour is the root mean square with
    both counted in standard deviations of the prior.
    """
    rows, columns = evaluation.leakage.shape
    figure, axes = _figure(2.6 + columns, 1.4 + 0.6 * rows)
    image = axes.imshow(evaluation.relative, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(rows, columns):
        value, shade = evaluation.leakage[i, j], evaluation.relative[i, j]
        text = "–" if np.isnan(value) else _short(value)
        axes.text(j, i, text, ha="center", va="center", color="white" if shade > 0.55 else INK)
    axes.set_yticks(
        range(rows),
        [f"{_literal(d.name)}\nper {_literal(_one(d.unit))}" for d in evaluation.directions],
    )
    names = [f"{name}\n({properties.get(name).unit})" for name in evaluation.names]
    axes.set_xticks(range(columns), names)
    axes.set_xlabel("how far the measured property moves, in its unit")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, extend="max", pad=0.02)
    bar.set_label("moved, RMS\n(std of the prior)")
    return figure


def norms_figure(evaluation: Evaluation) -> Figure:
    """Squared norm of u in each part of a hierarchical code, direction by direction (figure 4).

    Raises InputError where the generator's codes have no parts.
    """
    if not any(evaluation.norms):
        raise InputError("expected a generator whose codes have parts, got one with plain codes.")
    parts = list(evaluation.norms[0])
    count = len(evaluation.norms)
    figure, axes = _figure(max(4.5, 1.8 + 0.3 * len(parts) * (count + 1)), 3.4)
    width = 0.8 / count
    colours = colormaps["cividis"](np.linspace(0.1, 0.9, count))
    for i, (direction, norms) in enumerate(
        zip(evaluation.directions, evaluation.norms, strict=True)
    ):
        at = np.arange(len(parts)) + (i - (count - 1) / 2) * width
        axes.bar(at, list(norms.values()), width, color=colours[i], label=_literal(direction.name))
    axes.set_xticks(range(len(parts)), parts)
    axes.set_xlabel("part of the latent code")
    axes.set_ylabel("squared norm of u")
    axes.set_ylim(0, 1.05)
    _legend(figure)
    return figure


def map_figure(places: Array, counts: Sequence[int], names: Sequence[str], title: str) -> Figure:
    """Places [n, 2] of the pictures of several sets, which follow one another, coloured by set
    (figure 4.3 of Zeng 2022); the axes have no unit."""
    figure, axes = _figure(6.0, 6.0)
    ends = np.cumsum(counts)
    for i, (end, count, name) in enumerate(zip(ends, counts, names, strict=True)):
        x, y = places[end - count : end].T
        colour, marker = colormaps["tab10"](i % 10), "o^sDv"[i // 10 % 5]
        axes.plot(x, y, marker, color=colour, ms=3.5, mew=0, alpha=0.6, label=_literal(name))
    axes.set_aspect("equal", "datalim")
    axes.set_axis_off()
    axes.set_title(_literal(title), fontsize=10)
    _legend(figure)
    return figure


# --- parts of figures ---


def _figure(width: float = 6.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure, in inches, drawn without pyplot and its global state."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _violin(axes: Axes, alpha: float, values: Array) -> None:
    parts: Any = axes.violinplot([values], [alpha], widths=0.42, showextrema=False)
    for body in parts["bodies"]:
        body.set(facecolor=BLUE, edgecolor=BLUE, alpha=0.4)
    axes.plot(alpha, values.mean(), ".", color=BLUE, ms=5)


def _draw_g(axes: Axes, direction: Direction, alphas: Array) -> None:
    """g + c: solid where the fit has seen coordinates, dashed where it goes on."""
    s = np.linspace(min(alphas, default=-3), max(alphas, default=3), 601)
    t = direction.g(s) + (direction.constant or 0.0)
    low, high = direction.span
    name = "g" if direction.constant is None else "g + c"
    seen = (s >= low) & (s <= high)
    axes.plot(s[seen], t[seen], color=INK, lw=1.5, zorder=5, label=name)
    if not seen.all():
        axes.plot(s, t, "--", color=INK, lw=1, zorder=4, label=f"{name}, beyond what was fitted")


def _label(axes: Axes, direction: Direction) -> None:
    axes.set_xlabel(COORDINATE)
    axes.set_ylabel(_named(direction))
    axes.set_title(_literal(direction.name), fontsize=10)


def _draw_spread(axes: Axes, alphas: Array, spread: Array, unit: str) -> None:
    """The standard deviation in red on an axis of its own."""
    other = axes.twinx()
    other.spines["top"].set_visible(False)
    other.plot(alphas, spread, "o-", color=RED, ms=3, lw=1, label="standard deviation")
    other.set_ylabel(f"standard deviation ({UNITS.get(unit, unit)})", color=RED)
    other.tick_params(axis="y", colors=RED)
    # in the lower part, where it crosses the violins least
    other.set_ylim(0, 3 * np.nanmax(spread, initial=1e-9))


def _draw_not_found(axes: Axes, alphas: Array, share: Array) -> None:
    """How many pictures had no object, in percent, over each coordinate where some had none."""
    lost = [(a, f) for a, f in zip(alphas, share, strict=True) if f < 1]
    for alpha, found in lost:
        axes.annotate(
            f"{max(1, round(100 * (1 - found)))}%",
            (alpha, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=7,
            color=FADED,
        )
    if lost:
        axes.set_title(
            f"{axes.get_title()} · in grey the share without an object", pad=14, fontsize=10
        )


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def _named(direction: Direction) -> str:
    """The factor with its unit, for an axis."""
    return _literal(f"{direction.name} ({UNITS.get(direction.unit, direction.unit)})")


def _literal(text: str) -> str:
    """Text of a file, in which Matplotlib is not to look for mathematics."""
    return text.replace("$", r"\$")


def _one(unit: str) -> str:
    """One of a unit."""
    return {"log2": "octave", "degrees": "degree"}.get(unit, unit)


def _short(value: float) -> str:
    """Two or three digits, with a minus sign instead of a hyphen."""
    digits = ".0f" if abs(value) >= 10 else ".2f" if abs(value) >= 0.1 else ".1g"
    return f"{value:{digits}}".replace("-", "−")


# --- methods side by side ---


def comparison_figure(found: Sequence[Compared]) -> Figure:
    """Methods side by side: above the measured response of each with its spread, below the errors,
    how control ended, leakage, and what it took to find the direction."""
    width = max(11.0, 2.2 * len(found))
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width, 6.4), layout=layout)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    above, below = parts
    curves = above.subplots(1, len(found), sharey=True, squeeze=False).flat
    for axes, one in zip(curves, found, strict=True):
        _draw_curve(axes, one)
    curves[0].set_ylabel(_named(found[0].direction))
    above.supxlabel(COORDINATE, fontsize=9)
    handles = curves[0].get_legend_handles_labels()
    above.legend(*handles, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    names = [one.method for one in found]
    errors, ends, *rest = bars = below.subplots(1, 5, sharey=True)
    for what, colour in (("open", RED), ("closed", BLUE)):
        errors.plot([getattr(one, what) for one in found], names, "o", color=colour, label=what)
    errors.set_xscale("log")
    errors.grid(axis="x", color=FADED, alpha=0.2)
    errors.invert_yaxis()
    left = np.zeros(len(found))
    for what, colour in (("reached", BLUE), ("unreachable", RED), ("no_object", FADED)):
        share = np.array([getattr(one, what) for one in found])
        ends.barh(names, share, left=left, color=colour, alpha=0.6, label=what.replace("_", " "))
        left += share
    for axes in (errors, ends):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=7, frameon=False, ncols=3)
    for axes, what in zip(rest, ("leakage", "evaluations", "seconds"), strict=True):
        axes.barh(names, [getattr(one, what) for one in found], color=BLUE, alpha=0.6)
    unit = found[0].measured.factor.unit
    labels = (
        f"error ({UNITS.get(unit, unit)})", "share of items, closed loop",
        "leakage (std of the prior)", "pictures made to find it", "seconds to find it",
    )  # fmt: skip
    for axes, label in zip(bars, labels, strict=True):
        axes.set_xlabel(label, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_curve(axes: Axes, one: Compared) -> None:
    """The measured response of one method, g + c, and the values that were asked for."""
    measured = one.measured
    mean, spread, _ = measured.response.T
    axes.fill_between(measured.alphas, mean - spread, mean + spread, color=BLUE, alpha=0.2, lw=0)
    axes.plot(measured.alphas, mean, "o-", color=BLUE, ms=3, lw=1, label="measured, mean and std")
    low, high = axes.get_ylim()
    _draw_g(axes, one.direction, measured.alphas)
    for value in {accuracy.value for accuracy in measured.accuracy}:
        axes.axhline(value, color=FADED, lw=0.5, ls=":")
    axes.plot([], [], ":", color=FADED, lw=1, label="asked for")
    axes.set_ylim(low, high)
    axes.set_title(one.method, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
