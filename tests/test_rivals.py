"""Other ways to find a direction, on generators whose factors are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import Steer, refused
from hypothesis import given
from hypothesis.strategies import integers, sampled_from
from scipy.stats import norm
from torch import nn
from toys import AXES, Bar, Blob

from steer.calibration import ALPHAS, falls
from steer.closed_loop import Plant
from steer.directions import KNOTS, Direction
from steer.errors import InputError
from steer.files import load, save
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.spaces import Mapped
from steer.generators.style import Mapping
from steer.generators.stylegan2 import StyleGAN2
from steer.measures import Intensity, finders
from steer.regression import Pairs, fit_g
from steer.rivals import first_weights, fit_by, fit_groups, fit_seen, look, methods
from steer.trajectories import Follow


class Layered(Blob):
    """A blob whose code goes through a layer first: along AXES, each with a strength of its own."""

    def __init__(self, kind: str = "linear"):
        super().__init__()
        strengths = torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
        weight = strengths[:, None] * torch.from_numpy(AXES).float()
        layers = {
            "linear": (nn.Linear(6, 6, bias=False), weight),
            "convolution": (nn.Conv2d(6, 6, 1, bias=False), weight[:, :, None, None]),
            "transposed": (nn.ConvTranspose2d(6, 6, 1, bias=False), weight.T[:, :, None, None]),
        }
        self.layer, weights = layers[kind]
        self.layer.weight.data.copy_(weights)
        self.register_buffer("back", (torch.from_numpy(AXES).float().T / strengths).T.contiguous())

    def forward(self, z):
        maps = z if isinstance(self.layer, nn.Linear) else z[:, :, None, None]
        return super().forward(self.layer(maps).flatten(1) @ self.back)


@pytest.mark.parametrize("method", ["closed-form", "pca", "group-means", "walk"])
def test_the_axis_of_a_factor_is_found(method):
    layered = Layered().eval().requires_grad_(False)
    how = Follow("translate-x", extent=0.15)
    found = fit_by(layered, method, how, find="intensity", samples=400, seed=1)
    assert found.u @ AXES[0] > (0.97 if method in ("closed-form", "pca") else 0.9)
    assert found.quality["held_out_r2"] > 0.95
    wanted = 0.3 * torch.erf(torch.from_numpy(KNOTS) / 2**0.5).numpy()
    inside = np.abs(KNOTS) < 2
    assert np.abs(found.g(KNOTS) - wanted)[inside].max() < 0.04
    assert found.constant == pytest.approx(0, abs=0.02)
    assert found.made["options"]["method"] == method


class Turned(Bar):
    """A bar whose code goes through a layer first, that leaves it as it is."""

    def __init__(self, **middles: float):
        super().__init__(**middles)
        self.layer = nn.Linear(3, 3, bias=False)
        self.layer.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])))

    def forward(self, z):
        return super().forward(self.layer(z) / torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("method", ["group-means", "closed-form"])
@pytest.mark.parametrize(
    ("name", "middle", "axis"), [("rotate", {"turn": 85.0}, 0), ("hue", {"hue": 170.0}, 1)]
)
def test_a_periodic_property_that_the_prior_wraps_round(method, name, middle, axis):
    turned = Turned(**middle).eval().requires_grad_(False)
    found = fit_by(turned, method, Follow(name), find="background", samples=256)
    assert found.u[axis] > 0.95


@pytest.mark.parametrize("kind", ["linear", "convolution", "transposed"])
def test_the_weights_that_a_code_meets_first(kind):
    layered = Layered(kind)
    _, strengths, rows = np.linalg.svd(first_weights(layered))
    np.testing.assert_allclose(strengths, [3, 2.5, 2, 1.5, 1, 0.5], atol=1e-5)
    np.testing.assert_allclose(np.abs((rows * AXES).sum(1)), 1, atol=1e-5)


def test_candidates_of_w(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_HOME", str(tmp_path))
    torch.manual_seed(0)
    stylegan = StyleGAN2(Mapping((8, 12, 12)), channels=(12, 8)).eval().requires_grad_(False)
    mapped = Mapped(stylegan, "w")
    weights = first_weights(mapped)
    rows = sum(len(w) for n, w in stylegan.state_dict().items() if n.endswith("affine.weight"))
    assert weights.shape == (rows, 12)
    for method in ("pca", "closed-form", "group-means"):
        found = fit_by(mapped, method, Follow("brightness"), samples=64)
        assert np.linalg.norm(found.u) == pytest.approx(1)
    with pytest.raises(InputError, match=r"expected the space z or w .*, got w\+"):
        first_weights(Mapped(stylegan, "w+"))


def test_a_generator_without_layers_has_no_weights():
    with pytest.raises(InputError, match="expected a first layer that takes the 6 numbers"):
        first_weights(Blob())


class Dark(Generator):
    def forward(self, z):
        return torch.zeros(len(z), *self.picture)


@pytest.mark.parametrize(
    ("generator", "method", "transform", "said"),
    [
        (Blob(), "pcs", "zoom", "unknown method 'pcs': did you mean pca"),
        (Blob(), "walk", "shear-x", "a measure and a transform of its own, got shear-x"),
        (
            Dark(LatentSpace(2), PictureShape(1, 8, 8)), "group-means", "translate-x",
            "expected translate-x in 8 or more of 64 pictures by intensity, found it in 0",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_found(generator, method, transform, said):
    with pytest.raises(InputError, match=said):
        fit_by(generator, method, Follow(transform), samples=64)


def test_g_of_a_given_direction():
    rng = np.random.default_rng(0)
    u = np.eye(3)[1]
    z_0 = rng.standard_normal((300, 3))
    z = z_0 + rng.uniform(-2, 2, (300, 1)) * u
    shift = 0.2 * (z - z_0) @ u
    pairs = Pairs(z_0, z, shift, np.zeros(300), np.arange(300))
    found = fit_g(pairs, u, std=1.0)
    assert found["quality"]["held_out_r2"] > 0.999
    inside = np.abs(KNOTS[:-1]) < 2
    np.testing.assert_allclose(found["slopes"][inside], 0.2, atol=0.005)


def test_every_method_is_a_command_away(steer: Steer, tiny, tmp_path):
    d = tmp_path / "d.safetensors"
    base = ("fit-direction", "-t", "brightness", "--model", tiny, "--samples", 16, "-o", d)
    for method in methods.names():
        ended = steer(*base, "--method", method)
        assert ended.status == 0, ended.err
        assert load(d).made["options"]["method"] == method
    refused(steer(*base, "--method", "pca", "--starts", 9), "expected no --starts with --method")
    refused(steer(*base, "--method", "pca", "--loss", "mse"), "expected no --loss")
    refused(steer(*base, "--method", "walks"), "did you mean walk")


class Counting(Intensity):
    """Counts the pictures that it looks at."""

    seen = 0

    def __call__(self, pictures):
        Counting.seen += len(pictures)
        return super().__call__(pictures)


@pytest.fixture
def counting(monkeypatch, listed):
    """`--measure counting`, at 0."""
    listed(finders, "counting", Counting)
    monkeypatch.setattr(Counting, "seen", 0)
    return Counting


def test_nothing_is_measured_twice(counting):
    fit_by(Blob(), "group-means", Follow("translate-x"), find="counting", samples=16)
    assert counting.seen == 16 * (1 + len(ALPHAS))  # it was 16 * (1 + 2 * len(ALPHAS))
    seen = look(Blob(), "translate-x", find="counting", samples=16)
    for method in ("group-means", "pca"):
        counting.seen = 0
        fit_seen(replace(seen, plant=Plant(Layered(), ["translate-x"], "counting")), method,
                 Follow("translate-x"))  # fmt: skip
        assert counting.seen == 16 * len(ALPHAS)


# --- groups that somebody has made ---


def grouped(n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of a blob: with x to the right of the middle, and to the left."""
    codes = Blob().sample(n, seed=5)
    right = codes @ torch.from_numpy(AXES[0]).float() > 0
    return codes[right], codes[~right]


