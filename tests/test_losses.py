"""Losses against SciPy's Gaussian filter, scikit-image's SSIM, torch and closed forms."""

import math
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional

from steer.errors import InputError, MachineError
from steer.losses import (
    BlurredMSE,
    Perceptual,
    blurred_mse,
    dssim,
    gaussian_matrix,
    l1,
    losses,
    mse,
    parse_loss,
    perceptual,
)

BACKBONE = "test_efficientnet"


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return noise(*shape, seed=1), noise(*shape, seed=2)


def window(shape: tuple[int, ...], top: int, left: int, height: int, width: int) -> Tensor:
    """A mask [B, 1, H, W] whose defined pixels are one rectangle."""
    defined = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.float64)
    defined[..., top : top + height, left : left + width] = 1
    return defined


class Edges(nn.Module):
    """Two levels of features, of 3 and 6 channels."""

    def forward(self, pictures: Tensor) -> list[Tensor]:
        coarse = functional.avg_pool2d(pictures, 2)
        return [pictures.diff(dim=-1), torch.cat([coarse, coarse.square()], dim=1)]


ERRORS: dict[str, Callable[..., Tensor]] = {
    "blurred-mse": BlurredMSE(sigma=1.2),
    "mse": mse,
    "l1": l1,
    "dssim": dssim,
    "perceptual": Perceptual(Edges()),
}


