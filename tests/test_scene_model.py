"""Boxes, the scene model, its losses, and scenes as files."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from steer.datasets.scenes import Scenes, tight
from steer.errors import InputError, SteerError
from steer.scenes import evaluation, sampling
from steer.scenes.background import Usual
from steer.scenes.boxes import corners, glimpses, moments, project, windows
from steer.scenes.finding import Found
from steer.scenes.gaussians import Gaussian
from steer.scenes.losses import FILLED, alignment, log_likelihood, mixture, object_prior
from steer.scenes.model import LOOKED_AT, Objects, SceneModel
from steer.scenes.sampling import Relation, sample
from steer.scenes.scene import PLACES, Scene, draw, load_scene

BOXES = st.lists(
    st.tuples(
        *(st.floats(-0.6, 0.6),) * 2, *(st.floats(0.03, 0.5),) * 2, st.floats(-180, 180)
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> SceneModel:
    torch.manual_seed(0)
    return SceneModel(width=4, turns=True).eval().requires_grad_(False)


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(side: int = 16, width: float = 0.5) -> Tensor:
    """A disc [1, 1, side, side] in the middle of its box, a little soft at the edge."""
    u = (2 * torch.arange(side) + 1) / side - 1
    radius = (u[None] ** 2 + u[:, None] ** 2).sqrt()
    return ((width - radius) * side / 2 + 0.5).clamp(0, 1)[None, None]


# --- boxes ---


@given(BOXES)
def test_glimpses_are_those_of_scipy(boxes):
    picture = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(1))
    found = glimpses(picture, torch.tensor([boxes]), 6)[0, :, 0]
    u = (2 * torch.arange(6) + 1) / 6 - 1
    for seen, (x, y, width, height, angle) in zip(found, boxes, strict=True):
        turn = math.radians(angle)
        p, q = width * u[None, :], height * u[:, None]
        across = (x + math.cos(turn) * p + math.sin(turn) * q + 0.5) * 24 - 0.5
        down = (y - math.sin(turn) * p + math.cos(turn) * q + 0.5) * 20 - 0.5
        wanted = map_coordinates(
            picture[0, 0].double().numpy(), torch.stack([down, across]).double().numpy(), order=1,
            mode="grid-constant",
        )  # fmt: skip
        assert abs(seen.numpy() - wanted).max() < 1e-4


@given(BOXES)
def test_a_window_holds_all_that_its_box_shows(boxes):
    boxes = torch.tensor(boxes)
    shown, canvas = torch.ones(len(boxes), 1, 4, 4), 32
    whole = project(shown, boxes, torch.zeros(len(boxes), 2).long(), canvas, canvas)
    seen = []
    for side, which, first in windows(boxes, canvas, 4):
        part = project(shown[which], boxes[which], first, side, canvas)
        for number, corner, small in zip(which.tolist(), first.tolist(), part, strict=True):
            large = torch.zeros(1, canvas, canvas)
            large[:, corner[1] : corner[1] + side, corner[0] : corner[0] + side] = small
            torch.testing.assert_close(large, whole[number], atol=1e-4, rtol=0)
            seen.append(number)
    assert sorted(seen) == list(range(len(boxes)))


@pytest.mark.parametrize("angle", [0.0, 30.0, -100.0])
def test_what_a_glimpse_shows_is_put_back_where_it_was(angle):
    box = torch.tensor([[0.1, -0.05, 0.2, 0.15, angle]])
    canvas = project(blob(32), box, torch.zeros(1, 2).long(), 64, 64)
    again = glimpses(canvas, box[None], 32)[0]
    assert (again - blob(32)).abs().mean() < 0.02


@pytest.mark.parametrize(("angle", "wanted"), [(0.0, (1.0, 0.0)), (90.0, (0.0, -1.0))])
def test_angles_are_counter_clockwise(angle, wanted):
    """The middle of a box's right side lies to the right of its middle, or above it."""
    ((_, right, low, _),) = corners(torch.tensor([[0.0, 0.0, 0.2, 0.1, angle]]))
    middle = torch.tensor([right, low]).mean(0) - 0.5
    torch.testing.assert_close(middle / 0.2, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_moments_of_a_disc():
    shift, scale, mean = moments(blob(64, 0.6)[0])
    assert shift.abs().max() < 1e-5
    torch.testing.assert_close(scale, torch.full((1, 2), 0.3), atol=0.01, rtol=0)
    torch.testing.assert_close(mean, torch.tensor([math.pi * 0.36 / 4]), atol=0.01, rtol=0)


# --- losses ---


def test_divergence_is_that_of_torch():
    numbers = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    a, b = Gaussian(numbers[0], numbers[1]), Gaussian(numbers[2], numbers[3])
    wanted = kl_divergence(Normal(a.mean, a.log_sigma.exp()), Normal(b.mean, b.log_sigma.exp()))
    torch.testing.assert_close(a.divergence(b), wanted.sum(-1))


def test_likelihood_is_that_of_torch():
    pictures, drawn = torch.rand(2, 2, 3, 4, 5).unbind(0)
    wanted = Normal(drawn, 0.2).log_prob(pictures).sum(1, keepdim=True)
    torch.testing.assert_close(log_likelihood(pictures, drawn, 0.2), wanted)


def test_mixture_of_pixels_by_hand():
    """Equations 5.1 and 5.2, as probabilities."""
    stream = torch.Generator().manual_seed(0)
    picture, fore = torch.rand(2, 1, 3, 2, 2, generator=stream)
    behind = torch.rand(1, 2, 3, 2, 2, generator=stream)
    shares = torch.rand(1, 2, 1, 2, 2, generator=stream).softmax(1)
    clear = torch.rand(1, 1, 2, 2, generator=stream)
    density = lambda mean: Normal(mean, 0.3).log_prob(picture).sum(1, keepdim=True).exp()  # noqa: E731
    back = shares[:, 0] * density(behind[:, 0]) + shares[:, 1] * density(behind[:, 1])
    wanted = -(clear * back + (1 - clear) * density(fore)).log().sum()
    before = log_likelihood(picture, fore, 0.3)
    found = mixture(picture, shares, behind, clear, before, 0.3)
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_object_prior_is_the_divergence_of_equation_56(angle):
    alphas = torch.zeros(1, 1, 16, 16)
    alphas[:, :, 2:8, 6:14] = 1
    box = torch.tensor([[0.1, 0.2, 0.15, 0.3, angle]])
    shift, scale, _ = moments(alphas[:, 0])
    x, y = (shift * box[:, 2:4])[0]
    moved = torch.stack([x, y]) if not angle else torch.stack([y, -x])
    halves = box[0, 2:4]
    wanted = kl_divergence(
        MultivariateNormal(box[0, :2], halves.square().diag()),
        MultivariateNormal(box[0, :2] + moved, (halves * scale[0] / FILLED).square().diag()),
    )
    torch.testing.assert_close(object_prior(alphas, box)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "size"), [((0.05, -0.08), 0.1), ((0.1, 0.1), 0.3), ((-0.06, 0.02), 0.05)]
)
def test_the_object_prior_alone_brings_a_box_to_its_object(start, size):
    """Down the gradient, a box ends around a disc of radius 0.1 at (0.05, 0), whatever its size."""
    scene = project(
        torch.ones(1, 1, 32, 32) * blob(32, 0.5), torch.tensor([[0.05, 0.0, 0.2, 0.2, 0.0]]),
        torch.zeros(1, 2).long(), 128, 128,
    )  # fmt: skip
    box = torch.tensor([[*start, size, size, 0.0]], requires_grad=True)
    optimiser = torch.optim.Adam([box], lr=3e-3)
    for _ in range(400):
        alphas = glimpses(scene, box[None].detach(), 32)[0]
        optimiser.zero_grad()
        object_prior(alphas, box).sum().backward()
        optimiser.step()
    found = box.detach()[0]
    wanted = 0.05 / FILLED  # a disc's standard deviation is half its radius
    torch.testing.assert_close(found[:2], torch.tensor([0.05, 0.0]), atol=0.005, rtol=0)
    torch.testing.assert_close(found[2:4], torch.full((2,), wanted), atol=0.01, rtol=0)


