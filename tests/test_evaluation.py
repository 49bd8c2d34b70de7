"""Directions measured on a generator whose factors are known in closed form."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf
from scipy.stats import kstest, norm
from toys import AXES

from steer.calibration import ALPHAS, calibrate
from steer.directions import KNOTS, Direction
from steer.distributions import parse_distribution
from steer.errors import InputError
from steer.evaluation import evaluate, ks_distance, measurable, part_norms
from steer.generators import load
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.inversion import Search
from steer.knobs import Status
from steer.regression import Pairs, fit
from steer.trajectories import Follow, follow

SPAN = 0.3  # the blob's x is SPAN erf(<u, z> / sqrt 2)


class Blob(toys.Blob):
    """The blob in a code of two parts, on grey, log2 of its peak by AXES[3] (0.2 a unit)."""

    def __init__(self, channels: int = 1, background: float = 0.0):
        super().__init__(size=32)
        self.latent = LatentSpace(6, {"coarse": 2, "fine": 4})
        self.picture = PictureShape(channels, 32, 32)
        self.background = background

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        peak = 0.5 * 2 ** (0.2 * z @ torch.from_numpy(AXES[3]).to(z))
        blob = peak[:, None, None, None] * super().forward(z)
        return (self.background + blob).clamp(0, 1).expand(-1, *self.picture)


class Empty(Generator):
    """Black pictures."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(z), *self.picture)


def direction(name: str = "translate-x", axis: int = 0, slope: float | None = None) -> Direction:
    """A true direction of the blob: straight with `slope`, or with x's erf law."""
    slopes = np.diff(SPAN * erf(KNOTS / math.sqrt(2))) / np.diff(KNOTS)
    if slope is not None:
        slopes = np.full(len(KNOTS) - 1, slope)
    return Direction(name, "unit", AXES[axis], np.maximum(slopes, 1e-5))


# --- the whole method ---


@pytest.fixture(scope="module", params=[0, 1, 2])
def found(request) -> Direction:
    """translate-x of the blob by following, fitting and calibrating."""
    search = Search(rate=0.1, seed=request.param)
    how = Follow("translate-x", extent=0.15, points=4, steps=40, search=search)
    trajectories = follow(Blob(), how, starts=48, batch=48)
    return calibrate(Blob(), fit("translate-x", "width", Pairs.of(trajectories)))


def test_the_erf_law_is_recovered_end_to_end(found):
    s = np.linspace(-2, 2, 41)
    law = SPAN * erf(s / math.sqrt(2))
    assert abs(found.u @ AXES[0]) > 0.99
    assert np.abs(found.g(s) - law).max() < 0.02
    assert found.quality["held_out_r2"] > 0.95
    assert found.find == "intensity" and abs(found.constant) < 0.003
    inner = np.abs(found.alphas) <= 2
    expected = SPAN * erf(found.alphas[inner] / math.sqrt(2))
    assert np.abs(found.response[inner, 0] - expected).max() < 0.02
    assert found.response[inner, 1].max() < 0.01 and (found.response[:, 2] == 1).all()


def test_the_recovered_direction_controls(found):
    [row] = evaluate(Blob(), [found], samples=32, values=[-0.2, 0.0, 0.2]).table()
    loops = {loop: [r for r in row["accuracy"] if r["loop"] == loop] for loop in ("open", "closed")}
    assert max(r["rms"] for r in loops["open"]) < 0.02
    assert max(r["rms"] for r in loops["closed"]) < 0.002
    assert all(r["reached"] == 1 for r in loops["closed"])
    assert row["monotone"] and row["ks"] < 1.36 / math.sqrt(32)  # the 5 % point of the KS test
    assert 0.9 < row["leakage"]["translate-x"]["mean"] < 1.1
    assert abs(row["leakage"]["translate-y"]["mean"]) < 0.03


@pytest.mark.shared
def test_a_real_generator_end_to_end(shared):
    """btcvae_dsprites: positions span about +-0.26, spread by the erf law over the prior."""
    sprites = load(str(shared / "data" / "generators" / "disvae" / "btcvae_dsprites"), device="cpu")
    trajectories = follow(sprites, Follow("translate-x", points=3, steps=30), starts=20)
    fitted = calibrate(sprites, fit("translate-x", "width", Pairs.of(trajectories)), samples=64)
    [row] = evaluate(sprites, [fitted], samples=32, values=[-0.2, 0.0, 0.2]).table()
    loops = {loop: [r for r in row["accuracy"] if r["loop"] == loop] for loop in ("open", "closed")}
    assert fitted.find == "intensity" and fitted.quality["held_out_r2"] > 0.9
    inner = np.abs(fitted.alphas) <= 1.5
    law = 0.26 * erf(fitted.alphas[inner] / math.sqrt(2))
    assert np.abs(fitted.response[inner, 0] - law).max() < 0.04
    assert max(r["rms"] for r in loops["open"]) < 0.03
    assert max(r["rms_reached"] for r in loops["closed"]) < 0.001
    assert min(r["reached"] for r in loops["closed"]) > 0.9


