"""Sets of pictures under one encoder: known codes, known divergences, known separations."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.distributions import Normal, kl_divergence
from toys import Blob

from steer.embedding import (
    Accuracy,
    embed,
    require_encoder,
    separability,
    short_names,
    tsne,
)
from steer.errors import InputError
from steer.generators.avae import AVAE
from steer.generators.base import Generator, LatentSpace, PictureShape
from steer.generators.vae import VAE
from steer.picture_sets import Pictures
from steer.plots import map_figure, png


class Corners(Generator):
    """The code is two pixels of a picture; nothing is said of how sure it is."""

    def __init__(self) -> None:
        super().__init__(LatentSpace(2), PictureShape(1, 8, 8))

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures[:, 0, 0, :2]


class Sure(Corners):
    """The same, with standard deviations 0.5 and 1."""

    def posterior(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.encode(pictures)
        return mean, torch.tensor([0.25, 1.0]).log().expand_as(mean)


class Lost(Sure):
    """A network that overflows."""

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().encode(pictures) / 0


def of(tensors: torch.Tensor, bad: tuple[int, ...] = ()) -> Pictures:
    """A set of pictures [n, C, H, W], of which some cannot be read."""
    failed: dict[str, str] = {}

    def read(items: range):
        for i in items:
            if i in bad:
                failed[str(i)] = f"{i}: no picture."
            else:
                yield tensors[i]

    return Pictures("ours", len(tensors), read, failed)


def random(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


# --- encoding ---


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_means_divergence_and_pixels(batch: int) -> None:
    pictures = random(12, 1, 8, 8)
    found = embed(Sure(), of(pictures), batch=batch)
    mean = pictures[:, 0, 0, :2]
    assert torch.equal(found.means, mean) and torch.equal(found.pixels, pictures.flatten(1))
    expected = kl_divergence(Normal(mean, torch.tensor([0.5, 1.0])), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(found.divergence, expected)
    assert found.kl == pytest.approx(float(expected.mean()))


@pytest.mark.parametrize("spread", ["shared", "picture"])
@pytest.mark.parametrize("family", ["vae", "avae"])
def test_the_families_with_an_encoder(family: str, spread: str) -> None:
    torch.manual_seed(0)
    shape = PictureShape(3, 16, 16)
    generator = (
        VAE(shape, 3, (4, 4), (8,))
        if family == "vae"
        else AVAE(shape, 3, xi=2, width=2, encoder=spread)
    ).eval()
    pictures = random(10, 3, 16, 16)
    found = embed(generator, of(pictures), batch=4)
    with torch.no_grad():
        mean, log_variance = generator.posterior(pictures)
        expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(found.means, mean)  # without the xi that no picture tells
    torch.testing.assert_close(found.divergence, expected)


def test_an_encoder_without_posteriors_has_no_divergence() -> None:
    found = embed(Corners(), of(random(10, 1, 8, 8)))
    assert found.divergence is None and found.kl is None and found.means.shape == (10, 2)


def test_pictures_are_fitted_and_large_ones_compared_at_64() -> None:
    class Large(Corners):
        def __init__(self) -> None:
            super().__init__()
            self.picture = PictureShape(1, 128, 128)

    found = embed(Large(), of(torch.full((10, 3, 30, 40), 0.5)))
    assert found.pixels.shape == (10, 64 * 64)
    torch.testing.assert_close(found.pixels, torch.full((10, 64 * 64), 0.5))


def test_n_are_drawn_at_random_from_the_whole_set() -> None:
    numbered = (torch.arange(1000) / 1000)[:, None, None, None].expand(-1, 1, 8, 8)
    drawn = [embed(Sure(), of(numbered), 50, seed).means[:, 0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert len(drawn[0].unique()) == 50 and 0.35 < drawn[0].mean() < 0.65
    assert torch.equal(embed(Sure(), of(numbered[:20]), 50).means[:, 0], numbered[:20, 0, 0, 0])


def test_what_cannot_be_read_is_left_out() -> None:
    pictures, told = of(random(12, 1, 8, 8), bad=(3, 7)), []
    found = embed(Sure(), pictures, batch=5, report=lambda done, said: told.append(done))
    assert len(found.means) == 10 and list(pictures.failed) == ["3", "7"]
    assert told == [5, 10, 12]


@pytest.mark.parametrize(
    ("generator", "pictures", "words"),
    [
        (Blob(), of(random(12, 1, 8, 8)), "expected a generator with an encoder, blob has none"),
        (Sure(), of(random(9, 1, 8, 8)), r"10 or more pictures in ours, got 9\.$"),
        (Sure(), of(random(10, 1, 8, 8), bad=(2,)), r"in ours, got 9: 2: no picture\.$"),
        (
            Lost(),
            of(random(10, 1, 8, 8)),
            "finite codes of ours, lost encodes some pictures as none",
        ),
        (AVAE(PictureShape(1, 16, 16), 2, width=2, encoder=""), of(random(9, 1, 8, 8)), "has none"),
    ],
)
def test_what_cannot_be_encoded(generator: Generator, pictures: Pictures, words: str) -> None:
    with pytest.raises(InputError, match=words):
        embed(generator, pictures)


def test_a_generator_with_an_encoder_passes() -> None:
    require_encoder(Sure())


# --- separability ---


def blobs(distance: float, n: int = 60, d: int = 5, k: int = 3) -> list[torch.Tensor]:
    """k Gaussians, their means `distance` apart on orthogonal axes."""
    return [
        torch.from_numpy(np.random.default_rng(i).standard_normal((n, d))).float()
        + distance * torch.eye(d)[i]
        for i in range(k)
    ]


@pytest.mark.parametrize(("d", "distance"), [(5, 1.5), (400, 3.0)])
def test_it_is_what_scikit_learn_says_without_the_rotation(d: int, distance: float) -> None:
    """Means over folds of equal size are shares of all; 400 features for 180 pictures."""
    sets = blobs(distance, d=d)
    x, y = torch.cat(sets).numpy(), np.repeat([0, 1, 2], 60)
    x = StandardScaler().fit_transform(x)
    scores = cross_validate(
        make_pipeline(LogisticRegression(max_iter=10_000, tol=1e-6)), x, y,
        cv=StratifiedKFold(5, shuffle=True, random_state=3), return_train_score=True,
    )  # fmt: skip
    found = separability(sets, seed=3)
    held_out = np.mean([each.held_out for each in found])
    assert held_out == pytest.approx(scores["test_score"].mean(), abs=0.012)
    assert np.mean([each.train for each in found]) == pytest.approx(
        scores["train_score"].mean(), abs=0.012
    )
    assert held_out > 0.4


def test_sets_of_one_distribution_are_told_apart_by_chance_alone() -> None:
    """Three standard deviations of a binomial around a third."""
    noise = torch.randn(900, 4, generator=torch.Generator().manual_seed(0))
    for each in separability(list(noise.split(300))):
        assert each.held_out == pytest.approx(1 / 3, abs=0.13)
    overall = np.mean([each.held_out for each in separability(list(noise.split(300)))])
    assert overall == pytest.approx(1 / 3, abs=3 * math.sqrt(2 / 9 / 900))


def test_a_small_set_weighs_as_much_as_a_large_one() -> None:
    """Unweighted, nearly all of the small set would be guessed to be of the large one."""
    near = blobs(1.0, n=500, k=2)
    small, large = separability([near[0][:40], near[1]])
    assert small.held_out > 0.6 and large.held_out > 0.6


def test_the_seed_and_the_scale_of_features() -> None:
    sets = blobs(1.0)
    assert separability(sets, seed=1) == separability(sets, seed=1)
    assert separability(sets, seed=1) != separability(sets, seed=2)
    scaled = [each * torch.tensor([1.0, 1e4, 1e-4, 1, 1]) + 7 for each in sets]
    for one, other in zip(separability(sets), separability(scaled), strict=True):
        assert one.held_out == pytest.approx(other.held_out, abs=0.04)


def test_features_that_say_nothing() -> None:
    assert separability([torch.zeros(10, 3), torch.zeros(10, 3)])[0].train in (0.0, 0.5, 1.0)
    far = [torch.cat([torch.zeros(10, 1), torch.full((10, 1), float(i))], 1) for i in range(2)]
    assert separability(far) == [Accuracy(1.0, 1.0)] * 2


# --- the map ---


@pytest.mark.parametrize(("n", "d"), [(20, 1), (20, 2), (120, 10)])
def test_a_map_keeps_sets_apart(n: int, d: int) -> None:
    """Each place's nearest one is of its own set."""
    far = [torch.randn(n // 2, d, generator=torch.Generator().manual_seed(i)) + 40 * i
           for i in range(2)]  # fmt: skip
    places = torch.from_numpy(tsne(torch.cat(far)))
    assert places.shape == (n, 2)
    nearest = (torch.cdist(places, places) + torch.eye(n) * 1e9).argmin(1)
    assert (nearest // (n // 2) == torch.arange(n) // (n // 2)).all()
    assert np.array_equal(places, tsne(torch.cat(far)))


def test_codes_that_are_all_the_same_have_no_map() -> None:
    with pytest.raises(InputError, match="codes that differ for a map"):
        tsne(torch.ones(20, 3))


def test_the_figure_shows_every_place_of_every_set() -> None:
    places = np.random.default_rng(0).standard_normal((70, 2))
    names = [f"set {i}" for i in range(10)] + ["$cost$", "last"]
    counts = [5] * 10 + [12, 8]
    figure = map_figure(places, counts, names, "a map")
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.lines] == counts
    drawn = np.concatenate([line.get_xydata() for line in axes.lines])
    assert np.array_equal(drawn, places)
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 12
    assert [text.get_text() for text in figure.legends[0].get_texts()][10:] == [r"\$cost\$", "last"]
    assert Image.open(io.BytesIO(png(figure))).width == 900


def test_places_of_one_name() -> None:
    assert short_names(["a/train/", "b.zip", "."]) == ["train", "b.zip", "."]
