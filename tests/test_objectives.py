"""AVAE and what it is compared with: losses in closed form, and trainings of a few steps."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from steer import generators
from steer.datasets import GreySprites
from steer.embedding import embed
from steer.errors import InputError, SteerError
from steer.generators.avae import AVAE as Trained
from steer.generators.avae import Posterior, completed, widths
from steer.generators.base import PictureShape
from steer.picture_sets import procedural
from steer.training.avae import AVAE, VAE, bound
from steer.training.gan import GAN
from steer.training.loop import train
from steer.training.lsr_gan import LSRGAN
from steer.training.objectives import Blocks, objectives
from steer.training.parts import Parts
from steer.training.team import Noise

SHAPE = PictureShape(1, 16, 16)
BLOCKS = Blocks(SHAPE, latent=3, width=4)


class Small(GreySprites):
    """Sprites at 16x16."""

    shape = tuple(SHAPE)


def made(name: str, blocks: Blocks = BLOCKS, **options) -> Parts:
    torch.manual_seed(0)
    return objectives.get(name)(blocks, **options)


def run(folder: Path, what: Parts, name: str, blocks: Blocks = BLOCKS, **how) -> Path:
    options = {"objective": name, "picture": list(SHAPE), "latent": 3, "width": 4,
               "xi": blocks.xi}  # fmt: skip
    return train(what, Small(), folder, options, **{"steps": 6, "batch": 8, "every": 2, **how})


@pytest.fixture(scope="module")
def trained_vae(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("trained") / "vae", made("vae", sigma="picture"), "vae")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- losses in closed form ---


def test_the_bound_is_torchs():
    drawn, real, mean, log_sigma = (
        noise(5, 1, 4, 4),
        noise(5, 1, 4, 4, seed=1),
        noise(5, 3),
        noise(3),
    )
    error, divergence = bound(drawn, real, mean, log_sigma.expand(5, 3))
    likelihood = Normal(drawn, 1.0).log_prob(real).sum() / 5 + 16 * math.log(2 * math.pi) / 2
    assert error.item() == pytest.approx(-likelihood.item(), rel=1e-5)
    wanted = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0)).sum() / 5
    assert divergence.item() == pytest.approx(wanted.item(), rel=1e-5)


class Flat(nn.Module):
    """Pictures [B, 1, 1, 2] as codes [B, 2]."""

    def forward(self, x):
        return x.flatten(1)


def avae_of(exact: bool, sigma: list[float]) -> AVAE:
    posterior = Posterior(Flat(), 2)
    with torch.no_grad():
        posterior.log_sigma.copy_(torch.tensor(sigma).log())
    vae = VAE(posterior, nn.Linear(2, 2))
    return AVAE(vae, nn.Linear(2, 2), nn.Linear(2, 1), 2, exact=exact)


def test_the_exact_latent_loss_is_least_at_the_posterior_of_the_prior():
    """Equation 3.12: of codes z, means sqrt(1 - sigma^2) z cost nothing; equation 3.8 wants z."""
    sigma, z = [0.6, 0.8], noise(64, 2)
    shrunk = z * torch.tensor([0.8, 0.6])
    exact, plain = avae_of(True, sigma), avae_of(False, sigma)
    assert exact.kept(shrunk[:, None, None], z).item() == pytest.approx(0, abs=1e-10)
    assert plain.kept(z[:, None, None], z).item() == pytest.approx(0, abs=1e-10)
    away = (((shrunk - z) / torch.tensor(sigma)) ** 2).sum() / 2 / 64
    assert plain.kept(shrunk[:, None, None], z).item() == pytest.approx(away.item(), rel=1e-5)


def test_a_collapsed_latent_is_wanted_at_nothing():
    """sigma of 1 and more: 1 - sigma^2 is clamped, so that the wanted mean is 0 for every z."""
    z = noise(8, 2)
    assert avae_of(True, [1.2, 1.0]).kept(torch.zeros(8, 1, 1, 2), z).item() == 0


def test_lsr_gan_counts_the_codes_likelihood():
    posterior = Posterior(nn.Sequential(nn.Flatten(), nn.Linear(2, 4)), 2, "picture")
    gan = LSRGAN(posterior, nn.Linear(2, 2), nn.Linear(2, 1), 2, weight=3.0)
    fake, z = noise(7, 1, 1, 2), noise(7, 2, seed=1)
    mean, log_sigma = posterior(fake)
    likelihood = Normal(mean, log_sigma.exp()).log_prob(z).sum() / 7 + math.log(2 * math.pi)
    assert gan.kept(fake, z).item() == pytest.approx(-3 * likelihood.item(), rel=1e-5)


def test_codes_of_pictures_fill_what_the_posterior_leaves_open():
    mean, sigma = torch.tensor([[0.6, 3.0], [1.2, 4.0]]), torch.tensor([0.8, 1.0])
    drawn = torch.tensor([[7.0, 8.0, 9.0]])
    found = completed(mean, sigma.log().expand(2, 2), drawn, exact=True)
    torch.testing.assert_close(found, torch.tensor([[1.0, 8.0, 9.0], [2.0, 8.0, 9.0]]))
    plain = completed(mean, sigma.log().expand(2, 2), drawn, exact=False)
    torch.testing.assert_close(plain[:, :1], mean[:, :1])


# --- who is updated by what ---


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(before: list[torch.Tensor], network: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, weights(network), strict=True))


def test_fakes_change_neither_the_encoder_nor_its_batch_statistics(tmp_path):
    vae = run(tmp_path / "vae", made("vae"), "vae")
    objective = made("avae", vae_from=str(vae))
    before = [weights(network) for network in (objective.vae.posterior, objective.vae.decoder)]
    others = weights(objective.generator)
    for step in range(2):
        pictures = Small().pictures(torch.arange(8))
        objective.step(pictures, step, Noise(step))
    assert same(before[0], objective.vae.posterior) and same(before[1], objective.vae.decoder)
    assert not same(others, objective.generator)


def test_the_vae_of_an_avae_learns_as_it_would_alone():
    alone, joint = made("vae"), made("avae")
    for step in range(3):
        pictures = Small().pictures(torch.arange(step * 8, step * 8 + 8))
        rows = [objective.step(pictures, step, Noise(step)) for objective in (alone, joint)]
        assert rows[1]["reconstruction"] == pytest.approx(rows[0]["reconstruction"], rel=1e-4)


def test_the_average_follows_the_generator():
    gan = made("gan", average=0.5)
    assert isinstance(gan, GAN)
    before = gan.averaged.state_dict()["0.weight"].clone()
    gan.step(Small().pictures(torch.arange(8)), 10**6, Noise(0))
    own = gan.generator.state_dict()["0.weight"]
    torch.testing.assert_close(gan.averaged.state_dict()["0.weight"], (before + own) / 2)


def test_the_critic_learns_to_tell_and_the_generator_to_deceive():
    """With one network standing still, the other's loss falls."""
    for still, falls in (("generator", "critic"), ("critic", "realism")):
        gan = made("gan", rate=1e-3)
        for group in gan.optimisers[still].param_groups:
            group["lr"] = 0.0
        rows = [gan.step(Small().pictures(torch.arange(32)), step, Noise(1)) for step in range(25)]
        assert rows[-1][falls] < rows[0][falls] - 0.1