@pytest.mark.parametrize("begin", [-60.0, 20.0, 40.0])
def test_the_rotation_loss_alone_turns_a_box_along_its_object(begin):
    bar = torch.zeros(1, 1, 64, 64)
    bar[:, :, 26:38, 6:58] = 1
    scene = project(
        bar, torch.tensor([[0.0, 0.0, 0.3, 0.3, 15.0]]), torch.zeros(1, 2).long(), 128, 128
    )
    box = torch.tensor([[0.0, 0.0, 0.3, 0.3, begin]], requires_grad=True)
    optimiser = torch.optim.Adam([box], lr=1.0)
    for _ in range(300):
        optimiser.zero_grad()
        alignment(glimpses(scene, box[None].detach(), 32)[0], box).sum().backward()
        optimiser.step()
    away = (box[0, 4].item() - 15 + 90) % 180 - 90
    assert abs(away) < 2 and box.grad[0, :4].abs().max() == 0


def test_an_empty_alpha_pulls_nowhere():
    box = torch.tensor([[0.1, 0.2, 0.15, 0.3, 5.0]], requires_grad=True)
    (
        object_prior(torch.zeros(1, 1, 8, 8), box) + alignment(torch.zeros(1, 1, 8, 8), box)
    ).backward()
    assert box.grad.abs().max() == 0


