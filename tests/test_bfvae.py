"""BFVAE: what each code may know, the losses, both stages of training, and the folder."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from skimage.morphology import erosion
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from steer.checkpoints import save_checkpoint
from steer.datasets import GreySprites, OneObject, Scenes, open_dataset
from steer.errors import InputError
from steer.scenes import bfvae
from steer.scenes.bfvae import BFVAE, between, swaps
from steer.scenes.stored import load
from steer.training.bfvae import Both, Masked
from steer.training.loop import train
from steer.training.team import Noise


class Small(OneObject):
    """At 16x16."""

    shape = (3, 16, 16)


def small(seed: int = 0) -> BFVAE:
    torch.manual_seed(seed)
    return BFVAE(side=16, foreground=8, background=4, width=8)


@pytest.fixture
def model() -> BFVAE:
    return small().eval()


@pytest.fixture
def data() -> Tensor:
    """Pictures and masks [6, 4, 16, 16]."""
    return Masked(Small()).pictures(torch.arange(6))


# --- data ---


def test_one_object_before_a_background():
    scenes, indices = open_dataset("one-object"), torch.arange(64)
    assert isinstance(scenes, OneObject)
    found, pictures = scenes.truth(indices), scenes.pictures(indices)
    assert found.counts.tolist() == [1] * 64 and found.masks.shape[1] == 1
    behind = scenes.backgrounds(scenes.layout(indices).background).clamp(0, 1)
    clear = found.masks == 0
    assert torch.equal(pictures.where(clear, 0), behind.where(clear, 0))
    # large enough to be seen: at least a tenth of the sides
    widths = found.boxes[:, 0, 2] - found.boxes[:, 0, 0]
    assert widths.min() > 0.1 and pictures.min() >= 0 and pictures.max() <= 1


def test_the_fourth_channel_covers_all_objects():
    scenes, indices = Scenes(), torch.arange(8)
    whole = Masked(scenes).pictures(indices)
    layout = scenes.layout(indices)
    assert torch.equal(whole[:, :3], scenes.pictures(indices))
    nowhere = (1 - scenes.alphas(layout)).prod(1)
    assert torch.allclose(whole[:, 3], 1 - nowhere, atol=1e-6)


def test_pictures_without_colours_are_refused():
    with pytest.raises(InputError, match="3 channels, sprites-grey has 1"):
        Masked(GreySprites())


# --- the model ---


def test_by_a_mask_the_foreground_knows_nothing_of_the_background(model, data):
    pictures, masks = data.split([3, 1], dim=1)
    inside = (masks > 0).float()
    others = pictures * inside + (1 - inside) * pictures.flip(0)
    assert torch.equal(model.codes(others, inside)[1], model.codes(pictures, inside)[1])
    assert not torch.equal(model.codes(others)[1], model.codes(pictures)[1])
    assert not torch.equal(model.codes(others)[0], model.codes(pictures)[0])


def test_black_objects_are_seen(model, data):
    """Their foregrounds are all black: the mask alone tells them apart, and from nothing."""
    black, masks = torch.zeros_like(data[:, :3]), data[:, 3:]
    z_f = torch.cat([model.codes(black, masks)[1], model.nothing()])
    assert torch.pdist(z_f).min() > 1e-3
    thinner = torch.from_numpy(erosion(masks[0, 0].numpy()))[None, None]
    assert not torch.equal(model.codes(black[:1], thinner)[1], z_f[:1])


def test_what_is_drawn_is_a_picture(model):
    z_b, z_f = 30 * torch.randn(4, 4), 30 * torch.randn(4, 8)
    for drawn, channels in ((model.draw(z_b, z_f), 3), (model.draw_foreground(z_f), 4)):
        assert drawn.shape == (4, channels, 16, 16)
        assert drawn.min() == 0 and drawn.max() == 1


def test_a_clean_background_is_drawn_of_nothing(model, data):
    pictures = data[:, :3]
    black = torch.zeros(6, 3, 16, 16)
    nothing = model.codes(black, black[:, :1])[1]
    wanted = model.draw(model.codes(pictures)[0], nothing)
    assert torch.allclose(model.clean(pictures), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 3, 32, 32)], r"pictures \[2, 3, 16, 16\], got \[2, 3, 32, 32\]"),
        ([(2, 1, 16, 16)], r"pictures \[2, 3, 16, 16\], got \[2, 1, 16, 16\]"),
        ([(2, 3, 16, 16), (1, 1, 16, 16)], r"masks \[2, 1, 16, 16\], got \[1, 1, 16, 16\]"),
    ],
)
def test_other_shapes_are_refused(model, shapes, words):
    with pytest.raises(InputError, match=words):
        model.codes(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("side", [8, 24, 100])
def test_other_sides_are_refused(side):
    with pytest.raises(InputError, match=rf"2\^k x 2\^k, 16 or more, got {side}x{side}"):
        BFVAE(side=side)


# --- sheets ---


def test_swaps_are_foregrounds_by_backgrounds(model, data, monkeypatch):
    monkeypatch.setattr(bfvae, "grid", lambda *given: given)
    pictures, masks = data[:3, :3], data[:3, 3:]
    (head, *rows, last), labels, columns = swaps(model, pictures, masks)
    assert (len(labels), len(columns)) == (5, 4)
    assert head[0] is None and torch.equal(torch.stack(head[1:]), pictures)
    z_b, z_f = model.codes(pictures, masks)
    for row, own, what in zip(rows, pictures, z_f, strict=True):
        assert torch.equal(row[0], own)
        wanted = torch.cat([model.draw(each[None], what[None]) for each in z_b])
        assert torch.allclose(torch.stack(row[1:]), wanted, atol=1e-6)
    assert last[0] is None
    assert torch.allclose(torch.stack(last[1:]), model.clean(pictures), atol=1e-6)


def test_between_two_pictures(model, data, monkeypatch):
    """In the corners are both, and each with the other's background."""
    monkeypatch.setattr(bfvae, "grid", lambda rows: torch.stack([torch.stack(r) for r in rows]))
    pictures = data[:2, :3]
    drawn = between(model, pictures, steps=4)
    z_b, z_f = model.codes(pictures)
    assert drawn.shape == (4, 4, 3, 16, 16)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        wanted = model.draw(z_b[j : j + 1], z_f[i : i + 1])[0]
        assert torch.allclose(drawn[3 * i, 3 * j], wanted, atol=1e-5)


