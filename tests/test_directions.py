"""t = g(<u, z>) fitted on pairs whose law is known, and what a direction promises."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import erf, erfinv
from scipy.stats import norm, spearmanr

from steer import regression
from steer.directions import KNOTS, Direction
from steer.errors import InputError
from steer.files import load, pack, save
from steer.generators import load as load_generator
from steer.generators.base import LatentSpace
from steer.generators.spaces import LayerSpace
from steer.regression import Pairs, check_fit, fit
from steer.trajectories import Trajectories

A = 0.5  # the factor is uniform on [-A, A] in the data


def law(s):
    return A * erf(np.asarray(s) / math.sqrt(2))


def law_inverse(t):
    return math.sqrt(2) * erfinv(np.asarray(t) / A)


def unit(dim: int, seed: int = 0) -> np.ndarray:
    u = np.random.default_rng(seed).standard_normal(dim)
    return u / np.linalg.norm(u)


def pairs(starts=200, dim=10, noise=0.0, seed=0, stray=0.0, shifts=(-0.2, -0.1, 0.1, 0.2)):
    """Codes that follow the erf law exactly along a known u; `stray` of them are wrong."""
    rng = np.random.default_rng(seed)
    u = unit(dim)
    z_0 = np.repeat(rng.standard_normal((starts, dim)), len(shifts), axis=0)
    shift = np.tile(shifts, starts)
    s_0 = z_0 @ u
    target = law(s_0) + shift
    possible = np.abs(target) < 0.98 * A
    s = law_inverse(np.clip(target, -0.98 * A, 0.98 * A))
    aside = rng.standard_normal(z_0.shape) * noise
    z = z_0 + (s - s_0)[:, None] * u + aside - (aside @ u)[:, None] * u
    error = rng.random(len(z)) * 1e-4
    wrong = rng.random(len(z)) < stray
    z[wrong] = rng.standard_normal((wrong.sum(), dim))
    error[wrong] += 1.0
    start = np.repeat(np.arange(starts), len(shifts))
    return Pairs(z_0, z, shift.astype(float), error, start)[possible], u


@pytest.fixture(scope="module")
def fitted():
    known, u = pairs()
    return fit("translate-x", "width", known, worst=0.0), u


def any_direction(slopes=None) -> Direction:
    slopes = np.linspace(0.05, 0.4, 100) if slopes is None else slopes
    return Direction("translate-x", "width", unit(5), slopes)


SLOPES = arrays(float, 100, elements=st.floats(0.01, 3))


# --- fitting ---


def test_the_erf_law_and_u_are_recovered(fitted):
    direction, u = fitted
    assert direction.u @ u > 0.9999
    s = np.linspace(-1.8, 1.8, 37)
    assert np.abs(direction.g(s) - law(s)).max() < 0.01
    assert direction.quality["held_out_r2"] > 0.999
    assert direction.quality["held_out_rmse"] < 0.005
    assert np.linalg.norm(direction.u) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_noise_aside_does_not_bend_u(seed):
    known, u = pairs(noise=0.3, seed=seed)
    direction = fit("translate-x", "width", known, worst=0.0)
    assert direction.u @ u > 0.995
    assert direction.quality["held_out_r2"] > 0.98


def test_pruning_saves_the_fit_from_failed_codes():
    known, u = pairs(stray=0.09)
    pruned = fit("translate-x", "width", known, worst=0.12)
    assert pruned.u @ u > 0.999 and pruned.quality["held_out_r2"] > 0.99
    assert pruned.quality["unpruned_r2"] < pruned.quality["held_out_r2"] - 0.05
    by_limit = fit("translate-x", "width", known, threshold=0.5)
    assert by_limit.u @ u > 0.999
    assert by_limit.quality["pairs"] == (known.error <= 0.5).sum()
    everything = fit("translate-x", "width", known, worst=0.0)
    assert everything.u @ u < pruned.u @ u


def test_a_falling_factor_turns_u_not_g():
    known, u = pairs()
    direction = fit("t", "x", Pairs(known.z_0, known.z, -known.shift, known.error, known.start))
    assert direction.u @ u < -0.9999 and (direction.slopes > 0).all()


def test_quality_is_held_out():
    """Pairs without any law: the fit's own figure flatters, the held-out one does not."""
    rng = np.random.default_rng(0)
    known = Pairs(
        rng.standard_normal((60, 40)), rng.standard_normal((60, 40)), rng.standard_normal(60),
        np.zeros(60), np.arange(60),
    )  # fmt: skip
    quality = fit("t", "x", known).quality
    assert quality["fit_r2"] > quality["held_out_r2"] + 0.3 and quality["held_out_r2"] < 0.2