def test_every_registered_loss_is_tried_here() -> None:
    assert losses.names() == sorted(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_every_loss_is(name: str, channels: int) -> None:
    error = ERRORS[name]
    pictures, targets = pair(4, channels, 14, 18)
    value = error(pictures, targets, None)
    assert value.shape == (4,) and (value > 0).all()
    assert error(targets, targets, None).abs().max() < 1e-12
    torch.testing.assert_close(
        value, error(pictures, targets, window(pictures.shape, 0, 0, 14, 18))
    )
    alone = torch.cat([error(pictures[k : k + 1], targets[k : k + 1], None) for k in range(4)])
    torch.testing.assert_close(value, alone)


@pytest.mark.parametrize("name", ERRORS)
def test_undefined_pixels_do_not_matter(name: str) -> None:
    pictures, targets = pair(2, 3, 20, 24)
    defined = window(pictures.shape, 3, 4, 13, 15)
    hole = defined.eq(0).expand_as(pictures)
    before = ERRORS[name](pictures, targets, defined)
    pictures[hole], targets[hole] = noise(int(hole.sum()), seed=3), 0.9
    assert (before > 0).all()
    torch.testing.assert_close(ERRORS[name](pictures, targets, defined), before)


@pytest.mark.parametrize("name", ERRORS)
def test_nothing_defined_is_no_number(name: str) -> None:
    pictures, targets = pair(2, 3, 12, 12)
    defined = torch.ones(2, 1, 12, 12, dtype=torch.float64)
    defined[1] = 0
    value = ERRORS[name](pictures, targets, defined)
    assert value.isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients(name: str, masked: bool) -> None:
    pictures, targets = pair(2, 3, 12, 13)
    defined = window(pictures.shape, 0, 1, 12, 12) if masked else None
    inputs = (pictures.requires_grad_(),)
    assert torch.autograd.gradcheck(
        lambda p: ERRORS[name](p, targets, defined), inputs, fast_mode=True
    )


@pytest.mark.parametrize("size", [(16, 16), (9, 31), (64, 5), (1, 1)])
@pytest.mark.parametrize("sigma", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("masked", [False, True])
def test_blurred_mse_is_equation_3_by_scipy(
    size: tuple[int, int], sigma: float, masked: bool
) -> None:
    pictures, targets = pair(2, 3, *size)
    defined = window(pictures.shape, 0, 0, (size[0] + 1) // 2, size[1]) if masked else None
    known = np.ones((2, 1, *size)) if defined is None else defined.numpy()
    blurred = gaussian_filter(
        (pictures - targets).numpy() * known, sigma, mode="constant", axes=(2, 3)
    )
    wanted = (blurred**2 * known).sum(axis=(1, 2, 3)) / (3 * known.sum(axis=(1, 2, 3)))
    value = BlurredMSE(sigma)(pictures, targets, defined)
    np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-10)


@pytest.mark.parametrize(("sigma", "radius"), [(1.5, 6), (0.7, 2), (3.0, 12)])
def test_the_blur_is_a_convolution_with_zeros_outside(sigma: float, radius: int) -> None:
    rows = noise(5, 1, 20)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    wanted = functional.conv1d(rows, (kernel / kernel.sum())[None, None], padding=radius)
    matrix = gaussian_matrix(20, sigma, radius, torch.float64, rows.device)
    torch.testing.assert_close(rows @ matrix.T, wanted)


@pytest.mark.parametrize(("height", "sigma"), [(128, 3.0), (64, 1.5), (32, 0.75), (256, 6.0)])
def test_sigma_follows_the_height(height: int, sigma: float) -> None:
    assert blurred_mse(height).sigma == sigma
    assert parse_loss("blurred-mse", height).parts[0].error == BlurredMSE(sigma)
    assert parse_loss("blurred-mse", height, sigma=2.0).parts[0].error == BlurredMSE(2.0)


def test_a_blur_first_used_in_inference_mode_serves_training_too() -> None:
    error = BlurredMSE(sigma=1.2345)
    pictures, targets = pair(1, 1, 8, 8)
    with torch.inference_mode():
        before = error(pictures, targets)
    after = error(pictures.requires_grad_(), targets)
    after.sum().backward()
    assert after.item() == before.item() and pictures.grad.abs().sum() > 0


def test_mse_and_l1_are_those_of_torch() -> None:
    pictures, targets = pair(3, 3, 6, 7)
    for error, oracle in ((mse, functional.mse_loss), (l1, functional.l1_loss)):
        wanted = oracle(pictures, targets, reduction="none").mean(dim=(1, 2, 3))
        torch.testing.assert_close(error(pictures, targets), wanted)
        defined = window(pictures.shape, 1, 2, 3, 4)
        inner = oracle(pictures[..., 1:4, 2:6], targets[..., 1:4, 2:6], reduction="none")
        torch.testing.assert_close(error(pictures, targets, defined), inner.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (16, 40), (33, 20)])
def test_dssim_is_that_of_scikit_image(channels: int, size: tuple[int, int]) -> None:
    targets = noise(2, channels, *size)
    pictures = (0.8 * targets + 0.2 * noise(2, channels, *size, seed=5)).clamp(0, 1)
    for picture, target, value in zip(pictures, targets, dssim(pictures, targets), strict=True):
        similarity = structural_similarity(
            picture.numpy(),
            target.numpy(),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert value.item() == pytest.approx((1 - similarity) / 2, abs=1e-10)


def test_masked_dssim_is_that_of_the_defined_part() -> None:
    pictures, targets = pair(2, 3, 30, 32)
    value = dssim(pictures, targets, window(pictures.shape, 4, 5, 20, 22))
    torch.testing.assert_close(value, dssim(pictures[..., 4:24, 5:27], targets[..., 4:24, 5:27]))


def test_dssim_needs_room_for_a_window() -> None:
    with pytest.raises(InputError, match="11x11 or more; got 10x30"):
        dssim(*pair(1, 1, 10, 30))


def test_perceptual_is_the_distance_of_normalised_features() -> None:
    pictures, targets = pair(2, 3, 8, 10)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    value = Perceptual(Edges(), mean, std)(pictures, targets)
    shift, scale = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
    levels = [Edges()((p - shift) / scale) for p in (pictures, targets)]
    # |a - b|^2 = 2 - 2 cos for vectors of length 1.
    distances = [
        (2 - 2 * functional.cosine_similarity(a, b, dim=1)).mean(dim=(1, 2))
        for a, b in zip(*levels, strict=True)
    ]
    torch.testing.assert_close(value, torch.stack(distances).mean(0), atol=1e-6, rtol=1e-6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small backbone, with batch statistics that are not the defaults."""
    torch.manual_seed(0)
    model = timm.create_model(BACKBONE, pretrained=False)
    state = {k: v + 0.01 if "running" in k else v for k, v in model.state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(state, file)
    return file


def test_perceptual_takes_its_weights_from_a_file(weights: Path) -> None:
    distance = perceptual(64, backbone=f"{BACKBONE}={weights}")
    assert not any(p.requires_grad for p in distance.network.parameters())
    full = timm.create_model(BACKBONE).eval()
    full.load_state_dict(load_file(weights))
    pictures = noise(2, 3, 64, 64).float()
    mean, std = (torch.tensor(full.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        wanted = full.forward_intermediates((pictures - mean) / std, intermediates_only=True)
        levels = distance.features(pictures)
    assert len(levels) == len(wanted) >= 4
    for level, whole in zip(levels, wanted, strict=True):
        torch.testing.assert_close(level, functional.normalize(whole, dim=1, eps=1e-6))


def test_loading_a_backbone_is_silent(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    perceptual(64, backbone=f"{BACKBONE}={weights}")
    assert caplog.records == []


def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    cases = {
        "missing": {k: v for k, v in state.items() if k != "conv_stem.weight"},
        "extra": state | {"conv_stem.more": torch.zeros(1)},
        "misshaped": state | {"conv_stem.weight": torch.zeros(2, 3)},
    }
    for name, wrong in cases.items():
        file = tmp_path / f"{name}.safetensors"
        save_file(wrong, file)
        with pytest.raises(InputError, match=r"1 tensors are .*, among them conv_stem\."):
            perceptual(64, backbone=f"{BACKBONE}={file}")


@pytest.mark.parametrize("content", [None, b"", b"<html>no weights here</html>"])
def test_a_file_without_weights_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=f"{file}"):
        perceptual(64, backbone=f"{BACKBONE}={file}")


def test_an_unknown_backbone_lists_near_matches() -> None:
    with pytest.raises(InputError, match=r"got 'vgg16.tv_in1', near matches are vgg16.tv_in1k"):
        perceptual(64, backbone="vgg16.tv_in1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit3", "test_vit3 does not take pictures of height 64: .*160"),
        ("test_coatnet", "test_coatnet does not take pictures of height 64: "),
        ("test_mambaout", r"expected features \[B, C, H, W\] .* got \[1, 2, 2, 64\]"),
    ],
)
def test_a_backbone_that_does_not_serve(name: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    with pytest.raises(InputError, match=message):
        perceptual(64, backbone=f"{name}={file}")


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MachineError, match=r"the weights of vgg16.tv_in1k .* could not be fetched"):
        parse_loss("perceptual", 64)


@pytest.mark.shared
def test_perceptual_of_a_trained_backbone(shared: Path) -> None:
    file = shared / "data/backbones/tf_efficientnet_lite0.fp16.safetensors"
    distance = perceptual(64, backbone=f"tf_efficientnet_lite0={file}")
    picture = functional.interpolate(noise(1, 3, 8, 8).float(), size=64, mode="bilinear")
    levels = [0.02, 0.1, 0.3]
    errors = [distance(picture + k * noise(1, 3, 64, 64).float(), picture).item() for k in levels]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    ("text", "canonical", "parts"),
    [
        ("mse", "mse:1", [("mse", 1.0)]),
        ("mse:2", "mse:2", [("mse", 2.0)]),
        ("blurred-mse:1+l1:0.1", "blurred-mse:1+l1:0.1", [("blurred-mse", 1.0), ("l1", 0.1)]),
        (" mse + dssim : 0.5 ", "mse:1+dssim:0.5", [("mse", 1.0), ("dssim", 0.5)]),
        ("mse:1e+2+l1:1e-3", "mse:100+l1:0.001", [("mse", 100.0), ("l1", 0.001)]),
    ],
)
def test_text_that_names_a_loss(text: str, canonical: str, parts: list[tuple[str, float]]) -> None:
    loss = parse_loss(text, height=16)
    assert loss.text == canonical
    assert [(p.name, p.weight) for p in loss.parts] == parts
    pictures, targets = pair(2, 3, 16, 16)
    each = loss.each(pictures, targets, None)
    assert list(each) == [name for name, _ in parts]
    wanted = sum(weight * each[name] for name, weight in parts)
    torch.testing.assert_close(loss(pictures, targets), wanted)


@given(
    st.dictionaries(
        st.sampled_from(["mse", "l1", "dssim", "blurred-mse"]),
        st.floats(1e-300, 1e300),
        min_size=1,
    )
)
def test_the_canonical_text_reads_back_as_the_same_loss(weights: dict[str, float]) -> None:
    loss = parse_loss("+".join(f"{name}:{weight!r}" for name, weight in weights.items()), 64)
    assert parse_loss(loss.text, 64) == parse_loss(parse_loss(loss.text, 64).text, 64) == loss
    assert {p.name: p.weight for p in loss.parts} == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME:WEIGHT terms"),
        ("+mse", "expected NAME:WEIGHT terms"),
        ("mse+", "expected NAME:WEIGHT terms"),
        ("mse++l1", "expected NAME:WEIGHT terms"),
        ("mse:", "expected NAME:WEIGHT terms"),
        ("mse:1:2", "expected NAME:WEIGHT terms"),
        ("0.1:mse", "expected NAME:WEIGHT terms"),
        ("mse:much", "expected a weight above 0 for mse in 'mse:much'; got much"),
        ("mse:1+", r"expected a weight above 0 for mse in 'mse:1\+'; got 1\+"),
        ("mse:-1", "weight above 0 for mse .* got -1"),
        ("mse:0", "weight above 0 for mse .* got 0"),
        ("l1+mse:nan", "weight above 0 for mse .* got nan"),
        ("mse:inf", "weight above 0 for mse .* got inf"),
        ("blured-mse", "unknown loss 'blured-mse': did you mean blurred-mse"),
        ("mse+mse:2", "expected each loss once"),
    ],
)
def test_text_that_names_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_loss(text, height=64)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_sigma_is_a_length(sigma: float) -> None:
    with pytest.raises(InputError, match="expects a sigma above 0 and at most 1000 pixels; got"):
        parse_loss("blurred-mse", 64, sigma=sigma)


def test_an_option_that_no_named_loss_takes_is_refused() -> None:
    with pytest.raises(InputError, match=r"sigma was given, but no loss in 'mse\+l1' takes it"):
        parse_loss("mse+l1", 64, sigma=1.0)
    with pytest.raises(InputError, match="backbone was given, but no loss in 'blurred-mse'"):
        parse_loss("blurred-mse", 64, sigma=1.0, backbone="vgg16.tv_in1k")


def test_a_plugins_factory_is_handed_what_it_names(listed: Callable[..., None]) -> None:
    def tall(height: int) -> Callable[..., Tensor]:
        return lambda pictures, targets, defined: height * mse(pictures, targets, defined)

    listed(losses, "tall", tall)
    pictures, targets = pair(2, 3, 5, 5)
    value = parse_loss("tall:0.5+mse", 5)(pictures, targets)
    torch.testing.assert_close(value, 3.5 * mse(pictures, targets))
