"""Parts of one object that are joined, and how sure a model is of each object."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steer.scenes import joining
from steer.scenes.boxes import glimpses
from steer.scenes.finding import Objects
from steer.scenes.gaussians import standard
from steer.scenes.joining import joined, nats, saved
from steer.scenes.model import SceneModel

RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])


class Perfect(nn.Module):
    """Objects of one colour, that of the middle of their glimpse, where the glimpse has it."""

    def posterior(self, glimpses):
        colours = glimpses[:, :, 7:9, 7:9].mean((2, 3))
        away = (glimpses - colours[:, :, None, None]).abs().sum(1)
        codes = torch.cat([colours, 0.999 * (away < 0.3).flatten(1)], dim=1)
        return standard(codes)._replace(mean=codes)

    def forward(self, what):
        colours, alphas = what.split([3, 256], dim=1)
        return colours[:, :, None, None].expand(-1, -1, 16, 16), alphas.view(-1, 1, 16, 16)


class Black(nn.Module):
    """A background of one component."""

    dim = 1

    def forward(self, codes):
        colours = torch.zeros(len(codes), 1, 3, 64, 64)
        return torch.ones_like(colours[:, :, :1]), colours


@pytest.fixture
def model() -> SceneModel:
    model = SceneModel(width=4).eval().requires_grad_(False)
    model.objects, model.background = Perfect(), Black()
    return model


def picture(*squares) -> torch.Tensor:
    """Black, with squares of a colour: left, top, right, bottom in pixels."""
    drawn = torch.zeros(3, 64, 64)
    for colour, (left, top, right, bottom) in squares:
        drawn[:, top:bottom, left:right] = colour[:, None, None]
    return drawn


def objects(shown, *found) -> Objects:
    """Of picture number and pixels each, seen as a model sees them; the first are the surest."""
    sides = torch.tensor([pixels for _, pixels in found]) / 64
    first, last = sides[:, :2], sides[:, 2:]
    parts = [(first + last - 1) / 2, 1.2 * (last - first) / 2, torch.zeros(len(found), 1)]
    boxes = torch.cat(parts, dim=1)
    which = torch.tensor([number for number, _ in found])
    what = Perfect().posterior(glimpses(shown[which], boxes[:, None], 16)[:, 0]).mean
    sure = 0.99 - 0.01 * torch.arange(len(found))
    return Objects(which, boxes, torch.full((len(found),), 3.0), sure, what)


CODES = torch.zeros(2, 1)


def test_two_halves_of_one_square_are_one(model):
    shown = torch.stack([picture((RED, (10, 10, 34, 34))), picture((BLUE, (40, 40, 50, 50)))])
    halves = objects(shown, (0, (10, 10, 22, 34)), (0, (22, 10, 34, 34)), (1, (40, 40, 50, 50)))
    found = joined(model, shown, CODES, halves)
    assert found.which.tolist() == [0, 1]
    assert found.boxes[0, :2].tolist() == pytest.approx([22 / 64 - 0.5] * 2, abs=0.02)
    assert 0.18 < found.boxes[0, 2] < 0.28 and torch.equal(found.boxes[1], halves.boxes[2])
    assert (found.what[0, :3] - RED).abs().max() < 0.05
    assert found.presences[0] == halves.presences[0]


def test_three_parts_are_one_after_two_rounds(model):
    shown = picture((RED, (10, 10, 40, 20)))[None]
    parts = objects(shown, *((0, (10 + 10 * i, 10, 20 + 10 * i, 20)) for i in range(3)))
    assert len(joined(model, shown, CODES[:1], parts).which) == 1


@pytest.mark.parametrize(
    ("colour", "pixels"),
    [(BLUE, (22, 10, 34, 34)), (RED, (40, 10, 52, 34))],
    ids=["another colour", "apart"],
)
def test_two_squares_stay_two(model, colour, pixels):
    shown = picture((RED, (10, 10, 22, 34)), (colour, pixels))[None]
    both = objects(shown, (0, (10, 10, 22, 34)), (0, pixels))
    found = joined(model, shown, CODES[:1], both)
    assert all(torch.equal(a, b) for a, b in zip(found, both, strict=True))


def test_what_is_not_there_saves_nothing(model):
    shown = picture((RED, (10, 10, 42, 42)))[None]
    found = objects(shown, (0, (10, 10, 42, 42)), (0, (50, 50, 60, 60)))
    sure = saved(model, shown, CODES[:1], found)
    colour = RED.square().sum() / (2 * 0.22**2)
    assert sure[0].item() == pytest.approx(colour.item(), rel=0.15)
    assert sure[1].abs() < 0.2
    nothing = found.at(torch.zeros(2, dtype=torch.bool))
    assert saved(model, shown, CODES[:1], nothing).shape == (0,)
    assert len(joined(model, shown, CODES[:1], nothing).which) == 0


def test_where_there_are_too_many_nothing_is_tried(model, monkeypatch):
    shown = picture((RED, (10, 10, 40, 20)))[None]
    parts = objects(shown, *((0, (10 + 10 * i, 10, 20 + 10 * i, 20)) for i in range(3)))
    monkeypatch.setattr(joining, "MOST", 2)
    assert len(joined(model, shown, CODES[:1], parts).which) == 3
    assert saved(model, shown, CODES[:1], parts).tolist() == [0, 0, 0]


def test_nats_are_those_of_the_likelihood(model):
    """A picture that is drawn exactly costs the Gaussian's constant at each pixel."""
    black = torch.zeros(2, 3, 64, 64)
    nothing = objects(black, (0, (0, 0, 4, 4))).at(torch.zeros(1, dtype=torch.bool))
    constant = 64 * 64 * 3 * torch.tensor(0.22 * (2 * torch.pi) ** 0.5).log()
    assert nats(model, black, CODES, nothing).tolist() == pytest.approx([constant.item()] * 2)