def test_few_starts_in_many_dimensions_do_not_fit_the_noise(monkeypatch):
    """48 starts in 100 dimensions, each search strayed to one side of its own by more than it
    moved: a pull to the mean displacement brings u nearer to the truth than hardly any."""
    rng = np.random.default_rng(0)
    u = np.eye(100)[0]
    step = np.tile(np.linspace(-1, 1, 10), 48)[:, None]
    start = np.arange(480) // 10
    z_0, stray = rng.standard_normal((2, 48, 100)).repeat(10, axis=1)
    z = z_0 + step * (u + 0.3 * stray) + 0.05 * rng.standard_normal(z_0.shape)
    known = Pairs(z_0, z, 0.1 * step[:, 0], np.zeros(480), start)
    chosen = fit("translate-x", "width", known)
    monkeypatch.setattr(regression, "PULLS", (1e-3,))
    free = fit("translate-x", "width", known)
    assert chosen.u @ u > 0.8 and chosen.u @ u > free.u @ u + 0.1


def test_the_same_seed_gives_the_same_bytes():
    known, _ = pairs(starts=40, noise=0.2)
    first, again = (pack(fit("t", "x", known, seed=3).artefact()) for _ in range(2))
    assert first == again
    assert fit("t", "x", known, seed=4).quality != fit("t", "x", known, seed=3).quality


def test_smoothness_smooths():
    known, _ = pairs(starts=60, noise=0.3)
    rough, smooth = (fit("t", "x", known, smoothness=s).slopes for s in (0.01, 1e4))
    assert np.square(np.diff(smooth)).sum() < 0.01 * np.square(np.diff(rough)).sum()


@pytest.mark.parametrize(("starts", "enough"), [(3, False), (4, True)])
def test_too_few_starts(starts, enough):
    known, _ = pairs(starts=starts, dim=3, shifts=(-0.05, -0.02, 0.02, 0.05))
    if enough:
        assert fit("t", "x", known, worst=0.0).quality["starts"] == 4
        return
    with pytest.raises(InputError, match="expected at least 4 starts to fit t, got 3 after prun"):
        fit("t", "x", known, worst=0.0)


def test_codes_that_do_not_move_are_refused():
    known, _ = pairs(starts=10, dim=3)
    still = Pairs(known.z_0, known.z_0.copy(), known.shift, known.error, known.start)
    with pytest.raises(InputError, match="expected codes that move with t"):
        fit("t", "x", still)


def test_ten_thousand_pairs_of_128_numbers():
    known, u = pairs(starts=3100, dim=128, noise=0.1)
    known = known[:10_000]
    assert len(known) == 10_000
    began = time.process_time()
    direction = fit("t", "x", known)
    assert direction.u @ u > 0.999
    assert time.process_time() - began < 10  # a second alone on a machine; the benchmark says so


