"""Pictures of several objects against their own ground truth, by independent measures."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from skimage.io import imsave
from skimage.measure import regionprops

from steer.datasets import MultiMNIST, Resized, Scenes, is_procedural, open_dataset, read_digits
from steer.datasets.scenes import truth
from steer.errors import InputError

MANY = torch.arange(400)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """Seven bars of different widths."""
    bars = torch.zeros(7, 20, 20)
    for i, bar in enumerate(bars):
        bar[:, : 4 + 2 * i] = 1
    return bars


# --- every set ---


@given(st.lists(st.integers(0, 1 << 45), min_size=1, max_size=4), st.randoms())
def test_item_i_is_always_the_same(digits, indices, random):
    order = random.sample(range(len(indices)), len(indices))
    shuffled = torch.tensor([indices[i] for i in order])
    for made in (Scenes(), MultiMNIST(digits)):
        whole, found = (made.pictures(torch.tensor(indices)), made.truth(torch.tensor(indices)))
        assert torch.equal(made.pictures(shuffled), whole[order])
        assert torch.equal(made.truth(shuffled).masks, found.masks[order])


def test_boxes_are_those_of_the_masks(digits):
    for made in (Scenes(), MultiMNIST(digits)):
        found = made.truth(torch.arange(12))
        side = made.shape[1]
        for masks, boxes, present in zip(found.masks, found.boxes, found.present, strict=True):
            for mask, box, there in zip(masks, boxes, present, strict=True):
                if not there:
                    assert box.isnan().all()
                    continue
                top, left, bottom, right = regionprops((mask.numpy() > 0.5).astype(int))[0].bbox
                assert (box * side).tolist() == pytest.approx([left, top, right, bottom])


# --- scenes ---


def test_scenes_are_as_they_say():
    scenes = Scenes()
    layout, pictures = scenes.layout(MANY), scenes.pictures(MANY[:32])
    counts = layout.there.sum(1)
    assert (counts.min(), counts.max()) == (1, 8)
    assert stats.chisquare(torch.bincount(counts)[1:]).pvalue > 0.001
    assert stats.chisquare(torch.bincount(layout.shape[layout.there])).pvalue > 0.001
    sizes = layout.size[layout.there].log2()
    assert stats.kstest(sizes, "uniform", (np.log2(0.05), 2)).pvalue > 0.001
    assert pictures.shape == (32, 3, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
    assert is_procedural("scenes") and torch.equal(open_dataset("scenes").pictures(MANY[:2]),
                                                   pictures[:2])  # fmt: skip


def test_a_picture_is_its_objects_over_its_background():
    """The nearer over the farther: what is seen of all, and what is left, make up the picture."""
    scenes = Scenes()
    layout, found = scenes.layout(MANY[:16]), scenes.truth(MANY[:16])
    left = 1 - found.masks.sum(1, keepdim=True)
    assert left.min() > -1e-6
    painted = torch.einsum("bnhw,bnc->bchw", found.masks, layout.colour)
    whole = left * scenes.backgrounds(layout.background) + painted
    torch.testing.assert_close(scenes.pictures(MANY[:16]), whole.clamp(0, 1), atol=1e-5, rtol=0)


def test_objects_lie_where_they_say_and_are_as_large():
    """By moments of the masks of objects that nothing covers."""
    scenes = Scenes()
    layout = scenes.layout(MANY)
    alphas = scenes.alphas(layout)
    free = layout.there & (layout.shape == 1) & (layout.size > 0.1)  # ellipses
    places = (torch.arange(64) + 0.5) / 64 - 0.5
    alpha = alphas[free]
    mass = alpha.sum((1, 2))
    x = (alpha.sum(1) * places).sum(1) / mass
    y = (alpha.sum(2) * places).sum(1) / mass
    torch.testing.assert_close(x, layout.x[free], atol=1e-3, rtol=0)
    torch.testing.assert_close(y, layout.y[free], atol=1e-3, rtol=0)
    area = torch.pi * 0.8 * scenes.aspect * layout.size[free] ** 2
    torch.testing.assert_close(mass / 64**2, area, atol=0, rtol=0.03)
    turned = [regionprops((a.numpy() > 0.5).astype(int))[0].orientation for a in alpha]
    axis = np.rad2deg(turned) + 90  # skimage's is from the vertical
    off = (axis - layout.angle[free].numpy() + 90) % 180 - 90
    assert np.abs(off).max() < 6


def test_no_object_leaves_the_picture():
    scenes = Scenes()
    alphas = scenes.alphas(scenes.layout(MANY))
    edges = (alphas[..., 0, :], alphas[..., -1, :], alphas[..., :, 0], alphas[..., :, -1])
    assert max(edge.max() for edge in edges) < 0.6


@pytest.mark.parametrize(("covered", "counts"), [(5, 2), (6, 2), (7, 1), (8, 1)])
def test_what_is_seen_less_than_a_quarter_of_is_not_to_be_found(covered, counts):
    alphas = torch.zeros(1, 2, 1, 16)
    alphas[0, 0, 0, :8] = 1
    alphas[0, 1, 0, :covered] = 1
    found = truth(alphas, torch.tensor([[True, True]]))
    assert found.counts.item() == counts
    assert found.labels.unique().tolist() == ([0, 1, 2] if counts == 2 else [0, 2])


def test_what_is_not_there_covers_nothing():
    found = truth(torch.ones(1, 3, 2, 2), torch.tensor([[True, False, False]]))
    assert found.present.tolist() == [[True, False, False]] and (found.labels == 1).all()


# --- digits ---


def test_digits_are_apart_and_all_there(digits):
    sums = MultiMNIST(digits)
    found, chosen = sums.truth(MANY[:100]), sums.chosen(MANY[:100])
    assert torch.equal(found.present, chosen >= 0)
    counts = torch.bincount(found.counts, minlength=6)
    assert counts[0] == 0 and (counts[1:] > 8).all()
    inks = found.masks.sum((2, 3))
    whole = torch.cat([digits.sum((1, 2)), torch.zeros(1)])[chosen]
    assert (inks >= 0.5 * whole).all() and (inks == whole).float().mean() > 0.8


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    """Three pictures of 28x28 in MNIST's own format."""
    pictures = np.zeros((3, 28, 28), np.uint8)
    for i, picture in enumerate(pictures):
        picture[4:24, 3 + i : 9 + i] = 255
    (tmp_path / "idx").write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 3, 28, 28)
                                   + pictures.tobytes())  # fmt: skip
    return tmp_path / "idx"


