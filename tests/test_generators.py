"""Families against independent networks, bad checkpoints, plugins, and what `load` promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from scipy.stats import chi, kstest
from torch import Tensor, nn
from torch.nn import functional as F

from steer import generators
from steer.checkpoints import save_checkpoint
from steer.directions import Direction
from steer.errors import InputError, SteerError
from steer.files import load as load_artefact
from steer.generators import DCGAN, EMBEDDED, VAE, DisVAE, load, pick_device, require_same
from steer.generators.base import Generator, LatentSpace, PictureShape

State = dict[str, Tensor]


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the published layouts, as functions of their state dicts ---


def disvae_state(channels: int = 1, size: int = 64, latent: int = 10) -> State:
    """A random checkpoint of disentangling-vae's Burgess network, by its published shapes."""
    shapes: dict[str, tuple[int, ...]] = {"encoder.conv1": (32, channels, 4, 4)}
    for name in ["conv2", "conv3", *["conv_64"] * (size == 64)]:
        shapes[f"encoder.{name}"] = (32, 32, 4, 4)
    shapes |= {
        "encoder.lin1": (256, 512),
        "encoder.lin2": (256, 256),
        "encoder.mu_logvar_gen": (2 * latent, 256),
        "decoder.lin1": (256, latent),
        "decoder.lin2": (256, 256),
        "decoder.lin3": (512, 256),
    }
    for name in [*["convT_64"] * (size == 64), "convT1", "convT2"]:
        shapes[f"decoder.{name}"] = (32, 32, 4, 4)
    shapes["decoder.convT3"] = (32, channels, 4, 4)
    state = {}
    for i, (name, shape) in enumerate(shapes.items()):
        fan = torch.Size(shape[1:]).numel()
        state[f"{name}.weight"] = torch.randn(shape, generator=noise(i)) * (1.5 / fan) ** 0.5
        bias = shape[1] if "convT" in name else shape[0]
        state[f"{name}.bias"] = torch.randn(bias, generator=noise(i)) * 0.1
    return state


def disvae_decode(state: State, z: Tensor) -> Tensor:
    x = z
    for name in ("lin1", "lin2", "lin3"):
        x = F.linear(x, state[f"decoder.{name}.weight"], state[f"decoder.{name}.bias"]).relu()
    x = x.view(len(z), 32, 4, 4)
    for name in ("convT_64", "convT1", "convT2", "convT3"):
        if f"decoder.{name}.weight" in state:
            weight, bias = (state[f"decoder.{name}.{end}"] for end in ("weight", "bias"))
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
            x = x.sigmoid() if name == "convT3" else x.relu()
    return x