def test_a_start_that_comes_twice_is_one_start():
    """Else a held-out start could be fitted on under another number."""
    z_0 = torch.tensor([[1.0, 2.0], [0.0, 5.0], [1.0, 2.0]])
    columns = (z_0[:, None].repeat(1, 2, 1), *(torch.ones(3, 2) for _ in range(2)), torch.ones(3))
    assert Pairs.of(Trajectories(z_0, *columns)).start.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(({"smoothness": value}, "a smoothness of 0") for value in (-1.0, math.nan, math.inf)),
        *(({"worst": value}, "a share of 0 or more") for value in (-0.1, 1.0, math.nan)),
        *(({"threshold": value}, "a threshold of 0 or more") for value in (-0.1, math.nan)),
        *(({"held_out": value}, "a share above 0") for value in (0.0, 1.0, math.nan)),
    ],
)
def test_options_that_cannot_be(options, said):
    nothing = Pairs(*(np.zeros((8, 2)) for _ in range(2)), *(np.zeros(8) for _ in range(3)))
    with pytest.raises(InputError, match=f"expected {said}"):
        fit("translate-x", "width", nothing, **options)
    with pytest.raises(InputError, match=f"expected {said}"):
        check_fit(**options)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_searches_that_diverged_take_no_others_with_them(bad):
    """Two in ten: more than `worst`, so that a quantile over all would not be finite."""
    known, u = pairs(starts=50, dim=4)
    spoilt = Pairs(**vars(known))
    spoilt.error = np.where(np.arange(len(known)) % 5 == 0, bad, known.error)
    kept = spoilt.pruned(0.1)
    assert np.isfinite(kept.error).all()
    assert len(kept) == pytest.approx(0.9 * np.isfinite(spoilt.error).sum(), abs=1)
    assert fit("t", "x", spoilt).u @ u > 0.999
    spoilt.error[:] = bad
    with pytest.raises(InputError, match="at least 4 starts to fit t, got 0 after pruning, of 50"):
        fit("t", "x", spoilt)


@pytest.mark.filterwarnings("error")
def test_a_single_held_out_shift_has_no_r2_and_says_so(tmp_path):
    known, _ = pairs(starts=4, dim=3, shifts=(0.02,))
    direction = fit("t", "x", known, worst=0.0)
    assert math.isnan(direction.quality["held_out_r2"]) and direction.quality["held_out_rmse"] > 0
    save(direction.artefact(), tmp_path / "d.safetensors")
    again = Direction.of(load(tmp_path / "d.safetensors"))
    assert again.quality == pytest.approx(direction.quality, nan_ok=True)


def test_pairs_of_trajectories():
    noise = torch.Generator().manual_seed(0)
    trajectories = Trajectories(
        z_0=torch.randn(2, 3, generator=noise),
        z=torch.randn(2, 4, 3, generator=noise),
        shift=torch.arange(8.0).reshape(2, 4),
        error=-torch.arange(8.0).reshape(2, 4),
        evaluations=torch.zeros(2),
    )
    known = Pairs.of(trajectories)
    assert len(known) == 8 and known.start.tolist() == [0] * 4 + [1] * 4
    for start in range(2):
        for point in range(4):
            row = start * 4 + point
            assert np.allclose(known.z_0[row], trajectories.z_0[start])
            assert np.allclose(known.z[row], trajectories.z[start, point])
            assert known.shift[row] == row and known.error[row] == -row


@given(st.integers(1, 200), st.floats(0, 0.9))
def test_pruning_drops_the_worst(n, worst):
    error = np.random.default_rng(n).permutation(n).astype(float)
    zeros = np.zeros((n, 2))
    known = Pairs(zeros, zeros, error, error, np.arange(n))
    kept = known.pruned(worst)
    assert abs(len(kept) - n * (1 - worst)) <= 1
    assert set(kept.error) == set(range(len(kept)))
    assert set(known.pruned(0.5, threshold=3.0).error) == set(range(min(n, 4)))


# --- g ---


@given(SLOPES, arrays(float, 7, elements=st.floats(-9, 9)))
def test_g_inverse_undoes_g_beyond_the_knots_too(slopes, s):
    direction = any_direction(slopes)
    assert np.allclose(direction.g_inverse(direction.g(s)), s, atol=1e-6)
    t = s * slopes.mean()
    assert np.allclose(direction.g(direction.g_inverse(t)), t, atol=1e-6)


@given(SLOPES, arrays(float, 9, elements=st.floats(-9, 9), unique=True))
def test_g_rises_and_is_0_at_0(slopes, s):
    direction = any_direction(slopes)
    s = np.sort(s)
    rises, runs = np.diff(direction.g(s)), np.diff(s)
    assert (rises >= slopes.min() * runs * (1 - 1e-6) - 1e-9).all()
    assert (rises <= slopes.max() * runs * (1 + 1e-6) + 1e-9).all()
    assert direction.g(0.0) == pytest.approx(0, abs=1e-12)


