"""From a transform to a calibrated direction, on the blob whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import AXES, Blob

from steer.errors import InputError
from steer.fitting import fit_direction
from steer.trajectories import Follow, follow

QUICK = Follow("translate-x", points=2, steps=15)


class Counting(Blob):
    """Remembers the largest batch without gradients: measuring, not searching."""

    largest = 0

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            self.largest = max(self.largest, len(z))
        return super().forward(z)


def test_the_axis_is_found_and_how_is_recorded():
    told = []
    direction = fit_direction(
        Blob(), QUICK, starts=24, samples=32, worst=0.2, report=lambda *said: told.append(said)
    )
    assert abs(direction.u @ AXES[0]) > 0.95
    assert direction.constant == pytest.approx(0, abs=0.02)
    made = direction.made["options"]
    assert made["worst"] == 0.2 and made["samples"] == 32
    assert made["trajectories"] == {**QUICK.facts, "starts": 24}
    assert told[-1][0] == 24 * 2


def test_trajectories_followed_before_give_the_same():
    blob = Blob()
    here = fit_direction(blob, QUICK, starts=12, samples=16)
    there = fit_direction(blob, "translate-x", follow(blob, QUICK, 12), samples=16)
    assert np.array_equal(here.u, there.u) and np.array_equal(here.slopes, there.slopes)
    assert np.array_equal(here.response, there.response)


def test_the_batch_holds_for_measuring_too():
    blob = Counting()
    known = follow(Blob(), QUICK, 8)
    blob.largest = 0
    fit_direction(blob, "translate-x", known, samples=40, batch=5, find="intensity")
    assert blob.largest == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"starts": 3}, "at least 4 starts to fit translate-x, got 3"),
        ({"find": "inensity"}, "did you mean intensity"),
        ({"smoothness": -1.0}, "a smoothness of 0 or more"),
        ({"held_out": 1.0}, "to hold out, got 1"),
    ],
)
def test_mistakes_are_said_before_the_work(monkeypatch, options, said):
    monkeypatch.setattr("steer.fitting.follow", None)
    with pytest.raises(InputError, match=said):
        fit_direction(Blob(), "translate-x", **options)


def test_a_threshold_that_leaves_too_little_says_how_many_there_were():
    with pytest.raises(InputError, match="got 0 after pruning, of 6"):
        fit_direction(Blob(), QUICK, starts=6, threshold=0.0)