def test_groups_of_a_measurable_property_are_calibrated():
    more, less = grouped()
    found = fit_groups(Blob(), more, less, "translate-x", find="intensity", samples=64)
    np.testing.assert_allclose(np.linalg.norm(found.u), 1)
    apart = (more.double().mean(0) - less.double().mean(0)).numpy()
    np.testing.assert_allclose(found.u, apart / np.linalg.norm(apart))
    assert found.u @ AXES[0] > 0.95 and found.find == "intensity"
    assert found.quality["held_out_r2"] > 0.95 and not falls(found)
    assert found.quality["more"] == len(more) and found.quality["held_out_auc"] > 0.95
    by_measure = fit_by(Blob(), "group-means", Follow("translate-x"), samples=64)
    assert found.unit == by_measure.unit


def test_the_sign_is_that_of_the_groups():
    more, less = grouped()
    turned = fit_groups(Blob(), less, more, "translate-x", find="intensity", samples=64)
    assert turned.u @ AXES[0] < -0.95
    assert falls(turned) and turned.quality["held_out_r2"] < 0.1


def test_groups_that_no_measure_knows(tmp_path):
    more, less = grouped()
    found = fit_groups(Blob(), more, less, "at-right")
    assert (found.unit, found.find, found.constant) == ("std", None, None)
    np.testing.assert_allclose(found.g(np.array([-7.0, 0.3, 2.0])), [-7, 0.3, 2])
    assert found.coordinate(more).mean() > 0.5 > -0.5 > found.coordinate(less).mean()
    save(found.artefact(), tmp_path / "d.safetensors")
    again = Direction.of(load(tmp_path / "d.safetensors"))
    assert again.name == "at-right" and again.quality == found.quality


