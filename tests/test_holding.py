"""One property set, the others held."""

from __future__ import annotations

import numpy as np
import pytest
from toys import AXES, Blob, straight

from steer.errors import InputError
from steer.evaluation import evaluate
from steer.holding import Held, middle

KNOWN = [
    straight("translate-x", AXES[0] + AXES[1], 0.16),
    straight("translate-y", AXES[1], 0.1),
    straight("zoom", AXES[2], 0.15, constant=-1.5),
]


@pytest.fixture(scope="module")
def found():
    told: list[float] = []
    result = evaluate(
        Blob(), KNOWN, samples=12, held=True, report=lambda done, error: told.append(done)
    )
    assert told == sorted(told) and told[-1] == 2 * len(KNOWN)
    return result


def test_holding_takes_away_what_a_slanted_direction_drags_along(found):
    x = [one for one in found.held[0] if one.held == "translate-y"]
    assert [one.name for one in x] == ["translate-x"] * 2
    for one in x:
        alone = next(
            a for a in found.measured[0].accuracy if a.loop == "closed" and a.value == one.value
        )
        moved = (alone.z - found.z).double().numpy() @ KNOWN[0].u
        dragged = 0.1 * moved[alone.reached] / 2**0.5
        assert one.alone == pytest.approx(np.sqrt(np.mean(dragged**2)), rel=0.05)
        assert one.alone > 0.03 and one.change < 0.005 and one.enough
        assert one.tolerance == 0.005 and one.reached == one.compared == 1
        row = one.row()
        assert row["ratio"] == pytest.approx(one.change / one.alone) and row["enough"]


def test_every_direction_holds_all_others(found):
    pairs = {(one.name, one.held) for each in found.held for one in each}
    names = [d.name for d in KNOWN]
    assert pairs == {(a, b) for a in names for b in names if a != b}
    rows = found.table()
    assert [len(row["held"]) for row in rows] == [4, 4, 4]
    assert rows[0]["held"][0] == found.held[0][0].row()
    values = [one.value for one in found.measured[0].accuracy if one.loop == "closed"]
    assert {one.value for one in found.held[0]} == {values[1], values[3]}


def test_what_cannot_be_compared_is_not_told():
    nothing = Held("translate-x", 0.4, "zoom", np.nan, np.nan, 0.0, 0.02, 0.0).row()
    assert nothing["enough"] is None and nothing["ratio"] is None and nothing["alone"] is None


@pytest.mark.parametrize(
    ("alone", "change", "enough"),
    [(1.0, 0.09, True), (1.0, 0.11, False), (0.01, 0.019, True), (0.01, 0.021, False)],
)
def test_a_tenth_or_the_tolerance(alone, change, enough):
    assert Held("x", 0.0, "zoom", alone, change, 1.0, 0.02, 1.0).enough is enough


@pytest.mark.parametrize(
    ("known", "options", "said"),
    [
        (KNOWN[:1], {}, "two or more measurable properties, .* got translate-x"),
        ([KNOWN[0], KNOWN[0]], {}, "got translate-x"),
        ([straight("shear-x", AXES[3], 0.1, None)], {}, "got none"),
        (KNOWN, {"exact": False}, "got translate-x, translate-y, zoom in open loop"),
    ],
)
def test_nothing_to_hold(known, options, said):
    with pytest.raises(InputError, match=said):
        evaluate(Blob(), known, samples=8, held=True, **options)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([0.1], [0.1]),
        ([0.3, 0.1], [0.1, 0.3]),
        ([0.0, 0.2, 0.1], [0.0, 0.2]),
        ([3, 1, 2, 1, 0], [1, 2]),
        (list(range(9)), [2, 6]),
    ],
)
def test_two_middle_values(values, chosen):
    assert middle(values) == chosen