# --- the model ---


def test_only_one_more_than_proposed_is_looked_at(model):
    pictures = torch.rand(3, 3, 64, 64)
    seen = model.train()(pictures)
    assert (seen.presences.diff(dim=2) <= 0).all()
    before = torch.cat([torch.ones(3, 16, 1), seen.presences[:, :, :-1]], dim=2)
    assert torch.equal(seen.looked_at, before >= LOOKED_AT)
    assert len(seen.alphas) == seen.looked_at.sum()
    trained = model.eval()(pictures)
    assert torch.equal(trained.looked_at, trained.presences >= LOOKED_AT)
    assert trained.looked_at.sum() < seen.looked_at.sum()


def test_a_model_that_proposes_nothing(model):
    model = copy.deepcopy(model)
    model.cells.first[:, 0] = -9.0
    found = model.find(torch.rand(2, 3, 64, 64))
    assert found.counts.tolist() == [0, 0] and found.looked_at.tolist() == [0, 0]
    behind = model.draw(found.background, found.objects)[0]
    torch.testing.assert_close(found.pictures, behind)


def test_a_picture_does_not_depend_on_those_beside_it(model):
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    together, alone = model.find(pictures), model.find(pictures[1:2])
    torch.testing.assert_close(together.pictures[1], alone.pictures[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.masks[together.of(1)], alone.masks, atol=1e-5, rtol=0)


def composed(model, boxes, depths, presences=None):
    """Discs, the first red and the second green, in a picture by `model`."""
    count = len(boxes)
    colours = torch.zeros(count, 3, 16, 16)
    for i in range(count):
        colours[i, i] = 1
    objects = Objects(
        torch.zeros(count).long(), torch.tensor(boxes), torch.tensor(depths),
        torch.ones(count) if presences is None else torch.tensor(presences), torch.zeros(count, 16),
    )  # fmt: skip
    alphas = blob(16, 0.8).expand(count, -1, -1, -1)
    done = model.compose(objects, colours, alphas, 1)
    return done, model.masks(objects, done, alphas)


def test_the_nearer_object_covers_the_farther_one(model):
    boxes = [[0.0, 0.0, 0.2, 0.2, 0.0], [0.1, 0.0, 0.2, 0.2, 0.0]]
    for depths, nearer in (([5.0, 0.0], 0), ([0.0, 5.0], 1)):
        done, masks = composed(model, boxes, depths)
        assert done.foreground[0, nearer, 32, 35] > 0.99 and masks[nearer, 32, 35] > 0.99


def test_what_is_hardly_there_lends_nothing_to_what_is(model):
    """However near: it costs nothing, and would tell the others' colours for free."""
    boxes = [[0.0, 0.0, 0.2, 0.2, 0.0]] * 2
    done, masks = composed(model, boxes, [0.0, 6.0], [1.0, 0.01])
    assert done.foreground[0, 0, 32, 32] > 0.98 and masks[0, 32, 32] > 0.98


def test_shares_of_objects_and_background_add_to_one(model):
    boxes = [[0.0, 0.0, 0.2, 0.1, 40.0], [0.1, 0.0, 0.2, 0.2, 0.0], [0.5, 0.5, 0.1, 0.1, 0.0]]
    done, masks = composed(model, boxes, [0.3, -0.2, 0.0], [0.9, 0.5, 1.0])
    torch.testing.assert_close(
        masks.sum(0) + done.clear[0, 0], torch.ones(64, 64), atol=1e-3, rtol=0
    )


def test_gradients_reach_every_weight():
    """Through glimpses, boxes, windows and the prior."""
    from steer.training.scenes import Scenes

    torch.manual_seed(0)
    trained = SceneModel(width=4, turns=True)
    objective = Scenes(trained, steps=10)
    drawn = [torch.randn(2, *shape) for shape in trained.noise_shapes()]
    losses, _ = objective.whole(torch.rand(2, 3, 64, 64), drawn, boxes=True)
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, w in trained.named_parameters() if w.grad is None or not w.grad.any()] == []


