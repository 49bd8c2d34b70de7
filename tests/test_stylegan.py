"""StyleGAN2 and StyleGAN3: the originals' numbers, both layouts, filters, modes, bad checkpoints.

`data/stylegan.json` holds outputs of tiny networks whose weights follow the formula of `weights`.
They were computed by this project's networks on the day when these gave, for NVIDIA's and
rosinality's own numbers (the tests marked `shared`), w bit for bit and pictures to 5e-6. They keep
that equality where the original numbers are not at hand.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from safetensors import safe_open
from scipy.signal import upfirdn
from torch import Tensor
from torch.nn import functional as F

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators import rosinality, style, tensorflow
from steer.generators.style import Mapping, StyleGenerator
from steer.generators.stylegan2 import Style, StyledConvolution, StyleGAN2
from steer.generators.stylegan3 import Design, StyleGAN3

EXPECTED = json.loads((Path(__file__).parent / "data" / "stylegan.json").read_text())


def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose tensors are standard normal numbers seeded by the CRC-32 of their names,
    scaled by kind; filters stay."""
    made = {}
    for name, old in state.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(old.shape))
        new = torch.from_numpy(np.asarray(drawn)).to(old)
        layer, _, part = name.rpartition(".")
        if part.endswith("filter") or part == "transform":
            new = old
        elif part in ("noise_strength", "magnitude_ema"):
            new = 0.2 + 0.1 * new.abs()
        elif layer.startswith("mapping.fc") and part == "weight":
            new = 100 * new
        elif part in ("bias", "w_avg", "phases"):
            new = 0.2 * new + (layer.endswith(("affine", "input.affine")) * 1.0)
        made[name] = new
    return made


def tiny(kind: str) -> StyleGenerator:
    """A small network of each kind, with the weights of the formula."""
    network: StyleGenerator
    if kind == "stylegan2":
        network = StyleGAN2(Mapping((8, 12, 12)), (12, 10, 8))
    elif kind == "stylegan2-classes":
        network = StyleGAN2(Mapping((8, 12, 12), classes=3), (12, 8), colours=1, clamp=1.5)
    elif kind == "stylegan3-t":
        network = StyleGAN3(Mapping((8, 12)), 16, (8, 8, 6, 6, 6, 3))
    else:
        design = Design(margin_size=4, num_critical=1)
        network = StyleGAN3(
            *(Mapping((8, 12), classes=3), 16, (8, 8, 6, 6, 6, 3)),
            kernel=1,
            radial=True,
            design=design,
        )
    network.load_state_dict(weights(network.state_dict()))
    return network.eval().requires_grad_(False)


KINDS = ("stylegan2", "stylegan2-classes", "stylegan3-t", "stylegan3-r-classes")


def codes_for(network: StyleGenerator, n: int = 3) -> Tensor:
    z = network.latent.sample(n, seed=1)
    if network.condition is None:
        return z
    classes = network.condition.codes[torch.arange(n) % len(network.condition.codes)]
    return torch.cat([z, classes], dim=1)


def as_checkpoint(network: StyleGenerator, **options) -> Checkpoint:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    return Checkpoint("net.pkl", {**network.config, **options}, state, "", False)


def drop(name):
    return lambda c: c.state.pop(name)


def put(name, *shape):
    return lambda c: c.state.update({name: torch.zeros(shape)})


def told_by(**options):
    return lambda c: c.config.update(options)


def given(**options):
    return lambda c: c.config["init_kwargs"].update(options)


def summary(network: StyleGenerator) -> dict[str, list[float]]:
    """A few dozen numbers of what a network gives, at two truncations and all noise modes."""
    codes, numbers = codes_for(network), {}
    for psi in (1.0, 0.5):
        network.truncation = psi
        ws = network.map(codes)
        raw = network.raw(ws, codes)
        step = raw.shape[-1] // 4
        numbers[f"w psi {psi}"] = ws[:2, -1, ::3].flatten().tolist()
        numbers[f"raw psi {psi}"] = raw[:2, :, 1::step, 2::step].flatten().tolist()
    if network.noise:
        for network.noise in ("none", "random"):
            raw = network.raw(network.map(codes), codes)
            numbers[f"raw noise {network.noise}"] = raw[1, 0, ::4, 1::4].flatten().tolist()
        network.noise = "const"
    network.truncation = 1.0
    return numbers