@given(seed=integers(0, 20), apart=sampled_from([0.0, 1.0, 3.0]))
def test_the_share_of_pairs_in_order(seed, apart):
    rng = np.random.default_rng(seed)
    more, less = rng.standard_normal((2, 400, 3))
    more[:, 0] += apart
    found = fit_groups(Point(), *(torch.from_numpy(g).float() for g in (more, less)), "new")
    # pairs of normal codes are in order with probability Phi(apart / sqrt 2)
    told = found.quality["held_out_auc"]
    assert told == pytest.approx(norm.cdf(apart / 2**0.5), abs=0.15)


def test_small_groups_that_do_not_differ_are_hardly_told_apart():
    codes = torch.randn(200, 16, 3, generator=torch.Generator().manual_seed(0))
    told = [fit_groups(Point(), c[:8], c[8:], "new").quality for c in codes]
    auc, error = (np.array([one[f"held_out_{k}"] for one in told]) for k in ("auc", "auc_error"))
    # folds of two and two: each of four has a variance of 5 / 48
    assert error == pytest.approx((5 / 48 / 4) ** 0.5)
    assert (auc >= 0.9).mean() < 0.05  # of one split 14 % were
    assert (auc > 0.5 + 2 * error).mean() < 0.1


class Point(Generator):
    """Grey pictures of three latents."""

    def __init__(self):
        super().__init__(LatentSpace(3), PictureShape(1, 8, 8))


@pytest.mark.parametrize(
    ("more", "less", "name", "said"),
    [
        ((7, 3), (8, 3), "new", r"expected 8 or more codes \[n, 3\] of point .* got \[7, 3\]"),
        ((8, 3), (0, 3), "new", r"got \[0, 3\]"),
        ((8, 3), (8, 4), "new", r"got \[8, 4\]"),
        ((8, 3), (8, 3), "shear-x", "expected a property with a measure .* got shear-x"),
        ((8, 3), (8, 3), "area", "expected a property with a measure .* got area"),
        ((8, 3), (8, 3), "a=b", "expected a name of letters, digits, - and _ .* got 'a=b'"),
        ((8, 3), (8, 3), "../x", "expected a name of letters"),
        ((8, 3), (8, 3), "", "expected a name of letters"),
    ],
)
def test_what_makes_no_groups(more, less, name, said):
    with pytest.raises(InputError, match=said):
        fit_groups(Point(), torch.rand(more), torch.rand(less), name)


def test_groups_with_one_mean_have_no_direction():
    codes = torch.rand(8, 3)
    with pytest.raises(InputError, match="groups whose means differ"):
        fit_groups(Point(), codes, codes, "new")
