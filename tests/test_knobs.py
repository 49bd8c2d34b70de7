"""Measured properties at wanted values, on generators whose response is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_1samp, norm, spearmanr
from toys import AXES, Bar, Blob, curved, erf_law, straight

from steer.closed_loop import place
from steer.directions import Direction
from steer.distributions import parse_distribution
from steer.errors import InputError
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.spaces import LayerSpace
from steer.knobs import Setting, Status, control, direction_for
from steer.measures import Measure

X = "translate-x"


def codes(n: int = 12, seed: int = 0, dim: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dim))).float()


def along(z: torch.Tensor, axis: int = 0) -> np.ndarray:
    return z.double().numpy() @ AXES[axis]


def aside(z: torch.Tensor, *axes: int) -> np.ndarray:
    """What of the codes lies off the axes."""
    rest = [axis for axis in range(6) if axis not in axes]
    return z.double().numpy() @ AXES[rest].T


class Fading(Blob):
    """A blob that shows where its first factor is over -1 alone."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z) * torch.from_numpy(along(z) > -1).to(z)[:, None, None, None]


# --- open loop ---


@pytest.mark.parametrize("value", [-0.2, 0.0, 0.13])
def test_open_loop_is_exact_where_g_is(value):
    z, knob = codes(), curved(X, AXES[0], erf_law)
    done = control(Blob(), z, [Setting(X, "set", value)], {X: knob})
    assert (done.measured - value).abs().max() < 0.003
    assert (done.status == Status.REACHED).all() and (done.asked == value).all()
    assert np.allclose(aside(done.z, 0), aside(z, 0), atol=1e-5)
    assert (done.evaluations == 2).all()


def test_open_loop_says_where_it_is_off():
    done = control(
        Blob(), codes(), [Setting(X, "set", 0.2)], {X: straight(X, AXES[0], 0.1)}
    )  # fmt: skip
    law = 0.3 * math.erf(2 / math.sqrt(2))
    assert torch.allclose(done.measured, torch.full((12, 1), law, dtype=torch.float64), atol=0.003)
    assert (done.status == Status.OFF).all()
    assert "open loop" in Status.OFF.message


def test_the_constant_is_counted():
    """The direction's g(0) = 0 stands for c: a value is reached at g^-1(value - c)."""
    blob = Blob(lambda s: 0.05 + 0.1 * s)
    done = control(
        blob, codes(), [Setting(X, "set", 0.1)], {X: straight(X, AXES[0], 0.1, constant=0.05)}
    )  # fmt: skip
    assert np.allclose(along(done.z), 0.5, atol=1e-5) and (done.status == Status.REACHED).all()


@pytest.mark.parametrize("amount", [-0.07, 0.05])
@pytest.mark.parametrize("exact", [False, True])
def test_a_shift_is_from_where_each_item_is(amount, exact):
    z, knob, blob = codes(), curved(X, AXES[0], erf_law), Blob()
    before = Measure([X])(blob(z))[:, 0]
    inside = (before + amount).abs() < 0.27
    done = control(blob, z, [Setting(X, "shift", amount)], {X: knob}, exact=exact)
    assert inside.sum() > 6
    assert torch.allclose(done.measured[inside, 0], before[inside] + amount, atol=0.005)
    assert torch.allclose(done.asked[:, 0], before + amount, atol=0.002)


# --- closed loop ---


@pytest.mark.parametrize("value", [-0.2, 0.05, 0.25])
def test_closed_loop_needs_no_true_g(value):
    z = codes(40)
    done = control(
        Blob(), z, [Setting(X, "set", value)], {X: straight(X, AXES[0], 0.5)}, exact=True
    )  # fmt: skip
    assert (done.status == Status.REACHED).all()
    assert (done.measured - value).abs().max() < 0.005
    assert np.allclose(aside(done.z, 0), aside(z, 0), atol=1e-5)
    assert np.allclose(erf_law(torch.from_numpy(along(done.z))), value, atol=0.006)
    assert done.evaluations.float().mean() < 25