# --- the originals' numbers ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_that_equality_with_the_originals_gave(kind):
    found = summary(tiny(kind))
    assert found.keys() == EXPECTED[kind].keys()
    for name, values in found.items():
        assert np.abs(values).max() > 0.05, name
        np.testing.assert_allclose(values, EXPECTED[kind][name], atol=2e-5, err_msg=name)


def reference(shared: Path, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(shared / "data" / "references" / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.shared
@pytest.mark.parametrize("with_options", [True, False])
@pytest.mark.parametrize(
    ("name", "family"),
    [
        *[(name, StyleGAN2) for name in ("sg2", "sg2-cond")],
        *[(name, StyleGAN3) for name in ("sg3t", "sg3t-cond", "sg3r", "sg3r-cond")],
    ],
)
def test_equal_to_nvidias_networks(shared, name, family, with_options):
    tensors, metadata = reference(shared, name)
    options = json.loads(metadata["init_kwargs"]) if with_options else {}
    state, given = part(tensors, "state."), part(tensors, "ref.")
    checkpoint = Checkpoint(name, options, dict(state), "", False)
    assert [kind.recognises(checkpoint) for kind in (StyleGAN2, StyleGAN3)].index(True) == (
        family is StyleGAN3
    )
    network = family.from_checkpoint(checkpoint).eval()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    codes = torch.cat([given["z"], given["c"]], dim=1)
    with torch.no_grad():
        for psi in (1.0, 0.5):
            network.truncation = psi
            ws = network.map(codes)
            torch.testing.assert_close(ws, given[f"w_psi{psi}"], atol=1e-6, rtol=0)
            wanted = given[f"image_psi{psi}"]
            torch.testing.assert_close(network.raw(ws, codes), wanted, atol=2e-5, rtol=0)
            pictures = (wanted / 2 + 0.5).clamp(0, 1)
            torch.testing.assert_close(network(codes), pictures, atol=1e-5, rtol=0)
        network.truncation = 1.0
        if network.noise:
            network.noise = "none"
            raw = network.raw(network.map(codes), codes)
            torch.testing.assert_close(raw, given["image_psi1.0_nonoise"], atol=2e-5, rtol=0)


@pytest.mark.shared
def test_equal_to_rosinalitys_network(shared):
    tensors, _ = reference(shared, "rosinality-32")
    average = {"latent_avg": tensors["latent_avg"]}
    checkpoint = Checkpoint("r.pt", {}, part(tensors, "g_ema."), "", False, average)
    network = StyleGAN2.from_checkpoint(checkpoint).eval()
    given = part(tensors, "ref.")
    with torch.no_grad():
        torch.testing.assert_close(network.map(given["z"])[:, 0], given["w"], atol=1e-6, rtol=0)
        for network.truncation in (1.0, 0.5):
            raw = network.raw(network.map(given["z"]), given["z"])
            wanted = given[f"image_psi{network.truncation}"]
            torch.testing.assert_close(raw, wanted, atol=2e-5, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["sg3t", "sg3r"])
def test_filters_are_designed_as_the_original_ones(shared, name):
    tensors, metadata = reference(shared, name)
    stored = part(tensors, "state.")
    network = StyleGAN3.from_checkpoint(
        Checkpoint(name, json.loads(metadata["init_kwargs"]), dict(stored), "", False)
    )
    channels = [layer.weight.shape[0] for layer in list(network.synthesis.values())[1:]]
    radial = name == "sg3r"
    designed = StyleGAN3(
        Mapping((64, 64)), 32, channels, kernel=1 if radial else 3, radial=radial
    ).state_dict()
    filters = [key for key in stored if key.endswith("filter")]
    assert len(filters) == 16
    for key in filters:
        torch.testing.assert_close(designed[key], stored[key], atol=1e-7, rtol=1e-5)


# --- rosinality's layout ---


def to_rosinality(network: StyleGAN2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network as rosinality would store it, walked in the order of that code's modules."""
    state: dict[str, Tensor] = {}

    def modulated(layer, name):
        weight = layer.weight[None]
        if isinstance(layer, StyledConvolution):
            weight = weight * layer.weight[0].numel() ** 0.5
        state[f"{name}.conv.weight"] = weight
        state[f"{name}.conv.modulation.weight"] = layer.affine.weight
        state[f"{name}.conv.modulation.bias"] = layer.affine.bias

    def convolution(layer, name, number):
        modulated(layer, name)
        state[f"{name}.noise.weight"] = layer.noise_strength[None]
        state[f"{name}.activate.bias"] = layer.bias
        state[f"noises.noise_{number}"] = layer.noise_const[None, None]
        if layer.up:
            state[f"{name}.conv.blur.kernel"] = layer.resample_filter * 4

    def to_picture(layer, name):
        modulated(layer, name)
        state[f"{name}.bias"] = layer.bias[None, :, None, None]

    for i in range(network.mapping.depth):
        layer = network.mapping.get_submodule(f"fc{i}")
        state |= {f"style.{i + 1}.weight": layer.weight, f"style.{i + 1}.bias": layer.bias}
    first, *others = network.synthesis.values()
    state["input.input"] = first.const[None]
    convolution(first.conv1, "conv1", 0)
    to_picture(first.torgb, "to_rgb1")
    for i, block in enumerate(others):
        convolution(block.conv0, f"convs.{2 * i}", 2 * i + 1)
        convolution(block.conv1, f"convs.{2 * i + 1}", 2 * i + 2)
        to_picture(block.torgb, f"to_rgbs.{i}")
        state[f"to_rgbs.{i}.upsample.kernel"] = block.resample_filter * 4
    return {k: v.clone() for k, v in state.items()}, {"latent_avg": network.mapping.w_avg.clone()}


@pytest.fixture
def foreign() -> Checkpoint:
    state, beside = to_rosinality(tiny("stylegan2"))
    return Checkpoint("r.pt", {}, state, "", False, beside)


def test_rosinalitys_layout_gives_the_pictures_of_nvidias(foreign):
    ours = tiny("stylegan2")
    assert StyleGAN2.recognises(foreign) and not StyleGAN3.recognises(foreign)
    theirs = StyleGAN2.from_checkpoint(foreign).eval()
    codes = codes_for(ours)
    for mode in ("const", "none", "random"):
        ours.noise = theirs.noise = mode
        for ours.truncation in (1.0, 0.5):
            theirs.truncation = ours.truncation
            torch.testing.assert_close(theirs(codes), ours(codes), atol=1e-5, rtol=0)
    assert theirs.state_dict().keys() == ours.state_dict().keys()


def test_a_missing_mean_of_w_is_estimated(foreign):
    network = StyleGAN2.from_checkpoint(replace(foreign, beside={}))
    w = network.mapping(network.latent.sample(3000, seed=5))
    error = w.std(0) / 3000**0.5
    assert ((network.mapping.w_avg - w.mean(0)).abs() < 6 * error).all()
    assert network.mapping.w_avg.abs().max() > 0.05


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: s.pop("convs.2.noise.weight"), "missing convs.2.noise.weight"),
        (lambda s: s.pop("style.2.bias"), "missing style.2.bias"),
        (lambda s: s.update({"convs.9.x": torch.zeros(1)}), "unexpected convs.9.x"),
        (lambda s: s.update({"noises.noise_1": torch.zeros(1, 1, 9, 9)}), r"\[9, 9\] where"),
        (lambda s: s.update({"convs.0.noise.weight": torch.zeros(2)}), "noise_strength is"),
    ],
)
def test_damaged_rosinality_layouts(foreign, damage, told):
    damage(foreign.state)
    with pytest.raises(InputError, match=rf"^r\.pt.*{told}.*\.$"):
        StyleGAN2.from_checkpoint(foreign)