# --- training ---


@pytest.mark.parametrize("masked", [True, False])
def test_losses_are_those_of_the_distributions(data, masked):
    objective = Both(small(), steps=4, beta=3.0, sigma=0.2)
    model, (whole, masks) = objective.model, data.split([3, 1], dim=1)
    losses = objective.losses(data, Noise(5), masked)
    q_b, q_f = model.background(whole), model.foreground(whole, masks if masked else None)
    noise = Noise(5)
    z_b, z_f = (q.mean + q.log_sigma.exp() * noise.normal(6, q.mean.shape[1]) for q in (q_b, q_f))
    for name, q, weight in (("z_b", q_b, 3.0), ("z_f", q_f, 1.0)):
        away = kl_divergence(Normal(q.mean, q.log_sigma.exp()), Normal(0.0, 1.0))
        assert losses[name].item() == pytest.approx(weight * away.sum().item() / 6, rel=1e-5)
    before = torch.cat([whole * masks, masks], dim=1)
    both = {"picture": (model.decoder_b(torch.cat([z_b, z_f], 1)), whole),
            "foreground": (model.decoder_f(z_f), before)}  # fmt: skip
    for name, (drawn, real) in both.items():
        density = Normal(drawn, 0.2).log_prob(real) - Normal(real, 0.2).log_prob(real)
        assert losses[name].item() == pytest.approx(-density.sum().item() / 6, rel=1e-4)