def test_a_tolerance_of_ones_own():
    knob, z = straight(X, AXES[0], 0.5), codes()
    loose = control(Blob(), z, [Setting(X, "set", 0.1)], {X: knob}, exact=True, tolerance=0.05)
    tight = control(Blob(), z, [Setting(X, "set", 0.1)], {X: knob}, exact=True, tolerance=0.001)
    assert (tight.measured - 0.1).abs().max() < 0.001 and (tight.status == Status.REACHED).all()
    assert (loose.measured - 0.1).abs().max() < 0.05
    assert loose.evaluations.sum() < tight.evaluations.sum()


@pytest.mark.parametrize(("batch", "n"), [(1, 5), (3, 5), (64, 5)])
def test_items_do_not_depend_on_each_other(batch, n):
    z, knob = codes(9), straight(X, AXES[0], 0.5)
    whole = control(Blob(), z, [Setting(X, "set", 0.15)], {X: knob}, exact=True)
    part = control(Blob(), z[:n], [Setting(X, "set", 0.15)], {X: knob}, exact=True, batch=batch)
    assert torch.allclose(part.z, whole.z[:n], atol=1e-5)
    assert torch.equal(part.evaluations, whole.evaluations[:n])


def test_an_item_at_its_target_stays_and_costs_little():
    z = place(codes(3), [straight(X, AXES[0], 1)], np.zeros((3, 1)))
    done = control(Blob(), z, [Setting(X, "set", 0.0)], {X: straight(X, AXES[0], 0.5)}, exact=True)
    assert torch.equal(done.z, z) and (done.evaluations <= 3).all()


def test_the_nearest_crossing_of_a_response_that_turns_back():
    """x = 0.3 sin(2 s) is 0.15 at s = pi/12, 5 pi/12 and every pi further."""
    blob = Blob(lambda s: 0.3 * torch.sin(2 * s))
    z = place(codes(7), [straight(X, AXES[0], 1)], np.linspace(-2.4, 2.4, 7)[:, None])
    done = control(
        blob, z, [Setting(X, "set", 0.15)], {X: straight(X, AXES[0], 0.5)}, exact=True
    )  # fmt: skip
    crossings = np.array([math.pi * (k + c / 12) for k in range(-2, 3) for c in (1, 5)])
    own = along(z)[:, None]
    nearest = crossings[np.abs(crossings - own).argmin(1)]
    assert (done.status == Status.REACHED).all()
    assert np.allclose(along(done.z), nearest, atol=0.02)


def test_of_two_crossings_within_a_stride_the_nearer():
    """x = 0.25 - 0.5 s^2 is 0.2475 at +-0.0707: from s = 0.03 the right one is nearer."""
    blob = Blob(lambda s: (0.25 - 0.5 * s**2).clamp_min(-0.4))
    own = np.array([[0.03], [-0.03]])
    z = place(codes(2), [straight(X, AXES[0], 1)], own)
    done = control(
        blob, z, [Setting(X, "set", 0.23)], {X: straight(X, AXES[0], 0.5)}, exact=True,
        tolerance=0.001,
    )  # fmt: skip
    assert np.allclose(along(done.z), [0.2, -0.2], atol=0.02)


def test_what_cannot_be_reached_is_reported_with_the_nearest_value():
    z = codes(6)
    done = control(
        Blob(), z, [Setting(X, "set", 0.4)], {X: straight(X, AXES[0], 0.1)}, exact=True
    )  # fmt: skip
    assert (done.status == Status.UNREACHABLE).all()
    # 0.3 erf(4.5 / sqrt 2) is the furthest that is looked at
    assert (done.measured - 0.3).abs().max() < 0.003
    assert "nearest" in Status.UNREACHABLE.message


class Vanishing(Blob):
    """Shows its blob only where <AXES[3], z> is above -0.5, and <AXES[0], z> below 2."""

    def forward(self, z):
        s = z @ torch.from_numpy(AXES[[0, 3]].T).to(z)
        return super().forward(z) * ((s[:, 1] > -0.5) & (s[:, 0] < 2))[:, None, None, None]


