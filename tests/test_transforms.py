"""Transforms against SciPy's affine_transform, scikit-image's YIQ and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from skimage.color import rgb2yiq
from torch import Tensor

from steer.errors import InputError
from steer.transforms import geometric, transforms

POINTWISE = ["brightness", "contrast", "saturation", "hue"]
GEOMETRIC = ["translate-x", "translate-y", "zoom", "rotate", "shear-x", "stretch-x", "stretch-y"]


def noise(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def forward_map(name: str, t: float, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where (row, column) measured from the centre goes: matrix and shift."""
    c, s = np.cos(np.deg2rad(t)), np.sin(np.deg2rad(t))
    matrix = {
        "zoom": [[2**t, 0], [0, 2**t]],
        # On the right at (0, 1) goes up, to (-sin, cos).
        "rotate": [[c, -s], [s, c]],
        "shear-x": [[1, 0], [t, 1]],
        "stretch-x": [[1, 0], [0, 2**t]],
        "stretch-y": [[2**t, 0], [0, 1]],
    }.get(name, np.eye(2))
    shift = {"translate-x": [0, t * width], "translate-y": [t * height, 0]}.get(name, [0, 0])
    return np.array(matrix), np.array(shift)


def scipy_warp(picture: np.ndarray, name: str, t: float) -> np.ndarray:
    """The same transform by SciPy on [H, W], NaN where it would need pixels from outside."""
    matrix, shift = forward_map(name, t, *picture.shape)
    inverse = np.linalg.inv(matrix)
    centre = (np.array(picture.shape) - 1) / 2
    offset = centre - inverse @ (centre + shift)
    return affine_transform(picture, inverse, offset, order=1, mode="constant", cval=np.nan)


def test_the_registry_holds_the_table_of_the_specification() -> None:
    assert transforms.names() == sorted(GEOMETRIC + POINTWISE)
    for name in transforms.names():
        transform = transforms.get(name)
        low, high = transform.limits
        assert transform.name == name
        assert low <= -transform.default_range < transform.default_range <= high


