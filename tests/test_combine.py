"""Latent arithmetic: steer render --combine, and the encoder's start of steer invert under it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Steer, latents_of, photo, refused, z_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steer.datasets import Factors, Sprites
from steer.errors import InputError
from steer.files import Artefact, how_made, load, save
from steer.generators import generators
from steer.generators import load as load_generator
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.images import fit, read_image, write_png
from steer.rendering import combine, combined

SUM = ("--combine=1,1,-1",)
#: The encoder's mean and nothing after it, wherever it lies.
MEANS = ("--start", "encoder", "--steps", 1, "--constraint", "none")


class Told(Generator):
    """Two numbers are how bright the halves of a picture are, one of three classes its top row."""

    def __init__(self) -> None:
        super().__init__(LatentSpace(2), PictureShape(1, 4, 4), Condition(torch.eye(3)))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        shown = (z[:, :2] / 10).repeat_interleave(8, 1).reshape(-1, 1, 4, 4)
        shown[:, 0, 0, :3] = z[:, 2:]
        return shown


@pytest.fixture
def told(tmp_path: Path, listed: Callable[..., None]) -> Path:
    """Six codes of `told`, three of each of two classes."""
    listed(generators, "told", Told)
    z = torch.tensor([[1.0, 2], [3, 4], [2, 1], [0, 1], [1, 1], [0, 0]])
    classes = torch.eye(3)[[2, 2, 2, 0, 0, 0]]
    return latents(torch.cat([z, classes], dim=1), "told", tmp_path / "told.safetensors")


def latents(z: torch.Tensor, model: str, path: Path, **made: object) -> Path:
    described = how_made("invert", load_generator(model, "cpu").identity(), seed=0)
    save(Artefact("latents", {"z": z}, {**described, **made}), path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path), dtype=int)


# --- the sum ---


@given(
    groups=st.integers(1, 4),
    weights=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=5),
    dim=st.integers(1, 6),
)
def test_it_is_the_weighted_sum_of_each_group(groups: int, weights: list[float], dim: int) -> None:
    random = np.random.default_rng(dim)
    z = random.standard_normal((groups * len(weights), dim)).astype(np.float32)
    told = np.repeat(random.standard_normal((groups, 2)), len(weights), 0).astype(np.float32)
    found = combine(torch.from_numpy(np.hstack([z, told])), weights, dim).numpy()
    for g, row in enumerate(found):
        mine = slice(g * len(weights), (g + 1) * len(weights))
        assert row[:dim] == pytest.approx(np.dot(weights, z[mine]), abs=1e-5)
        assert (row[dim:] == told[mine][0]).all()


def test_classes_that_differ_are_refused() -> None:
    z = torch.tensor([[0.0, 1, 0], [1, 1, 0], [2, 1, 0], [3, 0, 1]])
    with pytest.raises(InputError, match="one class to combine, items 2 to 3 differ in theirs"):
        combine(z, [1, 1], dim=1)
    assert combine(z, [1, 1], dim=3).tolist() == [[1, 2, 0], [5, 1, 1]]


def test_names() -> None:
    names = combined(["a", "b", "c", "d"], [1, -0.5])
    assert names == ["+1 a -0.5 b", "+1 c -0.5 d"]


# --- the command ---


def test_pictures_of_sums(steer: Steer, told: Path, tmp_path: Path) -> None:
    """2 5 of class 2, and 1 2 of class 0, over 10; the manifest says of what."""
    assert steer("render", told, *SUM, "-o", tmp_path / "sums").status == 0
    first, second = (pixels(path) for path in sorted((tmp_path / "sums").glob("*/*.png")))
    if first[0, 2] == 0:  # folders of classes, in the order of their names
        first, second = second, first
    assert first[0, :3].tolist() == [0, 0, 255] and second[0, :3].tolist() == [255, 0, 0]
    assert [first[1, 0], first[3, 3]] == [51, 128] and [second[1, 0], second[3, 3]] == [26, 51]
    manifest = json.loads((tmp_path / "sums" / "manifest.json").read_text())
    assert manifest["made"]["options"]["combine"] == [1, 1, -1]


def test_settings_hold_after_the_sum(steer: Steer, knob: Path, tmp_path: Path) -> None:
    z = latents_of("blob", 6, tmp_path / "z.safetensors", seed=5)
    asked = ("-d", knob, "--set", "translate-x=0.1", "--exact")
    ended = steer("render", z, *SUM, *asked, "-o", tmp_path / "a.png", "--json")
    assert ended.status == 0, ended.err
    items = ended.summary["items"]
    assert len(items) == 2
    for item in items:
        assert item["measured"]["translate-x"] == pytest.approx(0.1, abs=0.005)
    codes = combine(z_of(z), [1, 1, -1], 6)
    by_hand = latents(codes, "blob", tmp_path / "sum.safetensors")
    assert steer("render", by_hand, *asked, "-o", tmp_path / "b.png").status == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_photos_by_the_encoder_alone(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    """Equation 4.1 on means: what goes through the pipe is what the encoder says, bit for bit."""
    photos = [photo(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    piped = steer("invert", *photos, "--model", tiny, *MEANS)
    assert piped.status == 0, piped.err
    vae = load_generator(str(tiny), "cpu")
    with torch.no_grad():
        means = vae.encode(torch.stack([fit(read_image(p), *vae.picture) for p in photos]))
        shown = vae(means[:1] + means[1:2] - means[2:])[0]
    assert torch.equal(z_of(piped.out), means)
    assert set(load(piped.out).tensors["evaluations"].tolist()) == {1}
    ended = steer("render", *SUM, "-", "-o", f"{tmp_path}/out/", "--json", stdin=piped.out)
    assert ended.status == 0, ended.err
    (path,) = (tmp_path / "out").glob("*/*.png")
    expected = (shown.permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(pixels(path) - expected).max() <= 1
    (row,) = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    assert f"+1 {photos[0]} +1 {photos[1]} -1 {photos[2]}" in json.loads(row).values()


def test_sums_of_sprites_show_what_equation_4_1_says(steer: Steer, tmp_path: Path) -> None:
    """An object with the size and colours of a, moved as from c to b."""
    # x, y, zoom, angle, brightness, hue, shape; the last is what the sum should be
    rows = [(-0.2, 0.1, -0.5, 0, 0, 30, 1),
            (0.2, -0.1, 0.6, 0, 0, -40, 1),
            (-0.2, 0.1, 0.6, 0, 0, -40, 1),
            (0.2, -0.1, -0.5, 0, 0, 30, 1)]  # fmt: skip
    shown = Sprites().draw(Factors(*torch.tensor(rows).T))
    for name, picture in zip("abc", shown, strict=False):
        write_png(tmp_path / f"{name}.png", picture)
    photos = [tmp_path / f"{name}.png" for name in "abc"]
    z = steer("invert", *photos, *MEANS, "--model", "sprites").out
    assert steer("render", *SUM, "-", "-o", f"{tmp_path}/out/", stdin=z).status == 0
    (path,) = (tmp_path / "out").glob("*/*.png")
    errors = (shown - read_image(path)).square().mean((1, 2, 3))
    assert errors[3] < 0.3 * errors[:3].min()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--combine=1,1"], ["codes in groups of 2 for 2 weights to combine, got 5"]),
        (["--combine=1,b"], ["a number for --combine", "'b'"]),
        (["--combine=1,nan"], ["a number for --combine", "'nan'"]),
        (["--combine="], ["a number for --combine", "''"]),
    ],
)
def test_mistakes(steer: Steer, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    z = latents_of("blob", 5, tmp_path / "z.safetensors")
    refused(steer("render", z, *arguments, "-o", tmp_path / "a.png"), *words)


def test_nothing_to_combine(steer: Steer) -> None:
    refused(steer("render", "--model", "blob", *SUM), "no --combine without latents")


def test_codes_of_several_classes(steer: Steer, told: Path, tmp_path: Path) -> None:
    ended = steer("render", told, "--combine=1,-1", "-o", tmp_path / "a.png")
    refused(ended, "expected codes of one class to combine, items 2 to 3 differ", "--class")