@pytest.mark.parametrize("exact", [False, True])
def test_no_object(exact):
    z, knob = codes(30), curved(X, AXES[0], erf_law)
    z = z[along(z) < 1.5]
    there = torch.from_numpy(along(z, 3) > -0.5)
    assert 3 < there.sum() < len(z) - 3
    done = control(Vanishing(), z, [Setting(X, "set", 0.1)], {X: knob}, exact=exact)
    assert (done.status[~there] == Status.NO_OBJECT).all()
    assert (done.status[there] == Status.REACHED).all()
    assert done.measured[~there].isnan().all() and done.measured[there].isfinite().all()
    if exact:
        assert torch.equal(done.z[~there], z[~there])


def test_a_target_beyond_where_the_object_vanishes():
    z = codes(8)
    z = place(z, [straight("", AXES[3], 1)], np.ones((8, 1)))
    z = place(z, [straight("", AXES[0], 1)], np.linspace(-1, 1, 8)[:, None])
    done = control(
        Vanishing(), z, [Setting(X, "set", 0.295)], {X: straight(X, AXES[0], 0.1)}, exact=True,
        tolerance=0.001,
    )  # fmt: skip
    assert (done.status == Status.UNREACHABLE).all() and done.measured.isfinite().all()
    # nearest: the last stride before 2
    assert (along(done.z) < 2).all() and (along(done.z) > 1.7).all()


@pytest.mark.parametrize(
    ("text", "status"),
    [("uniform(0.25, 0.28)", Status.REACHED), ("uniform(0.31, 0.35)", Status.UNREACHABLE)],
)
@pytest.mark.parametrize("others", [{}, {"translate-y": 0.05}])
def test_a_distribution_that_g_puts_where_no_object_shows(text, status, others):
    """g says s = 2.5 and more, where the blob is gone: sought from where each item is, as `set`."""
    z = codes(30)
    there = torch.from_numpy((along(z, 3) > -0.5) & (along(z) < 2))
    knobs = {X: straight(X, AXES[0], 0.1), "translate-y": straight("translate-y", AXES[1], 0.1)}
    asked = [Setting(X, "distribution", parse_distribution(text))]
    asked += [Setting(name, "set", value) for name, value in others.items()]
    done = control(Vanishing(), z, asked, knobs, exact=True)
    assert (done.status[there] == status).all() and done.measured[there].isfinite().all()
    assert (done.status[~there] == Status.NO_OBJECT).all() and 3 < there.sum() < 27
    assert torch.equal(done.z[~there], z[~there])
    assert (along(done.z[there]) > 1.3).all()


# --- periodic properties ---


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("name", "axis", "slope", "options", "constant", "value"),
    [
        ("hue", 1, 60.0, {"hue": 100}, 100.0, 130.0),
        ("hue", 1, 60.0, {"hue": 170}, 170.0, -170.0),
        ("hue", 1, 60.0, {"hue": -150}, -150.0, 160.0),
        ("rotate", 0, 30.0, {"turn": 80}, 80.0, -80.0),
        ("rotate", 0, 30.0, {}, 0.0, 30.0),
    ],
)
def test_values_wrap(exact, name, axis, slope, options, constant, value):
    knob = straight(name, np.eye(3)[axis], slope, constant, find="background")
    z = codes(10, dim=3).clamp(-1.5, 1.5)
    done = control(Bar(**options), z, [Setting(name, "set", value)], {name: knob}, exact=exact)
    period = {"hue": 360.0, "rotate": 180.0}[name]
    off = torch.remainder(done.measured - value + period / 2, period) - period / 2
    assert off.abs().max() < 1.0
    assert (done.status == Status.REACHED).all()
    assert done.z[:, axis].abs().max() < 3  # not once around


def test_the_far_side_of_a_circle_is_no_crossing():
    """From 100 degrees to -90 the error jumps by a turn on one side: no search is spent there."""
    knob = straight("hue", np.eye(3)[1], 60.0, 100.0, find="background")
    done = control(
        Bar(hue=100), torch.zeros(1, 3), [Setting("hue", "set", -90.0)], {"hue": knob}, exact=True
    )
    assert done.status.item() == Status.REACHED
    assert done.z[0, 1] == pytest.approx(170 / 60, abs=0.02) and done.evaluations.item() < 40