# --- scenes ---


@pytest.fixture
def scene(model) -> Scene:
    stream = torch.Generator().manual_seed(5)
    boxes = torch.tensor([[-0.2, -0.2, 0.1, 0.1, 0.0], [0.2, 0.2, 0.1, 0.05, 30.0]])
    return Scene(
        {"model": "m", "checksum": "c"}, torch.randn(model.background.dim, generator=stream), boxes,
        torch.tensor([1.0, 2.0]), torch.tensor([0.9, 1.0]), torch.randn(2, 16, generator=stream),
    )  # fmt: skip


def barycentre(mask: Tensor) -> Tensor:
    """In fractions of the sides."""
    places = (torch.arange(64) + 0.5) / 64
    mass = mask.sum()
    return torch.stack([(mask.sum(0) @ places) / mass, (mask.sum(1) @ places) / mass])


def test_an_object_moves_by_what_was_asked_and_the_other_stays(model, scene):
    before, after = (draw(model, [each])[1] for each in (scene, scene.moved(0, 0.1, -0.05)))
    moved = barycentre(after[0]) - barycentre(before[0])
    torch.testing.assert_close(moved, torch.tensor([0.1, -0.05]), atol=0.002, rtol=0)
    assert (barycentre(after[1]) - barycentre(before[1])).abs().max() < 1e-4


def test_edits_change_what_they_say(scene):
    assert scene.scaled(1, 2).boxes[1].tolist() == pytest.approx([0.2, 0.2, 0.2, 0.1, 30])
    assert scene.rotated(1, -10).boxes[1, 4] == 20
    assert scene.deepened(0, 3).depths.tolist() == [4, 2]
    assert len(scene.without(0)) == 1 and torch.equal(scene.without(0).boxes[0], scene.boxes[1])
    copied = scene.copied(0, 0.1, 0.2)
    assert len(copied) == 3 and torch.equal(copied.what[2], scene.what[0])
    torch.testing.assert_close(copied.boxes[2], torch.tensor([-0.1, 0.0, 0.1, 0.1, 0.0]))
    assert scene.boxes[0, 0] == -0.2  # itself stays


def test_a_removed_object_is_gone(model, scene):
    pictures, _ = draw(model, [scene.without(0, 1), scene])
    empty, _ = draw(model, [scene.without(1).without(0)])
    torch.testing.assert_close(pictures[:1], empty, atol=1e-5, rtol=0)
    assert (pictures[0] - pictures[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.moved(2, 0, 0), r"expected an object of the scene \(0 to 1\), got 2"),
        (lambda s: s.without(0, 1).copied(0, 0, 0), r"the scene \(none\), got 0"),
        (lambda s: s.scaled(0, 0), "expected a factor above 0 to scale object 0 by, got 0"),
        (lambda s: s.without(-1), "got -1"),
    ],
)
def test_edits_that_cannot_be(scene, edit, said):
    with pytest.raises(InputError, match=said):
        edit(scene)


def test_a_scene_is_read_as_it_was_written(scene, tmp_path):
    for each in (scene, scene.without(0, 1)):
        file = tmp_path / "scene.json"
        file.write_bytes(each.to_json())
        again = load_scene(str(file))
        assert torch.equal(again.boxes, each.boxes) and torch.equal(again.depths, each.depths)
        assert torch.equal(again.background, each.background) and len(again.what) == len(each)
        assert again.to_json() == each.to_json()