def disvae_encode(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    for name in ("conv1", "conv2", "conv3", "conv_64"):
        if f"encoder.{name}.weight" in state:
            weight, bias = (state[f"encoder.{name}.{end}"] for end in ("weight", "bias"))
            x = F.conv2d(x, weight, bias, stride=2, padding=1).relu()
    x = x.flatten(1)
    for name in ("lin1", "lin2"):
        x = F.linear(x, state[f"encoder.{name}.weight"], state[f"encoder.{name}.bias"]).relu()
    x = F.linear(x, state["encoder.mu_logvar_gen.weight"], state["encoder.mu_logvar_gen.bias"])
    return x.view(len(x), -1, 2).unbind(-1)


def tutorial_dcgan(widths=(100, 24, 16, 12, 8, 3)) -> nn.Sequential:
    """The generator of the PyTorch tutorial, with random statistics."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers.append(nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False))
        layers += [nn.BatchNorm2d(b), nn.ReLU(True)] if i < len(widths) - 2 else [nn.Tanh()]
    made = nn.Sequential(*layers)
    for i, layer in enumerate(made):
        for value in layer.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=noise(i)).abs() * 0.2 + 0.1)
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight.data -= layer.weight.data.mean()
    return made.eval()


def tutorial_state(**options) -> State:
    return {f"main.{name}": value for name, value in tutorial_dcgan(**options).state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    """Writes a state dict as FOLDER/model.pt and gives the folder's path."""

    def save(state: object, config: dict | None = None) -> str:
        torch.save(state, tmp_path / "model.pt")
        if config is not None:
            (tmp_path / "specs.json").write_text(json.dumps(config))
        return str(tmp_path)

    return save


# --- disvae ---


@pytest.mark.parametrize(
    ("channels", "size", "latent"), [(1, 64, 10), (3, 64, 10), (1, 32, 10), (1, 32, 4)]
)
@torch.no_grad()
def test_disvae_is_the_published_network(saved, channels, size, latent):
    state = disvae_state(channels, size, latent)
    vae = load(saved(state), device="cpu")
    assert isinstance(vae, DisVAE) and vae.picture == (channels, size, size)
    assert vae.latent.dim == latent and vae.has_encoder
    z = torch.randn(4, latent, generator=noise())
    assert torch.allclose(vae(z), disvae_decode(state, z), atol=1e-6)
    pictures = torch.rand(4, channels, size, size, generator=noise())
    mean, log_variance = disvae_encode(state, pictures)
    assert torch.allclose(vae.encode(pictures), mean, atol=1e-5)
    assert torch.allclose(vae.posterior(pictures)[1], log_variance, atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["btcvae_dsprites", "btcvae_celeba", "VAE_chairs"])
@torch.no_grad()
def test_the_trained_ones_too(shared, name):
    folder = shared / "data" / "generators" / "disvae" / name
    state = torch.load(folder / "model.pt", weights_only=True)
    vae = load(str(folder), device="cpu")
    z = vae.latent.sample(3, seed=1)
    pictures = disvae_decode(state, z)
    assert torch.allclose(vae(z), pictures, atol=1e-5)
    assert torch.allclose(vae.encode(pictures), disvae_encode(state, pictures)[0], atol=1e-4)
    alone = load(str(folder / "model.pt"), device="cpu")
    assert torch.equal(alone(z), vae(z)) and alone.checksum == vae.checksum


# --- dcgan ---


@pytest.mark.parametrize(
    ("widths", "size"), [((100, 24, 16, 12, 8, 3), 64), ((16, 8, 8, 1), 16), ((7, 8, 8, 8, 3), 32)]
)
@torch.no_grad()
def test_dcgan_is_the_tutorials(saved, widths, size):
    theirs = tutorial_dcgan(widths)
    dcgan = load(saved(tutorial_state(widths=widths)), device="cpu")
    assert isinstance(dcgan, DCGAN) and dcgan.picture == (widths[-1], size, size)
    assert dcgan.latent.dim == widths[0] and not dcgan.has_encoder
    z = torch.randn(3, widths[0], generator=noise())
    wanted = (theirs(z[:, :, None, None]) + 1) / 2
    assert wanted.std() > 0.01
    assert torch.allclose(dcgan(z), wanted, atol=1e-6)
    assert dcgan.encode(wanted) is None


@pytest.mark.shared
@torch.no_grad()
def test_the_trained_faces(shared):
    path = shared / "data" / "generators" / "dcgan-faces" / "weights.tar"
    state = torch.load(path, map_location="cpu", weights_only=True)["netG_state_dict"]
    numbers = sorted(int(n.split(".")[1]) for n, v in state.items() if v.dim() == 4)
    widths = [state[f"main.{numbers[0]}.weight"].shape[0]]
    widths += [state[f"main.{n}.weight"].shape[1] for n in numbers]
    theirs = tutorial_dcgan(widths)
    theirs.load_state_dict({n.removeprefix("main."): v for n, v in state.items()})
    faces = load(str(path), device="cpu")
    z = faces.latent.sample(3, seed=1)
    assert torch.allclose(faces(z), (theirs(z[:, :, None, None]) + 1) / 2, atol=1e-5)


# --- checkpoints that do not fit ---


def bad_states(state: State, name: str):
    """The same checkpoint, damaged in one tensor: what, and the state."""
    value = state[name]
    rest = {n: v for n, v in state.items() if n != name}
    yield "missing", rest
    yield "extra", {**state, "encoder.other.weight": torch.zeros(2)}
    if value.dim():
        yield "scalar", {**state, name: torch.tensor(1.0)}
    yield "longer", {**state, name: torch.cat([value.reshape(-1), torch.zeros(1)])}
    yield "empty", {**state, name: torch.zeros(0)}
    if value.dim() == 4:
        yield "turned", {**state, name: value.permute(3, 2, 1, 0).contiguous()}
    yield "not finite", {**state, name: torch.full_like(value, torch.nan, dtype=torch.float32)}


WHOLE = {
    "disvae": disvae_state(size=32, latent=2),
    "dcgan": tutorial_state(widths=(7, 8, 8, 3)),
}


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, state in WHOLE.items() for name in state]
)
def test_damaged_tensors_are_refused_in_a_sentence(tmp_path, family, name):
    for what, state in bad_states(WHOLE[family], name):
        path = tmp_path / f"{what}.pt"
        torch.save(state, path)
        with pytest.raises(InputError) as caught:
            load(str(path), device="cpu")
        said = str(caught.value)
        assert path.name in said and said.endswith(".") and "\n" not in said, (what, said)