def test_two_knobs_that_wrap():
    knobs = {
        "rotate": straight("rotate", np.eye(3)[0], 40.0, 80.0, find="background"),
        "hue": straight("hue", np.eye(3)[1], 50.0, 170.0, find="background"),
    }
    z = codes(10, dim=3).clamp(-1.5, 1.5)
    asked = [Setting("rotate", "set", -85.0), Setting("hue", "set", -175.0)]
    done = control(Bar(turn=80, hue=170), z, asked, knobs, exact=True)
    assert (done.status == Status.REACHED).all()


# --- area, several knobs ---


@pytest.mark.parametrize(("mode", "value"), [("set", 0.02), ("shift", 0.004)])
def test_area_goes_through_zoom(mode, value):
    """The area is 2 pi sigma^2, sigma = 0.05 2^(0.15 s): zoom's g is 0.15 s."""
    middle = math.log2(0.05 * math.sqrt(2 * math.pi))
    knob = straight("zoom", AXES[2], 0.15, middle)
    z, blob = codes(20), Blob()
    before = Measure(["area"])(blob(z))[:, 0]
    wanted = torch.full((20,), value) if mode == "set" else before + value
    for exact, within in ((False, 0.0015), (True, 0.001)):
        done = control(
            blob, z, [Setting("area", mode, value)], {"zoom": knob}, exact=exact, tolerance=0.001
        )
        assert (done.measured[:, 0] - wanted).abs().max() < within
        assert np.allclose(aside(done.z, 2), aside(z, 2), atol=1e-5)


def leaking() -> dict[str, Direction]:
    """Directions of x, y and zoom, each of which moves the others too."""
    mixed = AXES[:3] + 0.35 * AXES[[1, 2, 0]] - 0.2 * AXES[[2, 0, 1]]
    middle = math.log2(0.05 * math.sqrt(2 * math.pi))
    return {
        X: straight(X, mixed[0], 0.2),
        "translate-y": straight("translate-y", mixed[1], 0.1),
        "zoom": straight("zoom", mixed[2], 0.15, middle),
    }


@pytest.mark.parametrize(
    "wanted",
    [
        {X: 0.15, "translate-y": -0.1},
        {X: -0.2, "zoom": -2.8},
        {X: 0.1, "translate-y": 0.1, "zoom": -3.1},
    ],
)
def test_several_knobs_are_held_at_their_values(wanted):
    z, knobs = codes(16), leaking()
    asked = [Setting(name, "set", value) for name, value in wanted.items()]
    done = control(Blob(), z, asked, knobs, exact=True)
    off = (done.measured - torch.tensor(list(wanted.values()))).abs()
    assert (done.status == Status.REACHED).all()
    assert (off <= torch.tensor([0.02 if n == "zoom" else 0.005 for n in wanted])).all()
    # only the span of the directions is used
    span = np.stack([knobs[name].u for name in wanted])
    moved = (done.z - z).double().numpy()
    assert np.allclose(moved, moved @ np.linalg.pinv(span) @ span, atol=1e-4)
    # one knob alone drags the other property
    first = next(iter(wanted))
    alone = control(Blob(), z, asked[:1], knobs, exact=True)
    other = Measure(list(wanted))(Blob()(alone.z))[:, 1]
    before = Measure(list(wanted))(Blob()(z))[:, 1]
    assert (other - before).abs().mean() > 0.01, first


def test_several_knobs_one_of_which_cannot():
    asked = [Setting(X, "set", 0.45), Setting("translate-y", "set", 0.1)]
    done = control(Blob(), codes(5), asked, leaking(), exact=True)
    assert (done.status == Status.UNREACHABLE).all() and done.measured.isfinite().all()


# --- distributions (equations 10 and 11) ---