def test_the_table_of_names_is_one_to_one():
    table = rosinality.names(8, 9)
    assert len(set(table.values())) == len(table)


# --- TensorFlow's layout ---


def in_sixtyfourths(network: StyleGAN2) -> StyleGAN2:
    """The network with affine biases that keep every bit when 1 is taken off and added again."""
    for name, value in network.state_dict().items():
        if name.endswith("affine.bias"):
            value.copy_((value * 64).round() / 64)
    return network


def to_tensorflow(network: StyleGAN2) -> dict[str, Tensor]:
    """The network's tensors as NVIDIA's TensorFlow code stores them: with inputs before outputs,
    modulations around 0, kernels of the upsampling convolutions turned by half a turn."""
    arrays: dict[str, Any] = {"lod": np.float32(0), "dlatent_avg": network.mapping.w_avg}

    def dense(layer, name, prefix=""):
        arrays[f"{name}/{prefix}weight"] = np.einsum("oi->io", layer.weight)
        arrays[f"{name}/{prefix}bias"] = layer.bias.numpy() - (prefix == "mod_")

    def modulated(layer, name):
        arrays[f"{name}/weight"] = np.einsum("oihw->hwio", layer.weight)
        arrays[f"{name}/bias"] = layer.bias
        dense(layer.affine, name, "mod_")

    for i in range(network.mapping.depth):
        dense(network.mapping.get_submodule(f"fc{i}"), f"mapping/Dense{i}")
    if network.mapping.classes:
        dense(network.mapping.embed, "mapping/LabelEmbed")
    layer = 0
    for i, block in enumerate(network.synthesis.values()):
        name = f"synthesis/{4 * 2**i}x{4 * 2**i}"
        if not i:
            arrays[f"{name}/Const/const"] = block.const[None]
        for convolution in block.convolutions:
            kind = "Conv0_up" if convolution.up else "Conv1" if i else "Conv"
            modulated(convolution, f"{name}/{kind}")
            if convolution.up:
                arrays[f"{name}/{kind}/weight"] = np.rot90(arrays[f"{name}/{kind}/weight"], 2)
            if network.noise:
                arrays[f"{name}/{kind}/noise_strength"] = convolution.noise_strength
                arrays[f"synthesis/noise{layer}"] = convolution.noise_const[None, None]
            layer += 1
        modulated(block.torgb, f"{name}/ToRGB")
    return {key: torch.from_numpy(np.array(np.asarray(array))) for key, array in arrays.items()}