def damaged(told: dict, **changes) -> dict:
    told = json.loads(json.dumps(told))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = told
        for parent in parents:
            place = place[int(parent) if parent.isdecimal() else parent]
        place[last] = value
    return told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steer_scene": 2}, "expected a scene of format 1"),
        ({"objects": 3}, "expected a list of up to 1000 objects"),
        ({"objects__0__x": None}, "expected a number x of object 0"),
        ({"objects__1__angle": "1"}, "expected a number angle of object 1"),
        ({"objects__1__y": float("nan")}, "expected a number y of object 1"),
        ({"objects__0__depth": float("inf")}, "expected a number depth of object 0"),
        ({"objects__0__half_width": 0}, "expected half_width and half_height above 0"),
        ({"objects__0__what": []}, "expected a list of numbers what of object 0"),
        ({"objects__0__what": [1.0]}, "expected as many numbers in what of each object"),
        ({"objects": [[]]}, "expected a list of numbers what of object 0"),
        ({"background": "x"}, "expected a list of numbers background in"),
        ({"model": 1}, "expected the model that"),
    ],
)
def test_scenes_that_are_damaged_are_told_in_a_sentence(scene, tmp_path, changes, said):
    file = tmp_path / "scene.json"
    file.write_text(json.dumps(damaged(json.loads(scene.to_json()), **changes)))
    with pytest.raises(InputError, match=said):
        load_scene(str(file))


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff\x00", b"[" * 100_000, b"null"])
def test_what_is_no_scene(tmp_path, text):
    (tmp_path / "scene.json").write_bytes(text)
    with pytest.raises(InputError, match=r"expected a scene of steer decompose, .* is none"):
        load_scene(str(tmp_path / "scene.json"))


def test_a_scene_of_another_model_is_refused(scene):
    other = SceneModel(width=4, what=8)
    with pytest.raises(InputError, match="expected a scene of 24 numbers behind and 8 of each"):
        draw(other, [scene])


def test_places_are_those_of_a_box():
    assert len(PLACES) == 5 and tight(torch.zeros(1, 2, 2)).isnan().all()


# --- sampling ---


def test_samples_are_the_same_for_a_seed_and_others_for_another(model):
    first, again, other = (sample(model, 3, seed) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.background, b.background)
    assert not torch.equal(first[0].background, other[0].background)


def test_the_first_of_many_samples_are_those_of_a_few(model):
    few, many = sample(model, 2, 5), sample(model, 300, 5)
    for a, b in zip(few, many, strict=False):
        assert torch.equal(a.background, b.background) and torch.equal(a.boxes, b.boxes)
        assert a.made == b.made
    assert [scene.made["options"]["item"] for scene in many] == list(range(300))
    assert few[0].made["command"] == "sample" and few[0].made["seed"] == 5


def test_backgrounds_are_drawn_like_those_that_were_seen(model):
    """A code of 24 numbers near one of two places: N(0, I) has none that is."""
    stream = noise(4)
    places = torch.randn(2, 24, generator=stream)
    codes = places[torch.randint(2, (600,), generator=stream)]
    codes = codes + 0.05 * torch.randn(600, 24, generator=stream)
    usual = Usual(24, parts=2)
    before = usual.sample(torch.randn(500, 24, generator=stream), torch.rand(500))
    assert before.std() == pytest.approx(1, abs=0.05)
    usual.fit(codes)
    drawn = usual.sample(torch.randn(500, 24, generator=stream), torch.rand(500, generator=stream))
    away = torch.cdist(drawn, places)
    assert (away.min(1).values < 0.5).all()
    assert 150 < (away.argmin(1) == 0).sum() < 350
    few = Usual(24, parts=2)
    few.fit(codes[:30])
    assert torch.equal(few.means, torch.zeros(2, 24))
    model.usual, kept = few, model.usual
    model.usual.means.fill_(9.0)
    assert sample(model, 1)[0].background.mean() > 7
    model.usual = kept


def test_samples_have_as_many_objects_as_are_found(monkeypatch):
    torch.manual_seed(3)
    model = SceneModel(width=4).eval()
    before = sum(len(scene) for scene in sample(model, 256))
    counts = torch.tensor([3, 5])
    monkeypatch.setattr(model, "find", lambda pictures: SimpleNamespace(counts=counts))
    sampling.calibrate(model, torch.zeros(2, 3, 64, 64))
    drawn = sample(model, 256)
    assert sum(len(scene) for scene in drawn) == 4 * 256 != before
    assert all((scene.presences > 0.9).all() for scene in drawn)
    least = model.least.clone()
    counts.zero_()
    sampling.calibrate(model, torch.zeros(2, 3, 64, 64))
    assert model.least == least


@pytest.fixture
def proposed(model, scene) -> Scene:
    """The scene with boxes that an untrained model proposes."""
    boxes, _ = model.decoder.boxes(0.1 * torch.randn(1, 16, 1, 8, generator=noise(1)))
    return replace(scene, boxes=boxes[0, [0, 9], 0], depths=torch.zeros(2))


def test_what_is_kept_is_in_every_sample(model, proposed):
    scene = proposed
    for drawn in sample(model, 4, kept=scene):
        assert torch.equal(drawn.boxes[:2], scene.boxes)
        assert torch.equal(drawn.what[:2], scene.what)
        assert torch.equal(drawn.background, scene.background)
        assert draw(model, [drawn])[0].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "opposite"),
    [("left-of", "right-of"), ("above", "below"), ("larger-than", "smaller-than")],
)
def test_relations_hold_in_every_sample(model, name, opposite):
    wanted = Relation.parse(f"0 {name} 1")
    scenes = sample(model, 5, relations=[wanted])
    assert all(wanted.holds(s.boxes) and len(s) > 1 for s in scenes)
    assert not any(Relation(0, opposite, 1).holds(s.boxes) for s in scenes)