@pytest.mark.parametrize(
    "text", ["uniform(-0.2, 0.2)", "0.5*normal(-0.15, 0.03) + 0.5*normal(0.15, 0.03)"]
)
@pytest.mark.parametrize("exact", [False, True])
def test_measured_values_have_the_wanted_distribution(text, exact):
    z, wanted = codes(500, seed=1), parse_distribution(text)
    # a sample's own distance to the prior counts for nothing: its ranks are made even
    z = place(z, [straight(X, AXES[0], 1)], even_normal(500)[:, None])
    knob = curved(X, AXES[0], erf_law)
    done = control(
        Blob(size=24), z, [Setting(X, "distribution", wanted)], {X: knob}, exact=exact,
        find="intensity",
    )  # fmt: skip
    assert ks_1samp(done.measured[:, 0].numpy(), wanted.cdf).statistic < 0.03
    assert spearmanr(along(z), done.measured[:, 0]).statistic > 0.99
    assert np.allclose(aside(done.z, 0), aside(z, 0), atol=1e-4)


def even_normal(n: int) -> np.ndarray:
    from scipy.stats import norm

    return norm.ppf((np.random.default_rng(0).permutation(n) + 0.5) / n)


def test_a_distribution_of_a_falling_g_is_still_the_wanted_one():
    z = codes(1000, seed=2)
    wanted = parse_distribution("triangular(-0.2, 0.1, 0.25)")
    done = control(
        Blob(lambda s: -0.1 * s, size=24), z, [Setting(X, "distribution", wanted)],
        {X: straight(X, -AXES[0], 0.1)},
    )  # fmt: skip
    assert ks_1samp(done.measured[:, 0].numpy(), wanted.cdf).statistic < 0.05


def leaning(x: float) -> dict[str, Direction]:
    """Directions of x and y of which each leans to the other by `x`."""
    return {
        X: straight(X, AXES[0] + x * AXES[1], 0.1),
        "translate-y": straight("translate-y", AXES[1] + x * AXES[0], 0.1),
    }


@pytest.mark.parametrize("lean", [0.5, -0.3, 0.95])
def test_values_drawn_for_several_knobs_are_independent(lean):
    """Directions that are not orthogonal have coordinates that depend on each other."""
    z, wanted = codes(10_000, seed=3), parse_distribution("uniform(-0.2, 0.2)")
    both = [Setting(name, "distribution", wanted) for name in leaning(lean)]
    done = control(Blob(size=8), z, both, leaning(lean), batch=1000)
    own = [knob.coordinate(z) for knob in leaning(lean).values()]
    assert abs(spearmanr(*done.asked.T).statistic) < 0.02 < abs(spearmanr(*own).statistic)
    for asked, coordinate in zip(done.asked.T, own, strict=True):
        assert ks_1samp(asked.numpy(), wanted.cdf).statistic < 0.02
        assert spearmanr(asked, coordinate).statistic > 0.7  # the order is kept as far as can be


class Flat(Generator):
    """Grey pictures, all the same: nothing is measured, and what is asked is known anyway."""

    def __init__(self, latent: LatentSpace):
        super().__init__(latent, PictureShape(1, 8, 8))

    def forward(self, z):
        return torch.full((len(z), *self.picture), 0.5)


def across(space: LayerSpace, name: str, shares: list[float], axis: int) -> Direction:
    """A direction along one number of w, with a share of it in each layer."""
    u = np.kron(shares, np.eye(4)[axis] + 0.3 * np.eye(4)[0])
    direction = straight(name, u, 0.1)
    direction.std = space.std_along(direction.u)
    return direction


@pytest.mark.parametrize("shares", [[1, -0.6, 0], [1, 0.2, -0.1], [0, 1, 0], [1, 1, 1]])
def test_what_is_drawn_in_w_plus_is_uniform_and_independent(shares):
    """Layers that cancel each other out have less spread than the std of the coordinate."""
    space, wanted = LayerSpace(3, 4), parse_distribution("uniform(0, 1)")
    z = space.sample(6000, seed=1)
    knobs = {
        X: across(space, X, shares, 1),
        "translate-y": across(space, "translate-y", [0.5, 0.5, -0.7], 2),
    }
    both = [Setting(name, "distribution", wanted) for name in knobs]
    alone = control(Flat(space), z, both[:1], knobs, batch=3000).asked[:, 0]
    together = control(Flat(space), z, both, knobs, batch=3000).asked.T
    for asked in (alone, *together):
        assert ks_1samp(asked.numpy(), wanted.cdf).statistic < 0.03
    assert abs(spearmanr(*together).statistic) < 0.03
    assert spearmanr(alone, knobs[X].coordinate(z)).statistic > 0.999