def tensorflow_checkpoint(network: StyleGAN2, **options) -> Checkpoint:
    config = {"init_kwargs": options, "kind": "tensorflow"}
    return Checkpoint("ffhq.pkl", config, to_tensorflow(network), "", False)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stylegan2", {}),
        ("stylegan2", {"latent_size": 8, "resolution": 16, "resample_kernel": [1, 3, 3, 1]}),
        ("stylegan2-classes", {"conv_clamp": 1.5, "label_size": 3, "num_channels": 1}),
    ],
)
def test_tensorflows_layout_gives_nvidias_bit_for_bit(kind, options):
    ours = in_sixtyfourths(tiny(kind))
    foreign = tensorflow_checkpoint(ours, **options)
    assert StyleGAN2.recognises(foreign) and not StyleGAN3.recognises(foreign)
    theirs = StyleGAN2.from_checkpoint(foreign).eval()
    assert foreign.state == {} and theirs.config == ours.config
    found, wanted = theirs.state_dict(), ours.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert torch.equal(value, wanted[name]) and value.is_contiguous(), name
    codes = codes_for(ours)
    for mode in ("const", "none", "random"):
        ours.noise = theirs.noise = mode
        assert torch.equal(theirs(codes), ours(codes))


def test_tensorflows_network_without_noise_and_with_other_filters():
    network = StyleGAN2(Mapping((8, 12)), (8, 8, 8), noisy=False, taps=torch.ones(2, 2) / 4)
    network.load_state_dict(weights(network.state_dict()))
    ours = in_sixtyfourths(network.eval().requires_grad_(False))
    for kernel in (None, [2, 2]):
        foreign = tensorflow_checkpoint(ours, resample_kernel=kernel, use_noise=False)
        theirs = StyleGAN2.from_checkpoint(foreign).eval()
        assert theirs.noise is None and torch.equal(theirs(codes_for(ours)), ours(codes_for(ours)))


