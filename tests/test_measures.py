"""Measures against scikit-image's regionprops and YIQ, SciPy, closed forms, and the transforms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass
from skimage.color import rgb2yiq
from skimage.measure import regionprops
from torch import Tensor

from steer import generators
from steer.errors import InputError
from steer.measures import Background, Intensity, Measure, finders, others, properties
from steer.transforms import transforms

MASKED = ["area", "rotate", "translate-x", "translate-y", "zoom"]
SIZE = (72, 96)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def ellipse(
    x: float = 0.0, y: float = 0.0, long: float = 16, short: float = 8, degrees: float = 0.0
) -> Tensor:
    """An ellipse [1, 1, 72, 96] with an edge of some pixels, turned counter-clockwise."""
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in SIZE)
    dx, dy = columns[None, :] - x, y - rows[:, None]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    radius = torch.hypot((c * dx + s * dy) / long, (c * dy - s * dx) / short)
    return torch.sigmoid(8 * (1 - radius))[None, None]


def coloured(mask: Tensor) -> Tensor:
    """The object of `mask` in one colour on another, all colours well inside of [0, 1]."""
    thing, background = (
        torch.tensor(c, dtype=torch.float64).view(1, 3, 1, 1)
        for c in ((0.62, 0.5, 0.3), (0.35, 0.38, 0.45))
    )
    return background + mask * (thing - background)


def polygon(corners: int, radius: float, degrees: float) -> Tensor:
    """A regular polygon [1, 1, 72, 96] with an edge of about a pixel."""
    rows, columns = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in SIZE)
    angles = torch.deg2rad(degrees + 360 * torch.arange(corners, dtype=torch.float64) / corners)
    out = torch.stack([a.cos() * columns[None, :] - a.sin() * rows[:, None] for a in angles])
    return torch.sigmoid(4 * (radius - out.amax(dim=0)))[None, None]


@pytest.mark.parametrize("size", [(16, 16), (9, 31), (40, 7)])
def test_barycentre_and_area_of_soft_masks(size: tuple[int, int]) -> None:
    height, width = size
    masks = noise(3, 1, *size) ** 3
    values = Measure(["translate-x", "translate-y", "area", "zoom"])(masks)
    assert values.dtype == torch.float64
    for mask, value in zip(masks[:, 0].numpy(), values.tolist(), strict=True):
        row, column = center_of_mass(mask)
        wanted = [(column + 0.5) / width - 0.5, (row + 0.5) / height - 0.5]
        area = mask.mean()
        assert value == pytest.approx([*wanted, area, math.log2(math.sqrt(area))], abs=1e-12)
        region = regionprops(np.ones(size, dtype=int), intensity_image=mask)[0]
        assert region.centroid_weighted == pytest.approx((row, column))


@pytest.mark.parametrize("degrees", [-89.0, -60.0, -45.0, -10.0, 0.0, 25.0, 45.0, 70.0, 90.0])
def test_principal_axis_against_regionprops(degrees: float) -> None:
    mask = (ellipse(5, -3, degrees=degrees) > 0.5).double()
    region = regionprops(mask[0, 0].long().numpy())[0]
    value = Measure(["rotate"])(mask)[0, 0].item()
    # regionprops turns from the row axis: 0 is upright.
    wanted = torch.tensor(math.degrees(region.orientation) + 90)
    assert properties.get("rotate").difference(torch.tensor(value), wanted).abs() < 1e-6
    assert -90 < value <= 90
    soft = Measure(["rotate"])(ellipse(5, -3, degrees=degrees))[0, 0]
    assert properties.get("rotate").difference(soft, torch.tensor(degrees)).abs() < 0.1


@pytest.mark.parametrize("degrees", [0.0, 10.0, 33.0, 45.0])
@pytest.mark.parametrize("corners", [3, 4, 5, 64])
def test_round_shapes_have_no_axis(corners: int, degrees: float) -> None:
    values = Measure(["rotate", "area"])(polygon(corners, 14, degrees))
    assert values[0, 0].isnan() and values[0, 1] > 0.05


def test_noise_has_a_middle_but_neither_axis_nor_hue() -> None:
    pictures = noise(8, 3, 64, 64)
    values = Measure(["translate-x", "translate-y", "rotate", "hue", "saturation"])(pictures)
    assert values[:, :2].abs().max() < 0.02
    assert values[:, 2:4].isnan().all()
    assert values[:, 4].isfinite().all()


@pytest.mark.parametrize("find", ["intensity", "background"])
def test_nothing_found_is_nan_and_pictures_still_have_brightness(find: str) -> None:
    pictures = torch.cat([torch.zeros(1, 1, *SIZE), ellipse(), torch.zeros(1, 1, *SIZE)])
    values = Measure([*MASKED, "brightness"], find)(pictures)
    assert values[[0, 2], :-1].isnan().all()
    assert values[1].isfinite().all() and values[:, -1].isfinite().all()


@pytest.mark.parametrize(("level", "found"), [(0.0029, False), (0.0031, True)])
def test_the_gate_is_on_the_mean_of_the_mask(level: float, found: bool) -> None:
    value = Measure(["area"])(torch.full((1, 1, 8, 8), level))
    assert value.isfinite().item() is found


def test_pictures_without_contrast_or_colour() -> None:
    values = Measure(["contrast", "saturation", "hue"])(torch.full((1, 3, 8, 8), 0.4))
    assert values.isnan().all()


def test_luminance_and_colour_against_the_yiq_of_scikit_image() -> None:
    pictures = 0.7 * noise(4, 3, 12, 10) * torch.tensor([1.0, 0.6, 0.3]).view(1, 3, 1, 1)
    values = Measure(["brightness", "contrast", "saturation", "hue"])(pictures)
    for picture, value in zip(pictures.numpy(), values.tolist(), strict=True):
        y, i, q = rgb2yiq(picture, channel_axis=0)
        chroma = i + 1j * q
        # The circular mean weighted by chroma, spelled out.
        unit = chroma / np.abs(chroma)
        hue = np.angle((np.abs(chroma) * unit).sum(), deg=True)
        wanted = [y.mean(), np.log2(y.std()), np.log2(np.abs(chroma).mean()), hue]
        assert value == pytest.approx(wanted, abs=1e-2)
        assert value[:2] == pytest.approx(wanted[:2], abs=1e-9)


# saliency, which has weights, is tested on photos
FINDERS = ("intensity", "background")
AGREEMENT = [(n, f) for n in properties.names() if n in transforms for f in FINDERS]


@pytest.mark.parametrize(("name", "find"), AGREEMENT)
@pytest.mark.parametrize("fraction", [-1.0, -0.4, 0.3, 1.0])
def test_a_transform_by_t_moves_its_measure_by_t(name: str, find: str, fraction: float) -> None:
    transform, item = transforms.get(name), properties.get(name)
    mask = ellipse(3.3, -2.7, degrees=20)
    pictures = coloured(mask) if item.needs == "picture" or find == "background" else mask
    t = fraction * transform.default_range
    measure = Measure([name], find)
    before, after = measure(pictures), measure(transform(pictures, t)[0])
    assert measure.difference(after, before, name).item() == pytest.approx(t, abs=item.tolerance)


@pytest.mark.parametrize("find", ["intensity", "background"])
def test_a_small_move_changes_the_measure_smoothly(find: str) -> None:
    measure = Measure(["translate-x"], find)
    places = [measure(coloured(ellipse(0.01 * k)))[0, 0].item() for k in range(100)]
    steps = np.diff(places)
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.min()


@pytest.mark.parametrize("channels", [1, 3])
def test_background_finds_dark_objects_as_it_finds_bright_ones(channels: int) -> None:
    pictures = noise(2, channels, 1, 1) * ellipse(4, 2)
    torch.testing.assert_close(Background()(pictures), Background()(1 - pictures))


def test_background_of_an_object_that_reaches_over_the_border() -> None:
    picture = torch.full((1, 1, 20, 20), 0.8)
    picture[..., :8, 5:12] = 0.1
    wanted = (picture < 0.5).float()
    torch.testing.assert_close(Background()(picture), wanted)


@pytest.mark.shared
def test_background_follows_generated_chairs(shared: Path) -> None:
    chairs = generators.load(str(shared / "data/generators/disvae/VAE_chairs"), "cpu")
    with torch.no_grad():
        pictures = chairs(chairs.latent.sample(32, seed=0))
    measure = Measure(["translate-x", "translate-y", "area"], "background")
    before = measure(pictures)
    assert before[:, :2].abs().max() < 0.15
    assert before[:, 2].min() > 0.02 and before[:, 2].max() < 0.3
    after = measure(transforms.get("translate-x")(pictures, 0.051)[0])
    moved = measure.difference(after, before, "translate-x")
    torch.testing.assert_close(moved[:, 0], torch.full_like(moved[:, 0], 0.051), atol=0.005, rtol=0)


@pytest.mark.parametrize("find", ["intensity", "background"])
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_are_soft_and_shaped_alike(find: str, channels: int) -> None:
    mask = finders.get(find)()(noise(2, channels, 6, 7).float())
    assert mask.shape == (2, 1, 6, 7)
    assert mask.min() >= 0 and mask.max() <= 1


@given(st.floats(-500, 500), st.floats(-500, 500), st.sampled_from(["rotate", "hue", "zoom"]))
def test_differences_wrap_into_half_a_period(a: float, b: float, name: str) -> None:
    difference = properties.get(name).difference(*torch.tensor([a, b], dtype=torch.float64))
    period = properties.get(name).period
    if period is None:
        assert difference.item() == a - b
    else:
        assert -period / 2 <= difference <= period / 2
        turns = (a - b - difference.item()) / period
        assert turns == pytest.approx(round(turns), abs=1e-9)


@pytest.mark.parametrize(("a", "b", "wanted"), [(90, 0, 90), (0, 90, 90), (80, -80, -20)])
def test_half_a_period_apart_is_positive(a: float, b: float, wanted: float) -> None:
    difference = properties.get("rotate").difference(torch.tensor(a), torch.tensor(b))
    assert difference.item() == wanted


class Nowhere:
    """A finder that counts how often it is asked, and finds a corner."""

    name = "nowhere"
    gate = 0.0

    def __init__(self) -> None:
        self.dtypes: list[torch.dtype] = []

    def __call__(self, pictures: Tensor) -> Tensor:
        self.dtypes.append(pictures.dtype)
        mask = torch.zeros_like(pictures[:, :1])
        mask[..., 0, 0] = 1
        return mask


def test_a_finder_of_ones_own_is_asked_once_and_only_for_masks() -> None:
    find = Nowhere()
    pictures = torch.rand(2, 3, 4, 4)
    Measure(["brightness", "hue"], find)(pictures)
    assert find.dtypes == []
    values = Measure(["translate-x", "brightness", "translate-y"], find)(pictures)
    # Its network, if it had one, would see the pictures' own precision.
    assert find.dtypes == [torch.float32]
    assert values[:, [0, 2]].tolist() == [[-0.375, -0.375]] * 2


def test_pictures_are_measured_alone_and_in_order() -> None:
    pictures = torch.cat([coloured(ellipse(5 * k, degrees=10 * k)) for k in range(3)])
    names = ["hue", "rotate", "translate-x"]
    together = Measure(names)(pictures)
    alone = torch.cat([Measure(names)(pictures[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(together, alone)
    for column, name in enumerate(names):
        torch.testing.assert_close(together[:, column], Measure([name])(pictures)[:, 0])


def test_measures_have_gradients() -> None:
    pictures = coloured(ellipse())
    pictures[..., :3, :3] = 0  # has no hue to have a gradient
    pictures.requires_grad_()
    names = properties.names()
    for column, value in enumerate(Measure(names, "background")(pictures)[0]):
        (gradient,) = torch.autograd.grad(value, pictures, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().max() > 0, names[column]


@pytest.mark.parametrize(
    ("names", "find", "message"),
    [
        (["translate-z"], "intensity", "unknown property 'translate-z': did you mean translate-y"),
        (["shear-x"], "intensity", "shear-x is not measurable: .* measurable are area, bright"),
        (["zoom"], "intensty", "unknown measure 'intensty': did you mean intensity"),
        ([], "intensity", "expected properties to measure, of area, "),
    ],
)
def test_what_cannot_be_measured(names: list[str], find: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Measure(names, find)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_grey_pictures_have_no_colour(name: str) -> None:
    with pytest.raises(InputError, match="3 channels; got 1"):
        Measure([name])(ellipse())


def test_tolerances_and_units_are_those_of_the_specification() -> None:
    log2, angle, fraction = 0.02, 1.0, 0.005
    wanted = {"zoom": log2, "contrast": log2, "saturation": log2, "rotate": angle, "hue": angle}
    for name in properties.names():
        item = properties.get(name)
        assert item.tolerance == wanted.get(name, fraction)
        if name in transforms:
            assert item.unit == transforms.get(name).unit


def test_the_mask_of_intensity_is_the_luminance() -> None:
    picture = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert Intensity()(picture).item() == pytest.approx(0.299)


def test_what_another_direction_moves_is_its_property_in_another_unit() -> None:
    pictures = torch.cat([ellipse(length) for length in (4, 8)])
    moved = [p for p in map(properties.get, properties.names()) if p.moved_by]
    assert [(p.name, p.moved_by) for p in moved] == [("area", "zoom")]
    area, zoom = Measure(["area", "zoom"])(pictures).unbind(1)
    torch.testing.assert_close(moved[0].in_movers_unit(area), zoom)
    assert moved[0].in_movers_unit(torch.tensor([-0.1, 0.0])).isfinite().all()
    assert torch.equal(properties.get("zoom").in_movers_unit(zoom), zoom)


@pytest.mark.parametrize("name", ["rotate", "hue", "zoom"])
@given(middle=st.floats(-400, 400), width=st.floats(0, 0.1))
def test_values_opened_are_those_of_a_line(name: str, middle: float, width: float) -> None:
    prop = properties.get(name)
    period = prop.period or 360.0
    true = middle + period * width * torch.linspace(-2, 2, 9, dtype=torch.float64)
    seen = prop.difference(true, torch.zeros_like(true))
    opened = prop.opened(torch.cat([seen, torch.tensor([math.nan])]))
    assert opened[-1].isnan()
    turns = (opened[:-1] - true) / period
    assert torch.allclose(turns, turns.mean().round().expand(9), atol=1e-6)


def test_nothing_found_is_opened_to_nothing() -> None:
    assert properties.get("hue").opened(torch.full((3,), math.nan)).isnan().all()


@pytest.mark.parametrize(
    ("own", "besides"),
    [("zoom", ["hue"]), ("area", ["hue"]), ("hue", ["zoom"]), ("smile", ["zoom", "hue"])],
)
def test_zoom_and_area_are_one(own: str, besides: list[str]) -> None:
    assert others(["zoom", "area", "hue"], own) == besides
    assert others(["area", "hue"], "hue") == ["area"]
