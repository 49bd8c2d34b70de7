"""steer sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import Steer, refused, z_of

from steer.cli import sample as steer_sample
from steer.files import load
from steer.generators import load as load_generator


def test_the_codes_are_those_of_the_library(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "z.safetensors"
    ended = steer("sample", "--model", tiny, "-n", 5, "--seed", 3, "-o", out)
    assert (ended.status, ended.out, ended.err) == (0, b"", "")
    assert torch.equal(z_of(out), load_generator(str(tiny)).latent.sample(5, 3))


def test_a_pipe_gets_the_same_bytes_as_a_file(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "z.safetensors"
    steer("sample", "--model", tiny, "-o", out)
    assert steer("sample", "--model", tiny).out == out.read_bytes()
    assert steer("sample", "--model", tiny, "-o", "-").out == out.read_bytes()


def test_the_file_says_how_it_was_made(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "z.safetensors"
    ended = steer("sample", "--model", tiny, "-n", 2, "--seed", 9, "-o", out, "--json")
    made = load(out).made
    assert made["generator"]["checksum"] == load_generator(str(tiny)).checksum
    assert (made["command"], made["seed"], made["options"]) == ("sample", 9, {"n": 2})
    assert ended.summary["latents"] == str(out)
    assert {key: ended.summary[key] for key in made} == made


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", 0], ["'-n'", "1"]),
        (["-n", "many"], ["'-n'", "integer"]),
        (["--seed", -1], ["'--seed'", "0"]),
        (["--model", "sprite"], ["sprite", "did you mean sprites"]),
        (["--device", "gpu"], ["auto", "cpu", "'gpu'"]),
        (["--json"], ["-o FILE with --json"]),
        (["--json", "-o", "-"], ["-o FILE with --json"]),
        (["-n", 10**9], ["-n of at most 6710886", "1000000000 (40 GB)"]),
        (["-o", "photo.png"], ["photo.png", ".safetensors"]),
        (["-o", "latents"], ["latents", ".safetensors"]),
        (["-o", "no/such/z.safetensors"], ["no/such", "does not exist"]),
        (["--modle", "sprites"], ["--modle", "--model"]),
    ],
)
def test_mistakes(steer: Steer, arguments: list, words: list[str]) -> None:
    refused(steer("sample", *arguments), *words)


def test_many_codes_are_those_of_one_draw(
    steer: Steer, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steer_sample, "CHUNK", 3)
    out = tmp_path / "z.safetensors"
    assert steer("sample", "--model", tiny, "-n", 10, "-o", out).status == 0
    assert torch.equal(z_of(out), load_generator(str(tiny)).latent.sample(10, 0))


def test_a_device_may_be_called_anything(steer: Steer, tiny: Path, tmp_path: Path) -> None:
    assert steer("sample", "--model", tiny, "-o", "/dev/null").status == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_here(steer: Steer, tiny: Path) -> None:
    refused(steer("sample", "--model", tiny, "--device", "cuda"), "here (auto, cpu", "'cuda'")


def test_an_empty_name_is_no_generator(steer: Steer, tmp_path: Path) -> None:
    refused(steer("sample", "-m", "", "-o", tmp_path / "z.safetensors"), "generator ''")