def test_the_classes_of_the_first_stylegan2():
    """There embeddings have no bias or scale, and are normalised together with z."""
    ours = in_sixtyfourths(tiny("stylegan2-classes"))
    foreign = tensorflow_checkpoint(ours, mapping_lrmul=0.02)
    del foreign.state["mapping/LabelEmbed/weight"], foreign.state["mapping/LabelEmbed/bias"]
    embedding = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    foreign.state["mapping/LabelConcat/weight"] = embedding.clone()
    theirs = StyleGAN2.from_checkpoint(foreign).eval().requires_grad_(False)
    codes = codes_for(ours, 4)
    x = np.concatenate([codes[:, :8], embedding[codes[:, 8:].argmax(1)]], axis=1)
    x = x / np.sqrt((x**2).mean(1, keepdims=True))
    for i in range(2):
        layer = ours.mapping.get_submodule(f"fc{i}")
        weight = layer.weight.numpy() * 0.02 / np.sqrt(x.shape[1])
        x = x @ weight.T + layer.bias.numpy() * 0.02
        x = np.where(x > 0, x, 0.2 * x) * np.sqrt(2)
    np.testing.assert_allclose(theirs.map(codes)[:, 0], x, atol=1e-5)
    state = {name: value.clone() for name, value in theirs.state_dict().items()}
    again = StyleGAN2.from_checkpoint(Checkpoint("again", theirs.config, state, "", False))
    assert torch.equal(again.map(codes), theirs.map(codes))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (drop("dlatent_avg"), "missing dlatent_avg"),
        (drop("mapping/Dense1/bias"), "missing mapping/Dense1/bias"),
        (drop("synthesis/noise3"), "missing synthesis/noise3"),
        (
            drop("synthesis/8x8/Conv0_up/mod_bias"),
            "missing synthesis/8x8/Conv0_up/mod_bias",
        ),
        (
            drop("synthesis/16x16/ToRGB/weight"),
            "missing synthesis/16x16/ToRGB/weight",
        ),
        (
            drop("synthesis/8x8/Conv1/bias"),
            "missing synthesis/8x8/Conv1/bias",
        ),
        (put("synthesis/9x9/lod", 1), "unexpected synthesis/9x9/lod"),
        (put("synthesis/32x32/lod", 1), "missing synthesis/32x32/ToRGB/weight"),
        (put("synthesis/lod", 1), "unexpected synthesis/lod"),
        (put("mapping/LabelEmbed/weight", 3, 4), "missing mapping/LabelEmbed/bias"),
        (put("synthesis/4x4/Const/const", 12, 4), r"const of 3 dimensions, got shape \[12, 4\]"),
        (put("synthesis/noise1", 1, 2, 8, 8), r"noise_const is \[1, 2, 8, 8\] where \[8, 8\]"),
        (put("synthesis/8x8/Conv1/weight", 3, 3, 9, 9), r"is \[9, 9, 3, 3\] where"),
        (given(architecture="resnet"), "architecture skip, got 'resnet'"),
        (given(nonlinearity="relu"), "activation lrelu, got 'relu'"),
        (given(mapping_nonlinearity="relu"), "activation lrelu, got 'relu'"),
        (given(mapping_lrmul="x"), "lr_multiplier, got 'x'"),
        (given(normalize_latents=False), "normalize_latents True, got False"),
        (given(resolution=1024), "img_resolution 1024 .* with 16"),
        (given(resample_kernel=[1]), r"resample_kernel, got \[1\]"),
        (given(resample_kernel=[1, -1]), "not 0 together"),
        (given(resample_kernel=[1, 10**400]), "numbers"),
        (given(resample_kernel="1331"), "resample_kernel, got '1331'"),
    ],
)
def test_damaged_tensorflow_layouts(damage, told):
    checkpoint = tensorflow_checkpoint(tiny("stylegan2"))
    damage(checkpoint)
    with pytest.raises(InputError, match=rf"^ffhq\.pkl.*{told}.*\.$") as raised:
        StyleGAN2.from_checkpoint(checkpoint)
    assert "\n" not in str(raised.value)


def test_tensorflows_names_are_one_to_one():
    table = tensorflow.names(8, 9)
    assert len(set(table.values())) == len(table)


# --- reading ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_the_network_back(kind):
    network = tiny(kind)
    checkpoint = as_checkpoint(network)
    stored = checkpoint.state["mapping.fc0.weight"]
    again = type(network).from_checkpoint(checkpoint).eval()
    codes = codes_for(network)
    assert torch.equal(network(codes), again(codes)) and again.config == network.config
    assert again.mapping.fc0.weight.data_ptr() == stored.data_ptr(), "weights are held twice"
    assert checkpoint.state == {}
    assert all(p.device.type == "cpu" for p in again.state_dict().values())
    if network.condition:
        assert torch.equal(again.condition.codes, torch.eye(3))


def test_half_precision_weights_are_read_as_single():
    checkpoint = as_checkpoint(tiny("stylegan2"))
    checkpoint.state = {name: value.half() for name, value in checkpoint.state.items()}
    network = StyleGAN2.from_checkpoint(checkpoint)
    assert network(codes_for(network)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "clamp"),
    [
        ({}, None),
        ({"synthesis_kwargs": {}}, None),
        ({"synthesis_kwargs": {"conv_clamp": 128}}, 128),
        ({"z_dim": 8, "mapping_kwargs": {}}, 256),
        ({"z_dim": 8, "conv_clamp": None}, None),
        ({"init_kwargs": {"channel_base": 1024}}, 256),
    ],
)
def test_defaults_of_both_generations(options, clamp):
    checkpoint = replace(as_checkpoint(tiny("stylegan2")), config=options)
    assert StyleGAN2.from_checkpoint(checkpoint).synthesis["b8"].conv0.clamp == clamp


def test_sizes_that_are_not_square():
    network = StyleGAN2(Mapping((8, 12)), (8, 8, 8), start=(4, 2))
    again = StyleGAN2.from_checkpoint(as_checkpoint(network))
    assert again.picture == (3, 16, 8) and again(torch.zeros(2, 8)).shape == (2, 3, 16, 8)