# --- every objective, in the loop ---

OBJECTIVES = ["avae", "avae-xi", "avae-plain", "bigan", "gan", "lsr-gan", "vae", "vae-gan"]


def of(name: str, trained_vae: Path) -> tuple[Parts, str, Blocks]:
    blocks = Blocks(SHAPE, 3, 2, 4) if name == "avae-xi" else BLOCKS
    kind = "avae" if name.startswith("avae") else name
    options = {"exact": False} if name == "avae-plain" else {}
    if name == "lsr-gan":
        options = {"encoder": str(trained_vae)}
    return made(kind, blocks, **options), kind, blocks


@pytest.mark.parametrize("name", OBJECTIVES)
def test_killed_and_resumed_it_ends_with_the_same_bytes(name, trained_vae, tmp_path):
    clean = run(tmp_path / "clean", *of(name, trained_vae))
    what, kind, blocks = of(name, trained_vae)
    whole = what.step

    def step_or_die(pictures, at, random):
        if at == 3:
            raise KeyboardInterrupt
        return whole(pictures, at, random)

    what.step = step_or_die
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", what, kind, blocks)
    again = run(tmp_path / "run", *of(name, trained_vae), resume=True)
    for file in ("model.safetensors", "config.json", "preview.png"):
        assert (again / file).read_bytes() == (clean / file).read_bytes(), file


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_folder_is_a_generator(name, trained_vae, tmp_path):
    what, kind, blocks = of(name, trained_vae)
    folder = run(tmp_path / "run", what, kind, blocks)
    loaded = generators.load(str(folder), device="cpu")
    pictures = loaded(loaded.sample(2))
    assert pictures.shape == (2, *SHAPE) and 0 <= pictures.min() <= pictures.max() <= 1
    assert loaded.latent.dim == blocks.dim and bool(loaded.latent.parts) == bool(blocks.xi)
    network, encoder = what.result()
    assert loaded.config["encoder"] == {
        "gan": "", "bigan": "point", "lsr-gan": "picture"}.get(name, "shared")  # fmt: skip
    assert loaded.has_encoder == (encoder is not None)
    network.eval()
    torch.testing.assert_close(pictures, (network(loaded.sample(2)) + 1) / 2)
    if encoder is not None:
        codes = loaded.encode(pictures)
        assert codes.shape == (2, blocks.dim) and codes.isfinite().all()
        torch.testing.assert_close(codes[0], loaded.encode(pictures[:1])[0])
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]


