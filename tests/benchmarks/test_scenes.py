"""What a training step of a scene model costs beside its networks, and taking pictures apart."""

from __future__ import annotations

import torch
from conftest import scaled

from steer.datasets.scenes import Scenes as Pictures
from steer.scenes.model import SceneModel
from steer.training.scenes import Scenes
from steer.training.team import Team

BATCH = 16


def objective() -> Scenes:
    torch.manual_seed(0)
    return Scenes(SceneModel(), steps=1000)


def test_a_step_costs_little_more_than_its_networks(ratio, figures):
    """Over forward, backward and Adam of the same networks on as many glimpses: boxes, glimpses,
    windows, composing and losses are the rest."""
    ours, theirs, pictures = objective(), objective(), Pictures().pictures(torch.arange(BATCH))
    noise, steps = Team("cpu").noise(0), scaled(5)
    glimpses = torch.rand(int(ours.model(pictures).looked_at.sum()), 3, 16, 16)
    drawn = [torch.randn(BATCH, *shape) for shape in ours.model.noise_shapes()]

    def bare() -> None:
        model = theirs.model
        for _ in range(steps):
            background = model.background.posterior(pictures).mean
            q_presence, z_presence, q_box, z_box = model.cells(pictures, drawn[1])
            what = model.objects.posterior(glimpses).mean
            prior = model.prior(background, lambda k, i, gaussian: gaussian.mean)
            outs = [
                *model.background(background), *model.objects(what), *q_presence, *q_box,
                *model.decoder.boxes(z_box), model.decoder.presences(z_presence),
                *(part for gaussian in prior for part in gaussian),
            ]  # fmt: skip
            loss = torch.stack([out.sum() for out in outs]).sum()
            for optimiser in theirs.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            for optimiser in theirs.optimisers.values():
                optimiser.step()

    def whole() -> None:
        for _ in range(steps):
            ours.step(pictures, 500, noise)

    found = ratio(whole, bare, rounds=scaled(8, 3))
    figures(scene_step_over_bare=found, glimpses_of_a_picture=len(glimpses) / BATCH)


def test_pictures_are_taken_apart_together(ratio, figures):
    """A batch of 32, over the same one at a time."""
    torch.manual_seed(0)
    model, pictures = SceneModel().eval(), Pictures().pictures(torch.arange(32))
    found = ratio(
        lambda: model.find(pictures),
        lambda: [model.find(one) for one in pictures.split(1)],
        rounds=scaled(8, 3),
    )
    figures(batched_over_single=found)
    assert found <= 0.8
