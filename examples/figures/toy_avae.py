"""What an AVAE adds to a VAE, on points of the plane (figure 3.7 of the thesis).

x = (3 z1 + 0.1 e1, cos(3 z1 + tanh(3 z2)) + 0.1 e2) with normal z1, z2, e1, e2; one latent, two
hidden layers of 128. A VAE's reconstructions fall between the two branches, an AVAE's follow one,
with xi both. The table gives the mean log density of reconstructions under the true distribution.

Run: python examples/figures/toy_avae.py --seeds 5 --steps 10000 -o out/
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from steer.disk import make_folder, save_json, write_atomically
from steer.generators.avae import Posterior, completed
from steer.plots import png
from steer.training.avae import AVAE, VAE
from steer.training.team import Noise

SPREAD = 0.1
#: Objective to the numbers of xi; None is the VAE alone.
KINDS = {"VAE": None, "AVAE": 0, "AVAE with xi": 1}


def main(arguments: Sequence[str] | None = None) -> None:
    options = ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--steps", type=int, default=10_000)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("-n", type=int, default=1000, help="points to judge on")
    options.add_argument("-o", "--out", type=Path, default=Path("toy_avae"))
    given = options.parse_args(arguments)

    held_out = points(given.n, Noise(12345))
    truth = log_density(held_out).mean().item()
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = dict(zip(KINDS, figure.subplots(1, len(KINDS), sharey=True), strict=True))
    table: dict[str, list[float]] = {name: [] for name in KINDS}
    for seed in range(given.seeds):
        for name in KINDS:
            redrawn = reconstructed(trained(name, seed, given.steps, given.batch), held_out)
            table[name].append(log_density(redrawn).mean().item())
            if not seed:
                draw(panels[name], name, held_out, redrawn)
    make_folder(given.out)
    save_json(given.out / "toy_avae.json", {"data": truth, **table})
    write_atomically(given.out / "toy_avae.png", png(figure))
    print(f"mean log density of held-out points: {truth:.2f}; of their reconstructions, by seed:")
    for name, values in table.items():
        print(f"{name:13}", " ".join(f"{value:7.2f}" for value in values))


def points(n: int, noise: Noise) -> Tensor:
    """Data [n, 2]."""
    z1, z2, e1, e2 = noise.normal(4, n)
    branch = torch.cos(3 * z1 + torch.tanh(3 * z2))
    return torch.stack([3 * z1 + SPREAD * e1, branch + SPREAD * e2], dim=1)


def log_density(x: Tensor, steps: int = 400) -> Tensor:
    """log p(x) [n] of points [n, 2], by quadrature over z1 and z2."""
    shares = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    turn = torch.tanh(3 * torch.special.ndtri(shares))
    away = torch.linspace(-0.6, 0.6, 121, dtype=torch.float64)  # x1 - 3 z1, up to 6 SPREAD
    x = x.double()
    across = log_normal(away, SPREAD) + log_normal(x[:, :1] + away, 3.0)
    height = torch.cos((x[:, :1] + away)[:, :, None] + turn)
    along = torch.logsumexp(log_normal(x[:, 1, None, None] - height, SPREAD), 2) - math.log(steps)
    return torch.logsumexp(across + along, 1) + math.log(0.01)


def log_normal(x: Tensor, sd: float) -> Tensor:
    return -((x / sd) ** 2) / 2 - math.log(sd * math.sqrt(2 * math.pi))


def perceptron(inside: int, outside: int) -> nn.Sequential:
    hidden = [nn.Linear(inside, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(128, outside))


def trained(name: str, seed: int, steps: int, batch: int) -> VAE | AVAE:
    torch.manual_seed(seed)
    made: VAE | AVAE = VAE(Posterior(perceptron(2, 1), 1), perceptron(1, 2), rate=1e-3)
    xi = KINDS[name]
    if xi is not None:
        made = AVAE(made, perceptron(1 + xi, 2), perceptron(2, 1), 1 + xi, rate=1e-3)
    noise = Noise(1000 + seed)
    for step in range(steps):
        # objectives take pictures in [0, 1] to [-1, 1]
        made.step((points(batch, noise) + 1) / 2, step, noise)
    return made


@torch.no_grad()
def reconstructed(made: VAE | AVAE, x: Tensor) -> Tensor:
    """Points [n, 2] of the codes of x, with xi drawn anew for each."""
    if isinstance(made, VAE):
        return made.decoder(made.posterior(x)[0])
    xi = torch.randn(len(x), made.dim, generator=torch.Generator().manual_seed(1))
    known = completed(*made.vae.posterior(x), torch.zeros(1, made.dim), made.exact)
    return made.averaged(torch.cat([known[:, :1], xi[:, 1:]], dim=1))


def draw(axes: Axes, name: str, x: Tensor, redrawn: Tensor) -> None:
    axes.scatter(*x.T, s=2, color="#bbbbbb", label="data")
    axes.scatter(*redrawn.T, s=3, c=x[:, 0], cmap="viridis", label="reconstructions")
    axes.set(title=name, xlim=(-8, 8), ylim=(-1.6, 1.6))


if __name__ == "__main__":
    main()