def test_beyond_the_knots_g_goes_on_straight():
    direction = any_direction()
    end, slope = direction.g(5.0), direction.slopes[-1]
    assert direction.g(np.array([6.0, 8.0])) == pytest.approx([end + slope, end + 3 * slope])
    start, slope = direction.g(-5.0), direction.slopes[0]
    assert direction.g(-7.0) == pytest.approx(start - 2 * slope)


def test_shapes_of_g():
    direction = any_direction()
    assert direction.g(np.zeros((2, 3))).shape == (2, 3) and direction.g(0.3).shape == ()
    assert direction.g_inverse(np.zeros((4,))).shape == (4,)
    z = torch.randn(7, 5)
    assert np.allclose(direction.coordinate(z), z.numpy() @ direction.u, atol=1e-6)


def test_a_fitted_g_always_rises(fitted):
    direction, _ = fitted
    assert (direction.slopes > 0).all()
    known, _ = pairs(starts=40, noise=2.0, seed=5)
    assert (fit("t", "x", known).slopes > 0).all()


# --- density ---


def test_the_density_is_the_closed_form():
    """Of a straight g it is the normal's; of the erf law it is flat."""
    straight = any_direction(np.full(100, 0.25))
    t = np.linspace(-1, 1, 21)
    assert np.allclose(straight.density(t), norm(scale=0.25).pdf(t), atol=1e-12)
    flat = any_direction(np.diff(law(KNOTS)) / np.diff(KNOTS))
    t = np.linspace(-0.4, 0.4, 17)
    assert np.allclose(flat.density(t), 1 / (2 * A), rtol=0.05)


@given(SLOPES)
def test_the_density_integrates_to_1(slopes):
    direction = any_direction(slopes)
    edges = np.concatenate([direction.g([-9.0]), direction.values, direction.g([9.0])])
    widths = np.diff(edges)[:, None] / 60
    middles = edges[:-1, None] + widths * (np.arange(60) + 0.5)
    assert (direction.density(middles) * widths).sum() == pytest.approx(1, abs=2e-3)


def test_the_density_is_that_of_samples():
    direction = any_direction()
    rng = np.random.default_rng(0)
    samples = direction.g(rng.standard_normal(40_000))
    counts, edges = np.histogram(samples, bins=25, range=tuple(direction.g([-2.0, 2.0])))
    middle = (edges[1:] + edges[:-1]) / 2
    wanted = direction.density(middle) * np.diff(edges) * len(samples)
    assert np.abs(counts - wanted).max() < 6 * math.sqrt(wanted.max())
    assert spearmanr(counts, wanted).statistic > 0.9


def test_the_density_in_w_plus_is_that_of_samples():
    """Where layers cancel each other out, coordinates are counted in more than their spread."""
    space, u = LayerSpace(3, 2), np.kron([1, -0.6, 0.1], [0.6, 0.8])
    direction = any_direction()
    direction.u = u / np.linalg.norm(u)
    direction.std = space.std_along(direction.u)
    spread = direction.spread(space)
    coordinates = direction.coordinate(space.sample(20_000, seed=1))
    assert (
        direction.std == 1 and spread == pytest.approx(coordinates.std(), rel=0.02) and spread < 0.5
    )
    t = np.linspace(*direction.g([-1.2, 1.2]), 4001)
    model = np.cumsum(direction.density(t, spread)) * (t[1] - t[0])
    share = np.searchsorted(np.sort(direction.g(coordinates)), t) / len(coordinates)
    assert np.abs(model - share).max() < 0.02


def test_the_spread_of_coordinates_is_1_in_z():
    assert any_direction().spread(LatentSpace(5)) == pytest.approx(1, abs=1e-12)
    with pytest.raises(InputError, match=r"a direction of 6 numbers, .* that of .* has 5"):
        any_direction().spread(LayerSpace(3, 2))


