"""Seconds of what judges pictures, each as a ratio to something in the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import scaled
from safetensors.torch import save_file

from steer.saliency import SMALL, Salient, published, standardised
from steer.scores import frechet_distance


def features(n: int, d: int, seed: int) -> torch.Tensor:
    """Features whose variances span four powers of ten."""
    noise = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=noise) * torch.logspace(0, -2, d)[:, None]
    return torch.randn(n, d, generator=noise) @ mix


def test_frechet_distance_over_the_square_root_of_a_matrix(ratio, figures):
    """FID's 2048 features of 2,500 pictures, and the textbook's way with scipy's sqrtm."""
    a, b = features(2500, 2048, seed=1), features(2500, 2048, seed=2) + 0.1
    wanted = 0.0

    def by_root() -> None:
        nonlocal wanted
        x, y = (each.double().numpy() for each in (a, b))
        p, q = (np.cov(each, rowvar=False) for each in (x, y))
        root = np.real(np.trace(scipy.linalg.sqrtm(p @ q)))
        gap = np.sum((x.mean(0) - y.mean(0)) ** 2)
        wanted = gap + np.trace(p) + np.trace(q) - 2 * root

    found = ratio(lambda: frechet_distance(a, b), by_root, rounds=1)
    figures(frechet_over_sqrtm=found, distance=wanted)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-8)
    assert found <= 0.25


@pytest.fixture
def salient(models: Path | None, tmp_path: Path) -> Salient:
    """U2-Net-P, with random weights where the trained ones are absent: speed does not know."""
    if models:
        return Salient(str(models.parent / "saliency/u2netp.safetensors"))
    noise = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(shape, generator=noise) / 100 for name, shape in published(SMALL).items()
    }
    save_file(state, tmp_path / "u2netp.safetensors")
    return Salient(str(tmp_path / "u2netp.safetensors"))


def test_salient_objects_over_the_bare_network(ratio, figures, salient):
    """Masks of pictures of 64x64, and one pass each of the network over prepared input."""
    pictures = torch.rand(scaled(8), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    prepared = standardised(pictures).split(1)

    @torch.no_grad()
    def bare() -> None:
        for each in prepared:
            salient.network(each)

    found = ratio(lambda: salient(pictures), bare, rounds=scaled(5, 3))
    figures(salient_over_network=found)
    assert found <= 1.1
