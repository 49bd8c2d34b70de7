"""SAID against closed forms, and by what it must do whatever its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.measure import block_reduce

from steer.checkpoints import read_checkpoint
from steer.datasets import Scenes
from steer.hub import locate
from steer.scenes.evaluation import evaluate
from steer.scenes.model import Objects
from steer.scenes.said import SAID, bottleneck, code_length, placed
from steer.training import said as training
from steer.training.said import Said
from steer.training.team import Noise


@pytest.fixture
def model() -> SAID:
    torch.manual_seed(0)
    return SAID(width=4).eval()


def square(x: int, y: int, value: float = 1.0, half: int = 8) -> torch.Tensor:
    """A picture [1, 3, 64, 64] of a square around a pixel."""
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., y - half : y + half, x - half : x + half] = value
    return picture


def objects(*boxes: tuple[float, ...], which: list[int] | None = None) -> Objects:
    """Objects, the later the nearer, of whatever looks."""
    count = len(boxes)
    return Objects(
        torch.tensor(which or [0] * count), torch.tensor(boxes), torch.arange(float(count)),
        torch.ones(count), torch.randn(count, 10),
    )  # fmt: skip


# --- what things cost ---


def test_code_lengths_differ_as_likelihoods_at_their_best_sigma_do():
    """By SciPy: what is left out of N log sigma is the same for all residuals of N numbers."""
    residuals = torch.randn(2, 3, 16, 16) * torch.tensor([0.05, 0.4]).view(2, 1, 1, 1)
    whole = [-stats.norm.logpdf(each, 0, each.square().mean().sqrt()).sum() for each in residuals]
    first, second = code_length(residuals).tolist()
    assert second - first == pytest.approx(whole[1] - whole[0], rel=1e-3)


def test_nothing_left_to_tell_has_a_finite_length():
    assert code_length(torch.zeros(1, 3, 8, 8)).isfinite().all()


def test_what_a_glimpse_shows_costs_its_divergence(model):
    seen = model.glimpse(
        torch.rand(3, 3, 64, 64), torch.zeros(3, 3, 64, 64), torch.ones(3, 1, 64, 64)
    )
    normal = torch.distributions.Normal
    apart = torch.distributions.kl_divergence(
        normal(seen.what.mean, seen.what.log_sigma.exp()), normal(0.0, 1.0)
    )
    torch.testing.assert_close(seen.cost, apart.sum(1))


# --- where it looks ---


@pytest.mark.parametrize("scope", [True, False])
def test_it_looks_where_most_is_left_and_with_scope_not_twice(scope):
    """Of a VAE that shows nothing, so that all errors stay."""
    torch.manual_seed(0)
    model = SAID(width=4, scope=scope)
    with torch.no_grad():
        model.objects.decoder[-1].bias[3] = -30.0
    pictures = square(12, 20, half=4) + square(52, 44, 0.6, half=4)
    (first, _), (second, _) = model.look(pictures, [None, None])
    middles = [(seen.boxes[0, :2] + 0.5) * 64 for seen in (first, second)]
    loud, quiet = torch.tensor([12.0, 20.0]), torch.tensor([52.0, 44.0])
    assert (middles[0] - loud).abs().max() < 12
    assert (middles[1] - (quiet if scope else loud)).abs().max() < 12


def test_boxes_stay_about_one_size():
    boxes = placed(torch.randn(500, 4) * 5)
    halves = boxes[:, 2:4]
    assert halves.min() > 0.13 / 2.5 - 1e-6 and halves.max() < 0.13 * 2.5 + 1e-6


# --- what it draws ---


def test_the_bottleneck_is_the_means_of_what_is_clear():
    pictures = torch.rand(2, 3, 64, 64)
    told = bottleneck(pictures, torch.ones(2, 1, 64, 64))
    means = block_reduce(pictures.numpy(), (1, 1, 8, 8), np.mean)
    torch.testing.assert_close(told.view(2, 3, 8, 8), torch.from_numpy(means), atol=1e-3, rtol=0)
    grey = torch.full((1, 3, 64, 64), 0.3)
    clear = 1 - square(20, 20)[:, :1]
    told = bottleneck(grey * clear + (1 - clear), clear)
    torch.testing.assert_close(told, torch.full((1, 192), 0.3), atol=1e-4, rtol=0)


def test_without_alpha_a_box_shows_all_that_the_vae_tells():
    model = SAID(width=4, alpha=False)
    its = objects((0.25, -0.25, 0.125, 0.125, 0.0))
    pictures, masks = model.draw(torch.zeros(1, 192), its)
    colours, _ = model.objects(its.what)
    torch.testing.assert_close(pictures[0, :, 9:23:2, 41:55:2], torch.nn.functional.grid_sample(
        colours, torch.stack(torch.meshgrid(u := (torch.arange(1, 15, 2) + 0.5) / 8 - 1, u,
        indexing="xy"), -1)[None], align_corners=False)[0])  # fmt: skip
    inside = torch.zeros(64, 64)
    inside[8:24, 40:56] = 1
    torch.testing.assert_close(masks[0] > 0.5, inside > 0.5)
    assert pictures[0][:, masks[0] == 0].abs().max() == 0


def test_the_nearer_covers_the_farther(model):
    its = objects((0.0, 0.0, 0.13, 0.13, 0.0), (0.05, 0.0, 0.13, 0.13, 0.0))
    behind = torch.rand(1, 192)
    pictures, masks = model.draw(behind, its)
    order = torch.tensor([1, 0])
    turned, swapped = model.draw(behind, its.at(order))
    torch.testing.assert_close(turned, pictures)
    torch.testing.assert_close(swapped[order], masks)
    alone = model.draw(behind, its.at(torch.tensor([1])))[1]
    torch.testing.assert_close(masks[1:], alone)
    assert masks[0].sum() < 0.8 * model.draw(behind, its.at(torch.tensor([0])))[1].sum()
    assert masks.sum(0).max() <= 1 + 1e-5
    level = model.draw(behind, its._replace(depths=torch.zeros(2)))
    torch.testing.assert_close(level, (pictures, masks))


def test_what_is_moved_moves_by_what_was_asked(model):
    its = objects((-0.2, 0.1, 0.13, 0.13, 0.0), (0.2, 0.0, 0.13, 0.13, 0.0), which=[0, 1])
    moved = its._replace(boxes=its.boxes + torch.tensor([[0.125, -0.25, 0, 0, 0], [0.0] * 5]))
    before, after = (model.draw(torch.zeros(2, 192), each)[0] for each in (its, moved))
    torch.testing.assert_close(after[0], before[0].roll((-16, 8), (1, 2)), atol=1e-5, rtol=0)
    assert torch.equal(after[1], before[1])


# --- what it finds ---


def test_what_is_found_draws_the_picture_again(model):
    found = model.find(torch.rand(3, 3, 64, 64))
    drawn, masks = model.draw(found.background, found.objects)
    torch.testing.assert_close(found.pictures, drawn)
    torch.testing.assert_close(found.masks, masks)
    assert found.background.shape == (3, model.dims[0])
    assert found.objects.what.shape[1] == model.dims[1]


@pytest.mark.parametrize(("length", "counts"), [(0.0, 1), (1e6, 0)])
def test_it_stops_when_a_glimpse_costs_more_than_it_saves(model, monkeypatch, length, counts):
    """A first box that saves 100 nats, and more that save 1, at a cost of 10 and `length`."""
    saved = [100.0, 1.0, 100.0]

    def look(pictures, noise):
        scope = torch.ones(len(pictures), 1, 64, 64)
        for k, nats in zip(range(len(noise)), saved, strict=False):
            seen = model.glimpse(pictures, pictures * 0, scope)
            seen.boxes[:, 0] = 0.6 * k - 0.3
            seen.what.mean[:] = (2 * (10 + length) / 10) ** 0.5
            seen.what.log_sigma[:] = 0
            yield seen, torch.full((len(pictures),), nats)

    monkeypatch.setattr(model, "look", look)
    with torch.no_grad():
        found = model.find(square(32, 32))
    assert found.counts.tolist() == [counts]
    assert found.looked_at.tolist() == [counts + 1]
    assert found.objects.presences.tolist() == pytest.approx([0.9] * counts)


def test_what_mostly_lies_in_earlier_boxes_is_no_object(monkeypatch):
    model = SAID(width=4, most=3, scope=False)

    def look(pictures, noise):
        scope = torch.ones(1, 1, 64, 64)
        for _ in noise:
            seen = model.glimpse(pictures, 0 * pictures, scope)
            yield seen, torch.full((1,), 1e6)
            scope = scope * (1 - seen.inside)

    monkeypatch.setattr(model, "look", look)
    with torch.no_grad():
        found = model.find(square(32, 32))
    assert found.counts.tolist() == [1] and found.looked_at.tolist() == [3]


def test_it_is_measured_as_all_scene_models_are(model):
    scores = evaluate(model, Scenes(), torch.arange(4), batch=2)
    assert 1 <= scores["looked at"] <= 9 and scores["MSE"] > 0


def test_the_config_makes_the_model_again():
    model = SAID(side=32, what=6, width=4, most=3, scope=False, alpha=False)
    again = SAID(**{name: value for name, value in model.config.items() if name != "family"})
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    assert again.find(torch.rand(1, 3, 32, 32)).looked_at.item() <= 3


# --- training ---


def test_boxes_wait_and_every_glimpse_is_learned_from(model):
    objective = Said(model, steps=100, glimpses=3)
    steps = dict.fromkeys(objective.optimisers, 0)
    for name, optimiser in objective.optimisers.items():
        optimiser.register_step_post_hook(
            lambda *_, name=name: steps.__setitem__(name, steps[name] + 1)
        )
    pictures = square(20, 20)
    objective.step(pictures, 0, Noise(0))
    assert steps == {"objects": 3, "boxes": 0}
    objective.step(pictures, 99, Noise(1))
    assert steps == {"objects": 6, "boxes": 3}


def test_it_learns_to_tell_squares(model):
    pictures = torch.cat([square(x, y) for x in (16, 40) for y in (20, 44)])
    objective = Said(model, steps=40, glimpses=2, rate=3e-3)
    saved = [objective.step(pictures, step, Noise(step))["saved"] for step in range(40)]
    assert np.mean(saved[-5:]) > np.mean(saved[:5]) + 1000


def test_training_goes_on_from_its_state(tmp_path):
    def objective() -> Said:
        torch.manual_seed(1)
        return Said(SAID(width=4), steps=2, glimpses=2)

    pictures, whole, first = square(20, 20), objective(), objective()
    stats = [whole.step(pictures, step, Noise(step)) for step in range(2)]
    first.step(pictures, 0, Noise(0))
    second = objective()
    second.load_state_dict(first.state_dict())
    assert second.step(pictures, 1, Noise(1)) == stats[1]
    second.export(tmp_path, {"data": "squares"}, lambda: pictures)
    checkpoint = read_checkpoint(locate(str(tmp_path)))
    assert checkpoint.config["family"] == "said" and checkpoint.config["scope"] is True
    for name, weight in second.model.state_dict().items():
        assert torch.equal(checkpoint.state[name], weight)
    assert second.preview(pictures).shape[0] == 3
    assert set(training.BEGIN) == set(second.optimisers)
