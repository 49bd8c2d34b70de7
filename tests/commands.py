"""Commands run inside the test's process, and files for them; fixtures for the tests/test_cli_*."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from PIL import Image
from torch import Tensor

from steer.checkpoints import save_checkpoint
from steer.cli import main
from steer.files import Artefact, how_made, load, save
from steer.generators import PictureShape, generators
from steer.generators import load as load_generator
from steer.generators.vae import VAE


@dataclass
class Ended:
    """How a command ended: its status and what it wrote."""

    status: int
    out: bytes
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The only JSON object on standard output."""
        return json.loads(self.out)


Steer = Callable[..., Ended]


@pytest.fixture
def steer() -> Iterator[Steer]:
    """Runs `steer ARGUMENTS` with `stdin`; the folder it runs in is the test's own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: Any, stdin: bytes = b"") -> Ended:
        patch = pytest.MonkeyPatch()
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        patch.setattr(os, "fsync", lambda descriptor: None)  # slow, and tested in test_files
        patch.setattr(sys, "argv", ["steer", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            patch.undo()
        out.flush()
        return Ended(int(ended.value.code or 0), out.buffer.getvalue(), err.getvalue())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def refused(ended: Ended, *words: str, status: int = 2) -> None:
    """The command ended with `status` and one sentence that has `words`, and wrote nothing else."""
    assert ended.status == status, ended.err
    assert ended.err.startswith("steer: ") and ended.err.count("\n") == 1, ended.err
    assert ended.err.rstrip()[-1] in ".?", ended.err
    for word in words:
        assert word in ended.err
    assert ended.out == b""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained VAE of 3x16x16 pictures and 3 latents: for mechanics."""
    return tiny_vae(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    return tiny_vae(tmp_path_factory.mktemp("models") / "other", seed=1)


def tiny_vae(folder: Path, seed: int) -> Path:
    """Writes a VAE's checkpoint folder."""
    torch.manual_seed(seed)
    vae = VAE(PictureShape(3, 16, 16), latent=3, widths=(4, 4), dense=(8,))
    save_checkpoint(folder, vae.config, vae.state_dict(), "# Tiny")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _blob() -> None:
    """`--model blob`: a generator whose factors are known in closed form."""
    if "blob" not in generators:
        generators.register("blob", toys.Blob)


@pytest.fixture(scope="session")
def knob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The direction of translate-x of `blob`, exact."""
    return _direction_file(toys.curved("translate-x", toys.AXES[0], toys.erf_law), tmp_path_factory)


@pytest.fixture(scope="session")
def knob_y(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The direction of translate-y of `blob`, exact."""
    return _direction_file(toys.straight("translate-y", toys.AXES[1], 0.1), tmp_path_factory)


def _direction_file(direction: Any, folders: pytest.TempPathFactory) -> Path:
    direction.generator = load_generator("blob", "cpu").identity()
    path = folders.mktemp("directions") / f"{direction.name}.safetensors"
    save(direction.artefact(), path)
    return path


def latents_of(model: str, n: int, path: Path, seed: int = 0) -> Path:
    """A latents file, as `steer sample` writes it."""
    generator = load_generator(str(model), "cpu")
    made = how_made("sample", generator.identity(), seed=seed, n=n)
    save(Artefact("latents", {"z": generator.latent.sample(n, seed)}, made), path)
    return path


def z_of(path: Path | bytes) -> Tensor:
    """The codes in a latents file or its bytes."""
    return load(path, "latents").tensors["z"]


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    """A smooth colour picture that depends on the seed."""
    noise = torch.Generator().manual_seed(seed)
    small = (torch.rand(4, 4, 3, generator=noise) * 255).to(torch.uint8).numpy()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path