@pytest.mark.parametrize("tensor", ["encoder.lin2.weight", "decoder.convT3.bias"])
def test_the_tensor_that_is_missing_is_named(saved, tensor):
    state = disvae_state(size=32)
    del state[tensor]
    with pytest.raises(InputError, match=r"missing|expected a tensor"):
        load(saved(state), device="cpu")


@pytest.mark.parametrize(
    "state", [{"a.weight": torch.zeros(3)}, {"main.0.weight": torch.zeros(3, 3, 3, 3)}]
)
def test_no_family_fits(saved, state):
    with pytest.raises(
        InputError,
        match=r"families avae, biggan, .*, vae, but none fits",
    ):
        load(saved(state), device="cpu")


def test_several_families_fit(saved):
    both = {**disvae_state(size=32), **tutorial_state(widths=(7, 8, 8, 3))}
    with pytest.raises(
        InputError,
        match=r"families avae, biggan, .*, vae, but several fit",
    ):
        load(saved(both), device="cpu")


def test_a_dcgan_of_two_channels(saved):
    with pytest.raises(InputError, match="last layer has 1 or 3 channels, got 2"):
        load(saved(tutorial_state(widths=(7, 8, 8, 2))), device="cpu")


# --- this project's own VAEs ---


def own_vae(**options) -> VAE:
    torch.manual_seed(0)
    return VAE(PictureShape(3, 16, 16), latent=4, widths=(4, 8), dense=(16,), **options)


