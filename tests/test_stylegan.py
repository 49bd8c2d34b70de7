"""StyleGAN2 and StyleGAN3: the originals' numbers, filters, modes, bad checkpoints.

`data/stylegan.json` holds outputs of tiny networks whose weights follow the formula of
`styles.weights`. They were computed by this project's networks on the day when these gave, for
NVIDIA's and rosinality's own numbers (the tests marked `shared`), w bit for bit and pictures to
5e-6. They keep that equality where the original numbers are not at hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from scipy.signal import upfirdn
from styles import KINDS, as_checkpoint, codes_for, drop, put, tiny, told_by
from torch import Tensor
from torch.nn import functional as F

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators import style
from steer.generators.style import Mapping, StyleGenerator
from steer.generators.stylegan2 import Style, StyledConvolution, StyleGAN2
from steer.generators.stylegan3 import StyleGAN3

EXPECTED = json.loads((Path(__file__).parent / "data" / "stylegan.json").read_text())


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3-t"])
def test_weights_of_other_precisions_are_read_as_single(kind, dtype):
    checkpoint = as_checkpoint(tiny(kind))
    checkpoint.state = {name: value.to(dtype) for name, value in checkpoint.state.items()}
    network = type(tiny(kind)).from_checkpoint(checkpoint)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert network(codes_for(network)).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_leaves_w_and_styles_exact(kind):
    """Under autocast, where only the convolutions round; w is that of float32."""
    network = tiny(kind)
    codes = codes_for(network)
    with torch.autocast("cpu", torch.bfloat16):
        w, pictures = network.map(codes), network(codes)
    assert torch.equal(w, network.map(codes))
    assert 1e-5 < (pictures - network(codes)).abs().max() < 0.1


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


@given(
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


@given(psi=st.floats(0, 2))
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


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_through_truncation_map_and_synthesis(kind):
    """Against finite differences in float64; pictures are half of what comes before the clamp."""
    network = tiny(kind).double()
    network.truncation = 0.6
    codes = codes_for(network, 1).double().requires_grad_()

    def places(codes):
        return network.raw(network.map(codes), codes)[..., 2::9, 5::9]

    assert torch.autograd.gradcheck(places, codes)
    (of_raw,) = torch.autograd.grad(network.raw(network.map(codes), codes).sum(), codes)
    (of_pictures,) = torch.autograd.grad(network.synthesise(network.map(codes)).sum(), codes)
    torch.testing.assert_close(of_pictures, of_raw / 2)


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
