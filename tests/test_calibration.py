"""The measured response of directions, on generators whose factors are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys
from test_evaluation import Blob, Empty, direction
from toys import AXES

from steer.calibration import ALPHAS, calibrate, choose_measure
from steer.directions import Direction
from steer.evaluation import evaluate
from steer.generators.base import LatentSpace, PictureShape
from steer.knobs import Status


@pytest.mark.parametrize(
    ("background", "channels", "finder"),
    [(0.0, 1, "intensity"), (0.05, 3, "intensity"), (0.4, 1, "background"), (1, 3, "background")],
)
def test_the_finder_follows_the_border(background, channels, finder):
    assert choose_measure(Blob(channels=channels, background=background)) == finder


def test_a_border_that_is_dark_in_two_channels_is_no_black_one():
    class Red(Empty):
        def forward(self, z):
            return super().forward(z) + torch.tensor([0.8, 0, 0])[:, None, None]

    assert choose_measure(Red(LatentSpace(2), PictureShape(3, 8, 8))) == "background"


def test_calibration_leaves_the_direction_it_was_given():
    mine = direction()
    filled = calibrate(Blob(), mine, samples=16)
    assert mine.constant is None and mine.response is None
    assert filled.response.shape == (len(ALPHAS), 3)
    again = Direction.of(filled.artefact())
    assert again.constant == filled.constant and np.array_equal(again.response, filled.response)


def test_what_is_not_measurable_has_no_constant():
    sheared = calibrate(Blob(), direction("shear-x"), find="background")
    assert (sheared.find, sheared.constant, sheared.alphas, sheared.response) == (None,) * 4


def test_alphas_where_nothing_is_found_are_left_out():
    class Vanishing(Blob):
        def forward(self, z):
            shown = (z @ torch.from_numpy(AXES[0]).to(z) > -1.2)[:, None, None, None]
            return super().forward(z) * shown

    filled = calibrate(Vanishing(), direction(), samples=8)
    assert filled.alphas.tolist() == [a for a in ALPHAS if a > -1.2]
    assert np.isfinite(filled.response).all()
    never = calibrate(Empty(LatentSpace(6), PictureShape(1, 8, 8)), direction(), samples=4)
    assert never.constant is None and len(never.alphas) == 0
    assert Direction.of(never.artefact()).response.shape == (0, 3)


class Bar(toys.Bar):
    """The bar turned by 60 degrees a unit of z[0], and 5 of z[2]."""

    def forward(self, z):
        return super().forward(torch.stack([2 * z[:, 0] + z[:, 2] / 6, z[:, 1]], dim=1))


def test_a_periodic_response_does_not_jump():
    turned = Direction("rotate", "degrees", np.array([1.0, 0.0, 0.0]), np.full(100, 60.0))
    bar = Bar()
    filled = calibrate(bar, turned, samples=128)
    assert filled.response[:, 0] == pytest.approx(60 * ALPHAS, abs=2)
    assert filled.response[:, 1] == pytest.approx(5, abs=1)
    [measured] = evaluate(bar, [filled], samples=64, values=[100.0]).measured
    assert measured.monotone
    assert np.abs(measured.unwrapped() - 60 * ALPHAS[:, None]).max() < 25
    assert [one.share(Status.REACHED) for one in measured.accuracy] == [
        pytest.approx(0.16, abs=0.15),  # |5 z[1]| < 1 degree
        1.0,
    ]