def test_layers_that_cancel_out_cannot_be_drawn_by():
    space = LayerSpace(3, 4)
    knob = across(space, X, [1, -1, 0], 1)
    drawn = [Setting(X, "distribution", parse_distribution("uniform(0, 1)"))]
    with pytest.raises(InputError, match="that differ along directions to draw translate-x by"):
        control(Flat(space), space.sample(4), drawn, {X: knob})


@pytest.mark.parametrize("length", [5, 7])
def test_a_direction_of_other_codes(length):
    knob = straight(X, np.eye(length)[0], 0.1)
    with pytest.raises(InputError, match=f"a direction of 6 numbers, .* translate-x has {length}"):
        control(Blob(), codes(2), [Setting(X, "set", 0.1)], {X: knob})


def test_what_is_drawn_alone_keeps_its_order():
    """A knob that is set, and not drawn, takes no part."""
    z, wanted = codes(50), parse_distribution("uniform(-0.2, 0.2)")
    asked = [Setting(X, "distribution", wanted), Setting("translate-y", "set", 0.0)]
    done = control(Blob(size=16), z, asked, leaning(0.5))
    rank = norm.cdf(leaning(0.5)[X].coordinate(z))
    assert np.allclose(done.asked[:, 0], -0.2 + 0.4 * rank)


def test_one_direction_is_not_drawn_twice():
    zoom = {"zoom": straight("zoom", AXES[2], 0.15, -3.0)}
    both = [
        Setting("zoom", "distribution", parse_distribution("normal(-3, 0.1)")),
        Setting("area", "distribution", parse_distribution("uniform(0.01, 0.02)")),
    ]
    with pytest.raises(InputError, match="to draw zoom and area independently, theirs are the s"):
        control(Blob(size=16), codes(3), both, zoom)


# --- what cannot be measured, and what there is no direction for ---


def test_a_shift_of_what_is_not_measurable():
    knob = straight("shear-x", AXES[3], 0.1, constant=None)
    z = codes(4)
    done = control(Blob(), z, [Setting("shear-x", "shift", 0.2)], {"shear-x": knob})
    assert (done.status == Status.NOT_MEASURED).all() and done.measured.isnan().all()
    assert np.allclose(along(done.z, 3), along(z, 3) + 2, atol=1e-5)
    at = control(Blob(), z, [Setting("shear-x", "place", 0.1)], {"shear-x": knob})
    assert np.allclose(along(at.z, 3), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "value", "exact", "said"),
    [
        ("shift", 0.1, True, "measurable property for exact control, shear-x is not"),
        ("set", 0.1, False, "to set shear-x, but it is not measurable: use --shift"),
        ("distribution", parse_distribution("uniform(0, 1)"), False, "not measurable"),
    ],
)
def test_what_is_not_measurable_cannot_be_set(mode, value, exact, said):
    knob = straight("shear-x", AXES[3], 0.1, constant=None)
    with pytest.raises(InputError, match=said):
        control(Blob(), codes(2), [Setting("shear-x", mode, value)], {"shear-x": knob}, exact=exact)


def test_the_direction_of_a_property():
    zoom = straight("zoom", AXES[2], 1)
    assert direction_for("area", {"zoom": zoom}) is zoom
    with pytest.raises(InputError, match="a direction of zoom to move area, given: translate-x"):
        direction_for("area", {X: zoom})
    with pytest.raises(InputError, match="a direction of hue to move hue, given: none"):
        direction_for("hue", {})


def test_the_finder_is_the_directions_own():
    class White(Generator):
        """A dark blob on white: intensity would find the background."""

        def forward(self, z):
            return 1 - Blob(size=24)(z)

    blob = Blob(size=24)
    knob = curved(X, AXES[0], erf_law)
    knob.find = "background"
    done = control(White(blob.latent, blob.picture), codes(5), [Setting(X, "set", 0.1)], {X: knob})
    assert (done.measured - 0.1).abs().max() < 0.01
    wrong = control(
        White(blob.latent, blob.picture), codes(5), [Setting(X, "set", 0.1)], {X: knob},
        find="intensity",
    )  # fmt: skip
    assert (wrong.measured - 0.1).abs().min() > 0.05