def test_each_stage_trains_its_own_networks(data):
    objective = Both(small(), steps=10, rate=1e-2)
    assert objective.first == 8
    stages = {}
    for step in (7, 8):
        before = deepcopy(objective.model.state_dict())
        objective.step(data, step, Noise(step))
        after = objective.model.state_dict()
        stages[step] = {n.split(".")[0] for n in after if not torch.equal(before[n], after[n])}
    assert stages[7] == {"encoder_f", "encoder_b", "decoder_f", "decoder_b"}
    assert stages[8] == {"encoder_whole"}


class Killed(BaseException):
    """The end of the process, as far as the loop can tell."""


@pytest.mark.parametrize("at", [2, 5])
def test_killed_in_either_stage_it_ends_with_the_same_bytes(tmp_path, at):
    def run(name: str, until: int = 6) -> bytes:
        made = Both(small(), steps=6)
        whole = made.step

        def step(pictures, step, noise):
            if step == until:
                raise Killed
            return whole(pictures, step, noise)

        made.step = step
        how = {"steps": 6, "batch": 4, "every": 1, "resume": True}
        return (
            train(made, Masked(Small()), tmp_path / name, {}, **how) / "model.safetensors"
        ).read_bytes()

    clean = run("clean")
    with pytest.raises(Killed):
        run("run", at)
    assert run("run") == clean


def test_foregrounds_go_before_other_backgrounds():
    """Trained for a moment, what is drawn of a foreground and another's background is nearer to
    that picture than to either of the two that the codes are of."""
    made, objective = Small(), Both(small(), steps=10_000, beta=2.0, rate=3e-3)
    pictures = Masked(made).pictures(torch.arange(200 * 16)).split(16)
    for step, batch in enumerate(pictures):
        objective.step(batch, step, Noise(step))
    indices = 10**9 + torch.arange(100)
    layout = made.layout(indices)
    whole, masks = Masked(made).pictures(indices).split([3, 1], dim=1)
    behind = made.backgrounds(layout.background.flip(0)).clamp(0, 1)
    swapped = behind + masks * (layout.colour[:, 0, :, None, None] - behind)
    z_b, z_f = objective.model.codes(whole, masks)
    drawn = objective.model.draw(z_b.flip(0), z_f)
    away = [(drawn - each).square().mean((1, 2, 3)) for each in (swapped, whole, whole.flip(0))]
    assert (away[0] < torch.minimum(away[1], away[2])).float().mean() > 0.6


def test_the_last_stage_finds_foregrounds_without_masks(data):
    objective = Both(small(), steps=60, rate=3e-3)
    first = objective.losses(data, Noise(0), masked=False)
    for step in range(48, 60):
        objective.step(data, step, Noise(step))
    last = objective.losses(data, Noise(0), masked=False)
    assert sum(last.values()) < 0.97 * sum(first.values()) and last["z_b"] == first["z_b"]


# --- folders ---


def test_a_folder_is_the_model(model, data, tmp_path):
    save_checkpoint(tmp_path / "m", model.config, model.state_dict(), "M.")
    found = load(tmp_path / "m", "cpu")
    z_b, z_f = model.codes(data[:, :3])
    assert torch.equal(found.draw(*found.codes(data[:, :3])), model.draw(z_b, z_f))
    assert len(found.identity["checksum"]) == 64 and not found.training


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"family": "vae"}, "expected a scene model of steer decompose --train, .* holds 'vae'"),
        ({"width": 0}, "whole number width from 1 to 1024"),
        ({"foreground": "8"}, "whole number foreground from 1 to 4096"),
        ({"side": 24}, r"2\^k x 2\^k, 16 or more, got 24x24"),
        ({"background": 5}, r"does not fit: decoder_b.0.0.weight is \[256, 12\]"),
    ],
)
def test_other_configurations_are_refused(model, tmp_path, changed, words):
    save_checkpoint(tmp_path / "m", model.config, model.state_dict(), "M.")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / "m", "cpu")
    assert "\n" not in str(caught.value)