# --- what is refused ---


@pytest.mark.parametrize(
    ("picture", "said"), [((3, 24, 24), "24x24"), ((3, 8, 8), "8x8"), ((3, 32, 64), "32x64")]
)
def test_sides_are_powers_of_two(picture, said):
    with pytest.raises(InputError, match=f"2\\^k x 2\\^k, 16 or more, got {said}"):
        widths(PictureShape(*picture), 4)


def test_an_encoder_must_fit(trained_vae, tmp_path):
    gan = run(tmp_path / "gan", made("gan"), "gan")
    with pytest.raises(InputError, match=r"with an encoder, .* has none"):
        made("lsr-gan", encoder=str(gan))
    with pytest.raises(InputError, match="expected an encoder of 5 latents"):
        made("lsr-gan", Blocks(SHAPE, 5, 0, 4), encoder=str(trained_vae))
    with pytest.raises(InputError, match=r"with --sigma shared for --vae, .* one for each picture"):
        made("avae", vae_from=str(trained_vae))
    bigan = str(run(tmp_path / "bigan", made("bigan"), "bigan"))
    for kind, option in (("avae", "vae_from"), ("vae", "start"), ("lsr-gan", "encoder")):
        with pytest.raises(InputError, match=r"train-avae --objective vae.*, .* is of bigan\."):
            made(kind, **{option: bigan})
    with pytest.raises(InputError, match="--encoder FOLDER"):
        made("lsr-gan")
    with pytest.raises(InputError, match="expected no xi for bigan"):
        made("bigan", Blocks(SHAPE, 3, 1, 4))


