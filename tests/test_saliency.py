"""The salient object: U2-Net against the reference's maps, its names, and what it finds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, ImageOps

from steer import saliency
from steer.errors import InputError
from steer.measures import Background, Measure, finder, finder_factory
from steer.saliency import FULL, SIDE, SMALL, Salient, U2Net, names, published, u2net


def count(expected: dict[str, tuple[int, ...]]) -> int:
    """Weights that are learnt: without the batch norms' statistics."""
    learnt = [shape for name, shape in expected.items() if "running" not in name]
    return sum(int(np.prod(shape)) for shape in learnt)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory):
    """A file of random weights under the published names."""
    noise = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published(SMALL).items():
        value = torch.randn(shape, generator=noise)
        is_kernel = len(shape) == 4
        state[name] = value / np.sqrt(np.prod(shape[1:])) if is_kernel else 0.1 * value
        if name.endswith(("bn_s1.weight", "running_var")):
            state[name] = 1 + 0.1 * value.abs()
    path = tmp_path_factory.mktemp("u2net") / "u2netp.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.mark.parametrize(("shapes", "learnt"), [(SMALL, 1_131_181), (FULL, 44_009_869)])
def test_the_sizes_are_the_published_ones(shapes, learnt):
    assert count(published(shapes)) == learnt
    assert len(published(shapes)) == 686


@pytest.mark.shared
def test_maps_equal_the_references(shared):
    folder = shared / "data"
    network = u2net(str(folder / "saliency/u2netp.safetensors"))
    for name, wanted in np.load(folder / "saliency/reference_maps_320.npz").items():
        photo = ImageOps.exif_transpose(Image.open(folder / "photos" / name)).convert("RGB")
        small = np.array(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        picture = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            found = network(saliency.standardised(picture))[0, 0].numpy()
        assert np.abs(found - wanted).max() < 1e-4, name
        assert found.max() > 0.9


def test_batch_norms_are_folded(weights):
    """The first block's entry, as torch's own layers compute it."""
    state = safetensors.torch.load_file(weights)
    network = u2net(str(weights))
    x = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    convolved = torch.nn.functional.conv2d(
        x, state["stage1.rebnconvin.conv_s1.weight"], state["stage1.rebnconvin.conv_s1.bias"],
        padding=1,
    )  # fmt: skip
    statistics = (state[f"stage1.rebnconvin.bn_s1.{n}"] for n in ("running_mean", "running_var"))
    affine = (state[f"stage1.rebnconvin.bn_s1.{n}"] for n in ("weight", "bias"))
    wanted = torch.nn.functional.batch_norm(convolved, *statistics, *affine).relu()
    torch.testing.assert_close(network.stages[0].entry(x), wanted, atol=1e-5, rtol=1e-5)


def test_names_of_the_full_network_are_the_small_ones():
    assert names(SMALL) == names(FULL)
    with torch.device("meta"):
        own = U2Net(FULL).state_dict()
    assert own.keys() == {f"{n}.{each}" for n in names(FULL) for each in ("weight", "bias")}


@pytest.mark.parametrize(
    "shape", [(2, 3, 64, 64), (1, 1, 50, 50), (1, 3, 40, 90), (1, 3, 400, 400)]
)
def test_pictures_of_any_size_and_of_no_colour(weights, shape):
    pictures = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    masks = Salient(str(weights))(pictures)
    height, width = shape[2:]
    size = (SIDE, SIDE) if height == width else (height, width)
    assert masks.shape == (shape[0], 1, *size)
    assert masks.min() > 0 and masks.max() < 1
    grey = pictures.mean(1, keepdim=True)
    torch.testing.assert_close(
        Salient(str(weights))(grey), Salient(str(weights))(grey.expand(-1, 3, -1, -1))
    )


def test_each_picture_is_seen_by_itself(weights):
    find = Salient(str(weights))
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    pictures[1:] *= 0.3  # brightness is divided out, picture by picture
    alone = torch.cat([find(picture[None]) for picture in pictures])
    torch.testing.assert_close(find(pictures), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(find(0.5 * pictures), alone, atol=1e-4, rtol=0)


def test_black_pictures_give_numbers(weights):
    assert Salient(str(weights))(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_a_measure_names_its_weights(weights):
    measure = Measure(["translate-x"], f"saliency:{weights}")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert measure.find.name == f"saliency:{weights}#sha256={digest}" and measure.find.gate == 0.02
    assert finder(measure.find.name).name == measure.find.name
    with pytest.raises(InputError, match="expected SHA-256 " + "0" * 64):
        finder(f"saliency:{weights}#sha256={'0' * 64}")
    assert measure(torch.rand(2, 3, 32, 32)).shape == (2, 1)
    assert finder_factory("saliency") == (Salient, ())
    assert finder("background") == Background()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("salency", "did you mean saliency"),
        ("intensity:x.pt", "expected a measure's name, or saliency:FILE, got 'intensity:x.pt'"),
        ("saliency:", "got 'saliency:'"),
        ("saliency:gone.pt", "no such file: gone.pt"),
    ],
)
def test_measures_that_are_not_there(text, said):
    with pytest.raises(InputError, match=said):
        finder(text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("stage1.rebnconv1.conv_s1.weight", torch.tensor(1.0), "does not fit"),
        ("stage1.rebnconv1.conv_s1.bias", torch.tensor(1.0), "does not fit"),
        ("stage2.rebnconv1.bn_s1.running_var", torch.full((16,), -1.0), "expected finite numbers"),
    ],
)
def test_weights_that_are_spoilt(weights, tmp_path, name, value, said):
    path = tmp_path / "spoilt.safetensors"
    safetensors.torch.save_file({**safetensors.torch.load_file(weights), name: value}, path)
    with pytest.raises(InputError, match=said):
        u2net(str(path))


def test_weights_of_something_else(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"x\.safetensors does not fit: missing stage1"):
        u2net(str(path))
