"""What benchmarks share: their size, ratios within one run, and the table of figures at the end.

`STEER_BENCHMARK_SIZE=0.1 pytest -o addopts= tests/benchmarks` does a tenth of the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch

import steer
from steer.generators.dcgan import DCGAN

SIZE = float(os.environ.get("STEER_BENCHMARK_SIZE", 1))
FIGURES: list[str] = []


def scaled(count: int, least: int = 2) -> int:
    """A count of the full benchmark at the size of this run."""
    return max(least, round(count * SIZE))


@pytest.fixture
def figures(request: pytest.FixtureRequest, benchmark) -> Callable[..., None]:
    """Keeps figures with the benchmark, and prints them when the run ends."""

    def keep(**numbers: float) -> None:
        benchmark.extra_info.update(numbers)
        shown = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
        FIGURES.append(f"{request.node.name}: {shown}")

    return keep


def pytest_terminal_summary(terminalreporter) -> None:
    """The figures, one line for each benchmark."""
    terminalreporter.section(f"figures (size {SIZE:g}, {torch.get_num_threads()} threads)")
    for line in FIGURES:
        terminalreporter.write_line(line)


@pytest.fixture
def ratio(benchmark) -> Callable[..., float]:
    """Median time of a function over that of a reference, which runs before each of its rounds."""

    def measure(function: Callable, reference: Callable, rounds: int) -> float:
        references: list[float] = []

        def time_reference() -> None:
            start = time.perf_counter()
            reference()
            references.append(time.perf_counter() - start)

        benchmark.pedantic(function, setup=time_reference, rounds=rounds)
        return benchmark.stats.stats.median / median(references)

    return measure


@pytest.fixture
def models() -> Path | None:
    """The folder of trained models beside the checkout, where there is one."""
    folder = Path(__file__).resolve().parents[3] / "shared/data/generators"
    return folder if folder.is_dir() else None


@pytest.fixture
def faces(models: Path | None) -> steer.Generator:
    """The faces DCGAN, or one of the same sizes with random weights: speed does not know."""
    if models:
        return steer.load(str(models / "dcgan-faces/weights.tar"), device="cpu")
    torch.manual_seed(0)
    return DCGAN((100, 512, 256, 128, 64, 3)).eval().requires_grad_(False)


@pytest.fixture(params=["btcvae_dsprites", "dcgan-faces"])
def trained(request: pytest.FixtureRequest, shared: Path) -> steer.Generator:
    """Trained models that nobody here made."""
    within = {
        "btcvae_dsprites": "disvae/btcvae_dsprites",
        "dcgan-faces": "dcgan-faces/weights.tar",
    }[request.param]
    generator = steer.load(str(shared / "data/generators" / within), device="cpu")
    generator.name = request.param
    return generator
