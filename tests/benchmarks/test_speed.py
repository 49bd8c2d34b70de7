"""Seconds and bytes, each as a ratio to something in the same run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import scaled
from scipy.special import erf

from steer.inversion import STEPS, Search, invert
from steer.optimise import minimise
from steer.regression import Pairs, fit

BATCH = 32


def test_engine_step_costs_little_more_than_the_generator(ratio, figures, faces):
    """A step of the engine, loss and projection included, over a bare forward and backward."""
    steps = scaled(10)
    search = Search()
    z = faces.latent.sample(BATCH, seed=0)
    loss = search.loss_for(faces)
    with torch.no_grad():
        targets = faces(faces.latent.sample(BATCH, seed=1))

    def bare() -> None:
        for _ in range(steps):
            code = z.clone().requires_grad_()
            torch.autograd.grad(faces(code).sum(), code)

    def engine() -> None:
        minimise(
            lambda z, items: loss(faces(z), targets[items], None),
            z,
            steps=steps,
            solver=search.solver,
            project=search.projection(faces),
        )

    found = ratio(engine, bare, rounds=scaled(10, 3))
    figures(engine_step_over_bare=found)
    assert found <= 1.2


def test_a_batch_of_inversions_over_single_ones(ratio, figures, faces):
    """32 pictures at once, and one call for each; a shorter search of the default's proportions.

    A call draws its own pool of starts, which a batch shares: the ratio without it is given too.
    """
    with torch.no_grad():
        pictures = faces(faces.latent.sample(BATCH, seed=1))
    part = scaled(100) / 400
    search = Search(steps=round(part * STEPS), pool=round(part * Search().pool))

    def single() -> None:
        for picture in pictures:
            invert(faces, picture[None], search)

    found = ratio(lambda: invert(faces, pictures, search, batch=BATCH), single, rounds=2)
    start = time.perf_counter()
    invert(faces, pictures, search, batch=1)
    sharing = time.perf_counter() - start
    start = time.perf_counter()
    invert(faces, pictures, search, batch=BATCH)
    figures(
        batch_over_single=found,
        sharing_the_pool=(time.perf_counter() - start) / sharing,
    )
    assert found <= 0.5


def test_fit_of_ten_thousand_pairs(benchmark, figures):
    """A factor that follows the erf law, in codes of 128 numbers."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal(128)
    u /= np.linalg.norm(u)
    starts, points = 1000, 10
    z_0 = rng.standard_normal((starts, 128)).repeat(points, axis=0)
    step = np.tile(np.linspace(-1, 1, points), starts)
    noise = 0.05 * rng.standard_normal(z_0.shape)
    z = z_0 + step[:, None] * u + noise
    shift = (erf(z @ u / np.sqrt(2)) - erf(z_0 @ u / np.sqrt(2))) / 2
    pairs = Pairs(z_0, z, shift, np.abs(noise).mean(1), np.arange(starts).repeat(points))
    found = benchmark.pedantic(lambda: fit("translate-x", "width", pairs), rounds=3)
    figures(seconds=benchmark.stats.stats.median, cosine=abs(float(found.u @ u)))
    assert abs(found.u @ u) > 0.99
    assert benchmark.stats.stats.median < 1


FOLLOW = """
import re, sys
from pathlib import Path
from steer.generators import load
from steer.trajectories import Follow, follow_in_shards
how = Follow("translate-x", points=2, steps=2)
follow_in_shards(load("sprites", "cpu"), how, int(sys.argv[1]), Path(sys.argv[2]), {})
# ru_maxrss of a process starts at that of the one which started it; the kernel's own mark does not
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
def test_peak_memory_does_not_grow_with_the_trajectories(benchmark, figures, tmp_path):
    """64 starts in one shard, and 1,000 in sixteen, each in a process of its own."""

    def peak(starts: int) -> int:
        command = [sys.executable, "-c", FOLLOW, str(starts), str(tmp_path / str(starts))]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    many = scaled(1000, 128)
    few = peak(64)
    most = benchmark.pedantic(lambda: peak(many), rounds=1)
    figures(starts=many, peak_over_64=most / few, megabytes=most * 1024 / 1e6)
    assert most / few <= 1.1
