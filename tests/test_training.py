"""The training loop and the beta-VAE, on models small enough to train in a test."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from steer import generators
from steer.datasets import GreySprites
from steer.errors import InputError, SteerError
from steer.generators.base import PictureShape
from steer.generators.vae import VAE
from steer.training.loop import LOG, OPTIONS, STATE, batch_indices, train
from steer.training.team import Noise
from steer.training.vae import BetaVAE

STEPS = 12
OPTIONS_MADE = {"data": "sprites-grey", "steps": STEPS}


class Small(GreySprites):
    """Sprites at 16x16."""

    shape = (1, 16, 16)


def objective(steps: int = STEPS, **options) -> BetaVAE:
    torch.manual_seed(0)
    vae = VAE(PictureShape(1, 16, 16), latent=3, widths=(4, 8), dense=(16,))
    return BetaVAE(vae, steps=steps, **{"rate": 2e-3, **options})


def run(folder: Path, made: BetaVAE | None = None, **options) -> Path:
    chosen = {"steps": STEPS, "batch": 16, "every": 4, **options}
    return train(made or objective(), Small(), folder, dict(OPTIONS_MADE), **chosen)


class Killed(BaseException):
    """The end of the process, as far as the loop can tell."""


def killed_at(step: int) -> BetaVAE:
    made = objective()
    whole = made.step

    def step_or_die(pictures, at, noise):
        if at == step:
            raise Killed
        return whole(pictures, at, noise)

    made.step = step_or_die
    return made


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


# --- the loop ---


def test_the_loss_falls_and_the_folder_is_a_model(tmp_path):
    steps = 150
    run(tmp_path / "vae", objective(steps), steps=steps, every=50)
    rows = log_of(tmp_path / "vae")
    assert [row["step"] for row in rows] == [50, 100, 150]
    assert rows[-1]["reconstruction"] < 0.75 * 256 * math.log(2)
    assert rows[-1]["reconstruction"] < rows[0]["reconstruction"]
    loaded = generators.load(str(tmp_path / "vae"), device="cpu")
    assert loaded.picture == (1, 16, 16) and loaded.latent.dim == 3 and loaded.verified
    files = {path.name for path in (tmp_path / "vae").iterdir()}
    assert files == {
        "config.json", "model.safetensors", "README.md", "preview.png", OPTIONS, LOG
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    weights = [
        (run(tmp_path / name, seed=seed) / "model.safetensors").read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("at", [0, 2, 4, 7, 11])
def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path, at):
    clean = run(tmp_path / "clean")
    with pytest.raises(Killed):
        run(tmp_path / "run", killed_at(at))
    again = run(tmp_path / "run", resume=True)
    for name in ("model.safetensors", "config.json", "preview.png", "README.md"):
        assert (again / name).read_bytes() == (clean / name).read_bytes(), name
    figures = [
        [{k: v for k, v in row.items() if k != "steps_per_second"} for row in log_of(folder)]
        for folder in (again, clean)
    ]
    assert figures[0] == figures[1]


def test_lines_of_the_log_that_no_checkpoint_holds_are_dropped(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(6))
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 8}\n{"ste')
    run(tmp_path, resume=True)
    assert [row["step"] for row in log_of(tmp_path)] == [4, 8, 12]


def test_a_log_without_a_checkpoint_is_begun_anew(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(2))
    (tmp_path / LOG).write_text('{"step": 4}\n')  # killed between the first line and its checkpoint
    run(tmp_path, resume=True)
    assert [row["step"] for row in log_of(tmp_path)] == [4, 8, 12]


def test_a_finished_run_is_not_trained_again(tmp_path):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run(tmp_path, killed_at(0), resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_options_are_refused(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(6))
    with pytest.raises(InputError, match="pass --resume to go on with it"):
        run(tmp_path)
    before = (tmp_path / OPTIONS).read_text()
    with pytest.raises(InputError, match=r"other options \(beta, steps\)"):
        train(
            objective(), Small(), tmp_path, {**OPTIONS_MADE, "steps": 5, "beta": 2}, steps=5,
            batch=16, resume=True,
        )  # fmt: skip
    assert (tmp_path / OPTIONS).read_text() == before


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 half of it", b"hello"])
def test_a_damaged_checkpoint_is_named(tmp_path, data):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(6))
    (tmp_path / STATE).write_bytes(data)
    with pytest.raises(InputError, match=r"training\.pt"):
        run(tmp_path, resume=True)


def test_what_is_no_longer_finite_stops_it_and_the_last_checkpoint_stays(tmp_path):
    made = objective()
    whole = made.step

    def spoilt(pictures, at, noise):
        if at == 6:
            with torch.no_grad():
                next(iter(made.parameters())).fill_(torch.nan)
        return whole(pictures, at, noise) if at < 6 else {"reconstruction": math.nan}

    made.step = spoilt
    with pytest.raises(SteerError, match="reconstruction is not finite at step 7; the last che"):
        run(tmp_path, made)
    saved = torch.load(tmp_path / STATE, weights_only=True)
    assert saved["step"] == 4 and not (tmp_path / "model.safetensors").exists()
    assert all(value.isfinite().all() for value in saved["objective"]["vae"].values())
    again = run(tmp_path, resume=True)
    clean = run(tmp_path.with_name(tmp_path.name + "-clean"))
    assert (again / "model.safetensors").read_bytes() == (clean / "model.safetensors").read_bytes()


def test_without_a_checkpoint_none_is_promised_and_the_folder_is_free(tmp_path):
    made = objective()
    made.step = lambda *_: {"reconstruction": math.inf}
    with pytest.raises(SteerError, match="at step 1; there was no checkpoint yet"):
        run(tmp_path / "run", made)
    again = train(
        objective(5), Small(), tmp_path / "run", {**OPTIONS_MADE, "steps": 5},
        steps=5, batch=16, every=4,
    )  # fmt: skip
    assert json.loads((again / OPTIONS).read_text())["steps"] == 5
    assert [row["step"] for row in log_of(again)] == [4, 5]


@pytest.mark.parametrize("resume", [False, True])
def test_what_died_before_its_first_checkpoint_gives_way(tmp_path, resume):
    with pytest.raises(Killed):
        run(tmp_path / "run", killed_at(2))
    assert (tmp_path / "run" / OPTIONS).exists()
    other, how = {**OPTIONS_MADE, "steps": 5}, {"steps": 5, "batch": 16, "every": 4}
    folders = [
        train(objective(5), Small(), tmp_path / name, other, resume=resume, **how)
        for name in ("run", "clean")
    ]
    for name in ("model.safetensors", OPTIONS):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.slow
def test_killed_by_the_system(tmp_path):
    """kill -9 of a real process at several moments, resumed to the same bytes."""
    clean = run(tmp_path / "clean", objective(300), steps=300, every=20)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom test_training import objective, run\n"
        "run(Path(sys.argv[2]), objective(300), steps=300, every=20, resume=True)\n"
    )
    here = str(Path(__file__).parent)
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", script, here, str(tmp_path / "run")])
        try:
            process.wait(timeout=4 + 0.5 * attempt)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    again = run(tmp_path / "run", objective(300), steps=300, every=20, resume=True)
    assert (again / "model.safetensors").read_bytes() == (clean / "model.safetensors").read_bytes()


# --- batches ---


class Finite:
    name, shape = "finite", (1, 4, 4)

    def __init__(self, size):
        self.size = size


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 3))
def test_every_picture_comes_once_an_epoch(size, batch, seed):
    steps = -(-3 * size // batch)
    drawn = torch.cat([batch_indices(Finite(size), step, batch, seed) for step in range(steps)])
    for epoch in drawn[: 3 * size].split(size):
        assert sorted(epoch.tolist()) == list(range(size))


def test_the_largest_seed_of_the_command_line():
    drawn = batch_indices(Finite(None), 3, 4, 2**32 - 1)
    assert (drawn >= 0).all() and drawn.diff().tolist() == [1, 1, 1]


def test_epochs_are_shuffled_and_seeded():
    drawn = [batch_indices(Finite(50), step, 50, 0).tolist() for step in range(2)]
    assert drawn[0] != drawn[1] and drawn[0] != list(range(50))
    assert batch_indices(Finite(50), 0, 50, 1).tolist() != drawn[0]


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(0, 5))
def test_an_infinite_set_gives_fresh_pictures(step, batch, seed):
    this = batch_indices(Finite(None), step, batch, seed)
    after = batch_indices(Finite(None), step + 1, batch, seed)
    assert len(set(this.tolist()) | set(after.tolist())) == 2 * batch
    assert not set(this.tolist()) & set(batch_indices(Finite(None), step, batch, seed + 1).tolist())


# --- the evidence lower bound ---


class LinearVAE(nn.Module):
    """One number a picture [1, 1, 2]: mean w x, log variance v, decoded as W z + b."""

    def __init__(self):
        super().__init__()
        noise = torch.Generator().manual_seed(2)
        self.w = nn.Parameter(torch.randn(1, 2, generator=noise))
        self.v = nn.Parameter(torch.tensor([-0.7]))
        self.out = nn.Parameter(torch.randn(2, 1, generator=noise))

    def posterior(self, pictures):
        mean = pictures.flatten(1) @ self.w.T
        return mean, self.v.expand(len(mean), 1)

    def forward(self, z):
        return (z @ self.out.T).sigmoid().reshape(-1, 1, 1, 2)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_terms_are_those_of_torch_distributions(likelihood):
    vae, pictures = LinearVAE(), torch.rand(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    made = BetaVAE(vae, steps=10, likelihood=likelihood, sigma=0.3, rate=0.0)
    stats = made.step(pictures, 0, Noise(7))
    with torch.no_grad():
        mean, log_variance = vae.posterior(pictures)
        approximate = Normal(mean, (log_variance / 2).exp())
        divergence = kl_divergence(approximate, Normal(0.0, 1.0)).sum() / 5
        eps = torch.randn(5, 1, generator=torch.Generator().manual_seed(7))
        drawn = vae(mean + eps * approximate.stddev)
        if likelihood == "bernoulli":
            logits = torch.logit(drawn)
            probability = Bernoulli(logits=logits, validate_args=False).log_prob(pictures)
            constant = 0.0
        else:
            probability = Normal(drawn, 0.3).log_prob(pictures)
            constant = 2 * math.log(0.3 * math.sqrt(2 * math.pi))
    assert stats["divergence"] == pytest.approx(divergence.item(), rel=1e-5)
    assert stats["reconstruction"] == pytest.approx(
        -probability.sum().item() / 5 - constant, rel=1e-4, abs=1e-5
    )


def test_a_linear_gaussian_vae_finds_the_exact_posterior():
    """x = A z + sigma noise: the posterior is Gaussian in closed form (probabilistic PCA), and the
    bound is tight there, so training the encoder alone must end at it."""
    sigma, a = 0.5, torch.tensor([[1.0], [0.5]])
    precision = 1 + (a.T @ a).item() / sigma**2

    class Exact(LinearVAE):
        def forward(self, z):
            return (z @ a.T).reshape(-1, 1, 1, 2)

    vae = Exact()
    vae.out.requires_grad_(False)
    made = BetaVAE(vae, steps=600, likelihood="gaussian", sigma=sigma, rate=0.03)
    noise = Noise(1)
    for step in range(600):
        z = noise.normal(256, 1)
        x = z @ a.T + sigma * noise.normal(256, 2)
        made.step(x.reshape(-1, 1, 1, 2), step, noise)
    assert torch.allclose(vae.w.detach(), a.T / sigma**2 / precision, atol=0.02)
    assert vae.v.exp().item() == pytest.approx(1 / precision, rel=0.03)


def test_beta_weighs_the_divergence_and_warms_up():
    pictures = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))

    def gradient(step, **options):
        made = objective(steps=100, **{"rate": 0.0, **options})
        made.step(pictures, step, Noise(0))
        return torch.cat([p.grad.flatten() for p in made.parameters()])

    none, one, four = (gradient(0, beta=beta) for beta in (1e-12, 1.0, 4.0))
    assert torch.allclose(four - none, 4 * (one - none), rtol=1e-3, atol=1e-2)
    assert not torch.allclose(one, none, atol=1e-3)
    warming = [gradient(step, beta=4.0, warm_up=4) for step in (0, 3, 50)]
    assert torch.allclose(warming[0], one, atol=1e-4)
    assert torch.allclose(warming[1], four, atol=1e-4) and torch.equal(warming[1], warming[2])


def test_the_rate_falls_to_nothing():
    made = objective(steps=10, rate=0.1)
    pictures, rates = torch.rand(2, 1, 16, 16), []
    for step in range(10):
        made.step(pictures, step, Noise(0))
        rates.append(made.optimiser.param_groups[0]["lr"])
    assert rates[0] == 0.1 and rates[5] == pytest.approx(0.05) and rates[9] < 0.003
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("name", ["beta", "rate", "sigma"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_cannot_be(name, value):
    with pytest.raises(InputError, match=rf"expected {name} of .* or more, got {value:g}"):
        objective(**{name: value})


def test_an_unknown_likelihood():
    with pytest.raises(InputError, match="bernoulli or gaussian, got 'poisson'"):
        objective(likelihood="poisson")


@pytest.mark.parametrize("broadcast", [0, 8])
def test_standardised_codes_have_the_priors_range_and_draw_the_same(broadcast):
    torch.manual_seed(0)
    vae = VAE(PictureShape(3, 32, 32), latent=4, widths=(8, 8), dense=(16,), broadcast=broadcast)
    with torch.no_grad():
        vae.encoder[-1].bias += torch.randn(8)
    pictures = torch.rand(300, 3, 32, 32)
    before = vae(vae.encode(pictures))
    vae.standardise(pictures)
    mean, log_variance = vae.posterior(pictures)
    torch.testing.assert_close(vae(mean), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mean.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    codes = mean + torch.randn(50, 300, 4) * (log_variance / 2).exp()
    within = (codes.abs() < 2.5758).float().mean(dim=(0, 1))
    torch.testing.assert_close(within, torch.full((4,), 0.99), atol=0.01, rtol=0)
