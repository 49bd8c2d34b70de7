"""Methods judged on the same codes and values, and their figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_rivals import Layered, counting  # noqa: F401 (a fixture)
from toys import AXES, Bar

from steer.calibration import ALPHAS
from steer.comparison import compare
from steer.errors import InputError
from steer.evaluation import evaluate
from steer.knobs import Status
from steer.plots import comparison_figure

METHODS = ("trajectory", "closed-form", "group-means")


@pytest.fixture(scope="module")
def layered():
    return Layered().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def found(layered):
    few = {"starts": 8, "samples": 32, "judged_on": 16, "find": "intensity"}
    return compare(layered, METHODS, "translate-x", **few)


def test_the_numbers_are_those_of_the_evaluation(layered, found):
    asked = [one.value for one in found[0].measured.accuracy if one.loop == "open"]
    assert len(asked) == 5 and asked == sorted(asked)
    assert asked[0] == pytest.approx(-0.28, abs=0.05) and asked[-1] == pytest.approx(0.28, abs=0.05)
    for one in found:
        [alone] = evaluate(layered, [one.direction], samples=16, values=asked, seed=1).measured
        control = {"open": [], "closed": []}
        for each in alone.accuracy:
            control[each.loop].append(each)
        opened = np.concatenate([each.error for each in control["open"]])
        assert one.open == pytest.approx(np.sqrt(np.nanmean(opened**2)))
        closed = np.concatenate([each.error[each.status == Status.REACHED]
                                 for each in control["closed"]])  # fmt: skip
        assert one.closed == pytest.approx(np.sqrt(np.mean(closed**2)))
        assert one.reached == len(closed) / (16 * 5)
        assert one.reached + one.unreachable + one.no_object == pytest.approx(1)
        assert one.direction.u @ AXES[0] > 0.8
        # the values are about 0.3 standard deviations to 4 away from where codes are
        assert 0.3 < one.distance < 4


def test_what_is_common_is_measured_once(counting):  # noqa: F811
    when_found = []
    options = {"starts": 4, "samples": 16, "judged_on": 8, "find": "counting"}
    names = ("pca", "group-means", "trajectory")
    found = compare(
        Layered(), names, "translate-x",
        keep=lambda name, direction: when_found.append((name, counting.seen)), **options,
    )  # fmt: skip
    along = 16 * len(ALPHAS)
    # each used to take 16 codes more, and the first two their coordinates twice
    assert when_found == [("pca", 16 + along), ("group-means", 16 + 2 * along),
                          ("trajectory", 16 + 3 * along)]  # fmt: skip
    # what is shared counts for each that uses it; pca looks at the first layer with one code
    assert [one.evaluations for one in found[:2]] == [16 + along + 1, 16 + along]
    assert found[2].evaluations > along


def test_area_is_no_other_property_than_zoom(layered):
    few = {"samples": 32, "judged_on": 16, "find": "intensity"}
    [one] = compare(layered, ["closed-form"], "zoom", **few)
    asked = [each.value for each in one.measured.accuracy if each.loop == "open"]
    judged = evaluate(layered, [one.direction], samples=16, values=asked, seed=1)
    moves = dict(zip(judged.names, judged.relative[0], strict=True))
    others = ("translate-x", "translate-y", "rotate", "brightness", "contrast")
    ratios = [moves[name] / moves["zoom"] for name in others]
    assert one.leakage == pytest.approx(np.nanmean(ratios))


def test_values_of_a_periodic_property_are_around_its_mean():
    told, bar = [], Bar(turn=85.0)
    [one] = compare(
        bar, ["group-means"], "rotate", samples=64, judged_on=8, find="background",
        report=lambda done, what: told.append(done),
    )  # fmt: skip
    asked = sorted({each.value for each in one.measured.accuracy})
    turned = np.quantile(85 + 30 * bar.sample(64)[:, 0].numpy(), [0.025, 0.975])
    assert (asked[0], asked[-1]) == pytest.approx(turned, abs=4)
    assert told == sorted(told) and told[0] == 0 and told[-1] == pytest.approx(2)


@pytest.mark.parametrize(
    ("names", "transform", "said"),
    [
        (["pca", "walks"], "translate-x", "did you mean walk"),
        (["trajectory"], "shear-x", "a measure and a transform of its own, got shear-x"),
        (["trajectory"], "area", "a measure and a transform of its own, got area"),
        (["pcx"], "zoom", "did you mean pca.* Known: .*trajectory"),
    ],
)
def test_what_cannot_be_compared(layered, names, transform, said):
    with pytest.raises(InputError, match=said):
        compare(layered, names, transform)


# --- the figure ---


def test_the_figure_holds_the_numbers(found):
    found = [found[0], replace(found[1], unreachable=0.25, reached=0.75), found[2]]
    figure = comparison_figure(found)
    curves, (errors, ends, *bars) = figure.axes[:3], figure.axes[3:]
    for axes, one in zip(curves, found, strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        mean = lines["measured, mean and std"].get_xydata().T
        assert np.array_equal(mean, [one.measured.alphas, one.measured.response[:, 0]])
        assert axes.get_title() == one.method
    assert len({axes.get_ylim() for axes in curves}) == 1
    for line, what in zip(errors.lines, ("open", "closed"), strict=True):
        assert line.get_xdata().tolist() == [getattr(one, what) for one in found]
    widths = [bar.get_width() for bar in ends.patches]
    assert widths[0] == found[0].reached and widths[1] == 0.75 and widths[4] == 0.25
    assert ends.patches[4].get_x() == 0.75
    for axes, what in zip(bars, ("leakage", "evaluations", "seconds"), strict=True):
        assert [bar.get_width() for bar in axes.patches] == [getattr(one, what) for one in found]
    assert [label.get_text() for label in errors.get_yticklabels()] == list(METHODS)
    assert errors.get_ylim()[0] > errors.get_ylim()[1]  # the first on top


@pytest.mark.parametrize("count", [1, 3, 7])
def test_nothing_of_it_is_cut(found, count):
    figure = comparison_figure([found[i % 3] for i in range(count)])
    FigureCanvasAgg(figure).draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