# --- on disk ---


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_direction_survives_its_file(tmp_path, fitted, calibrated):
    direction, _ = fitted
    mine = Direction(**vars_of(direction))
    mine.generator = {"name": "sprites", "checksum": "abc"}
    mine.made = {"command": "fit-direction", "seed": 0}
    if calibrated:
        mine.find, mine.constant = "intensity", 0.03
        mine.alphas = np.arange(-3, 3.5, 0.5)
        mine.response = np.random.default_rng(0).random((13, 3))
    save(mine.artefact(), tmp_path / "d.safetensors")
    again = Direction.of(load(tmp_path / "d.safetensors", "direction"))
    for name, value in vars_of(mine).items():
        same = np.array_equal if isinstance(value, np.ndarray) else type(value).__eq__
        assert same(getattr(again, name), value) is True, name
    assert np.array_equal(again.g(KNOTS), mine.g(KNOTS))
    assert pack(again.artefact()) == pack(mine.artefact())


def vars_of(direction: Direction) -> dict:
    return {name: getattr(direction, name) for name in Direction.__dataclass_fields__}


ROW = torch.ones(100, dtype=torch.float64)


@pytest.mark.parametrize(
    ("facts", "tensors", "said"),
    [
        *(({"name": name}, {}, "a printable name") for name in ("", " ", "a/b", "a\x1b[2J", ["a"])),
        ({"name": "a" * 101}, {}, "a printable name of 1 to 100 characters"),
        ({"unit": 3}, {}, "the name of a unit, 'translate-x' has 3"),
        ({"find": ["background"]}, {}, "the name of a finder"),
        *(({"constant": value}, {}, "a number as constant") for value in ("0", 1e300, 10**400)),
        *(({"std": std}, {}, "a std above 0") for std in (0.0, -1.0, "1", 1e-320, 1e300, None)),
        *(({"span": span}, {}, "a span of two") for span in ([1], ["a", "b"], [3, -3], [0, None])),
        ({"span": 3}, {}, "as fit-direction writes it"),
        ({"quality": {"held_out_r2": "<b>x"}}, {}, "numbers as its quality, .*<b>x"),
        ({"quality": [1]}, {}, "as fit-direction writes it"),
        ({}, {"u": torch.zeros(5).double()}, "a u of norm 1, 'translate-x' has 0.0"),
        ({}, {"u": ROW}, "a u of norm 1, 'translate-x' has 10.0"),
        ({}, {"u": ROW[None] / 10}, "one row of numbers"),
        ({}, {"u": torch.tensor(1.0)}, "one row of numbers"),
        ({}, {"slopes": ROW[:7]}, "a slope between each two knots, .* '7 slopes, 101 knots'"),
        ({}, {"slopes": ROW[:0], "knots": ROW[:1]}, "a slope between each two knots"),
        *(({}, {"slopes": ROW * s}, "slopes above 0") for s in (0, -1, 1e-320, 1e300, math.nan)),
        ({}, {"slopes": ROW.long()}, "arrays of floats"),
        ({}, {"slopes": ROW.to(torch.complex64)}, "arrays of floats"),
        ({}, {"knots": torch.zeros(101).double()}, "knots that rise"),
        ({}, {"knots": torch.linspace(-math.inf, 5, 101).double()}, "knots that rise"),
        ({}, {"response": ROW}, r"a response of shape None, 'translate-x' has \(100,\)"),
        ({}, {"alphas": ROW, "response": ROW[:, None]}, r"a response of shape \(100, 3\)"),
        ({}, {"other": ROW}, "as fit-direction writes it"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_a_direction(facts, tensors, said):
    artefact = any_direction().artefact()
    artefact.made["direction"] |= facts
    artefact.tensors |= tensors
    with pytest.raises(InputError, match=f"expected a direction (with )?{said}") as told:
        Direction.of(artefact)
    assert str(told.value).isprintable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shorter_floats_are_read(dtype):
    """Else what is computed with them would be of two precisions."""
    artefact = any_direction().artefact()
    artefact.tensors["slopes"] = artefact.tensors["slopes"].to(dtype)
    assert Direction.of(artefact).slopes.dtype == np.float64


def test_the_directions_that_come_along_are_sound():
    own = load_generator("sprites", "cpu").directions
    assert {Direction.of(load(path)).name for path in own.values()} == set(own) != set()


def test_a_strangers_name_gives_a_terminal_no_orders(capsys):
    from steer.cli.options import print_table

    print_table([("a", "a wide cell")], title="a\x1b[31m")
    assert r"a\x1b[31m" in capsys.readouterr().out
