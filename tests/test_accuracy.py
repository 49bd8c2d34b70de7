"""Control at stated values, and its costs, in closed form."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toys import AXES, Blob, curved, erf_law, straight

from steer.accuracy import Bench, accuracy, perceptual_distances
from steer.batches import draw
from steer.errors import InputError
from steer.images import quantise
from steer.knobs import Setting, Status, control
from steer.losses import mse

NAMES = ["translate-x", "translate-y", "zoom"]


def bench(n: int = 8, **extractors) -> Bench:
    return Bench(Blob(), Blob().sample(n, 0), NAMES, "intensity", 64, extractors)


def slanted():
    """A direction of x that drags y along: 0.1 / sqrt(2) of it for each unit."""
    return straight("translate-x", AXES[0] + AXES[1], 0.16)


@pytest.mark.parametrize("loop", ["open", "closed"])
@pytest.mark.parametrize("value", [0.1, 0.45])
def test_it_is_control(loop, value):
    ours, knob = bench(), curved("translate-x", AXES[0], erf_law)
    one = accuracy(ours, knob, value, loop)
    setting = [Setting("translate-x", "set", value)]
    done = control(Blob(), ours.z, setting, {"translate-x": knob}, exact=loop == "closed")
    assert one.status.tolist() == done.status.tolist()
    assert one.evaluations.tolist() == done.evaluations.tolist()
    assert torch.allclose(one.z, done.z, atol=1e-6)
    assert one.measured == pytest.approx(done.measured[:, 0].numpy(), abs=1e-6)
    assert one.error == pytest.approx(one.measured - value)
    missed = Status.UNREACHABLE if loop == "closed" else Status.OFF
    assert set(one.status) == {Status.REACHED if value == 0.1 else missed}


def test_values_that_lie_too_far():
    with pytest.raises(InputError, match="translate-x that its direction can go to"):
        accuracy(bench(), slanted(), 1e9, "closed")


def test_costs_in_closed_form():
    ours, knob = bench(12), slanted()
    one = accuracy(ours, knob, 0.1, "closed")
    assert one.reached.all()
    moved = (one.z - ours.z).double().numpy() @ knob.u
    assert one.distance == pytest.approx(np.abs(moved), abs=1e-6) and one.distance.max() > 0.5
    assert set(one.costs.changes) == {"translate-y", "zoom"}
    assert one.costs.changes["translate-y"] == pytest.approx(0.1 * moved / 2**0.5, abs=0.002)
    row = one.row()
    rms = float(np.sqrt(np.mean(moved**2))) * 0.1 / 2**0.5
    expected = {"rms": rms, "relative": rms / ours.spread[1]}
    assert row["changes"]["translate-y"] == pytest.approx(expected, rel=0.02)
    assert row["distance"] == pytest.approx(np.abs(moved).mean())
    assert row["perceptual"] == {} and json.loads(json.dumps(row, allow_nan=False)) == row


@pytest.mark.parametrize(
    ("name", "axis", "besides"),
    [("zoom", 2, {"translate-x", "brightness"}), ("translate-x", 0, {"zoom", "brightness"})],
)
def test_area_and_zoom_are_one_thing(name, axis, besides):
    ours = Bench(Blob(), Blob().sample(4, 0), ["translate-x", "zoom", "area", "brightness"],
                 "intensity")  # fmt: skip
    knob = straight(name, AXES[axis], 0.15, -2.0 if name == "zoom" else 0.0)
    value = -2.1 if name == "zoom" else 0.1
    assert set(accuracy(ours, knob, value, "open").row()["changes"]) == besides


def test_distances_count_standard_deviations_of_the_prior():
    wide = slanted()
    wide.std = 2.0
    plain = accuracy(bench(), slanted(), 0.1, "closed").distance
    assert accuracy(bench(), wide, 0.1, "closed").distance == pytest.approx(plain / 2, rel=0.02)


def test_costs_are_those_of_items_that_reached_the_value():
    ours, knob = bench(64, **{"mean square": mse}), slanted()
    one = accuracy(ours, knob, 0.02, "open")
    assert 0 < one.reached.sum() < 64
    assert one.row()["distance"] == pytest.approx(one.distance[one.reached].mean())
    far = one.costs.perceptual["mean square"]
    before, after = (quantise(draw(Blob(), z)) for z in (ours.z, one.z))
    expected = (after - before).square().mean(dim=(1, 2, 3)).double().numpy()
    assert far[one.reached] == pytest.approx(expected[one.reached], rel=1e-5)
    assert np.isnan(far[~one.reached]).all()
    mean = expected[one.reached].mean()
    assert one.row()["perceptual"] == {"mean square": pytest.approx(mean, rel=1e-5)}


def test_nothing_reached_costs_nothing_that_is_known():
    row = accuracy(bench(4, square=mse), slanted(), 0.45, "closed").row()
    assert row["reached"] == 0 and row["unreachable"] == 1 and row["distance"] is None
    assert row["changes"]["zoom"] == {"rms": None, "relative": None}
    assert row["perceptual"] == {"square": None}


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_distances_of_pictures_do_not_depend_on_the_batch(batch):
    before, after = Blob().sample(5, 0), Blob().sample(5, 1)
    all_at_once = mse(quantise(draw(Blob(), before)), quantise(draw(Blob(), after)))
    found = perceptual_distances(Blob(), before, after, mse, batch)
    assert found == pytest.approx(all_at_once.numpy(), rel=1e-5)