def test_relations_that_never_hold_are_told(model, monkeypatch):
    monkeypatch.setattr(sampling, "TRIES", 2)
    both = [Relation.parse("0 above 1"), Relation.parse("0 below 1")]
    with pytest.raises(SteerError, match="0 of 2 scenes: in 4 that were drawn"):
        sample(model, 2, relations=both)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 left 1", "expected a relation left-of, .* got 'left'"),
        ("0 above", "expected NUMBER RELATION NUMBER, got '0 above'"),
        ("a above 1", "expected NUMBER RELATION NUMBER"),
    ],
)
def test_what_is_no_relation(text, said):
    with pytest.raises(InputError, match=said):
        Relation.parse(text)


def test_boxes_that_no_cell_proposes_cannot_be_kept(model, proposed):
    with pytest.raises(InputError, match=r"that of object 0 is .* off"):
        sample(model, 1, kept=proposed.scaled(0, 9))


def test_more_objects_than_a_cell_holds_cannot_be_kept(model, proposed):
    scene = proposed
    for _ in range(4):
        scene = scene.copied(0, 0, 0)
    with pytest.raises(InputError, match="expected 4 objects or fewer in a cell, 5 is one more"):
        sample(model, 1, kept=scene)


# --- measures of a whole model ---


def found_as(truth, pictures):
    """What a perfect model would find."""
    which, number = truth.present.nonzero().unbind(1)
    count = len(which)
    objects = Objects(
        which, torch.zeros(count, 5), torch.zeros(count), torch.ones(count), torch.zeros(count, 16)
    )
    masks = truth.masks[which, number]
    return Found(
        objects, torch.ones(count), masks, tight(masks), torch.zeros(len(pictures), 24), pictures,
        torch.full((len(pictures),), 20),
    )  # fmt: skip


def test_a_perfect_model_has_perfect_measures(model, monkeypatch):
    truths = iter(Scenes().truth(part) for part in torch.arange(60).split(25))
    monkeypatch.setattr(model, "find", lambda pictures: found_as(next(truths), pictures))
    scores = evaluation.evaluate(model, Scenes(), torch.arange(60), batch=25)
    assert scores.pop("looked at") == 20
    assert scores == pytest.approx(
        {"AP 0.5": 1, "AP 0.5:0.95": 1, "AP 0.1:0.9": 1, "wrong counts": 0, "count error": 0,
         "ARI": 1, "MSE": 0}
    )  # fmt: skip
