"""Scores against scipy, torchmetrics, scikit-image and closed forms."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import timm
import torch
import torchvision
from commands import photo, tiny_vae
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, laplace, uniform_filter
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from steer import losses
from steer.backbones import VGG, VGG_LEVELS, Maps
from steer.errors import InputError
from steer.files import Artefact
from steer.generators import load as load_generator
from steer.generators.planned import planned
from steer.inversion import Search
from steer.losses import LPIPS, Perceptual
from steer.photos import invert_photos
from steer.scores import (
    compare_pairs,
    frechet_distance,
    inception_score,
    kernel_distance,
    likenesses,
    pair_scores,
    photos_inverted,
    refuse_own_features,
    sharpness,
    ssim,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Metric `:UserWarning"),
    pytest.mark.filterwarnings("ignore:std\\(\\)"),  # torchmetrics' of a single part
]


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    """Features with a covariance that is not diagonal, of very different scales."""
    noise = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=noise) * torch.logspace(0, -2, d)[:, None]
    return torch.randn(n, d, generator=noise) @ mix + torch.randn(d, generator=noise)


class Given(nn.Module):
    """An extractor for torchmetrics that is handed features."""

    def __init__(self, d: int):
        super().__init__()
        self.num_features = d

    def forward(self, features: Tensor) -> Tensor:
        return features


# --- sets of features ---


@pytest.mark.parametrize(("n", "m", "d"), [(90, 90, 12), (40, 200, 32), (20, 30, 48), (30, 90, 48)])
def test_frechet_distance_is_that_of_scipy_and_torchmetrics(n: int, m: int, d: int) -> None:
    a, b = normal(n, d, seed=1), normal(m, d, seed=2)
    found = frechet_distance(a, b)
    means = [x.double().mean(0).numpy() for x in (a, b)]
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    wanted = np.sum((means[0] - means[1]) ** 2) + np.trace(sum(covariances) - 2 * np.real(root))
    assert found == pytest.approx(wanted, rel=1e-5 if min(n, m) < d else 1e-9)
    oracle = FrechetInceptionDistance(Given(d)).set_dtype(torch.float64)
    oracle.update(a.double(), real=True)
    oracle.update(b.double(), real=False)
    assert found == pytest.approx(oracle.compute().item(), rel=1e-4)


@given(st.integers(2, 60), st.integers(1, 24), st.integers(0, 1000))
def test_a_set_is_no_way_from_itself(n: int, d: int, seed: int) -> None:
    a = 10 * normal(n, d, seed)
    a[:, d // 2] = 1.0  # features that never change have no covariance
    assert frechet_distance(a, a) <= 1e-6 * float(a.var(0).sum())
    assert frechet_distance(a, a + 3) == pytest.approx(9 * d, rel=1e-4)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    a = normal(200, 5)
    b = (a - a.mean(0)) * 3 + a.mean(0) + torch.tensor([1.0, 0, 0, 0, 2.0])
    wanted = 5 + 4 * float(a.double().var(0).sum())  # (3 - 1)^2 times each variance
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_pieces_of_a_large_set_are_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(100, 12, seed=1), normal(70, 12, seed=2)
    whole = frechet_distance(a, b)
    monkeypatch.setattr("steer.scores.ROWS", 9)
    assert frechet_distance(a, b) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "size"), [(60, 60, 60), (80, 50, 20), (80, 50, 50)])
def test_kernel_distance_is_that_of_torchmetrics(n: int, m: int, size: int) -> None:
    a, b = normal(n, 16, seed=1).double(), normal(m, 16, seed=2).double()
    oracle = KernelInceptionDistance(Given(16), subsets=7, subset_size=size)
    oracle.update(a, real=True)
    oracle.update(b, real=False)
    torch.manual_seed(5)  # its permutations, and in the same order ours
    mean, std = (float(value) for value in oracle.compute())
    found = kernel_distance(a, b, subsets=7, size=size, seed=5)
    assert found[0] == pytest.approx(mean, rel=1e-6)
    assert math.isnan(found[1]) if size == n == m else found[1] == pytest.approx(std, rel=1e-5)


def test_kernel_distance_is_unbiased_and_seeded() -> None:
    halves = normal(400, 8, seed=3).split(200)
    same, shifted = (kernel_distance(halves[0], halves[1] + by, size=50)[0] for by in (0, 1))
    assert abs(same) < 0.05 * shifted
    values = [kernel_distance(*halves, size=50, seed=seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    # fewer than asked for: as many as there are
    assert kernel_distance(halves[0], halves[1][:60]) == kernel_distance(
        halves[0], halves[1][:60], size=60
    )


@pytest.mark.parametrize("splits", [1, 4, 10])
def test_inception_score_is_that_of_torchmetrics(splits: int) -> None:
    scores = 3 * normal(87, 20)
    oracle = InceptionScore(Given(20), splits=splits)
    oracle.update(scores)
    torch.manual_seed(9)
    wanted = oracle.compute()[0].item()
    mean, std = inception_score(scores.softmax(1), splits=splits, seed=9)
    assert mean == pytest.approx(wanted, rel=1e-4)
    assert math.isnan(std) == (splits == 1)


def test_inception_score_of_certain_and_of_equal_classes() -> None:
    certain = torch.eye(5).repeat(40, 1)
    assert inception_score(certain, splits=1)[0] == pytest.approx(5)
    assert inception_score(torch.full((30, 5), 0.2))[0] == pytest.approx(1)


@pytest.mark.parametrize("score", [frechet_distance, kernel_distance])
def test_one_picture_is_no_set(score) -> None:
    with pytest.raises(InputError, match="expected 2 or more pictures in each set, got 1"):
        score(normal(1, 4), normal(9, 4))


# --- pictures ---


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_is_scipys_laplacian_over_the_mean_around(channels: int) -> None:
    pictures = torch.rand(2, channels, 12, 17, generator=torch.Generator().manual_seed(0))
    weights = [0.299, 0.587, 0.114] if channels == 3 else [1.0]
    grey = np.einsum("bchw,c->bhw", pictures.double().numpy(), weights)
    around = [uniform_filter(np.maximum(each, 1 / 32), 3) for each in grey]
    ratio = [np.abs(laplace(each)) / mean for each, mean in zip(grey, around, strict=True)]
    wanted = [each[1:-1, 1:-1].mean() for each in ratio]
    np.testing.assert_allclose(sharpness(pictures).numpy(), wanted, rtol=1e-5)


def test_blur_takes_sharpness_away() -> None:
    sharp = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = [torch.from_numpy(gaussian_filter(sharp.numpy(), (0, 0, s, s))) for s in (0.5, 1, 2)]
    values = [float(sharpness(each)) for each in (sharp, *blurred)]
    assert values == sorted(values, reverse=True) and values[-1] > 0
    with pytest.raises(InputError, match="3x3 or more; got 2x9"):
        sharpness(torch.zeros(1, 3, 2, 9))


def test_ssim_is_that_of_torchmetrics() -> None:
    noise = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 24, 20, generator=noise)
    b = (0.8 * a + 0.2 * torch.rand(3, 3, 24, 20, generator=noise)).clamp(0, 1)
    whole = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)[1]
    inside = whole[..., 5:-5, 5:-5]  # the others see a border that it reflects
    torch.testing.assert_close(ssim(a, b), inside.mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def vgg() -> tuple[nn.Module, nn.Module]:
    """timm's VGG16 up to its last level, and torchvision's layers with the same random weights."""
    torch.manual_seed(0)
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    with planned():  # the classifier, which nobody asks, has 124 million weights
        ours = timm.create_model("vgg16", features_only=True, out_indices=VGG_LEVELS)
    state = theirs.state_dict()
    ours.to_empty(device="cpu").load_state_dict(
        {name: state[name.removeprefix("features_")] for name in ours.state_dict()}
    )
    return ours, theirs


@pytest.mark.parametrize("size", [(64, 64), (40, 56)])
def test_lpips_is_that_of_torchmetrics(vgg, size, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = vgg
    network = SimpleNamespace(features=theirs)
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: network)
    monkeypatch.setattr(
        losses, "feature_maps", lambda text, height, device, levels: Maps(ours, (), (), text)
    )
    noise = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 4, 3, *size, generator=noise)
    b[1], b[2] = a[1], (a[2] + 0.02).clamp(0, 1)
    distance = losses.lpips(size[0])
    wanted = learned_perceptual_image_patch_similarity(a, b, "vgg", reduction=None, normalize=True)
    torch.testing.assert_close(distance(a, b), wanted, rtol=1e-3, atol=1e-7)
    assert isinstance(distance, LPIPS) and distance.name == VGG
    assert 0 == distance(a, b)[1] < distance(a, b)[2] < distance(a, b)[0]


def test_lpips_has_one_backbone() -> None:
    with pytest.raises(InputError, match=r"expected vgg16.tv_in1k as the backbone of LPIPS; got"):
        losses.lpips(64, backbone="resnet18")


# --- pairs ---


class Flat(nn.Module):
    def forward(self, pictures: Tensor) -> list[Tensor]:
        return [pictures, pictures.diff(dim=-1)]


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory):
    """Three photos, the latents that were found for them, and the generator."""
    folder = tmp_path_factory.mktemp("inverted")
    photos = [photo(folder / f"{i}.png", seed=i) for i in range(3)]
    generator = load_generator(str(tiny_vae(folder / "tiny", seed=0)), "cpu")
    found = invert_photos(generator, photos, Search(loss="mse+dssim", steps=3, start="encoder"))
    return photos, found.artefact, generator


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_pairs_have_the_errors_that_the_search_told(inverted, batch: int) -> None:
    photos, latents, generator = inverted
    by = likenesses(16, 16, [Perceptual(Flat(), name="flat")])
    rows = compare_pairs(generator, latents, photos, by, batch)
    torch.testing.assert_close(rows[:, 0], latents.tensors["error.mse"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(rows[:, 1], 1 - 2 * latents.tensors["error.dssim"])
    assert (rows[:, 2] > 0).all()
    scores = pair_scores(rows, by, latents.made)
    assert [(s.score, s.extractor, s.own_loss) for s in scores] == [
        ("MSE", "pixels", True), ("SSIM", "pixels", True), ("perceptual", "flat", False)
    ]  # fmt: skip
    assert scores[2].value == pytest.approx(rows[:, 2].mean().item())
    assert scores[2].std == pytest.approx(rows[:, 2].std().item())


def test_small_pictures_have_no_ssim() -> None:
    assert [each.score for each in likenesses(8, 30, [])] == ["MSE"]


def test_photos_are_known_by_their_bytes(inverted, tmp_path: Path) -> None:
    photos, latents, _ = inverted
    moved = [Path(shutil.copy(p, tmp_path / f"{9 - i}.png")) for i, p in enumerate(photos)]
    other = photo(tmp_path / "other.png", seed=7)
    assert photos_inverted(latents, [other, *reversed(moved)]) == moved
    assert photos_inverted(latents, [other]) == []
    assert photos_inverted(Artefact("latents", {}, {"command": "sample"}), moved) == []
    with pytest.raises(InputError, match=r"2 of 3 are not there: .*1\.png, .*2\.png\."):
        photos_inverted(latents, [moved[0]])


@pytest.mark.parametrize(
    ("options", "extractor", "refused"),
    [
        ({"loss": "perceptual"}, "vgg16.tv_in1k", True),
        ({"loss": "mse:1+perceptual:0.1"}, "vgg16=weights.pt", True),
        ({"loss": "perceptual", "backbone": "resnet18=a.pt"}, "resnet18.a1_in1k", True),
        ({"loss": "perceptual", "backbone": "resnet18"}, "vgg16", False),
        ({"loss": "perceptual"}, "vgg19.tv_in1k", False),
        ({"loss": "mse:1"}, "vgg16", False),
        ({}, "vgg16", False),
    ],
)
def test_no_score_by_the_features_of_its_own_loss(options, extractor, refused: bool) -> None:
    if not refused:
        refuse_own_features({"options": options}, extractor)
        return
    with pytest.raises(InputError, match="expected another extractor than "):
        refuse_own_features({"options": options}, extractor)