def test_digits_of_a_folder_an_idx_file_and_a_packed_one_are_the_same(idx, tmp_path):
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx.read_bytes()))
    (tmp_path / "folder").mkdir()
    for i in range(3):
        picture = np.zeros((28, 28), np.uint8)
        picture[4:24, 3 + i : 9 + i] = 255
        imsave(tmp_path / "folder" / f"{i}.png", picture, check_contrast=False)
    first, *others = (read_digits(str(tmp_path / n)) for n in ("idx", "packed.gz", "folder"))
    assert first.shape == (3, 20, 20) and (first[0] == first[2]).all()  # centred
    assert first[0, :, 7:13].min() == 1 and first.sum() == 3 * 20 * 6
    for other in others:
        torch.testing.assert_close(other, first)
    opened = open_dataset(f"multi-mnist:{idx}")
    assert torch.equal(opened.pictures(MANY[:3]), MultiMNIST(first).pictures(MANY[:3]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-5], "expected 3 pictures of 28x28, got 2347 bytes"),
        (lambda data: b"text" + data, "expected a folder of digits or an idx file"),
        (lambda data: data[:3], "expected a folder of digits or an idx file"),
        (lambda data: gzip.compress(data)[:-9], "expected a gzip file of digits, got a damaged"),
        (lambda data: data[:16] + bytes(3 * 28 * 28), "digit 0: expected a digit, white on black"),
        (lambda data: data[:16] + b"\xff" * 3 * 28 * 28, "20x20 pixels or less.*got 28x28"),
    ],
)
def test_digits_that_cannot_be_read(idx, change, said):
    idx.write_bytes(change(idx.read_bytes()))
    with pytest.raises(InputError, match=said):
        read_digits(str(idx))


@pytest.mark.shared
def test_mnist_itself(shared):
    place = shared / "data" / "datasets" / "mnist" / "t10k-images-idx3-ubyte.gz"
    digits = read_digits(str(place))
    assert digits.shape == (10_000, 20, 20) and 0.1 < digits.mean() < 0.35


# --- at another size ---


def test_resized_pictures_are_those_of_pillow(digits):
    whole, resized = MultiMNIST(digits), Resized(MultiMNIST(digits), 64)
    pictures = resized.pictures(MANY[:4])
    assert pictures.shape == (4, *resized.shape) == (4, 3, 64, 64)
    assert resized.size is None and resized.name == f"{whole.name} at 64x64"
    for picture, original in zip(pictures, whole.pictures(MANY[:4]), strict=True):
        oracle = Image.fromarray(original[0].numpy()).resize((64, 64), Image.Resampling.BILINEAR)
        for channel in picture:
            torch.testing.assert_close(channel.numpy(), np.asarray(oracle), atol=1e-5, rtol=0)


def test_resized_truth_lies_where_it_lay(digits):
    whole, resized = MultiMNIST(digits).truth(MANY), Resized(MultiMNIST(digits), 64).truth(MANY)
    assert torch.equal(resized.present, whole.present)
    off = (resized.boxes - whole.boxes).abs()[whole.present]
    assert off.max() <= 1 / 64 and off.mean() < 0.5 / 64
    same = Resized(Scenes(), 64).truth(MANY[:4])
    assert torch.equal(same.masks, Scenes().truth(MANY[:4]).masks)


def test_what_is_too_small_to_be_seen_is_not_to_be_found():
    dots = torch.zeros(1, 20, 20)
    dots[0, 10, 10] = 1
    assert (MultiMNIST(dots).truth(MANY[:4]).counts > 0).all()
    assert (Resized(MultiMNIST(dots), 21).truth(MANY[:4]).counts == 0).all()


def test_pictures_that_are_not_resized(digits):
    class Wide(MultiMNIST):
        shape = (1, 84, 42)

    with pytest.raises(InputError, match=r"square pictures.* got 1 of 84x42 from multi-m"):
        Resized(Wide(digits))
