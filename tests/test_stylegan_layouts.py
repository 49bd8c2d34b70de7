"""StyleGAN2 as rosinality's code and NVIDIA's TensorFlow code store it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from styles import codes_for, drop, put, tiny, told_within, weights
from torch import Tensor

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators import rosinality, tensorflow
from steer.generators.style import Mapping
from steer.generators.stylegan2 import StyledConvolution, StyleGAN2
from steer.generators.stylegan3 import StyleGAN3

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
        (told_within(architecture="resnet"), "architecture skip, got 'resnet'"),
        (told_within(nonlinearity="relu"), "activation lrelu, got 'relu'"),
        (told_within(mapping_nonlinearity="relu"), "activation lrelu, got 'relu'"),
        (told_within(mapping_lrmul="x"), "lr_multiplier, got 'x'"),
        (told_within(normalize_latents=False), "normalize_latents True, got False"),
        (told_within(resolution=1024), "img_resolution 1024 .* with 16"),
        (told_within(resample_kernel=[1]), r"resample_kernel, got \[1\]"),
        (told_within(resample_kernel=[1, -1]), "not 0 together"),
        (told_within(resample_kernel=[1, 10**400]), "numbers"),
        (told_within(resample_kernel="1331"), "resample_kernel, got '1331'"),
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
