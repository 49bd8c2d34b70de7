"""What is measured once is not measured again."""

from __future__ import annotations

import pytest
import torch
from toys import Blob

from steer.accuracy import Bench
from steer.closed_loop import Plant
from steer.errors import InputError
from steer.generators.base import Generator
from steer.measures import Intensity, finders
from steer.memory import Memory

NAMES = ["translate-x", "zoom", "brightness"]


class Counting(Blob):
    """A blob that counts its pictures."""

    drawn = 0

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.drawn += len(z)
        return super().forward(z)


def test_a_memory_is_the_plant_that_looks_once():
    generator, z = Counting(), Blob().sample(6, 0)
    memory, plant = Memory(generator, NAMES, "intensity", 4), Plant(Blob(), NAMES, "intensity", 4)
    both = torch.cat([z, z[[3, 1, 1]]])
    for asked in (z[:4], z, both, both.flip(0)):
        assert torch.allclose(memory(asked), plant(asked), atol=1e-9)
    assert generator.drawn == len(memory) == 6
    assert memory.of(["zoom"])(both).tolist() == memory(both)[:, [1]].tolist()
    assert generator.drawn == 6


def test_what_is_forgotten_is_measured_anew():
    generator, z = Counting(), Blob().sample(6, 0)
    memory = Memory(generator, NAMES, "intensity")
    memory(z[:4])
    memory.forget(but=z[2:])
    assert len(memory) == 2
    memory(z[:4])
    assert generator.drawn == 6


def test_no_codes():
    memory = Memory(Blob(), NAMES, "intensity")
    assert memory(torch.empty(0, 6)).shape == (0, 3)
    assert memory.of(["zoom"])(torch.empty(0, 6)).shape == (0, 1)


def test_a_property_that_the_pictures_do_not_have():
    with pytest.raises(InputError, match=r"translate-x, zoom, brightness of these .* got hue"):
        Memory(Blob(), NAMES, "intensity").of(["hue"])


def test_no_object_is_looked_for_where_the_picture_says_it_all(monkeypatch):
    seen = 0

    class Slow(Intensity):
        def __call__(self, pictures):
            nonlocal seen
            seen += len(pictures)
            return super().__call__(pictures)

    monkeypatch.setattr(finders, "get", lambda name: Slow)
    generator: Generator = Blob()
    bench = Bench(generator, generator.sample(5, 0), NAMES, "intensity")
    assert seen == 5
    other = generator.sample(4, 1)
    assert bench.plant("brightness")(other).shape == (4, 1) and seen == 5
    assert bench.plant("zoom")(other).shape == (4, 1) and seen == 9


def test_the_spread_is_that_of_the_prior():
    z = Blob().sample(64, 0)
    bench = Bench(Blob(), z, [*NAMES, "rotate"], "intensity")
    expected = Plant(Blob(), NAMES, "intensity")(z).std(0, correction=0)
    assert bench.spread[:3] == pytest.approx(expected.numpy())
    assert not bench.spread[3] > 0  # a round blob has no axis
