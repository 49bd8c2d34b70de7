"""Frames, grids, folders and films of a generator whose pictures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from toys import AXES, Blob, curved, erf_law, straight

from steer.distributions import parse_distribution
from steer.errors import InputError
from steer.images import quantise
from steer.knobs import Setting, Status
from steer.measures import Measure
from steer.rendering import (
    Frame,
    as_grid,
    asked_by_step,
    describe,
    draw,
    frames,
    is_folder,
    outcomes,
    traversal,
    write_film,
)

X = "translate-x"


@pytest.fixture
def blob():
    return Blob(size=24)


@pytest.fixture
def knobs():
    return {X: curved(X, AXES[0], erf_law), "translate-y": straight("translate-y", AXES[1], 0.1)}


def codes(n=3, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 6))).float()


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_draw(blob, batch):
    z = codes(5)
    pictures = draw(blob, z, batch)
    assert torch.allclose(pictures, blob(z), atol=1e-6) and not pictures.requires_grad


# --- traversals ---


def test_the_ends_of_a_traversal_are_what_the_generator_shows():
    values = traversal(straight(X, AXES[0], 0.1, constant=0.05), None, None, 5)
    assert values == pytest.approx(np.linspace(-0.1, 0.2, 5))
    assert traversal(straight(X, AXES[0], 0.1), -0.3, None, 3) == pytest.approx(
        [-0.3, -0.075, 0.15]
    )
    assert traversal(straight(X, AXES[0], 0.1), 0.3, -0.3, 3) == pytest.approx([0.3, 0, -0.3])
    # not measurable: amounts from the middle of the prior
    assert traversal(straight("shear-x", AXES[0], 0.1, None), None, None, 2) == pytest.approx(
        [-0.15, 0.15]
    )


@pytest.mark.parametrize(
    ("low", "high", "steps"), [(0.1, 0.1, 5), (0, 1, 1), (math.nan, 1, 3), (0, math.inf, 3)]
)
def test_no_traversal(low, high, steps):
    with pytest.raises(InputError, match="2 or more steps between different values, got"):
        traversal(straight(X, AXES[0], 0.1), low, high, steps)


def test_frames_walk_along_and_hold_the_settings(blob, knobs):
    values, told = [-0.2, 0.0, 0.2], []
    hold = [Setting("translate-y", "set", 0.1)]
    shown = frames(
        blob, codes(), hold, knobs, along=X, values=values, exact=True,
        report=lambda done, label: told.append((done, label)),
    )  # fmt: skip
    assert [frame.label for frame in shown] == ["-0.2", "0", "0.2"]
    assert told == [(1, "-0.2"), (2, "0"), (3, "0.2")]
    for frame, value in zip(shown, values, strict=True):
        seen = Measure([X, "translate-y"])(quantise(frame.pictures))
        assert (seen - torch.tensor([value, 0.1])).abs().max() < 0.005
        assert (frame.controlled.status == Status.REACHED).all()
        assert [s.name for s in frame.settings] == [X, "translate-y"]


def test_a_traversal_of_what_is_not_measurable_goes_by_g(blob):
    knob = straight("shear-x", AXES[3], 0.1, None)
    shown = frames(blob, codes(), [], {"shear-x": knob}, along="shear-x", values=[-0.1, 0.2])
    for frame, coordinate in zip(shown, (-1, 2), strict=True):
        placed = frame.controlled.z.double().numpy() @ AXES[3]
        assert np.allclose(placed, coordinate, atol=1e-5)
        assert (frame.controlled.status == Status.NOT_MEASURED).all()


def test_a_single_frame(blob, knobs):
    (plain,) = frames(blob, codes(), [], knobs)
    assert plain.controlled is None and torch.equal(plain.pictures, draw(blob, codes()))
    (moved,) = frames(blob, codes(), [Setting(X, "set", 0.1)], knobs)
    assert moved.label == "" and (moved.controlled.measured - 0.1).abs().max() < 0.01


@pytest.mark.parametrize("setting", [None, Setting(X, "set", 0.1)])
def test_no_more_pictures_are_drawn_at_once_than_asked(blob, knobs, setting):
    sizes = []
    blob.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    (shown,) = frames(blob, codes(5), [setting] if setting else [], knobs, batch=2)
    assert max(sizes) == 2 and len(shown.pictures) == 5


# --- grids ---


def test_a_grid_has_a_row_for_each_item_and_a_column_for_each_step(blob, knobs):
    sizes = {}
    for n, steps in ((2, 2), (2, 4), (4, 2)):
        values = np.linspace(-0.1, 0.1, steps).tolist()
        picture = as_grid(frames(blob, codes(n), [], knobs, along=X, values=values))
        assert picture.shape[0] == 3 and picture.min() >= 0 and picture.max() <= 1
        sizes[n, steps] = picture.shape[1:]
    assert sizes[4, 2][0] > 1.6 * sizes[2, 2][0] and sizes[4, 2][1] == sizes[2, 2][1]
    assert sizes[2, 4][1] > 1.6 * sizes[2, 2][1]


@pytest.mark.parametrize("n", [1, 8, 9])
def test_the_originals_stand_over_the_moved_ones(blob, knobs, n):
    z = codes(n)
    shown = frames(blob, z, [Setting(X, "set", 0.1)], knobs)
    alone = as_grid(shown, "moved")
    both = as_grid(shown, "moved", originals=draw(blob, z))
    assert both.shape[1] > alone.shape[1] and both.shape[0] == 3


def test_a_picture_that_was_missed_has_a_star(blob, knobs, monkeypatch):
    written = {}
    monkeypatch.setattr(
        "steer.rendering.grid", lambda rows, **options: written.update(options) or torch.zeros(1)
    )
    as_grid(frames(blob, codes(), [Setting(X, "set", 0.29)], {X: straight(X, AXES[0], 1.0)}))
    ((*marks, _),) = [row[:4] for row in written["marks"]]
    assert all(mark.endswith(" *") for mark in marks)
    as_grid(frames(blob, codes(), [Setting(X, "set", 0.1)], knobs, exact=True))
    assert all(not mark.endswith("*") and float(mark) for mark in written["marks"][0][:3])


def test_titles():
    settings = [
        Setting(X, "set", 0.2),
        Setting("zoom", "shift", -0.1),
        Setting("hue", "distribution", parse_distribution("uniform(0, 1)")),
    ]
    assert describe(settings) == "translate-x=0.2, zoom+-0.1, hue ~ wanted"


# --- what came out ---


def test_outcomes_say_what_was_asked_and_measured(blob, knobs):
    shown = frames(blob, codes(3), [Setting(X, "set", 0.1)], knobs, exact=True)
    items = outcomes(shown, ["a.png", "b.png", "c.png"])
    assert [item["source"] for item in items] == ["a.png", "b.png", "c.png"]
    for i, item in enumerate(items):
        seen = Measure([X])(quantise(shown[0].pictures[i : i + 1]))
        assert item["item"] == i and item["asked"] == {X: 0.1} and item["status"] == "reached"
        assert item["measured"][X] == pytest.approx(seen.item(), abs=1e-9)
        assert item["evaluations"] == shown[0].controlled.evaluations[i]


def test_outcomes_of_a_traversal(blob, knobs):
    items = outcomes(frames(blob, codes(2), [], knobs, along=X, values=[0.0, 0.1]), [])
    assert [(item["item"], item["asked"][X]) for item in items] == [
        (0, 0), (1, 0), (0, 0.1), (1, 0.1),
    ]  # fmt: skip
    assert outcomes(frames(blob, codes(1), [], knobs), []) == [{"item": 0}]


def test_what_each_step_asks(knobs):
    hold = Setting("translate-y", "set", 0.1)
    assert asked_by_step([hold], knobs) == [[hold]]
    walk = asked_by_step([hold], knobs, X, [0.0, 0.2])
    assert walk == [[Setting(X, "set", value), hold] for value in (0.0, 0.2)]
    shear = {"shear-x": straight("shear-x", AXES[3], 1.0, None)}
    assert asked_by_step([], shear, "shear-x", [1.0]) == [[Setting("shear-x", "place", 1.0)]]


# --- films ---


def test_a_film_plays_there_and_back(blob, knobs, tmp_path):
    shown = frames(blob, codes(2), [], knobs, along=X, values=[-0.2, -0.1, 0.1, 0.2])
    write_film(shown, tmp_path / "a.gif", fps=10)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4 + 2
        played = []
        for index in range(film.n_frames):
            film.seek(index)
            played.append(np.asarray(film.convert("RGB")))
    assert np.array_equal(played[1], played[5]) and np.array_equal(played[2], played[4])
    assert not np.array_equal(played[0], played[3])


def test_a_film_of_one_picture(tmp_path):
    with pytest.raises(InputError, match=r"a traversal to animate as .*a\.gif, got a single frame"):
        write_film([Frame("", torch.zeros(1, 1, 8, 8))], tmp_path / "a.gif", fps=10)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("out/", True), ("out", True), ("a/b", True), ("a.png", False), ("a.b/c", True), ("-", True)],
)
def test_what_names_a_folder(name, folder):
    assert is_folder(name) is folder


def test_a_folder_that_looks_like_a_file(tmp_path):
    (tmp_path / "a.png").mkdir()
    assert is_folder(str(tmp_path / "a.png"))


def test_values_of_a_traversal_are_not_rounded(knobs):
    assert traversal(knobs[X], 0.0, 1e-7, 2) == [0.0, 1e-7]


def test_the_ends_of_a_traversal_of_small_values_are_not_rounded_away():
    assert traversal(straight(X, AXES[0], 0.001), None, None, 2) == pytest.approx([-0.0015, 0.0015])


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.linspace(-0.3, 0.3, 7), ["-0.3", "-0.2", "-0.1", "0", "0.1", "0.2", "0.3"]),
        (np.linspace(0, 1, 9)[:3], ["0", "0.125", "0.25"]),
        ([1 / 3, 2 / 3], ["0.3333", "0.6667"]),
        ([-1e-5, 1e-5], ["-1e-05", "1e-05"]),
        ([-180.0, 180.0], ["-180", "180"]),
        ([0.1], ["0.1"]),
    ],
)
def test_labels_are_rounded_and_what_is_asked_is_not(blob, knobs, values, labels):
    knob = straight("shear-x", AXES[3], 1.0, None)
    shown = frames(blob, codes(1), [], {"shear-x": knob}, along="shear-x", values=list(values))
    assert [frame.label for frame in shown] == labels
    assert [frame.controlled.asked.item() for frame in shown] == list(values)


def test_what_cannot_be_measured_has_no_mark(blob, knobs, monkeypatch):
    written = {}
    monkeypatch.setattr(
        "steer.rendering.grid", lambda rows, **options: written.update(options) or torch.zeros(1)
    )
    knobs["shear-x"] = straight("shear-x", AXES[3], 0.1, None)
    asked = [Setting("shear-x", "shift", 0.1), Setting(X, "set", 0.1)]
    as_grid(frames(blob, codes(2), asked, knobs))
    assert all(abs(float(mark) - 0.1) < 0.003 for mark in written["marks"][0])
