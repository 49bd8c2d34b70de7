"""Names to things, plugins by entry point."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer import registry as module
from steer.errors import InputError, SteerError
from steer.registry import Registry, unknown


@pytest.fixture
def points(monkeypatch):
    """Entry points that count how often they are asked for and loaded."""
    asked, loaded = [], []

    def point(name, thing):
        return SimpleNamespace(name=name, load=lambda: loaded.append(name) or thing)

    there = {"steer.shapes": [point("hexagon", 6), point("octagon", 8)]}

    def entry_points(group):
        asked.append(group)
        return there.get(group, [])

    monkeypatch.setattr(module, "entry_points", entry_points)
    return SimpleNamespace(asked=asked, loaded=loaded, there=there, point=point)


def test_an_unknown_name_among_none_says_so():
    assert str(unknown("direction", "x", [])) == "unknown direction 'x': there is none."


def test_a_decorator_registers_and_gives_back_what_it_decorates():
    shapes = Registry("shape")

    @shapes.register("square")
    def square():
        return 4

    assert square() == 4 and shapes.get("square") is square
    assert "square" in shapes and "circle" not in shapes


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_names_are_sorted_and_all_there(names):
    shapes = Registry("shape")
    for name in names:
        shapes.register(name, name.upper())
    assert shapes.names() == sorted(names)
    assert [shapes.get(name) for name in names] == [name.upper() for name in names]


def test_a_name_that_is_taken_raises_and_keeps_the_first():
    shapes = Registry("shape")
    shapes.register("square", 4)
    with pytest.raises(SteerError, match="two shapes are called 'square'"):
        shapes.register("square", 5)
    assert shapes.get("square") == 4


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("sqare", "did you mean square\\?"), ("Circle", "did you mean circle\\?"), ("zzz", "Known:")],
)
def test_an_unknown_name_lists_what_is_near_and_what_is_known(asked, hint):
    shapes = Registry("shape")
    for name in ("square", "circle"):
        shapes.register(name, name)
    with pytest.raises(InputError, match=hint) as caught:
        shapes.get(asked)
    assert repr(asked) in str(caught.value) and "Known: circle, square." in str(caught.value)
    assert caught.value.exit_status == 2


def test_no_hint_where_nothing_is_near():
    assert str(unknown("shape", "zzz", ["square"])) == "unknown shape 'zzz': Known: square."


def test_plugins_are_read_once_when_first_needed_and_loaded_when_got(points):
    shapes = Registry("shape", "steer.shapes")
    shapes.register("square", 4)
    assert points.asked == []
    assert shapes.names() == ["hexagon", "octagon", "square"]
    assert points.loaded == []
    assert shapes.get("hexagon") == 6 and shapes.get("hexagon") == 6 and "octagon" in shapes
    assert points.asked == ["steer.shapes"] and points.loaded == ["hexagon"]


def test_a_plugin_cannot_take_a_name_that_is_there(points):
    points.there["steer.shapes"].append(points.point("square", 5))
    shapes = Registry("shape", "steer.shapes")
    shapes.register("square", 4)
    with pytest.raises(SteerError, match="two shapes are called 'square'"):
        shapes.names()


def test_a_registry_without_a_group_asks_for_no_plugins(points):
    assert Registry("shape").names() == [] and points.asked == []
