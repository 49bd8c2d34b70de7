"""Measures of objects found, in closed form and against other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from steer.datasets import Scenes
from steer.errors import InputError
from steer.scenes.measures import ALL, HIGH, average_precision, count_errors, foreground_rand

BOX = torch.tensor([[0.0, 0.0, 0.4, 0.4]])


def moved(by: float) -> torch.Tensor:
    """A box whose intersection over union with `BOX` is (1 - by) / (1 + by)."""
    return BOX + torch.tensor([0.4 * by, 0, 0.4 * by, 0])


def test_thresholds_are_those_of_the_papers():
    assert np.allclose(HIGH, np.arange(0.5, 1, 0.05)) and np.allclose(ALL, np.arange(0.1, 1, 0.1))


def test_what_is_the_truth_is_perfect_and_nothing_is_nothing():
    truth = Scenes().truth(torch.arange(6))
    wanted = [b[p] for b, p in zip(truth.boxes, truth.present, strict=True)]
    scores = [torch.rand(len(w)) for w in wanted]
    assert (average_precision(wanted, scores, wanted) == 1).all()
    none = [torch.empty(0, 4)] * 6
    assert (average_precision(none, [torch.empty(0)] * 6, wanted) == 0).all()
    assert average_precision(wanted, scores, none).isnan().all()
    assert foreground_rand(truth.labels, truth.labels) == 1


@pytest.mark.parametrize("by", [0.0, 0.1, 0.3, 0.6])
def test_a_box_is_right_up_to_its_overlap(by):
    overlap = (1 - by) / (1 + by)
    found = average_precision([moved(by)], [torch.ones(1)], [BOX], ALL)
    assert found.tolist() == [float(t <= overlap + 1e-6) for t in ALL]


def test_a_second_box_on_an_object_is_wrong():
    twice = BOX.repeat(2, 1)
    assert average_precision([twice], [torch.tensor([0.9, 0.8])], [BOX], [0.5]).item() == 1
    two = torch.cat([BOX, BOX + 0.5])
    # right, wrong, right: precision 1 up to half of the recall, then 2/3
    found = torch.cat([BOX, BOX, BOX + 0.5])
    assert average_precision([found], [torch.tensor([0.9, 0.8, 0.7])], [two], [0.5]).item() == (
        pytest.approx((1 + 2 / 3) / 2)
    )


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_it_is_the_area_of_falling_precision(cases):
    """Each picture has one object, found or missed: by the step sums of scikit-learn, of which
    ours is the upper bound, and by hand."""
    right = np.array([hit for hit, _ in cases])
    scores = np.array([score for _, score in cases]) + np.arange(len(cases)) * 1e-3
    boxes = [BOX if hit else BOX + 0.5 for hit in right]
    ours = average_precision(
        boxes, [torch.tensor([s]) for s in scores], [BOX] * len(cases), [0.5]
    ).item()
    order = np.argsort(-scores)
    precision = np.cumsum(right[order]) / np.arange(1, len(cases) + 1)
    by_hand = sum(precision[i:].max() for i in np.flatnonzero(right[order])) / len(cases)
    assert ours == pytest.approx(by_hand)
    if right.any():
        steps = average_precision_score(right, scores) * right.mean()
        assert ours >= steps - 1e-6


def test_lists_that_do_not_belong_together():
    nothing = torch.full((1, 4), torch.nan)
    for boxes, scores, wanted in (
        (BOX, torch.ones(2), BOX), (nothing, torch.ones(1), BOX), (BOX, torch.ones(1), nothing)
    ):  # fmt: skip
        with pytest.raises(InputError, match="a score for each box of picture 0 and no NaN"):
            average_precision([boxes], [scores], [wanted])
    with pytest.raises(InputError, match="as many pictures, got 1, 2 and 1"):
        average_precision([BOX], [torch.ones(1)] * 2, [BOX])


def test_counts():
    assert count_errors(torch.tensor([3, 3]), torch.tensor([3, 3])) == (0, 0)
    assert count_errors(torch.tensor([0, 3, 7, 1]), torch.tensor([2, 3, 6, 1])) == (0.5, 0.75)


def test_chance_is_nothing_and_names_do_not_matter():
    random = np.random.default_rng(0)
    wanted = torch.from_numpy(random.integers(0, 5, (20, 40, 40)))
    chance = torch.from_numpy(random.integers(1, 5, (20, 40, 40)))
    assert abs(foreground_rand(chance, wanted)) < 0.01
    assert foreground_rand(9 - wanted, wanted) == 1
    # what is said of the background does not count
    assert foreground_rand(torch.where(wanted > 0, wanted, 7), wanted) == 1
    assert math.isnan(foreground_rand(wanted, torch.zeros_like(wanted)))
