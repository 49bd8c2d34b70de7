"""Planned networks, and that reading a checkpoint of any family plans alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from styles import tiny
from test_stylegan_layouts import to_rosinality
from torch import Tensor, nn

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators import biggan, biggan_deep, built, families
from steer.generators.avae import AVAE
from steer.generators.base import PictureShape
from steer.generators.dcgan import DCGAN
from steer.generators.planned import fill, planned
from steer.generators.style import Mapping
from steer.generators.stylegan2 import StyleGAN2
from steer.generators.stylegan3 import StyleGAN3
from steer.generators.vae import VAE

DISVAE = {
    "encoder.conv1": (4, 1, 4, 4),
    "encoder.conv2": (4, 4, 4, 4),
    "encoder.conv3": (4, 4, 4, 4),
    "encoder.lin1": (8, 64),
    "encoder.lin2": (8, 8),
    "encoder.mu_logvar_gen": (4, 8),
    "decoder.lin1": (8, 2),
    "decoder.lin2": (8, 8),
    "decoder.lin3": (64, 8),
    "decoder.convT1": (4, 4, 4, 4),
    "decoder.convT2": (4, 4, 4, 4),
    "decoder.convT3": (4, 1, 4, 4),
}


def checkpoints() -> dict[str, tuple[dict, dict[str, Tensor]]]:
    """A small configuration and state dict of each family."""
    vae = VAE(PictureShape(3, 16, 16), latent=2, widths=(4, 4), dense=(8,), broadcast=8)
    avae = AVAE(PictureShape(1, 16, 16), latent=2, xi=1, width=2)
    style2 = StyleGAN2(Mapping((4, 4)), (4, 4))
    style3 = StyleGAN3(Mapping((4, 4)), 16, (4, 4, 4, 4, 4, 3))
    disvae = {f"{name}.weight": torch.rand(shape) for name, shape in DISVAE.items()}
    for name, shape in DISVAE.items():
        is_transposed = "convT" in name
        disvae[f"{name}.bias"] = torch.rand(shape[1 if is_transposed else 0])
    deep = biggan_deep.DeepSizes(((True, 2, 1),), 8, 0, 4, 3, classes=5, rows=3)
    flat = biggan.Sizes((8, 8), attention=(0,), chunk=0, dim=4, width=3, classes=5)
    rand = {
        "biggan-deep": biggan_deep.published(deep),
        "biggan": biggan.published(flat),
    }
    states = {name: {n: torch.rand(s) for n, s in each.items()} for name, each in rand.items()}
    return {
        "vae": (vae.config, vae.state_dict()),
        "avae": (avae.config, avae.state_dict()),
        "disvae": ({}, disvae),
        "dcgan": ({}, DCGAN((4, 4, 3)).state_dict()),
        "biggan-deep": ({"layers": [[True, 2, 1]]}, states["biggan-deep"]),
        "biggan": ({}, states["biggan"]),
        "stylegan2": (style2.config, style2.state_dict()),
        "stylegan3": (style3.config, style3.state_dict()),
    }


PROGRAM = """
import sys, torch
from steer.checkpoints import Checkpoint
from steer.generators import recognise
for name, (config, state) in torch.load("all.pt", weights_only=True).items():
    checkpoint = Checkpoint(name, config, state, "", False)
    family = recognise(checkpoint)
    assert family.family == name
    network = family.from_checkpoint(checkpoint).eval()
    tensors = [*network.parameters(), *network.buffers()]
    assert all(each.device.type == "cpu" for each in tensors), name
    assert network(torch.zeros(2, network.width)).isfinite().all(), name
    loaded = {"sympy", "torch._dynamo"} & sys.modules.keys()
    assert not loaded, (name, loaded)
"""


def test_reading_any_family_does_not_load_torchs_compiler(tmp_path):
    """It takes more memory than the weights of most networks, and a second."""
    made = checkpoints()
    assert set(made) == set(families.names())
    torch.save(made, tmp_path / "all.pt")
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_nothing_planned_is_drawn_or_takes_memory():
    state = torch.get_rng_state()
    with planned():
        huge = nn.Sequential(nn.Linear(1 << 20, 1 << 20), nn.ConvTranspose2d(1 << 16, 1 << 16, 3))
        real = torch.zeros(2, device="cpu").normal_()
    assert all(each.is_meta for each in huge.parameters())
    assert torch.equal(real, torch.zeros(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Linear(2, 2).weight.abs().sum() > 0, "drawing goes on outside"


def test_tensors_are_given_away_without_copies():
    with planned():
        layer = nn.BatchNorm2d(2)
    state = nn.BatchNorm2d(2).state_dict()
    weight = state["weight"]
    state["bias"] = torch.tensor([0.5, -1], dtype=torch.float16)
    fill(layer, state, "x.pt")
    assert state == {} and layer.weight.data_ptr() == weight.data_ptr()
    assert layer.bias.tolist() == [0.5, -1] and layer.bias.dtype == torch.float32
    assert layer.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("family", checkpoints())
@pytest.mark.parametrize("every", [False, True])
def test_whole_numbers_are_no_weights(family, every):
    """One tensor or all of them; what is counted is whole."""
    config, state = checkpoints()[family]
    victim = next(name for name, tensor in state.items() if tensor.is_floating_point())
    for name in state if every else [victim]:
        state[name] = state[name].to(torch.int32)
    checkpoint = Checkpoint("x.pt", config, state, "", False)
    with pytest.raises(
        InputError, match=r"^x\.pt does not fit: floating point was expected for \S+ \(int32\)"
    ) as caught:
        built(checkpoint)
    assert "num_batches" not in str(caught.value) and str(caught.value).count(".pt") == 1


def test_the_mean_of_w_beside_a_checkpoint_is_no_whole_number():
    state, _ = to_rosinality(tiny("stylegan2"))
    whole = {"latent_avg": torch.zeros(8, dtype=torch.int64)}
    with pytest.raises(InputError, match=r"was expected for mapping.w_avg \(int64\)\.$"):
        built(Checkpoint("x.pt", {}, state, "", False, whole))


def test_what_does_not_fit_stays():
    with planned():
        layer = nn.Linear(2, 1)
    state = {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}
    with pytest.raises(InputError, match=r"^x\.pt does not fit: weight is \[1, 3\]"):
        fill(layer, state, "x.pt")
    assert len(state) == 2