# --- evaluate ---


@pytest.fixture(scope="module")
def three():
    """Three true directions of the blob."""
    known = [
        direction(),
        direction("zoom", axis=2, slope=0.15),
        direction("contrast", axis=3, slope=0.2),
    ]
    return evaluate(Blob(), known, samples=64, exact=False)


def test_leakage_in_closed_form(three):
    names = [three.names.index(name) for name in ("translate-x", "translate-y", "zoom")]
    moves = three.leakage[:, names]
    # the mask is the luminance, so that doubling the peak doubles the area: half an octave of zoom
    assert moves == pytest.approx(np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0.5]]), abs=0.03)
    contrast = three.names.index("contrast")
    assert three.leakage[2, contrast] == pytest.approx(1, abs=0.02)
    assert (three.leakage_rms >= np.abs(three.leakage) - 1e-12)[~np.isnan(three.leakage)].all()
    # brightness is 2 pi sigma^2 peak: 2 sinh(2 ln 2 * 0.15 * 0.25) / 0.075 of it per octave of size
    codes = Blob().latent.sample(64, seed=1)
    mean = Blob()(codes).mean().item() * 2 * math.sinh(math.log(2) * 0.075) / 0.075
    assert three.leakage[1, three.names.index("brightness")] == pytest.approx(mean, rel=0.02)


def test_a_round_object_has_no_axis_to_leak_into(three):
    assert np.isnan(three.leakage[:, three.names.index("rotate")]).all()
    assert three.table()[0]["leakage"]["rotate"] == dict.fromkeys(["mean", "rms", "relative"])


def test_relative_leakage_is_one_for_a_factor_of_its_own(three):
    """x varies by nothing else, and zoom by size (0.15 a unit) and half of the peak's (0.1)."""
    x, zoom = (three.names.index(name) for name in ("translate-x", "zoom"))
    assert three.relative[0, x] == pytest.approx(1, abs=0.05)
    size, peak = AXES[2:4] @ three.z.double().numpy().T
    share = 0.15 * size.std() / (0.15 * size + 0.1 * peak).std()
    assert three.relative[1, zoom] == pytest.approx(share, abs=0.03)
    assert three.relative[0, zoom] < 0.1


def test_grey_pictures_have_no_colour_to_measure():
    grey, colour = measurable(Blob()), measurable(Blob(channels=3))
    assert set(colour) - set(grey) == {"hue", "saturation"} and "translate-x" in grey


def test_the_density_is_the_uniform_one(three):
    measured = three.measured[0]
    inside = np.linspace(-0.25, 0.25, 11)
    assert measured.density(inside) == pytest.approx(1 / (2 * SPAN), rel=0.05)
    rows = measured.histogram(6)
    width = np.array([row["to"] - row["from"] for row in rows])
    assert sum(width * [row["measured"] for row in rows]) == pytest.approx(1)
    assert [r["modelled"] for r in rows] == pytest.approx([1 / (2 * SPAN)] * 6, rel=0.05)


def test_the_response_at_each_alpha(three):
    rows = three.table()[0]["response"]
    assert [row["alpha"] for row in rows] == ALPHAS.tolist()
    expected = SPAN * erf(ALPHAS / math.sqrt(2))
    for row, x in zip(rows, expected, strict=True):
        assert row["found"] == 1 and row["std"] < 0.01
        assert row["q05"] <= row["q50"] <= row["q95"]
        assert row["mean"] == pytest.approx(x, abs=0.012)  # the largest blobs are cut at the edge


def test_values_beyond_reach_are_named_with_the_nearest():
    [measured] = evaluate(Blob(), [direction()], samples=8, values=[0.45]).measured
    for one, status in zip(measured.accuracy, [Status.OFF, Status.UNREACHABLE], strict=True):
        assert one.share(status) == 1 and one.row()["rms_reached"] is None
        assert [item for item, _ in one.failed] == list(range(8))
    assert [near for _, near in measured.accuracy[1].failed] == pytest.approx([0.3] * 8, abs=0.015)


