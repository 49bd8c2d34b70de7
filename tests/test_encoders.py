"""Encoders fitted to generators, and searches that start from them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from commands import Steer, photo, refused
from toys import Linear

from steer.encoders import Encoder, fitted, guess, keep, place_of
from steer.errors import InputError
from steer.files import load as load_file
from steer.generators import load
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.inversion import Search, invert
from steer.training.encoder import Codes, Encoding, Gain, gain, spread
from steer.training.loop import train
from steer.training.team import Noise

SMALL = "test_resnet"
QUICK = ("--backbone", SMALL, "--steps", 4, "--batch", 4, "--every", 2)
MADE = {"model": "linear", "samples": 1, "seed": 0}


class Named(Linear):
    """A generator with a checksum, as those of `load` have."""

    def __init__(self, checksum: str = "abc"):
        super().__init__()
        self.checksum = checksum


class Told(Generator):
    """Pictures of two latents and a class of two numbers."""

    def __init__(self):
        condition = Condition(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        super().__init__(LatentSpace(2), PictureShape(1, 16, 16), condition)
        self.checksum = "told"

    def forward(self, codes):
        return (0.5 + 0.1 * codes).repeat(1, 64).view(-1, 1, 16, 16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """An encoder's folder after 150 steps, and the code errors on the way."""
    torch.manual_seed(0)
    linear, errors = Named(), []
    objective = Encoding(linear, Encoder(linear.picture, 6, SMALL), steps=150)
    folder = train(
        objective, Codes(linear), tmp_path_factory.mktemp("encoder") / "run", MADE,
        steps=150, batch=32, report=lambda _, stats: errors.append(stats["code error"]),
    )  # fmt: skip
    return folder, errors


def test_an_encoder_learns_the_codes(learned, home):
    folder, errors = learned
    assert 0.8 < sum(errors[:5]) / 5 < 3 and sum(errors[-10:]) / 10 < 0.4
    linear = Named()
    place_of(linear).parent.mkdir()
    place_of(linear).symlink_to(folder)
    z = linear.sample(64, seed=1)
    guessed = guess(linear, linear(z))
    assert (guessed - z).square().mean() < 0.3
    # what starts there is near at once, and the answer says where it came from
    found = invert(linear, linear(z), Search(steps=1, loss="mse"))
    blind = invert(
        linear, linear(z), Search(steps=1, loss="mse", start="prior", restarts=1, pool=1)
    )
    assert found.loss.median() < 0.3 * blind.loss.median() and (found.evaluations == 1).all()


def test_another_generator_has_none(learned):
    place_of(Named()).parent.mkdir()
    place_of(Named()).symlink_to(learned[0])
    assert fitted(Named()) is not None
    assert fitted(Named("abd")) is None and fitted(Linear()) is None
    other = Named()
    other.space = "w"
    assert fitted(other) is None


def test_mean_and_deviation_are_those_of_the_codes():
    class Far(Named):
        def sample(self, n, seed=0, first=0):
            return 5 + 3 * super().sample(n, seed, first)

    encoder = Encoder(Far().picture, 6, SMALL)
    Encoding(Far(), encoder, steps=1)
    assert (encoder.mean - 5).abs().max() < 0.5 and (encoder.deviation - 3).abs().max() < 0.3


def test_chosen_classes_are_kept():
    told = Told()
    encoder = Encoder(told.picture, 4, SMALL)
    keep(place_of(told), encoder, MADE)
    pictures = told(told.sample(5))
    free = guess(told, pictures)
    assert not any(torch.equal(row, c) for row in free[:, 2:] for c in told.condition.codes)
    told.classes = (1, 2)
    held = guess(told, pictures)
    chosen = told.condition.codes[[1, 2]]
    assert all(any(torch.equal(row, c) for c in chosen) for row in held[:, 2:])
    assert torch.equal(held[:, :2], free[:, :2])