@pytest.mark.parametrize("name", GEOMETRIC + POINTWISE)
@pytest.mark.parametrize("size", [(64, 64), (5, 8), (1, 1), (33, 20)])
def test_zero_is_the_identity_and_fully_defined(name: str, size: tuple[int, int]) -> None:
    pictures = noise(2, 3, *size).float()
    same, defined = transforms.get(name)(pictures, 0.0)
    assert same.dtype == pictures.dtype
    assert defined.shape == (2, 1, *size)
    assert defined.eq(1).all()
    torch.testing.assert_close(same, pictures, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", GEOMETRIC)
@settings(max_examples=15, deadline=None)
@given(
    fraction=st.floats(-1, 1),
    height=st.integers(2, 20),
    width=st.integers(2, 20),
    seed=st.integers(0, 9),
)
def test_geometry_and_mask_are_those_of_scipy(
    name: str, fraction: float, height: int, width: int, seed: int
) -> None:
    t = fraction * transforms.get(name).default_range * 1.5
    pictures = noise(1, 2, height, width, seed=seed)
    warped, defined = transforms.get(name)(pictures, t)
    for channel in range(2):
        wanted = torch.from_numpy(scipy_warp(pictures[0, channel].numpy(), name, t))
        known = ~wanted.isnan()
        # On the seam itself the two round to either side: there both read the border's pixels.
        assert (defined[0, 0] >= known).all()
        both = known & defined[0, 0].bool()
        torch.testing.assert_close(warped[0, channel][both], wanted[both], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("sign", [-1, 1])
def test_defined_is_what_does_not_depend_on_the_outside(name: str, sign: int) -> None:
    height, width, around = 18, 26, 20
    transform = transforms.get(name)
    t = 0.93 * sign * transform.default_range
    inside = noise(1, 1, height, width)
    _, defined = transform(inside, t)

    def seen_in(outside: float) -> Tensor:
        """The transformed picture, cut out of a larger one with a known surrounding."""
        large = torch.full((1, 1, height + 2 * around, width + 2 * around), outside).double()
        window = large[..., around : around + height, around : around + width]
        window.copy_(inside)
        scale = {"translate-x": width / large.shape[-1], "translate-y": height / large.shape[-2]}
        warped, _ = transform(large, t * scale.get(name, 1.0))
        return warped[..., around : around + height, around : around + width]

    leak = (seen_in(1.0) - seen_in(0.0)).abs()
    assert torch.equal(defined.bool(), leak < 1e-3)
    torch.testing.assert_close(transform(inside, t)[0] * defined, seen_in(0.5) * defined)
    assert 0 < defined.mean() <= 1
    assert (defined.mean() == 1) == (name in ("zoom", "stretch-x", "stretch-y") and sign > 0)


@pytest.mark.parametrize(("name", "axis"), [("translate-x", 3), ("translate-y", 2)])
@pytest.mark.parametrize("pixels", [-7, -1, 1, 3, 8])
def test_translating_by_whole_pixels_is_a_roll(name: str, axis: int, pixels: int) -> None:
    pictures = noise(2, 3, 16, 16)
    moved, defined = transforms.get(name)(pictures, pixels / 16)
    wanted = pictures.roll(pixels, dims=axis)
    torch.testing.assert_close(moved * defined, wanted * defined, atol=1e-12, rtol=0)
    uncovered = torch.arange(16) < pixels if pixels > 0 else torch.arange(16) >= 16 + pixels
    lost = defined.eq(0).transpose(axis, 3)
    assert torch.equal(lost, uncovered.expand_as(lost))


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("amount", [-1.0, -1e-5, 1e-5, 1.0])
def test_no_darkness_enters_from_outside(name: str, amount: float) -> None:
    transform = transforms.get(name)
    white, _ = transform(torch.ones(1, 1, 8, 8), amount * transform.default_range)
    torch.testing.assert_close(white, torch.ones(1, 1, 8, 8), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("t", "turns"), [(90.0, 1), (180.0, 2), (-90.0, -1), (-180.0, 2)])
def test_a_quarter_turn_is_rot90_counter_clockwise(t: float, turns: int) -> None:
    pictures = noise(2, 3, 9, 9)
    turned, defined = transforms.get("rotate")(pictures, t)
    assert defined.eq(1).all()
    torch.testing.assert_close(turned, pictures.rot90(turns, (2, 3)), atol=1e-12, rtol=0)


def test_zoom_by_one_octave_doubles_distances_from_the_centre() -> None:
    ramp = torch.linspace(-1, 1, 9, dtype=torch.float64).expand(1, 1, 9, 9)
    larger, _ = transforms.get("zoom")(ramp, 1.0)
    torch.testing.assert_close(larger, ramp / 2)
    smaller, defined = transforms.get("zoom")(ramp, -1.0)
    assert defined[0, 0].sum() == 25
    torch.testing.assert_close(smaller * defined, 2 * ramp * defined)


@pytest.mark.parametrize("name", GEOMETRIC + POINTWISE)
def test_gradients(name: str) -> None:
    transform = transforms.get(name)
    pictures = noise(2, 3, 4, 5, low=0.4, high=0.6).requires_grad_()
    t = transform.default_range * torch.tensor([0.31, -0.37], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p, s: transform(p, s)[0], (pictures, t.requires_grad_()))


@pytest.mark.parametrize("name", GEOMETRIC + POINTWISE)
def test_the_way_back_undoes_the_way_there(name: str) -> None:
    transform = transforms.get(name)
    y, x = torch.meshgrid(*[torch.linspace(0, 3, 48, dtype=torch.float64)] * 2, indexing="ij")
    waves = [(x + k).sin() * (y - k).cos() for k in range(3)]
    pictures = 0.5 + 0.1 * torch.stack(waves)[None]
    there, known = transform(pictures, transform.default_range)
    back, defined = transform(there, -transform.default_range)
    if name in GEOMETRIC:
        known = (transform(known, -transform.default_range)[0] > 0.999) * defined
    assert known.mean() > 0.3
    torch.testing.assert_close(back * known, pictures * known, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", GEOMETRIC + POINTWISE)
def test_every_picture_has_its_own_t(name: str) -> None:
    transform = transforms.get(name)
    pictures = noise(3, 3, 7, 9)
    ts = transform.default_range * torch.tensor([-0.5, 0.2, 1.0], dtype=torch.float64)
    together = transform(pictures, ts)
    for k in range(3):
        for whole, alone in zip(
            together, transform(pictures[k : k + 1], ts[k].item()), strict=True
        ):
            torch.testing.assert_close(whole[k : k + 1], alone)


@given(t=st.floats(-1, 1))
def test_brightness_adds_and_clamps(t: float) -> None:
    pictures = noise(2, 3, 4, 4)
    brighter, defined = transforms.get("brightness")(pictures, t)
    assert defined.eq(1).all()
    torch.testing.assert_close(brighter, (pictures + t).clamp(0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_scales_about_each_pictures_mean_luminance(channels: int) -> None:
    pictures = noise(2, channels, 8, 8, low=0.3, high=0.7)
    pictures[1] -= 0.1
    stronger, _ = transforms.get("contrast")(pictures, 0.5)
    for before, after in zip(pictures, stronger, strict=True):
        y, y_after = (
            rgb2yiq(p.expand(3, -1, -1).numpy(), channel_axis=0)[0] for p in (before, after)
        )
        assert y_after.mean() == pytest.approx(y.mean(), abs=1e-9)
        assert y_after.std() / y.std() == pytest.approx(2**0.5, abs=1e-9)


@pytest.mark.parametrize(("name", "t"), [("saturation", 0.7), ("saturation", -1.0), ("hue", 40.0)])
def test_colour_against_the_yiq_of_scikit_image(name: str, t: float) -> None:
    pictures = noise(1, 3, 8, 8, low=0.4, high=0.6)
    changed, _ = transforms.get(name)(pictures, t)
    before, after = (rgb2yiq(p[0].numpy(), channel_axis=0) for p in (pictures, changed))
    np.testing.assert_allclose(after[0], before[0], atol=1e-9)
    factor = 2**t if name == "saturation" else np.exp(1j * np.deg2rad(t))
    wanted = (before[1] + 1j * before[2]) * factor
    np.testing.assert_allclose(after[1] + 1j * after[2], wanted, atol=1e-4)


@pytest.mark.parametrize("name", transforms.names())
@pytest.mark.parametrize("outside", [1.01, -1.01, float("nan"), float("inf")])
def test_out_of_limits_is_refused_by_name(name: str, outside: float) -> None:
    transform = transforms.get(name)
    t = torch.tensor([0.0, outside * transform.limits[1]])
    with pytest.raises(InputError, match=f"{name} expects t from .*; got "):
        transform(noise(2, 3, 4, 4), t)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_grey_pictures_have_no_colour_to_change(name: str) -> None:
    with pytest.raises(InputError, match="3 channels; got 1"):
        transforms.get(name)(noise(2, 1, 4, 4), 0.1)


def test_a_count_of_ts_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"per picture \(2\); got shape \[3\]"):
        transforms.get("zoom")(noise(2, 1, 4, 4), torch.zeros(3))


def test_half_precision_moves_as_far_as_single() -> None:
    pictures = noise(1, 1, 4, 512).float()
    moved, _ = transforms.get("translate-x")(pictures, 0.1003)
    halved, _ = transforms.get("translate-x")(pictures.half(), 0.1003)
    assert halved.dtype == torch.float16
    torch.testing.assert_close(halved.float(), moved, atol=2e-3, rtol=0)


def test_a_plugin_writes_where_pixels_come_from() -> None:
    mirror = geometric(lambda x, y, t, size: (-x + 0 * t, y))
    pictures = noise(2, 3, 4, 6)
    flipped, defined = mirror(pictures, torch.zeros(2, dtype=torch.float64))
    assert defined.eq(1).all()
    torch.testing.assert_close(flipped, pictures.flip(3))