@pytest.mark.parametrize(
    ("name", "value"),
    [("encoder", "both"), ("latent", -1), ("width", True), ("picture", [1, 16]), ("exact", 1)],
)
def test_a_config_that_makes_no_generator(name, value, tmp_path):
    folder = run(tmp_path / "run", made("vae"), "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(InputError, match=f"{name}|encoder"):
        generators.load(str(folder), device="cpu")


def test_sizes_of_nothing_are_no_generator():
    assert Trained(SHAPE, 3, 0, 4, encoder="").encode(torch.zeros(1, *SHAPE)) is None


# --- the toy set of figure 3.7 ---


def toy():
    path = Path(__file__).resolve().parents[1] / "examples" / "figures" / "toy_avae.py"
    spec = importlib.util.spec_from_file_location("toy_avae", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_density_of_the_toy_set_is_one():
    """It integrates to 1, and points of the set lie as deep in it as its own entropy says."""
    figure = toy()
    x, y = torch.arange(-10, 10, 0.25), torch.arange(-1.6, 1.6, 0.1)
    grid = torch.cartesian_prod(x, y)
    density = torch.cat([figure.log_density(part, steps=150) for part in grid.split(500)]).exp()
    assert density.sum().item() * 0.025 == pytest.approx(1, abs=0.01)
    inside = figure.log_density(figure.points(200, Noise(0)), steps=150)
    assert inside.mean().item() == pytest.approx(
        (density * density.log()).sum().item() * 0.025, abs=0.2
    )


def test_the_toy_figure(tmp_path, capsys):
    toy().main(
        ["--seeds", "1", "--steps", "3", "--batch", "8", "-n", "40", "-o", str(tmp_path / "out")]
    )
    kept = json.loads((tmp_path / "out" / "toy_avae.json").read_text())
    assert set(kept) == {"data", "VAE", "AVAE", "AVAE with xi"}
    assert all(
        len(kept[name]) == 1 and kept[name][0] < kept["data"] for name in kept if name != "data"
    )
    assert "AVAE with xi" in capsys.readouterr().out
    assert (tmp_path / "out" / "toy_avae.png").stat().st_size > 10_000


# --- from another, less precisely, at every size, and when it goes wrong ---


def test_a_vae_starts_from_another(trained_vae, tmp_path):
    """It has the other's networks, and learns on: the error of its first step is the other's."""
    before = generators.load(str(trained_vae), device="cpu")
    new = made("vae", sigma="picture", start=str(trained_vae))
    for name, weight in before.encoder.state_dict().items():
        assert torch.equal(new.posterior.state_dict()[name], weight), name
    for name, weight in before.decoder.state_dict().items():
        assert torch.equal(new.decoder.state_dict()[name], weight), name
    folder = run(tmp_path / "run", new, "vae")
    after = generators.load(str(folder), device="cpu")
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters())]
    assert all(changed)


@pytest.mark.parametrize(
    ("blocks", "sigma", "said"),
    [
        (BLOCKS, "shared", "with --from: --sigma picture, not shared"),
        (Blocks(SHAPE, 3, 0, 8), "picture", "with --from: --width 4, not 8"),
        (Blocks(SHAPE, 5, 0, 4), "picture", "expected an encoder of 5 latents"),
    ],
)
def test_what_a_vae_cannot_start_from(trained_vae, blocks, sigma, said):
    with pytest.raises(InputError, match=said):
        made("vae", blocks, sigma=sigma, start=str(trained_vae))


def test_a_vae_has_no_xi():
    with pytest.raises(InputError, match="expected no xi for vae"):
        made("vae", Blocks(SHAPE, 3, 1, 4))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_in_bfloat16_it_learns_about_the_same(name, trained_vae, tmp_path):
    exact, rough = (run(tmp_path / str(bf16), *of(name, trained_vae), bf16=bf16)
                    for bf16 in (False, True))  # fmt: skip
    first, second = ([json.loads(line) for line in (folder / "stats.jsonl").read_text().split("\n")
                      if line] for folder in (exact, rough))  # fmt: skip
    for a, b in zip(first, second, strict=True):
        for number in a.keys() - {"steps_per_second"}:
            assert b[number] == pytest.approx(a[number], rel=0.05, abs=0.15), number
    assert first[0] != second[0]
    weights = generators.load(str(rough), device="cpu").state_dict().values()
    assert all(weight.dtype in (torch.float32, torch.int64) for weight in weights)


