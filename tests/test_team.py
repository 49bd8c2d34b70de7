"""Several processes that train one model, and how precisely networks compute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from steer.errors import InputError
from steer.generators.base import PictureShape
from steer.training.objectives import Blocks
from steer.training.team import Noise, Team

RUN = ["train-vae", "sprites-grey", "--steps", "12", "--every", "2", "--batch", "8",
       "--widths", "4,8,8", "--dense", "16", "--device", "cpu", "-q"]  # fmt: skip
#: Relative difference of losses between one process and two: of float32 sums in another order.
TOLERANCE = 1e-5


def launched(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "steer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def losses(folder: Path) -> torch.Tensor:
    rows = map(json.loads, (folder / "stats.jsonl").read_text().splitlines())
    return torch.tensor([[row["reconstruction"], row["divergence"]] for row in rows])


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    """Of the real command, by a real launcher; what one wrote, the other goes on with."""
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [sys.executable, "-m", "steer", *RUN, "-o", str(one)]
    done = subprocess.run(alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = launched(2, *RUN, "-o", str(two), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == str(two)  # one of them speaks
    assert len(losses(one)) == 6
    torch.testing.assert_close(losses(two), losses(one), rtol=TOLERANCE, atol=0)
    refused = launched(2, *RUN, "--batch", "7", "-o", str(tmp_path / "odd"))
    assert "expected a batch that 2 processes can share evenly, got 7." in refused.stderr
    assert refused.returncode and not (tmp_path / "odd").exists()


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_noise_and_batches_are_cut_where_the_other_is(parts):
    whole, batch = Noise(3).normal(12, 5), torch.arange(12)
    team = Team("cpu")
    team.count = parts
    for team.index in range(parts):
        noise = team.noise(3)
        here = team.part(batch)
        torch.testing.assert_close(noise.normal(len(here), 5), whole[here], rtol=0, atol=0)


def test_alone_nothing_is_shared():
    team, stats = Team("cpu"), {"loss": 1.0}
    assert (team.leads, team.count, team.mean(stats)) == (True, 1, stats)
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    team.join(optimiser)
    assert not optimiser._optimizer_step_pre_hooks


def test_gradients_and_numbers_are_means_over_all(monkeypatch):
    """With another process of which each number is three times ours."""
    team = Team("cpu")
    team.count = 2
    monkeypatch.setattr(team, "_mean", lambda values: (values + 3 * values) / 2)
    weights = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]
    optimiser = torch.optim.SGD(weights, lr=1.0)
    team.join(optimiser)
    for i, weight in enumerate(weights):
        weight.grad = torch.full_like(weight, i + 1.0)
    optimiser.step()
    assert [weight.detach().unique().tolist() for weight in weights] == [[-2.0], [-4.0]]
    assert team.mean({"a": 1.0, "b": 2.0}) == {"a": 2.0, "b": 4.0}


def test_batch_norms_of_several_processes_want_gpus():
    blocks = Blocks(PictureShape(1, 16, 16), 2, width=4, shared=True)
    with pytest.raises(InputError, match="expected GPUs for several processes: the batch norms"):
        blocks.critic()
