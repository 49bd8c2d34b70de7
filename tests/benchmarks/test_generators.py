"""BigGAN and StyleGAN: memory of loading, and speed against the originals' ways.

What needs a GPU runs on a small network where there is none, so that it is known to run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median

import pytest
import safetensors.torch
import torch
from conftest import scaled
from torch import Tensor
from torch.nn import functional as F

from steer.checkpoints import Checkpoint
from steer.generators.base import Generator
from steer.generators.biggan_deep import LAYERS, BigGANDeep, DeepSizes, published
from steer.generators.style import Mapping
from steer.generators.stylegan2 import BINOMIAL, Style, StyledConvolution, StyleGAN2
from steer.inversion import Search, invert

#: How far pictures in [0, 1] may be from those in float32, at the pixel that is furthest.
TOLERANCES = {"float32": 1e-4, "tf32": 0.02, "bf16": 0.1}


def deep_state(side: int) -> dict[str, Tensor]:
    """Random weights in the published layout, with spectral norms that are settled."""
    torch.manual_seed(0)
    state = {}
    for name, shape in published(DeepSizes(LAYERS[side])).items():
        state[name] = torch.ones(shape) if name.endswith("vars") else torch.randn(shape) / 20
    for name in [each.removesuffix("_orig") for each in state if each.endswith("_orig")]:
        matrix, u = state[f"{name}_orig"].flatten(1), state[f"{name}_u"]
        for _ in range(3):
            v = F.normalize(matrix.T @ u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        state[f"{name}_u"], state[f"{name}_v"] = u, v
    return state


def stylegan2(side: int, most: int = 512, dim: int = 512) -> StyleGAN2:
    """Random weights in configuration F's sizes, or smaller ones; noise in every layer."""
    torch.manual_seed(0)
    count = side.bit_length() - 2
    channels = [min(64 * most // (4 << i), most) for i in range(count)]
    network = StyleGAN2(Mapping([dim] * 9), channels)
    for module in network.modules():
        if isinstance(module, StyledConvolution):
            module.noise_strength.data.fill_(0.1)
    network.mapping.estimate_mean(256)
    return network.eval().requires_grad_(False)


# --- memory ---

# ru_maxrss of a process starts at that of the one which started it; the kernel's own mark does not
STATUS = Path("/proc/self/status")
LOAD = """
import re, sys
from steer.generators import load
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
load(sys.argv[1], device="cpu")
print(peak() - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc/self/status")
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("kind", ["biggan-deep-512", "stylegan2-1024"])
def test_peak_memory_of_loading(benchmark, figures, tmp_path, kind, suffix):
    """The peak of a process that loads a model, beyond that of its imports, over the file's size;
    what stays resident afterwards is no more."""
    state = deep_state(512) if kind == "biggan-deep-512" else stylegan2(1024).state_dict()
    state = {name: each.detach() for name, each in state.items()}
    file = tmp_path / f"model.{suffix}"
    write(state, file)
    command = [sys.executable, "-c", LOAD, str(file)]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def peak() -> int:
        return int(subprocess.run(command, check=True, capture_output=True, env=path).stdout)

    size = file.stat().st_size
    found = benchmark.pedantic(peak, rounds=1) * 1024 / size
    figures(megabytes=size / 1e6, peak_over_size=found)
    assert found <= 1.3


def write(state: dict[str, Tensor], file: Path) -> None:
    """A checkpoint as the Hub has them."""
    if file.suffix == ".safetensors":
        safetensors.torch.save_file({n: each.clone() for n, each in state.items()}, file)
    else:
        torch.save(state, file)


# --- speed against the originals' ways ---


def test_biggan_deep_over_the_package(ratio, figures):
    """Forward and backward to z and class at batch 8, at 128 x 128."""
    package = pytest.importorskip("pytorch_pretrained_biggan", reason="needs the test extra")
    state, sizes, batch = deep_state(128), DeepSizes(LAYERS[128]), 8
    config = package.BigGANConfig(output_dim=128, layers=[list(each) for each in sizes.layers])
    reference = package.BigGAN(config).eval().requires_grad_(False)
    reference.load_state_dict(state)
    ours = BigGANDeep.from_checkpoint(Checkpoint("random", {}, state, "", False))
    ours.requires_grad_(False)
    z, labels = ours.latent.sample(batch, seed=1), torch.arange(batch) * 7
    told = F.one_hot(labels, sizes.classes).float()
    codes = torch.cat([z, ours.condition.codes[labels]], dim=1)

    def theirs() -> None:
        inputs = [each.clone().requires_grad_() for each in (z, told)]
        torch.autograd.grad(reference(*inputs, 1.0).sum(), inputs)

    found = ratio(lambda: gradient(ours, codes), theirs, rounds=scaled(5, 2))
    figures(ours_over_package=found)
    assert found <= 0.9


def gradient(generator: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """Of the sum of all pixels, by the codes."""
    codes = codes.clone().requires_grad_()
    return torch.autograd.grad(generator(codes).sum(), codes)[0]


class Grouped(StyledConvolution):
    """The same layer with weights of its own for each item, in one grouped convolution; every layer
    of the original's works that way."""

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        batch, outputs = len(x), len(self.weight)
        own = self.weight * self.affine(w)[:, None, :, None, None]
        own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = F.conv2d(x.flatten(0, 1)[None], own.flatten(0, 1), padding=1, groups=batch)
        x = x.view(batch, outputs, *x.shape[2:]) + noise * self.noise_strength
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * 2**0.5


def test_modulation_over_grouped_convolutions(ratio, figures):
    """Layers of StyleGAN2 at 256 x 256, forward and backward to maps and w at batch 8."""
    torch.manual_seed(0)
    style = Style(512, None, True, BINOMIAL)
    work = []
    for channels, side in ((512, 8), (512, 16), (512, 32), (128, 64)):
        ours = StyledConvolution(channels, channels, (side, side), style, up=False)
        grouped = Grouped(channels, channels, (side, side), style, up=False)
        grouped.load_state_dict(ours.state_dict())
        x, w = torch.randn(8, channels, side, side), torch.randn(8, 512)
        work.append((ours.requires_grad_(False), grouped.requires_grad_(False), x, w))

    def run(which: int) -> list[Tensor]:
        maps = []
        for *layers, x, w in work:
            layer, inputs = layers[which], [x.clone().requires_grad_(), w.clone().requires_grad_()]
            y = layer(*inputs, layer.noise_const)
            torch.autograd.grad(y.sum(), inputs)
            maps.append(y.detach())
        return maps

    for ours, theirs in zip(run(0), run(1), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    found = ratio(lambda: run(0), lambda: run(1), rounds=scaled(10, 3))
    figures(scaled_maps_over_grouped_weights=found)
    assert found <= 1


# --- inversion on whatever device there is ---


def test_inversion_on_a_device(benchmark, figures):
    """Pictures per second of batched inversion in each precision, over the bare forward and
    backward of as many evaluations and over one at a time; on a GPU compiled and as a CUDA graph
    too."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    generator = (stylegan2(256) if on_gpu else stylegan2(32, most=32, dim=32)).to(device)
    count = scaled(64, 8)
    search = Search(steps=scaled(100, 10), restarts=1, pool=scaled(256, 16), start="prior")
    codes = generator.latent.sample(count, seed=1).to(device)
    with torch.no_grad():
        pictures = generator(codes)

    numbers: dict[str, float] = {"pictures": count}
    for name, precision in precisions(device).items():
        with precision():
            with torch.no_grad():
                off = float((generator(codes).float() - pictures).abs().max())
            bare = seconds(lambda: gradient(generator, codes), device) / count
            spent, found = timed(lambda: invert(generator, pictures, search, batch=count), device)
        numbers |= {
            f"{name}_per_second": count / spent,
            f"{name}_over_bare": spent / (bare * float(found.evaluations.sum())),
            f"{name}_bare_per_second": 1 / bare,
            f"{name}_deviation": off,
        }
        assert found.z.isfinite().all()
        assert off <= TOLERANCES[name]
    few = pictures[: scaled(8, 2)]
    alone, _ = timed(lambda: [invert(generator, each[None], search) for each in few], device)
    numbers["batched_over_alone"] = numbers["float32_per_second"] * alone / len(few)
    for name, faster in (captured(generator, codes) if on_gpu else {}).items():
        torch.testing.assert_close(faster(), gradient(generator, codes), atol=1e-2, rtol=1e-2)
        bare = seconds(lambda: gradient(generator, codes), device)
        numbers[f"{name}_over_bare"] = seconds(faster, device) / bare
    benchmark.pedantic(lambda: gradient(generator, codes), rounds=3)
    figures(**numbers)
    assert numbers["batched_over_alone"] >= 1


def precisions(device: torch.device) -> dict[str, Callable[[], AbstractContextManager]]:
    """Ways to compute by name, exact float32 first."""

    def half() -> AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16)

    if device.type == "cpu":
        return {"float32": nullcontext, "bf16": half}
    return {"float32": lambda: tf32(False), "tf32": lambda: tf32(True), "bf16": half}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products on a GPU may keep 10 bits of the mantissa."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    yield
    for switch, was in zip(switches, before, strict=True):
        switch.allow_tf32 = was


def captured(generator: Generator, codes: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward for fixed codes, compiled and replayed from a CUDA graph."""
    compiled = torch.compile(generator)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries choose their kernels before the capture
        for _ in range(3):
            gradient(generator, codes)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradient(generator, codes)

    def replay() -> Tensor:
        graph.replay()
        return found

    return {"compiled": lambda: gradient(compiled, codes), "graph": replay}


def timed(work: Callable, device: torch.device) -> tuple[float, object]:
    """Seconds until the device is done, and the result."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def seconds(work: Callable, device: torch.device) -> float:
    """Median of five runs, after one to warm up."""
    return median([timed(work, device)[0] for _ in range(6)][1:])
