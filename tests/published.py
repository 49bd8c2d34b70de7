"""Small checkpoints in the layouts that generators are published in, each written by a function."""

from __future__ import annotations

from pathlib import Path

import torch
from commands import tiny_vae
from nvidia import dumps, grow
from on_disk import torch_bytes
from styles import tiny
from test_biggan import NUMBERS, waves
from test_generators import disvae_state, tutorial_state
from test_stylegan_layouts import to_rosinality

from steer.checkpoints import save_checkpoint
from steer.disk import save_json
from steer.generators import biggan_deep

#: BigGAN-deep with pictures of 16 x 16, attention at 8 x 8, and 10 classes.
DEEP = biggan_deep.DeepSizes(
    ((False, 2, 2), (True, 2, 1), (True, 1, 1)), width=8, attention=2, z_dim=12, classes=10
)


def deep_files() -> dict[str, bytes]:
    """BigGAN-deep as huggingface/pytorch-pretrained-BigGAN publishes it."""
    config = f'{{"layers": {[list(layer) for layer in DEEP.layers]}, "eps": 0.0001}}'.lower()
    state = waves(biggan_deep.published(DEEP))
    return {"config.json": config.encode(), "pytorch_model.bin": torch_bytes(state)}


def biggan_deep_folder(folder: Path) -> Path:
    folder.mkdir()
    for name, data in deep_files().items():
        (folder / name).write_bytes(data)
    return folder


def biggan(folder: Path) -> Path:
    return _saved(folder, waves(NUMBERS["split"]["shapes"]))


def dcgan(folder: Path) -> Path:
    torch.manual_seed(0)
    return _saved(folder, tutorial_state(widths=(7, 8, 8, 3)))


def disvae(folder: Path) -> Path:
    path = _saved(folder, disvae_state(size=32, latent=3))
    save_json(folder / "specs.json", {"latent_dim": 3, "family": "somebody else's word"})
    return path.parent


def vae(folder: Path) -> Path:
    return tiny_vae(folder, seed=3)


def rosinality(folder: Path) -> Path:
    state, beside = to_rosinality(tiny("stylegan2"))
    return _saved(folder, {"g_ema": state, **beside})


def stylegan2(folder: Path) -> Path:
    network = tiny("stylegan2-classes")
    save_checkpoint(folder, network.config, network.state_dict(), "---\nlicense: cc-by-4.0\n---\n")
    return folder


def stylegan3(folder: Path) -> Path:
    """A pickle of NVIDIA's."""
    network = tiny("stylegan3-r-classes")
    options = {name: value for name, value in network.config.items() if name != "family"}
    root = grow(dict(network.state_dict()), z_dim=8, c_dim=3, synthesis_kwargs=options)
    folder.mkdir()
    (folder / "net.pkl").write_bytes(dumps({"G": None, "D": None, "G_ema": root}))
    return folder / "net.pkl"


def _saved(folder: Path, state: object) -> Path:
    folder.mkdir()
    (folder / "model.pt").write_bytes(torch_bytes(state))
    return folder / "model.pt"


#: The family of what each function writes.
LAYOUTS = {
    biggan_deep_folder: "biggan-deep",
    biggan: "biggan",
    dcgan: "dcgan",
    disvae: "disvae",
    vae: "vae",
    rosinality: "stylegan2",
    stylegan2: "stylegan2",
    stylegan3: "stylegan3",
}
