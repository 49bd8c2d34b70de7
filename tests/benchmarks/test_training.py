"""What a training step costs beside its networks, and what it waits for pictures."""

from __future__ import annotations

import time

import pytest
import torch
from conftest import scaled
from torch import nn

from steer.datasets import Dataset, datasets
from steer.generators.base import PictureShape
from steer.generators.vae import VAE
from steer.training.avae import AVAE
from steer.training.loop import Objective, batches
from steer.training.objectives import Blocks, objectives
from steer.training.team import Team
from steer.training.vae import BetaVAE

BATCH, WIDTH = 64, 32


def avae() -> AVAE:
    torch.manual_seed(0)
    return objectives.get("avae")(Blocks(PictureShape(3, 32, 32), width=WIDTH))


def test_a_step_costs_little_more_than_its_networks(ratio, figures):
    """Of an AVAE, over forward, backward and Adam of the same networks: noise, losses, the running
    average and what is logged are the rest."""
    ours, theirs, pictures = avae(), avae(), torch.rand(BATCH, 3, 32, 32)
    code, noise = torch.randn(BATCH, ours.dim), Team("cpu").noise(0)
    steps = scaled(6)

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser = theirs.optimisers[name]
        weights = optimiser.param_groups[0]["params"]
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimiser.step()

    def bare() -> None:
        encoder: nn.Module = theirs.vae.posterior
        for _ in range(steps):
            mean, log_sigma = encoder.train()(pictures)
            drawn = theirs.vae.decoder(mean)
            update("vae", drawn.sum() + mean.sum() + log_sigma.sum())
            fake = theirs.generator(code)
            update("critic", (theirs.critic(pictures) + theirs.critic(fake.detach())).mean())
            mean, _ = encoder.eval()(fake)
            update("generator", theirs.critic(fake).mean() + mean.sum())

    def whole() -> None:
        for step in range(steps):
            ours.step(pictures, step, noise)

    found = ratio(whole, bare, rounds=scaled(10, 3))
    figures(training_step_over_bare=found)
    assert found <= 1.1


@pytest.mark.parametrize("name", ["sprites", "sprites-textured"])
def test_pictures_are_there_when_they_are_wanted(benchmark, figures, name):
    """Share of a training's time that it waits for pictures: of a beta-VAE by default options."""
    dataset: Dataset = datasets.get(name)()
    torch.manual_seed(0)
    objective: Objective = BetaVAE(VAE(PictureShape(*dataset.shape)), steps=1000)
    team, waited, steps = Team("cpu"), [], scaled(40, 10)

    def train() -> None:
        coming = iter(batches(dataset, range(steps), BATCH, 0, team))
        for _ in range(steps):
            since = time.perf_counter()
            step, pictures = next(coming)
            waited.append(time.perf_counter() - since)
            objective.step(pictures, step, team.noise(step))

    started = time.perf_counter()
    benchmark.pedantic(train, rounds=1)
    share = sum(waited) / (time.perf_counter() - started)
    figures(share_of_waiting=share)
    assert share <= 0.05


def test_bfloat16_is_faster(ratio, figures):
    """Steps of an AVAE as `--bf16` has them, over those in float32."""
    rough, exact, pictures = avae(), avae(), torch.rand(BATCH, 3, 32, 32)
    noise, steps = Team("cpu").noise(0), scaled(6)

    def train(what: AVAE, bf16: bool) -> None:
        for step in range(steps):
            with torch.autocast("cpu", torch.bfloat16, bf16, cache_enabled=False):
                what.step(pictures, step, noise)

    found = ratio(lambda: train(rough, True), lambda: train(exact, False), rounds=scaled(5, 2))
    figures(bfloat16_over_float32=found)
    if found >= 1:
        pytest.skip(f"this processor computes no faster in bfloat16 ({found:.2f})")