@pytest.mark.parametrize("broadcast", [0, 4])
@torch.no_grad()
def test_a_vae_survives_its_folder(tmp_path, broadcast):
    vae = own_vae(broadcast=broadcast)
    save_checkpoint(tmp_path / "vae", vae.config, vae.state_dict(), "# card")
    again = load(str(tmp_path / "vae"), device="cpu")
    z, pictures = again.latent.sample(3), torch.rand(3, 3, 16, 16)
    assert torch.allclose(again(z), vae(z)) and again(z).shape == (3, 3, 16, 16)
    assert torch.allclose(again.encode(pictures), vae.encode(pictures))
    assert again.verified and again.name == "vae" and not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"latent": 5}, {"latent": "four"}, {"latent": -1}, {"latent": None}, {"widths": [4]},
        {"widths": []}, {"widths": "4,8"}, {"widths": 8}, {"dense": [16, "x"]}, {"dense": []},
        {"picture": [3, 16]}, {"picture": "3x16x16"}, {"picture": [3, 15, 16]}, {"picture": None},
        {"picture": [2, 16, 16]}, {"broadcast": 5}, {"broadcast": 4}, {"family": "other"},
        {"latent": 10**9}, {"widths": [4, 10**9]},
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit(tmp_path, change):
    vae = own_vae()
    save_checkpoint(tmp_path, {**vae.config, **change}, vae.state_dict(), "# card")
    with pytest.raises(InputError) as caught:
        load(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("lacking", ["picture", "latent", "widths", "dense"])
def test_a_config_that_lacks_something(tmp_path, lacking):
    vae = own_vae()
    config = {name: value for name, value in vae.config.items() if name != lacking}
    save_checkpoint(tmp_path, config, vae.state_dict(), "# card")
    with pytest.raises(InputError, match=f"lacks {lacking}"):
        load(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"picture": PictureShape(1, 60, 64)}, "multiples of 16 for 4 halvings, got 60x64"),
        ({"picture": PictureShape(1, 64, 64), "broadcast": 5}, "doubles to 64x64, got 5"),
        ({"picture": PictureShape(1, 64, 64), "broadcast": 64}, "doubles to 64x64, got 64"),
    ],
)
def test_shapes_that_no_vae_has(options, said):
    with pytest.raises(InputError, match=said):
        VAE(**options)


# --- load, devices, identity ---


@pytest.mark.parametrize(("name", "side"), [("sprites", 64), ("textured", 32)])
def test_the_embedded_generators(name, side):
    embedded = load(name, device="cpu")
    assert embedded.name == name and embedded.picture == (3, side, side) and embedded.verified
    pictures = embedded(embedded.latent.sample(2))
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert len(embedded.checksum) == 64
    assert embedded.identity()["checksum"] == embedded.checksum
    assert load(str(EMBEDDED / name), device="cpu").model == name
    assert {*embedded.directions} == {
        *("translate-x", "translate-y", "zoom", "rotate", "brightness", "hue")
    }
    for path in embedded.directions.values():
        require_same(Direction.of(load_artefact(path)).generator, embedded, "the direction")


def test_sprites_is_the_default():
    assert load(device="cpu").name == "sprites"


@pytest.mark.parametrize("name", ["sprite", "sprties"])
def test_a_mistyped_name(name):
    with pytest.raises(InputError, match="did you mean sprites"):
        load(name)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere.pt"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(InputError, match="nowhere"):
        load(name)


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("tpu", "", "cdua:0", "cpu:one", "cpu:9", "cpu:"):
        with pytest.raises(InputError, match=r"a device that is here \(auto, .*cpu"):
            pick_device(name)


def test_other_weights_are_refused_by_name():
    sprites = load(device="cpu")
    require_same(sprites.identity(), sprites, "latents")
    other = {"name": "faces", "checksum": "f" * 64}
    with pytest.raises(InputError, match=r"latents of sprites \(weights .{12}\), got .* of faces"):
        require_same(other, sprites, "latents")


# --- the latent space ---


@given(st.integers(0, 9), st.integers(0, 30), st.integers(0, 2**31))
def test_a_seeds_stream_is_the_same_however_it_is_cut(n, first, seed):
    space = LatentSpace(5)
    whole = space.sample(first + n, seed)
    assert whole.shape == (first + n, 5) and whole.dtype == torch.float32
    assert torch.equal(space.sample(n, seed, first), whole[first:])


def test_codes_are_normal_and_seeds_differ():
    z = LatentSpace(20).sample(500, seed=3)
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.corrcoef(z.T).fill_diagonal_(0).abs().max() < 0.2
    assert not torch.equal(z, LatentSpace(20).sample(500, seed=4))


@pytest.mark.parametrize("dim", [1, 2, 10, 100, 512])
def test_the_ball_holds_the_prior(dim):
    space = LatentSpace(dim)
    assert space.radius >= dim**0.5 and chi.cdf(space.radius, dim) >= 0.99 - 1e-9
    z = torch.randn(50, dim, generator=noise()) * torch.linspace(0, 5, 50)[:, None]
    projected = space.project(z)
    norms = projected.norm(dim=1)
    assert (norms <= space.radius * (1 + 1e-5)).all()
    inside = z.norm(dim=1) <= space.radius
    assert torch.allclose(projected[inside], z[inside])
    assert torch.allclose(F.cosine_similarity(projected, z)[1:], torch.ones(49), atol=1e-5)


