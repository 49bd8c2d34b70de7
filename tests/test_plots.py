"""Figures hold the numbers they should, and none of their text is cut."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.integrate import trapezoid

from steer.calibration import calibrate
from steer.directions import Direction
from steer.errors import InputError
from steer.evaluation import Evaluation, evaluate
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.plots import (
    density_figure,
    leakage_figure,
    norms_figure,
    png,
    response_figure,
    save_all,
    save_figure,
    violins,
)


class Square(Generator):
    """A soft-edged square whose x is 0.1 z[0] + 0.01 z[1]; nothing where z[2] is over 2."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = (torch.arange(32) + 0.5) / 32 - 0.5
        middle = (0.1 * z[:, 0] + 0.01 * z[:, 1])[:, None]
        across = torch.sigmoid(40 * (0.1 - (x - middle).abs()))
        shown = (z[:, 2] < 2)[:, None, None, None]
        return across[:, None, None, :] * torch.sigmoid(40 * (0.1 - x.abs()))[:, None] * shown


def direction(name: str = "translate-x", unit: str = "width", axis: int = 0) -> Direction:
    return Direction(name, unit, np.eye(3)[axis], np.full(100, 0.1), span=(-2.0, 2.0))


def square(**parts: int) -> Square:
    return Square(LatentSpace(3, parts), PictureShape(1, 32, 32))


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Two directions, of which shear-x is not measurable, over codes of two parts."""
    known = [direction(), direction("shear-x", "width per height", axis=1)]
    return evaluate(square(coarse=1, fine=2), known, samples=64, exact=False)


def figures(evaluation: Evaluation) -> dict[str, Figure]:
    measured, plain = evaluation.measured[0], direction("shear-x", "width per height")
    alone = evaluate(square(), [direction()], samples=4, exact=False)
    return {
        "violins": violins(measured),
        "density": density_figure(measured),
        "leakage": leakage_figure(evaluation),
        "leakage of one": leakage_figure(alone),
        "response": response_figure(evaluation.directions[0]),
        "no response": response_figure(plain),
        "norms": norms_figure(evaluation),
    }


def test_nothing_is_cut_at_the_edges(evaluation):
    for name, figure in figures(evaluation).items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        inside = drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
        assert inside, f"{name}: {drawn} of {width} x {height}"


def test_violins_show_distribution_spread_and_g(evaluation):
    measured = evaluation.measured[0]
    left, right = violins(measured).axes
    lines = {line.get_label(): line for line in left.lines + right.lines}
    spread = lines["standard deviation"]
    assert spread.get_color() == right.yaxis.label.get_color() != left.yaxis.label.get_color()
    assert np.array_equal(spread.get_xydata().T, [measured.alphas, measured.response[:, 1]])
    assert spread.get_ydata()[6] == pytest.approx(0.01, abs=0.003)
    s, t = lines["g + c"].get_xydata().T
    assert (s.min(), s.max()) == pytest.approx((-2, 2), abs=0.01)
    assert t == pytest.approx(0.1 * s + measured.direction.constant)
    assert lines["g + c, beyond what was fitted"].get_xdata()[[0, -1]].tolist() == [-3, 3]
    assert len(left.collections) == len(measured.alphas)
    bodies = [body.get_paths()[0].get_extents() for body in left.collections]
    assert all(b.y0 < m < b.y1 for b, m in zip(bodies, measured.response[:, 0], strict=True))
    assert "fraction of the width" in left.get_ylabel()


def test_pictures_without_an_object_are_said(evaluation):
    lost = 100 * (1 - evaluation.measured[0].response[0, 2])
    axes = violins(evaluation.measured[0]).axes[0]
    assert lost > 0 and axes.texts[0].get_text() == f"{lost:.0f}%"
    assert "without an object" in axes.get_title()


def test_an_alpha_at_which_nothing_is_found_has_no_violin(evaluation):
    measured = evaluation.measured[0]
    blind = type(measured)(
        measured.direction,
        measured.alphas,
        np.where(measured.alphas[:, None] < -2, np.nan, measured.values),
        measured.prior,
        measured.ks,
    )
    figure = violins(blind)
    assert len(figure.axes[0].collections) == len(measured.alphas) - 2
    assert [text.get_text() for text in figure.axes[0].texts][:2] == ["100%"] * 2


def test_the_density_has_area_one(evaluation):
    measured = evaluation.measured[0]
    axes = density_figure(measured).axes[0]
    x, y = axes.lines[0].get_xydata().T
    assert trapezoid(y, x) == pytest.approx(1, abs=0.02)
    assert sum(bar.get_width() * bar.get_height() for bar in axes.patches) == pytest.approx(1)
    assert f"{measured.ks:.3f}" in axes.get_title()


def test_the_heat_map_names_every_cell(evaluation):
    axes = leakage_figure(evaluation).axes[0]
    texts = np.array([text.get_text() for text in axes.texts]).reshape(evaluation.leakage.shape)
    column = evaluation.names.index("translate-x")
    assert float(texts[0, column]) == pytest.approx(1, abs=0.05)
    assert float(texts[1, column]) == pytest.approx(0.1, abs=0.02)
    assert texts[0, evaluation.names.index("rotate")] == "–"
    shown = axes.images[0].get_array()
    assert np.array_equal(np.ma.filled(shown, np.nan), evaluation.relative, equal_nan=True)


def test_the_response_of_a_direction_alone():
    calibrated = calibrate(square(), direction(), samples=16)
    axes = response_figure(calibrated).axes[0]
    dots = next(line for line in axes.lines if line.get_label().startswith("measured"))
    assert np.array_equal(dots.get_xydata().T, [calibrated.alphas, calibrated.response[:, 0]])
    bare = response_figure(direction("shear-x", "width per height")).axes[0]
    assert "no measured response" in bare.get_title() and bare.lines[0].get_label() == "g"


def test_norms_part_by_part(evaluation):
    bars = norms_figure(evaluation).axes[0].patches
    assert [bar.get_height() for bar in bars] == [1, 0, 0, 1]
    with pytest.raises(InputError, match="plain codes"):
        norms_figure(evaluate(square(), [direction()], samples=4, exact=False))


def test_the_same_figure_is_the_same_bytes(evaluation, tmp_path):
    save_figure(violins(evaluation.measured[0]), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == png(violins(evaluation.measured[0]))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (900, 600) and "Software" not in image.info
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_figure_goes_into_a_folder_that_is_there(evaluation, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        save_figure(Figure(), tmp_path / "none" / "a.png")


def test_all_figures_of_an_evaluation(evaluation, tmp_path):
    paths = save_all(evaluation, tmp_path)
    assert sorted(path.name for path in paths) == [
        "1-translate-x-density.png",
        "1-translate-x-response.png",
        "leakage.png",
        "norms.png",
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert (tmp_path / "leakage.png").read_bytes() == png(leakage_figure(evaluation))