# --- place ---


def test_place_is_the_smallest_change_that_gives_the_coordinates():
    knobs, z = list(leaking().values()), codes(8)
    wanted = np.random.default_rng(0).standard_normal((8, 3))
    placed = place(z, knobs, wanted).double().numpy()
    basis = np.stack([knob.u for knob in knobs])
    assert np.allclose(placed @ basis.T, wanted, atol=1e-5)
    change = np.linalg.lstsq(basis, (wanted - z.double().numpy() @ basis.T).T, rcond=None)[0].T
    assert np.allclose(placed - z.double().numpy(), change, atol=1e-5)
    assert place(z, knobs, wanted).dtype == torch.float32


def test_no_codes():
    done = control(Blob(), codes(0), [Setting(X, "set", 0.1)], {X: straight(X, AXES[0], 0.1)})
    assert done.z.shape == (0, 6) and done.measured.shape == (0, 1)


# --- several knobs of different kinds ---


def test_an_unmeasurable_knob_leaves_the_others_measured():
    """What no property is of is placed by g; the rest is measured and judged as alone."""
    z, knob = codes(), curved(X, AXES[0], erf_law)
    shear = straight("shear-x", AXES[3], 0.1, constant=None)
    settings = [Setting("shear-x", "shift", 0.05), Setting(X, "set", 0.1)]
    done = control(Blob(), z, settings, {X: knob, "shear-x": shear})
    assert done.measured[:, 0].isnan().all() and (done.asked[:, 0] == 0.05).all()
    assert (done.measured[:, 1] - 0.1).abs().max() < 0.003 and (done.asked[:, 1] == 0.1).all()
    assert (done.status == Status.REACHED).all()
    assert np.allclose(along(done.z, 3), along(z, 3) + 0.5, atol=1e-5)


def test_unmeasurable_alone_says_what_was_asked():
    shear = straight("shear-x", AXES[3], 0.1, constant=None)
    done = control(Blob(), codes(), [Setting("shear-x", "place", 0.05)], {"shear-x": shear})
    assert (done.status == Status.NOT_MEASURED).all() and (done.asked == 0.05).all()
    assert done.measured.isnan().all() and not done.evaluations.any()


@pytest.mark.parametrize(("asked", "means"), [(360, 0), (350, -10), (-200, 160), (40, 40)])
def test_a_shift_of_a_periodic_property_goes_the_short_way(asked, means):
    z = codes(dim=3)
    knob = straight("hue", np.eye(3)[1], 60.0)
    shifts = [
        control(Bar(), z, [Setting("hue", "shift", t)], {"hue": knob}) for t in (asked, means)
    ]
    assert torch.allclose(shifts[0].z, shifts[1].z, atol=1e-4)
    assert np.allclose(shifts[0].z[:, 1] - z[:, 1], means / 60, atol=1e-4)


def test_tolerances_by_name():
    zoom = straight("zoom", AXES[2], 0.15, constant=-2.0)
    knobs = {X: straight(X, AXES[0], 0.5), "zoom": zoom}
    settings = [Setting(X, "set", 0.1), Setting("zoom", "shift", 0.05)]
    done = control(Blob(), codes(), settings, knobs, exact=True, tolerance={X: 0.0015})
    reached = done.status == Status.REACHED
    assert reached.sum() > 9 and (done.measured[reached, 0] - 0.1).abs().max() <= 0.0015
    with pytest.raises(InputError, match=r"a tolerance for each of translate-x, zoom.*got 0.01"):
        control(Blob(), codes(), settings, knobs, exact=True, tolerance=0.01)
    with pytest.raises(InputError, match=r"a tolerance of translate-x, zoom, got one of hue"):
        control(Blob(), codes(), settings, knobs, exact=True, tolerance={"hue": 1.0})