# --- plugins ---

PLUGIN = '''
import torch
from steer.generators import Generator, LatentSpace, PictureShape


class Stripes(Generator):
    """Stripes whose place and width a code of two numbers says."""

    def __init__(self):
        super().__init__(LatentSpace(2), PictureShape(1, 16, 16))

    def forward(self, z):
        x = torch.linspace(-3, 3, 16).expand(len(z), 1, 16, 16)
        place, width = z[:, :, None, None, None].unbind(1)
        return torch.sigmoid(3 * torch.sin(x * (1 + width**2) + place))
'''


def test_a_plugin_of_under_20_lines_is_found_by_name(tmp_path):
    """Somebody else's distribution: a module and one line of entry point, nothing of ours."""
    assert len(PLUGIN.strip().splitlines()) < 20
    (tmp_path / "stripes.py").write_text(PLUGIN)
    told = tmp_path / "stripes-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[steer.generators]\nstripes = stripes:Stripes\n")
    script = (
        "import steer\n"
        "from steer.generators import generators\n"
        "assert {'sprites', 'stripes'} <= set(generators.names()), generators.names()\n"
        "stripes = steer.load('stripes', device='cpu')\n"
        "z = stripes.latent.sample(2)\n"
        "found = steer.invert(stripes, stripes(z), steer.Search(steps=5, pool=8))\n"
        "print(stripes.name, len(stripes.checksum), tuple(found.pictures.shape))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == ["stripes", "64", "(2, 1, 16, 16)\n"]


def test_a_registered_generator_is_known_by_its_weights(monkeypatch):
    class Constant(Generator):
        def __init__(self, value):
            super().__init__(LatentSpace(2), PictureShape(1, 8, 8))
            self.level = nn.Parameter(torch.tensor(value))

        def forward(self, z):
            return self.level.expand(len(z), 1, 8, 8)

    monkeypatch.setattr(generators.generators, "_entries", dict(generators.generators._entries))
    monkeypatch.setattr(generators.generators, "_loaded", dict(generators.generators._loaded))
    for name, value in (("half", 0.5), ("half-again", 0.5), ("third", 0.3)):
        generators.generators.register(name, lambda value=value: Constant(value))
    half, again, third = (load(n, device="cpu") for n in ("half", "half-again", "third"))
    assert half.checksum == again.checksum != third.checksum and not half.verified
    with pytest.raises(SteerError, match="two generators are called 'half'"):
        generators.generators.register("half", Constant)


def test_every_family_says_its_name():
    names = generators.families.names()
    assert names == [
        "avae", "biggan", "biggan-deep", "dcgan", "disvae", "stylegan2", "stylegan3", "vae"
    ]  # fmt: skip
    assert [generators.families.get(name).family for name in names] == names
    assert Path(generators.EMBEDDED, "sprites", "config.json").is_file()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["sg2", "sg3t", "sg3r"])
def test_a_stylegan_folder_gives_the_reference_pictures(shared, tmp_path, name):
    """From a folder on disk, as `--model` finds it; equal to the original code's numbers."""
    file = shared / f"data/references/{name}.safetensors"
    with safe_open(file, "pt") as opened:
        kwargs = json.loads(opened.metadata()["init_kwargs"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    save_checkpoint(tmp_path, {"init_kwargs": kwargs}, state, "# A network")
    generator = load(str(tmp_path), device="cpu")
    with torch.no_grad():
        pictures = generator(tensors["ref.z"])
    wanted = (tensors["ref.image_psi1.0"] + 1) / 2
    assert (pictures - wanted.clamp(0, 1)).abs().max() < 1e-4