def test_a_network_without_noise():
    network = StyleGAN2(Mapping((8, 12)), (8, 8), noisy=False)
    again = StyleGAN2.from_checkpoint(as_checkpoint(network))
    assert again.noise is None and again(torch.zeros(2, 8)).shape == (2, 3, 8, 8)


def test_filters_of_other_lengths_keep_the_size():
    for taps in (torch.ones(3, 3) / 9, torch.ones(8) / 8, torch.ones(5) / 5):
        network = StyleGAN2(Mapping((8, 12)), (8, 8, 8), taps=taps)
        again = StyleGAN2.from_checkpoint(as_checkpoint(network))
        assert again(torch.zeros(1, 8)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("kind", "damage", "told"),
    [
        ("stylegan2", drop("synthesis.b8.conv0.bias"), "missing synthesis.b8.conv0.bias"),
        ("stylegan2", drop("mapping.w_avg"), "missing mapping.w_avg"),
        ("stylegan2", drop("mapping.fc1.weight"), "unexpected mapping.fc1.bias"),
        ("stylegan2", drop("synthesis.b4.conv1.bias"), "tensor synthesis.b4.conv1.bias"),
        ("stylegan2", put("synthesis.b9.x", 1), "unexpected synthesis.b9.x"),
        ("stylegan2", put("synthesis.b8.conv1.weight", 9, 9, 3, 3), r"\[9, 9, 3, 3\] where"),
        ("stylegan2", put("synthesis.b4.const", 12, 4), r"of 3 dimensions, got shape \[12, 4\]"),
        ("stylegan2", put("synthesis.b4.resample_filter", 4, 3), "a square filter"),
        ("stylegan2", put("synthesis.b4.torgb.bias", 4), "1 or 3 channels, got 4"),
        ("stylegan2", told_by(z_dim=512), "z_dim 512 .* with 8"),
        ("stylegan2", told_by(img_resolution=1024), "img_resolution 1024 .* with 16"),
        ("stylegan2", told_by(architecture="resnet"), "architecture skip, got 'resnet'"),
        ("stylegan2", told_by(activation="relu"), "activation lrelu, got 'relu'"),
        ("stylegan2", told_by(mapping_kwargs=[1]), r"dict of mapping_kwargs, got \[1\]"),
        ("stylegan2", told_by(init_kwargs=3), "dict of init_kwargs, got 3"),
        ("stylegan2", told_by(mapping_kwargs={"lr_multiplier": 0}), "lr_multiplier, got 0"),
        ("stylegan2", told_by(mapping_kwargs={"activation": "relu"}), "lrelu, got 'relu'"),
        ("stylegan2", told_by(synthesis_kwargs={"conv_clamp": "x"}), "conv_clamp, got 'x'"),
        ("stylegan2-classes", put("mapping.embed.weight", 99, 3), "class embedding of 99"),
        ("stylegan3-t", drop("synthesis.L2_36_6.bias"), "without a gap"),
        ("stylegan3-t", drop("synthesis.L1_36_8.up_filter"), "missing synthesis.L1_36_8.up_f"),
        ("stylegan3-t", put("synthesis.L1_36_8.up_filter", 7), r"\[7\] where \[12\]"),
        ("stylegan3-t", told_by(margin_size=3), "missing synthesis.L0_22_8"),
        ("stylegan3-t", told_by(margin_size=-2), "margin_size, got -2"),
        ("stylegan3-t", told_by(filter_size=2.5), "filter_size, got 2.5"),
        ("stylegan3-t", told_by(num_critical=7), "num_critical"),
        ("stylegan3-t", told_by(first_cutoff=60.0), "bands that grow"),
        ("stylegan3-t", told_by(first_cutoff=5e-324), "bands that grow"),
        ("stylegan3-t", told_by(margin_size=10**400), "margin_size, got 1000"),
        ("stylegan3-t", told_by(output_scale=float("nan")), "output_scale, got nan"),
    ],
)
def test_damaged_checkpoints_get_one_sentence(kind, damage, told):
    checkpoint = as_checkpoint(tiny(kind))
    damage(checkpoint)
    with pytest.raises(InputError, match=told) as raised:
        tiny(kind).from_checkpoint(checkpoint)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_no_weight_may_be_infinite():
    checkpoint = as_checkpoint(tiny("stylegan3-t"))
    checkpoint.state["synthesis.input.phases"][0] = float("inf")
    with pytest.raises(InputError, match=r"synthesis\.input\.phases.*net\.pkl"):
        StyleGAN3.from_checkpoint(checkpoint)


