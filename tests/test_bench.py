"""Ratios of this machine: what is counted, and that it is counted right."""

from __future__ import annotations

import math

import pytest
from commands import Steer, refused
from toys import Linear

from steer.bench import project_one, ratios, reached
from steer.encoders import Encoder, keep, place_of
from steer.inversion import Search


@pytest.fixture
def wanted():
    linear = Linear()
    return linear(linear.latent.sample(4, seed=2))


def test_evaluations_are_those_of_the_search_and_half_of_its_pool(wanted):
    """The first step of a search of 4 pictures: 4 evaluations, and 32 forward passes of 64."""
    search = Search(restarts=1, pool=64, start="prior")
    found = reached(Linear(), wanted, search, goal=math.inf)
    assert found.evaluations == (64 / 2 + 4) / 4
    assert 0 < found.seconds < 60
    never = reached(Linear(), wanted, Search(steps=2, pool=8), goal=-1.0)
    assert never.evaluations == never.seconds == math.inf


def test_more_steps_come_nearer(wanted):
    linear, search = Linear(), Search(restarts=1, pool=1, start="prior")
    early, late = (reached(linear, wanted, search, goal).evaluations for goal in (1e-3, 1e-5))
    assert early < late < math.inf


def test_the_projector_finds_a_code(wanted):
    linear = Linear()
    found = project_one(linear, wanted[0], steps=200)
    assert found < 0.02 * project_one(linear, wanted[0], steps=1)


def test_an_encoder_has_a_row_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_HOME", str(tmp_path))
    linear = Linear()
    linear.checksum = "abc"
    names = [row.what for row in ratios(linear, steps=10)]
    keep(place_of(linear), Encoder(linear.picture, 6, "test_resnet"),
         {"model": "linear", "samples": 1, "seed": 0})  # fmt: skip
    rows = list(ratios(linear, steps=10))
    assert [row.what for row in rows if row.what not in names] == [
        "evaluations from the fitted encoder"
    ]
    assert all(row.ratio > 0 for row in rows)
    assert {row.over for row in rows} >= {"3 of Adam at a constant 0.1", "one at a time"}


def test_the_table(steer: Steer, tiny):
    ended = steer("bench", "--model", tiny, "--steps", 5)
    assert ended.status == 0 and "engine step, batch of 32" in ended.out.decode()
    refused(steer("bench", "--model", "nowhere"), "nowhere")