def test_an_item_without_an_object_beside_an_unmeasurable_knob():
    shear = straight("shear-x", AXES[4], 0.1, constant=None)
    z, knobs = codes(30), {X: curved(X, AXES[0], erf_law), "shear-x": shear}
    z = z[along(z) < 1.5]
    there = torch.from_numpy(along(z, 3) > -0.5)
    settings = [Setting(X, "set", 0.1), Setting("shear-x", "place", 0.2)]
    done = control(Vanishing(), z, settings, knobs)
    assert (done.status[there] == Status.REACHED).all()
    assert (done.status[~there] == Status.NO_OBJECT).all()
    assert (done.asked == torch.tensor([0.1, 0.2], dtype=torch.float64)).all()
    with pytest.raises(InputError, match="measurable property for exact control, shear-x is not"):
        control(Vanishing(), z, settings, knobs, exact=True)


def test_a_whole_turn_closed_loop_is_no_move():
    knobs = {
        "rotate": straight("rotate", np.eye(3)[0], 30.0, find="background"),
        "hue": straight("hue", np.eye(3)[1], 60.0, find="background"),
    }
    z = codes(8, dim=3).clamp(-1.5, 1.5)
    shifts = [Setting("rotate", "shift", -180.0), Setting("hue", "shift", 370.0)]
    done = control(Bar(), z, shifts, knobs, exact=True)
    assert (done.status == Status.REACHED).all()
    turn = torch.remainder(done.measured[:, 1] - Measure(["hue"])(Bar()(z))[:, 0], 360)
    assert (turn - 10).abs().max() < 2
    assert (done.z - z)[:, :2].abs().max() < 0.3


def test_area_needs_to_know_where_zoom_is():
    zoom = straight("zoom", AXES[2], 0.15, constant=None)
    with pytest.raises(
        InputError, match="a direction of zoom calibrated by a measure to move area"
    ):
        control(Blob(), codes(2), [Setting("area", "shift", 0.01)], {"zoom": zoom})


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"find": "intensity"}, "for a measure, got shear-x"),
        ({"tolerance": 0.1}, "for a tolerance"),
    ],
)
def test_how_to_measure_what_is_not_measurable(option, said):
    shear = straight("shear-x", AXES[3], 0.1, constant=None)
    with pytest.raises(InputError, match=said):
        control(Blob(), codes(2), [Setting("shear-x", "shift", 0.1)], {"shear-x": shear}, **option)


def test_one_tolerance_for_knobs_of_one_unit():
    knobs = {
        "rotate": straight("rotate", np.eye(3)[0], 25.0, find="background"),
        "hue": straight("hue", np.eye(3)[1], 55.0, find="background"),
    }
    z = codes(6, dim=3).clamp(-1, 1)
    asked = [Setting("rotate", "set", 10.0), Setting("hue", "set", 20.0)]
    loose, tight = (control(Bar(), z, asked, knobs, tolerance=t) for t in (90, 0.01))
    assert (loose.status == Status.REACHED).all() and (tight.status == Status.OFF).all()
    mixed = control(Bar(), z, asked, knobs, tolerance={"hue": 90.0, "rotate": 90})
    assert torch.equal(mixed.status, loose.status)


def test_an_object_that_is_not_there_yet_is_looked_for_where_g_takes_the_item():
    z = codes()
    z[:4] = torch.from_numpy(AXES[0]).float() * torch.tensor([[-2.0], [-2.5], [-3.0], [-3.5]])
    knob = curved(X, AXES[0], erf_law)
    done = control(Fading(), z, [Setting(X, "set", 0.1)], {X: knob}, exact=True)
    assert (done.status == Status.REACHED).all()
    assert (done.measured - 0.1).abs().max() <= 0.005
    # where there is none at either place the item stays, and a shift has nowhere to start from
    gone = control(Fading(), z, [Setting(X, "set", -0.28)], {X: knob}, exact=True)
    assert torch.equal(gone.z[:4], z[:4]) and (gone.status[:4] == Status.NO_OBJECT).all()
    moved = control(Fading(), z, [Setting(X, "shift", 0.1)], {X: knob}, exact=True)
    assert torch.equal(moved.z[:4], z[:4]) and (moved.status[:4] == Status.NO_OBJECT).all()