# --- pieces against other libraries and definitions ---


@drawn(
    n=st.integers(3, 9),
    length=st.integers(2, 12),
    factor=st.integers(2, 4),
    before=st.integers(0, 5),
    after=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_filters_against_scipy(n, length, factor, before, after, seed):
    rng = np.random.default_rng(seed)
    x, taps = rng.standard_normal((2, 3, n, n)), rng.standard_normal(length)
    whole = x
    for axis in (2, 3):
        # what scipy leaves out: the zeros after the last sample and the padding around
        y = upfirdn(taps * factor, whole, up=factor, axis=axis)
        edges = [(0, 0)] * 4
        edges[axis] = (before, after + factor - 1)
        whole = np.pad(y, edges)
        span = n * factor + before + after - length + 1
        whole = np.take(whole, np.arange(length - 1, length - 1 + max(span, 0)), axis=axis)
    if 0 in whole.shape:
        return
    for filter_ in (taps, np.outer(taps, taps)):
        ours = style.upsample(*map(torch.from_numpy, (x, filter_)), factor, (before, after))
        np.testing.assert_allclose(ours, whole, atol=1e-9)
    if n + before + after < length:
        return
    lower = np.pad(x, [(0, 0), (0, 0), (before, after), (before, after)])
    for axis in (2, 3):
        lower = upfirdn(taps, lower, axis=axis)
        picked = np.arange(length - 1, n + before + after, factor)
        lower = np.take(lower, picked, axis=axis)
    for filter_ in (taps, np.outer(taps, taps)):
        ours = style.low_pass(*map(torch.from_numpy, (x, filter_)), factor, (before, after))
        np.testing.assert_allclose(ours, lower, atol=1e-9)


def test_modulation_is_a_convolution_with_each_items_own_weights():
    """Equations 1 and 3 of Karras et al. 2020, item by item."""
    torch.manual_seed(0)
    layer = StyledConvolution(5, 7, (6, 6), Style(4, None, True, torch.ones(2, 2)), up=False)
    layer, x, w = layer.double(), torch.randn(3, 5, 6, 6).double(), torch.randn(3, 4).double()
    layer.bias.data.normal_()
    layer.noise_strength.data.fill_(0.3)
    found = layer(x, w, layer.noise_const)
    for i in range(3):
        styles = layer.affine.weight @ w[i] / 4**0.5 + layer.affine.bias
        own = layer.weight * styles[:, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = F.conv2d(x[i : i + 1], own, layer.bias, padding=1) + 0.3 * layer.noise_const
        wanted = torch.where(y > 0, y, 0.2 * y) * 2**0.5
        torch.testing.assert_close(found[i : i + 1], wanted)


def test_activations_are_bounded():
    network = tiny("stylegan2-classes")
    seen = []
    for block in network.synthesis.values():
        block.conv1.register_forward_hook(lambda *told: seen.append(told[-1].abs().max().item()))
    network(codes_for(network))
    assert max(seen) == 1.5


@pytest.mark.parametrize("kernel", [3, 1])
@torch.no_grad()
def test_the_input_transform_of_stylegan3_moves_the_picture(kernel):
    """Whole pixels move exactly, but for what 3x3 kernels see of the zeros around the margin; the r
    kind turns exactly."""
    torch.manual_seed(0)
    channels = (*[12] * 8, 3)
    network = StyleGAN3(Mapping((8, 12)), 32, channels, kernel=kernel, radial=kernel == 1)
    z = torch.randn(2, 8)
    ws = network.map(z)
    still = network.raw(ws, z)
    shift = torch.eye(3)
    shift[0, 2], shift[1, 2] = 5 / 32, 3 / 32
    network.input_transform = shift
    moved = network.raw(ws, z)
    torch.testing.assert_close(moved[..., 6:-9, 6:-11], still[..., 9:-6, 11:-6], atol=1e-4, rtol=0)
    assert (moved - still).abs().max() > 0.01
    if kernel == 1:
        network.input_transform = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        turned = network.raw(ws, z)
        torch.testing.assert_close(turned, still.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"\[3, 3\], got \[2, 2\]"):
        network.input_transform = torch.eye(2)


# --- truncation, noise, batches, gradients ---


@pytest.mark.parametrize("psi", [-0.1, 2.1, float("nan"), float("inf"), "a", None])
def test_truncation_out_of_range(psi):
    network = tiny("stylegan2")
    with pytest.raises(InputError, match="psi from 0 to 2, got"):
        network.truncation = psi
    assert network.truncation == 1.0


@drawn(psi=st.floats(0, 2))
@settings(max_examples=20)
def test_truncation_goes_along_the_line_from_the_mean(psi):
    network = tiny("stylegan3-t")
    codes, mean = codes_for(network), network.mapping.w_avg
    whole = network.map(codes)
    network.truncation = psi
    torch.testing.assert_close(network.map(codes) - mean, psi * (whole - mean), atol=1e-5, rtol=0)


def test_noise_modes():
    network = tiny("stylegan2")
    codes, pictures = codes_for(network), {}
    for network.noise in ("const", "none", "random"):
        pictures[network.noise] = network(codes)
    assert len({p.sum().item() for p in pictures.values()}) == 3
    network.noise = "random"
    assert torch.equal(network(codes), pictures["random"])
    ws = network.map(codes)
    assert torch.equal(network.synthesise(ws), network.synthesise(ws.clone()))
    same = network.raw(ws[:1].expand(2, -1, -1), codes[:2])
    assert (same[0] - same[1]).abs().max() > 0.05, "items of a batch share their noise"


def test_unknown_noise():
    network = tiny("stylegan2")
    with pytest.raises(InputError, match="const, none, random, got 'gaussian'"):
        network.noise = "gaussian"
    other = tiny("stylegan3-t")
    assert other.noise is None
    with pytest.raises(InputError, match="no noise inputs, got noise 'const'"):
        other.noise = "const"


@pytest.mark.parametrize("noise", ["const", "none", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_does_not_depend_on_its_batch(kind, noise):
    network = tiny(kind)
    if network.noise:
        network.noise = noise
    codes = codes_for(network)
    together = network(codes)
    assert together.shape == (3, *network.picture)
    assert together.min() >= 0 and together.max() <= 1
    alone = torch.cat([network(code[None]) for code in codes])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(network(codes.flip(0)).flip(0), together, atol=1e-5, rtol=0)
    assert network(codes[:0]).shape == (0, *network.picture)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_codes_and_ws(kind):
    network = tiny(kind)
    codes = codes_for(network).requires_grad_()
    network(codes).sum().backward()
    assert codes.grad.isfinite().all() and (codes.grad.abs().sum(1) > 0).all()
    ws = network.map(codes).detach().clone().requires_grad_()
    network.synthesise(ws).square().sum().backward()
    assert ws.grad.isfinite().all() and (ws.grad.abs().sum(2) > 0).all(), "a layer ignores its w"


@pytest.mark.parametrize("kind", ["stylegan2-classes", "stylegan3-r-classes"])
def test_first_and_second_derivatives(kind):
    network = tiny(kind).double()
    ws = network.map(codes_for(network, 1).double()).clone().requires_grad_()
    u = torch.linspace(-1, 1, ws.numel()).reshape(ws.shape).double()

    def line(t):
        return network.raw(ws.detach() + t * u, ws)[:, :, 2::9, 5::9]

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(line, (t,))
    assert torch.autograd.gradgradcheck(line, (t,))


def test_the_clamp_lets_gradients_through():
    raw = torch.tensor([-4.0, 0.5, 4.0], requires_grad=True)
    pictures = style.in_unit_range(raw)
    assert pictures.tolist() == [0.0, 0.75, 1.0]
    ((pictures - torch.tensor([0.5, 0.5, 1.0])) ** 2).sum().backward()
    assert raw.grad.tolist() == [-0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda g: g(torch.zeros(2, 8)), r"codes \[B, 11\], got \[2, 8\]"),
        (lambda g: g(torch.zeros(11)), r"codes \[B, 11\], got \[11\]"),
        (lambda g: g.synthesise(torch.zeros(2, 3, 12)), r"ws \[B, 4, 12\], got \[2, 3, 12\]"),
    ],
)
def test_codes_of_another_shape(call, told):
    with pytest.raises(InputError, match=told):
        call(tiny("stylegan2-classes"))


def test_sizes_of_the_1024_pixel_network():
    """30.4 million numbers in StyleGAN2's generator of configuration F, planned in no memory."""
    channels = [min(32768 // (4 << i), 512) for i in range(9)]
    with torch.device("meta"):
        network = StyleGAN2(Mapping([512] * 9), channels)
    assert network.num_ws == 18 and network.picture == (3, 1024, 1024)
    assert sum(p.numel() for p in network.parameters()) == 30_370_060
    assert all(b <= a for a, b in pairwise(channels))