def test_pictures_without_an_object_are_counted_apart():
    class Blinking(Blob):
        def forward(self, z):
            return (
                super().forward(z) * (z @ torch.from_numpy(AXES[5]).to(z) > 0)[:, None, None, None]
            )

    codes = Blob().latent.sample(64, seed=1)
    shown = float((codes.double().numpy() @ AXES[5] > 0).mean())
    [measured] = evaluate(Blinking(), [direction()], samples=64, values=[0.1]).measured
    assert measured.response[:, 2] == pytest.approx(shown)
    opened, closed = measured.accuracy
    assert closed.share(Status.NO_OBJECT) == pytest.approx(1 - shown)
    assert closed.share(Status.REACHED) == pytest.approx(shown)
    assert opened.row()["no_object"] == pytest.approx(1 - shown)
    assert all(math.isnan(near) for _, near in closed.failed)


def test_a_falling_response_is_said_and_never_reversed():
    backwards = direction()
    backwards.u = -backwards.u
    result = evaluate(Blob(), [backwards], samples=16, exact=False)
    assert not result.measured[0].monotone
    assert result.leakage[0, result.names.index("translate-x")] == pytest.approx(-1, abs=0.03)
    assert result.measured[0].response[0, 0] > 0.25


def test_stated_values_default_to_what_the_prior_covers(three):
    values = [one.value for one in three.measured[0].accuracy]
    assert values == pytest.approx(np.linspace(-0.286, 0.286, 5), abs=0.01)
    assert values == [round(value, 3) for value in values]


def test_values_of_what_is_not_measurable_are_refused():
    known = [direction(), direction("shear-x")]
    with pytest.raises(InputError, match="measurable directions alone, got shear-x; measurable"):
        evaluate(Empty(LatentSpace(6), PictureShape(1, 8, 8)), known, samples=8, values=[0.1])


def test_norms_of_the_parts_add_up_to_one(three):
    for norms in three.norms:
        assert list(norms) == ["coarse", "fine"] and sum(norms.values()) == pytest.approx(1)
    assert three.norms[0]["coarse"] == pytest.approx(float(AXES[0, :2] @ AXES[0, :2]))
    assert part_norms(direction(), LatentSpace(6)) == {}


def test_the_table_is_plain_json(three):
    unmeasured = evaluate(Blob(), [direction("shear-x")], samples=8)
    rows = three.table() + unmeasured.table()
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[-1]["monotone"] is None and rows[-1]["response"] == []
    assert rows[-1]["leakage"]["translate-x"]["mean"] is not None


def test_the_batch_changes_nothing():
    one, other = (
        evaluate(Blob(), [direction()], samples=10, values=[0.1], batch=batch).table()
        for batch in (3, 64)
    )
    assert other[0]["leakage"]["translate-x"] == pytest.approx(one[0]["leakage"]["translate-x"])
    for row, same in zip(one[0]["accuracy"], other[0]["accuracy"], strict=True):
        assert row["rms"] == pytest.approx(same["rms"], abs=1e-6)


def test_another_finder_calibrates_anew():
    mine = calibrate(Blob(), direction(), samples=8)
    [row] = evaluate(Blob(), [mine], "background", samples=8, exact=False).table()
    assert mine.find == "intensity" and row["find"] == "background"


def test_the_report_counts_directions_and_tells_errors():
    told = []
    known = [direction(), direction("translate-y", axis=1, slope=0.1)]
    found = evaluate(Blob(), known, samples=4, values=[0.0, 0.1], report=lambda *t: told.append(t))
    shares = np.array([0.2, 0.4, 0.6, 0.8, 1])
    assert [done for done, _ in told] == pytest.approx([*shares, *(1 + shares)])
    assert [e for _, e in told[:4]] == [one.row()["rms"] for one in found.measured[0].accuracy]


def test_the_report_counts_what_cannot_be_held_too():
    told = []
    known = [direction(), direction("translate-y", axis=1, slope=0.1), direction("shear-x")]
    options = {"samples": 4, "values": None, "held": True}
    found = evaluate(Blob(), known, report=lambda done, error: told.append(done), **options)
    assert told == sorted(told) and told[-3:] == [4, 5, 6] and found.held[2] == []


# --- the Kolmogorov-Smirnov distance ---


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=40),
    st.sampled_from(["uniform(-1, 1)", "0.3*normal(-1, 0.2) + 0.7*normal(1, 0.5)"]),
)
def test_ks_distance_is_scipys(values, text):
    wanted = parse_distribution(text)
    expected = kstest(values, wanted.cdf).statistic
    assert ks_distance([*values, math.nan], wanted) == pytest.approx(expected)


def test_ks_distance_in_closed_form():
    n = 50
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    assert ks_distance(quantiles, parse_distribution("normal(0, 1)")) == pytest.approx(0.5 / n)
    assert ks_distance([5.0], parse_distribution("uniform(0, 1)")) == 1


def test_ks_distance_of_nothing_is_refused():
    with pytest.raises(InputError, match="got none"):
        ks_distance([math.nan], parse_distribution("uniform(0, 1)"))