def test_the_search_is_settled_by_what_there_is():
    linear = Named()
    assert Search().settled(linear) == Search(steps=150, restarts=6)
    assert Search(steps=9, restarts=2).settled(linear) == Search(steps=9, restarts=2)
    linear.latent = LatentSpace(17)
    assert Search().settled(linear) == Search(steps=150, restarts=4)
    linear = Named()
    keep(place_of(linear), Encoder(linear.picture, 6, SMALL), MADE)
    assert Search().settled(linear) == Search(steps=150, restarts=1, start="encoder")
    assert Search(restarts=3).settled(linear) == Search(steps=150, restarts=3)
    assert Search(start="prior").settled(linear) == Search(steps=150, restarts=6, start="prior")


def test_spread_pictures_stay_pictures_and_some_stay_the_same():
    pictures = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = spread(pictures, Noise(1))
    assert seen.min() >= 0 and seen.max() <= 1
    same = (seen == pictures).flatten(1).all(1)
    assert 70 <= same.sum() <= 130
    assert (seen - pictures)[~same].abs().mean() > 0.02
    assert torch.equal(seen, spread(pictures, Noise(1)))


def test_gain_counts_evaluations_to_the_same_error(learned):
    linear = Named()
    place_of(linear).parent.mkdir()
    place_of(linear).symlink_to(learned[0])
    found = gain(linear, pictures=4)
    assert found.without > 150 and found.with_it >= 1 and found.seconds > 0
    assert Gain(100, math.inf, 1).pays_from(10) == math.inf


def test_a_damaged_encoder_is_told(home):
    linear = Named()
    keep(place_of(linear), Encoder(linear.picture, 6, SMALL), MADE)
    weights = place_of(linear) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        guess(linear, torch.zeros(1, 3, 8, 8))


def test_an_unknown_backbone():
    with pytest.raises(InputError, match="a timm model as backbone; got 'resnet0'"):
        Encoder(PictureShape(3, 8, 8), 2, "resnet0")


# --- the command ---


def test_invert_finds_it_by_itself(steer: Steer, tmp_path: Path, tiny):
    ended = steer("fit-encoder", *QUICK, "--model", tiny, "--json")
    assert ended.status == 0, ended.err
    model = load(tiny, device="cpu")
    assert ended.summary["encoder"] == str(place_of(model)) and ended.summary["samples"] == 16
    photo(tmp_path / "a.png")
    out = tmp_path / "z.safetensors"
    search = ("invert", tmp_path / "a.png", "-o", out, "--steps", 3, "--model", tiny)
    assert steer(*search).status == 0
    made = load_file(out, "latents").made["options"]
    encoder = fitted(model)
    assert made["start"] == "encoder" and made["restarts"] == 1
    assert encoder and made["encoder"] == encoder.checksum
    assert steer(*search, "--start", "prior").status == 0
    assert "encoder" not in load_file(out, "latents").made["options"]


def test_one_before_is_kept_gone_on_with_or_replaced(steer: Steer, tiny):
    fit = ("fit-encoder", *QUICK, "--model", tiny)
    assert steer(*fit, "-q").status == 0
    place = place_of(load(tiny, device="cpu"))
    first = (place / "model.safetensors").read_bytes()
    refused(steer(*fit), "--resume")
    assert steer(*fit, "--resume").status == 0
    assert (place / "model.safetensors").read_bytes() == first
    ended = steer(*fit, "--again", "--seed", 1)
    assert ended.status == 0 and b"16 pictures in" in ended.out
    assert (place / "model.safetensors").read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--backbone", "nothing"), ("a timm model", "'nothing'")),
        (("--model", "nowhere"), ("nowhere",)),
        (("--batch", 1), ("--batch",)),
        (("--space", "w"), ("a StyleGAN",)),
    ],
)
def test_refusals(steer: Steer, arguments, words):
    refused(steer("fit-encoder", *QUICK, *arguments), *words)
