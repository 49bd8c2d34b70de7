"""Other ways to find a direction, on generators whose factors are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import Steer, refused
from torch import nn
from toys import AXES, Blob

from steer.directions import KNOTS
from steer.errors import InputError
from steer.files import load
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.spaces import Mapped
from steer.generators.style import Mapping
from steer.generators.stylegan2 import StyleGAN2
from steer.regression import Pairs, fit_g
from steer.rivals import first_weights, fit_by, methods
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
        (Blob(), "walk", "shear-x", "expected a measurable property for the method walk"),
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


def test_comparison(steer: Steer, tiny, tmp_path):
    asked = ("compare", "-t", "brightness", "--model", tiny, "--methods", "trajectory, pca")
    small = ("--starts", 5, "--samples", 16, "-n", 8)
    ended = steer(*asked, *small, "-o", tmp_path / "out", "--json")
    assert ended.status == 0, ended.err
    rows = ended.summary["rows"]
    assert [row["method"] for row in rows] == ["trajectory", "pca"]
    # followed: 5 starts, 5 targets on each side, 20 steps at most; then calibrated
    assert 16 * 13 < rows[0]["evaluations"] <= 5 * (1 + 10 * 20) + 64 + 16 * 13
    for row in rows:
        assert 0 <= row["closed"] <= 0.005 and row["closed"] <= row["open"]
        assert 0 < row["reached"] <= 1 and row["seconds"] > 0 and row["std"] >= 0
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["compare.json", "pca.safetensors", "trajectory.safetensors"]
    table = steer(*asked, *small).out.decode()
    assert "trajectory" in table and "leakage" in table
    refused(steer("compare", "--methods", "magic"), "unknown method 'magic'")
    refused(steer("compare", "-o", "-"), "expected a folder for -o")