@pytest.mark.parametrize("side", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size(side, channels):
    blocks = Blocks(PictureShape(channels, side, side), latent=2, xi=1, width=2)
    stats = made("avae", blocks).step(torch.rand(2, channels, side, side), 0, Noise(0))
    assert all(math.isfinite(value) for value in stats.values())
    assert blocks.generator()(torch.zeros(2, 3)).shape == (2, channels, side, side)
    assert len([x for x in blocks.critic() if isinstance(x, nn.Conv2d)]) == math.log2(side / 4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_no_longer_finite_stops_it_and_the_last_checkpoint_stays(
    name, trained_vae, tmp_path
):
    what, kind, blocks = of(name, trained_vae)
    whole = what.step

    def spoilt(pictures, at, random):
        stats = whole(pictures, at, random)
        if at == 3:  # after its losses were counted: they are finite still
            with torch.no_grad():
                list(what.parameters())[-1].fill_(torch.nan)
        return stats

    what.step = spoilt
    with pytest.raises(SteerError, match="a weight is not finite at step 4; the last checkpoint"):
        run(tmp_path / "run", what, kind, blocks)
    saved = torch.load(tmp_path / "run" / "training.pt", weights_only=True)
    networks = saved["objective"]["networks"].values()
    assert saved["step"] == 2
    assert all(weight.isfinite().all() for state in networks for weight in state.values())
    again = run(tmp_path / "run", *of(name, trained_vae), resume=True)
    clean = run(tmp_path / "clean", *of(name, trained_vae))
    assert (again / "model.safetensors").read_bytes() == (clean / "model.safetensors").read_bytes()


def test_the_encoder_of_a_bigan_gives_points(tmp_path):
    """Codes are what the network says, and no divergence is made up for them."""
    folder = run(tmp_path / "run", made("bigan"), "bigan")
    loaded = generators.load(str(folder), device="cpu")
    pictures = torch.rand(12, *SHAPE)
    mean, log_variance = loaded.posterior(pictures)
    assert torch.equal(loaded.encode(pictures), mean) and (log_variance == -math.inf).all()
    found = embed(loaded, procedural(Small(), 12), 12)
    assert found.kl is None and found.means.isfinite().all()


def test_in_bfloat16_a_step_uses_the_weights_that_it_has_made(tmp_path):
    """The generator is judged by the critic as it is after its update, not by a copy of before."""
    gan, seen = made("gan", rate=0.05), []
    assert isinstance(gan, GAN)
    gan.critic[0].register_forward_hook(
        lambda layer, inputs, out: seen.append(
            (out.detach().float(), conv2d(inputs[0], layer, torch.bfloat16).float())
        )
    )
    run(tmp_path / "run", gan, "gan", bf16=True, steps=2)
    assert len(seen) == 6
    for out, again in seen:
        torch.testing.assert_close(out, again, atol=0, rtol=0)


def conv2d(pictures: torch.Tensor, layer: nn.Module, kind: torch.dtype) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        weight, bias = layer.weight.to(kind), layer.bias.to(kind)
        return nn.functional.conv2d(pictures.to(kind), weight, bias, layer.stride, layer.padding)


def test_the_codes_of_a_vae_are_its_means(tmp_path):
    """Its decoder was trained on those, collapsed latents or not."""
    folder = run(tmp_path / "run", made("vae"), "vae")
    loaded, pictures = generators.load(str(folder), device="cpu"), torch.rand(3, *SHAPE)
    with torch.no_grad():
        loaded.encoder.log_sigma.fill_(0.0)
    assert torch.equal(loaded.encode(pictures), loaded.posterior(pictures)[0])


def test_layers_of_too_many_channels():
    with pytest.raises(InputError, match="expected 65536 channels or fewer in every layer"):
        widths(PictureShape(1, 65536, 65536), 65536)
