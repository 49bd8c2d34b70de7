"""BigGAN and BigGAN-deep against the original code, in one process with it or by its numbers."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, truncnorm

from steer.checkpoints import Checkpoint
from steer.errors import InputError
from steer.generators import biggan_deep
from steer.generators.base import Condition
from steer.generators.biggan import BigGAN
from steer.generators.biggan_deep import LAYERS, BigGANDeep, DeepSizes, TruncatedNormalSpace
from steer.generators.biggan_layers import ConditionalNorm, ImageNetClasses, Norm

#: Numbers of pictures that the original code made of the tensors of `wave`:
#: ajbrock/BigGAN-PyTorch at commit 9845943 and pytorch-pretrained-biggan 0.1.1, float32 on a CPU.
#: The two ajbrock networks come with the names and shapes of the original's state dict.
NUMBERS = json.loads((Path(__file__).parent / "data" / "biggan.json").read_text())
#: Layers 128, 256 and 512 as published, 1/16 as wide, with 10 classes.
NARROW = {side: DeepSizes(layers, width=8, classes=10) for side, layers in LAYERS.items()}


def wave(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor that is the same everywhere: sin(0.618 k^2 + phase of the name) for the k-th number,
    in the range that its name calls for."""
    k = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = np.sin(0.618 * k**2 + zlib.crc32(name.encode()) % 1000)
    if name.endswith(("_var", "running_vars", "bn.weight", "layer.0.gain")):
        values = 1 + values / 2
    elif name.endswith(("mean", "means", "bias")):
        values = values / 5
    elif name.endswith("gamma"):
        values = 0.7 + 0 * values
    elif name.endswith(("_u", "_v", "u0")):
        values = values / np.linalg.norm(values)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def waves(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A whole state dict; stored pairs u, v are settled by 5 steps of the power iteration, since
    unrelated ones would make sigma = u^T W v anything."""
    state = {name: wave(name, tuple(shape)) for name, shape in shapes.items()}
    for name in [each.removesuffix("_orig") for each in state if each.endswith("_orig")]:
        matrix = state[f"{name}_orig"].flatten(1).double()
        u = state[f"{name}_u"].double()
        for _ in range(5):
            v = F.normalize(matrix.T @ u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        state[f"{name}_u"], state[f"{name}_v"] = u.float(), v.float()
    return state


def checkpoint(state, config=None, origin="some/weights.bin") -> Checkpoint:
    return Checkpoint(origin, config or {}, dict(state), "0" * 64, False)


def deep(sizes: DeepSizes) -> BigGANDeep:
    return BigGANDeep.from_checkpoint(checkpoint(waves(biggan_deep.published(sizes))))


@pytest.fixture(scope="module")
def narrow() -> BigGANDeep:
    return deep(NARROW[128]).requires_grad_(False)


@pytest.fixture(scope="module")
def split() -> dict[str, torch.Tensor]:
    return waves(NUMBERS["split"]["shapes"])


@pytest.fixture(scope="module")
def deep_state() -> dict[str, torch.Tensor]:
    return waves(biggan_deep.published(NARROW[128]))


# --- ajbrock/BigGAN-PyTorch ---


@pytest.mark.parametrize("kind", ["flat", "split", "unshared"])
def test_pictures_have_the_originals_numbers(kind):
    known = NUMBERS[kind]
    generator = BigGAN.from_checkpoint(checkpoint(waves(known["shapes"])))
    z = wave("z", (len(known["classes"]), generator.latent.dim)) * 2
    with torch.no_grad():
        pictures = generator(torch.cat([z, generator.condition.codes[known["classes"]]], dim=1))
    assert pictures.shape[1:] == generator.picture
    expected = (torch.tensor(known["pictures"]) + 1) / 2
    assert expected.std() > 0.05
    torch.testing.assert_close(pictures[..., 3::9, 5::9], expected, atol=1e-5, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "parts"), [("flat", 0), ("split", 4)])
def test_pictures_equal_the_reference_files(shared, kind, parts):
    tensors = safetensors.torch.load_file(
        shared / "data" / "references" / f"biggan-{kind}-32.safetensors"
    )
    state = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
    assert BigGAN.recognises(checkpoint(state))
    generator = BigGAN.from_checkpoint(checkpoint(state))
    codes = torch.cat([tensors["ref.z"], generator.condition.codes[tensors["ref.y"]]], dim=1)
    with torch.no_grad():
        pictures = generator(codes)
    torch.testing.assert_close(pictures, (tensors["ref.image"] + 1) / 2, atol=1e-5, rtol=0)
    assert list(generator.latent.parts) == [f"level {i}" for i in range(parts)]
    assert sum(generator.latent.parts.values()) == generator.latent.dim * (parts > 0)


def test_each_level_of_a_split_code_reaches_its_own_layers(split):
    """The gradient of the first maps sees the first level alone, each block its own."""
    generator = BigGAN.from_checkpoint(checkpoint(split))
    seen = {}
    for level, block in enumerate(generator.blocks):
        block.register_forward_hook(lambda *call, level=level: seen.__setitem__(level, call[2]))
    codes = torch.randn(1, generator.latent.dim + generator.condition.width, requires_grad=True)
    generator(codes)
    for level in range(len(generator.blocks)):
        (gradient,) = torch.autograd.grad(seen[level].sum(), codes, retain_graph=True)
        told = gradient[0, : generator.latent.dim].unflatten(0, (-1, generator.chunk)).abs().sum(1)
        assert ((told > 0) == (torch.arange(len(told)) <= level + 1)).all()


def test_layers_without_spectral_norm_are_left_as_they_are(split):
    bare = {name: each for name, each in split.items() if not name.endswith(("u0", "sv0"))}
    generator = BigGAN.from_checkpoint(checkpoint(bare))
    assert torch.equal(generator.to_rgb.weight, split["output_layer.2.weight"])


def test_further_singular_vectors_change_nothing(split):
    more = {**split, "linear.u1": torch.ones(1, 9), "linear.sv1": torch.ones(1)}
    a, b = (BigGAN.from_checkpoint(checkpoint(state)) for state in (split, more))
    assert torch.equal(a.linear.weight, b.linear.weight)


# --- BigGAN-deep against pytorch-pretrained-biggan ---


@pytest.fixture(scope="module")
def oracle():
    return pytest.importorskip("pytorch_pretrained_biggan")


def original(package, sizes: DeepSizes):
    """The original's network of the same sizes, its weights not yet set."""
    config = package.BigGANConfig(
        output_dim=sizes.side,
        channel_width=sizes.width,
        num_classes=sizes.classes,
        layers=list(sizes.layers),
    )
    return package.BigGAN(config).eval().requires_grad_(False)


def check_equal_pictures(package, sizes, truncation, classes, atol):
    state = waves(biggan_deep.published(sizes))
    reference = original(package, sizes)
    reference.load_state_dict(state)
    generator = BigGANDeep.from_checkpoint(checkpoint(state))
    generator.truncation = truncation
    codes = generator.latent.sample(len(classes), seed=4)
    labels = F.one_hot(torch.tensor(classes), sizes.classes).float()
    with torch.no_grad():
        expected = (reference(truncation * codes, labels, truncation) + 1) / 2
        embeddings = generator.condition.codes[classes]
        pictures = generator(torch.cat([codes, embeddings], dim=1))
        bare = generator.pictures(truncation * codes, embeddings)
    assert pictures.shape == (len(classes), 3, sizes.side, sizes.side)
    assert expected.std() > 0.05
    torch.testing.assert_close(pictures, expected, atol=atol, rtol=0)
    assert torch.equal(pictures, bare)


@pytest.mark.parametrize(
    # the original exchanges the weights of interpolation, so only where it does not interpolate
    ("truncation", "classes"),
    [(1.0, [7]), (0.8, [9, 9]), (0.5, [0, 9, 3]), (0.02, [1])],
)
@pytest.mark.parametrize("side", LAYERS)
def test_deep_pictures_equal_the_packages(oracle, side, truncation, classes):
    check_equal_pictures(oracle, NARROW[side], truncation, classes, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "truncation", "classes"), [(128, 0.4, [207, 999]), (256, 1.0, [7]), (512, 0.5, [3])]
)
def test_deep_pictures_equal_the_packages_at_full_width(oracle, side, truncation, classes):
    check_equal_pictures(oracle, DeepSizes(LAYERS[side]), truncation, classes, atol=1e-5)


@pytest.mark.parametrize("side", LAYERS)
def test_the_package_rounds_as_much(oracle, side):
    """Both are as far from the pictures in float64. Where stored u and v are unsettled, sigma comes
    out small and the network magnifies that: after one step of the power iteration instead of the
    five of `waves`, both sides were seen 2e-5 from float64, and 1e-5 apart."""
    sizes = NARROW[side]
    state = waves(biggan_deep.published(sizes))
    reference = original(oracle, sizes)
    reference.load_state_dict(state)
    generator = BigGANDeep.from_checkpoint(checkpoint(state))
    z, label = generator.latent.sample(1, seed=4), F.one_hot(torch.tensor([7]), 10).float()
    with torch.no_grad():
        ours = generator.pictures(z, generator.condition.codes[7:8])
        theirs = (reference(z, label, 1.0) + 1) / 2
        exact = (reference.double()(z.double(), label.double(), 1.0) + 1) / 2
    off, package_off = ((each - exact).abs().max() for each in (ours, theirs))
    assert 0 < off <= 2 * package_off + 1e-7 < 5e-6


@pytest.mark.parametrize("side", LAYERS)
def test_tensors_are_those_of_the_package(oracle, side):
    with torch.device("meta"):
        reference = original(oracle, DeepSizes(LAYERS[side]))
    shapes = {name: tuple(each.shape) for name, each in reference.state_dict().items()}
    assert biggan_deep.published(DeepSizes(LAYERS[side])) == shapes


@pytest.mark.parametrize(
    ("side", "keys", "parameters"),
    [(128, 506, 50_388_609), (256, 602, 55_880_833), (512, 698, 56_163_905)],
)
def test_published_counts(side, keys, parameters):
    shapes = biggan_deep.published(DeepSizes(LAYERS[side]))
    stored = ("_u", "_v", "running_means", "running_vars")
    count = sum(int(np.prod(s)) for name, s in shapes.items() if not name.endswith(stored))
    assert (len(shapes), count) == (keys, parameters)


def test_deep_pictures_have_the_packages_numbers(narrow):
    known = NUMBERS["deep"]
    embeddings = narrow.condition.codes[known["classes"]]
    z = wave("z", (len(embeddings), narrow.latent.dim))
    expected = (torch.tensor(known["pictures"]) + 1) / 2
    narrow.truncation = known["truncation"]
    pictures = narrow.pictures(z, embeddings)[..., 3::31, 5::31]
    assert expected.std() > 0.05
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)


# --- truncation ---


@given(st.floats(0, 1, exclude_min=True))
def test_statistics_are_interpolated_linearly(truncation):
    norm = ConditionalNorm(2, 3, rows=51, eps=1e-4)
    norm.means, norm.variances = wave("means", (51, 2)), wave("running_vars", (51, 2))
    norm.truncate(truncation)
    for c in range(2):
        mean, variance = (
            np.interp(truncation * 50, np.arange(51), rows[:, c])
            for rows in (norm.means.numpy(), norm.variances.numpy())
        )
        assert float(norm.mean[c]) == pytest.approx(mean, abs=1e-6)
        assert float(norm.scale[c]) == pytest.approx((variance + 1e-4) ** -0.5, abs=1e-6)


def test_pictures_between_rows_are_those_of_the_interpolated_statistics(deep_state):
    """At 0.413, 20.65 steps up: against a checkpoint that holds the interpolation in every row."""
    generator = BigGANDeep.from_checkpoint(checkpoint(deep_state))
    generator.truncation = 0.413
    everywhere = {
        name: (0.35 * each[20] + 0.65 * each[21]).repeat(51, 1) if "running_" in name else each
        for name, each in deep_state.items()
    }
    same = BigGANDeep.from_checkpoint(checkpoint(everywhere))
    z = wave("z", (2, 128)) * 0.413
    with torch.no_grad():
        pictures, expected = (each.pictures(z, wave("c", (2, 128))) for each in (generator, same))
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("truncation", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_truncation_out_of_range(narrow, truncation):
    narrow.truncation = 0.7
    with pytest.raises(InputError, match=r"above 0 and up to 1, got (0|-0\.1|1\.5|nan|inf)\."):
        narrow.truncation = truncation
    assert narrow.truncation == 0.7


def test_the_prior_is_the_truncated_normal():
    space = TruncatedNormalSpace(64)
    codes = space.sample(200, seed=3)
    assert kstest(codes.flatten(), truncnorm(-2, 2).cdf).pvalue > 1e-3
    assert space.std_along(np.eye(64)[0]) == pytest.approx(0.8796, abs=1e-4)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_items_of_a_seed_are_the_same_however_the_stream_is_cut(first, n, seed):
    space = TruncatedNormalSpace(3)
    part = space.sample(n, seed=seed, first=first)
    assert torch.equal(part, space.sample(first + n, seed=seed)[first:])


# --- the contract ---


@pytest.mark.parametrize("kind", ["deep", "split"])
def test_gradients_reach_z_and_class(kind, split):
    """Against finite differences, in float64."""
    if kind == "deep":
        sizes = DeepSizes(((True, 2, 1),), width=8, attention=0, z_dim=4, embedding=3, rows=3)
        torch.manual_seed(0)
        generator = BigGANDeep(sizes, Condition(torch.eye(3)))
        generator.truncation = 0.3
    else:
        generator = BigGAN.from_checkpoint(checkpoint(split))
    generator.double().requires_grad_(False)
    width = generator.latent.dim + generator.condition.width
    codes = wave("codes", (2, width)).double().requires_grad_()

    def summary(codes):
        return generator(codes).square().mean((1, 2, 3))

    assert torch.autograd.gradcheck(summary, codes, eps=1e-7, atol=1e-5)
    (gradient,) = torch.autograd.grad(summary(codes).sum(), codes)
    assert (gradient != 0).all()


def test_pictures_do_not_depend_on_the_rest_of_the_batch(narrow):
    narrow.truncation = 1.0
    codes = torch.cat([narrow.latent.sample(3, seed=2), narrow.condition.codes[:3]], dim=1)
    pictures = narrow(codes)
    assert pictures.min() >= 0 and pictures.max() <= 1
    for code, picture in zip(codes, pictures, strict=True):
        torch.testing.assert_close(narrow(code[None])[0], picture, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["split", "deep"])
def test_tensors_are_taken_out_and_left_unharmed(family, split, deep_state):
    state = split if family == "split" else deep_state
    kind = BigGAN if family == "split" else BigGANDeep
    before = {name: each.clone() for name, each in state.items()}
    given_away = checkpoint(state)
    kind.from_checkpoint(given_away)
    assert not any(name.endswith(("weight", "weight_orig")) for name in given_away.state)
    assert all(torch.equal(before[name], state[name]) for name in before)
    with pytest.raises(InputError):
        kind.from_checkpoint(given_away)


def test_other_precisions_become_float32(split):
    half = {name: each.half() for name, each in split.items()}
    generator = BigGAN.from_checkpoint(checkpoint(half))
    assert {each.dtype for each in generator.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["deep", "split"])
def test_half_precision_comes_near(kind, narrow, split):
    """Under autocast, where products round to 8 bits."""
    generator = narrow if kind == "deep" else BigGAN.from_checkpoint(checkpoint(split))
    codes = torch.cat([generator.latent.sample(2, seed=2), generator.condition.codes[:2]], dim=1)
    with torch.no_grad():
        exact = generator(codes)
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator(codes)
    assert 1e-5 < (rough - exact).abs().max() < 0.1


def test_each_family_knows_its_own(split, deep_state):
    assert BigGAN.recognises(checkpoint(split)) and not BigGANDeep.recognises(checkpoint(split))
    assert BigGANDeep.recognises(checkpoint(deep_state))
    assert not BigGAN.recognises(checkpoint(deep_state))


def test_a_configuration_gives_other_layers_and_eps():
    layers = [[True, 2, 1], [False, 1, 1]]
    sizes = DeepSizes(((True, 2, 1), (False, 1, 1)), 16, 1, 4, 3, classes=5, rows=3)
    state = waves(biggan_deep.published(sizes))
    config = {"layers": layers, "eps": 0.01, "attention_layer_position": 1}
    generator = BigGANDeep.from_checkpoint(checkpoint(state, config))
    assert generator.picture == (3, 8, 8)
    assert {each.eps for each in generator.modules() if isinstance(each, Norm)} == {0.01}


# --- damaged checkpoints ---


def without(name):
    return lambda state: state.pop(name)


def replaced(name, *shape):
    return lambda state: state.__setitem__(name, torch.zeros(shape))


def spoilt(name):
    def spoil(state):
        state[name] = torch.full_like(state[name], float("nan"))

    return spoil


BAD_SPLIT = [
    (without("linear.bias"), "missing linear.bias"),
    (without("blocks.1.0.bn2.stored_var"), "missing blocks.1.0.bn2.stored_var"),
    (without("output_layer.2.weight"), "missing output_layer.2.weight"),
    (without("blocks.0.0.bn1.gain.weight"), "expected a tensor blocks.0.0.bn1.gain.weight"),
    (without("blocks.1.0.conv1.weight"), "expected pictures of|does not fit|batch norms"),
    (without("blocks.1.1.gamma"), "unexpected blocks.1.1.theta"),
    (replaced("extra.weight", 3), "unexpected extra.weight"),
    (replaced("linear.weight", 3), "linear.weight of 2 dimensions"),
    (replaced("linear.weight", 4, 3), "expected pictures of 1 to 1024 pixels"),
    (replaced("linear.weight", 10**8, 0), "linear.weight of 2 dimensions"),
    (replaced("blocks.0.0.conv2.weight", 1, 1), r"blocks.0.0.conv2.weight is \[1, 1\]"),
    (replaced("blocks.0.0.conv1.weight", 4, 4), "of 4 dimensions"),
    (replaced("shared.weight", 10, 400), "batch norms that see the 400"),
    (replaced("linear.u0", 1, 256), "norm of linear is 0"),
    (spoilt("shared.weight"), "NaN"),
]
BAD_DEEP = [
    (without("embeddings.weight"), "expected a tensor embeddings.weight"),
    (without("generator.bn.running_means"), "expected a tensor generator.bn.running_means"),
    (without("generator.bn.bias"), "missing generator.bn.bias"),
    (without("generator.layers.3.bn_2.scale.weight_u"), "missing generator.layers.3.bn_2.scale"),
    (without("generator.layers.8.gamma"), "expected 10, 12, 14 blocks"),
    (replaced("generator.layers.77.gamma", 1), "unexpected generator.layers.77.gamma"),
    (replaced("generator.layers.77.x", 1), "expected 10, 12, 14 blocks"),
    (replaced("generator.layers.0.extra", 1), "unexpected generator.layers.0.extra"),
    (replaced("generator.gen_z.weight_orig", 9), "gen_z.weight_orig of 2 dimensions"),
    (replaced("generator.gen_z.weight_orig", 9, 128), "see more than the 128"),
    (replaced("generator.bn.running_means", 1, 8), "2 or more rows"),
    (replaced("generator.bn.running_means", 51, 2), "8 or more channels"),
    (replaced("generator.conv_to_rgb.weight_u", 8), "norm of generator.conv_to_rgb is"),
    (spoilt("generator.layers.8.gamma"), "NaN"),
]


@pytest.mark.parametrize(
    ("kind", "damage", "told"),
    [("split", *each) for each in BAD_SPLIT] + [("deep", *each) for each in BAD_DEEP],
)
def test_damaged_checkpoints_are_told_in_a_sentence(kind, damage, told, split, deep_state):
    bad = checkpoint(split if kind == "split" else deep_state, origin="my/weights.bin")
    damage(bad.state)
    with pytest.raises(InputError, match=told) as caught:
        (BigGAN if kind == "split" else BigGANDeep).from_checkpoint(bad)
    message = str(caught.value)
    assert message.startswith("my/weights.bin") or "in my/weights.bin" in message
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"layers": 3}, "layers in config.json as a list"),
        ({"layers": []}, "layers in config.json as a list"),
        ({"layers": [[True, 16, 5]]}, "keeps or halves"),
        ({"layers": [[True, 10**9, 10**9]]}, "keeps or halves"),
        ({"layers": [[True, 16, 16], [True, 8, 8]]}, "the one before"),
        ({"layers": [[True, 1, 1]] * 30}, "at most 1024 pixels"),
        ({"layers": [[False, 2, 1]]}, "does not fit"),
        ({"layers": [list(each) for each in LAYERS[256]]}, "does not fit"),
        ({"eps": "small"}, "positive eps"),
        ({"eps": float("nan")}, "positive eps"),
    ],
)
def test_configurations_that_do_not_fit(config, told, deep_state):
    with pytest.raises(InputError, match=rf"some/weights\.bin.*{told}"):
        BigGANDeep.from_checkpoint(checkpoint(deep_state, config))


@pytest.mark.parametrize("config", [{"resolution": 64}, {"n_classes": 1000}])
def test_a_configuration_of_another_network(config, split):
    with pytest.raises(InputError, match=r"some/weights\.bin: expected (resolution|n_classes)"):
        BigGAN.from_checkpoint(checkpoint(split, config))


# --- classes ---


@pytest.fixture(scope="module")
def imagenet() -> ImageNetClasses:
    return ImageNetClasses(torch.zeros(1000, 4))


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0),
        ("999", 999),
        ("golden retriever", 207),
        ("Golden  Retriever", 207),
        ("carcharodon carcharias", 2),
        ("man-eater", 2),
        ("giant panda", 388),
        ("maillot, tank suit", 639),
    ],
)
def test_classes_by_number_and_by_any_synonym(imagenet, text, index):
    assert imagenet.index(text) == index


def test_classes_are_in_torchvisions_order(imagenet):
    """torchvision's own list, with its own spelling here and there."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES as categories

    same = [
        name.lower() in names.lower().split(", ")
        for name, names in zip(categories, imagenet.names, strict=True)
    ]
    assert sum(same) > 950


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("goldn retriever", "did you mean golden retriever"),
        ("1000", "expected a class from 0 to 999, got 1000"),
        ("-1", "no ImageNet class is called '-1'"),
        ("", "no ImageNet class is called ''"),
        ("panda", r"several classes are called 'panda': 387 \(lesser panda.*388 \(giant panda"),
        ("Cardigan", r"several classes are called 'Cardigan': 264 \(Cardigan, .*, 474"),
        ("maillot", r"several classes are called 'maillot': 638 \(maillot\), 639"),
        ("9" * 5000, "expected a class from 0 to 999"),
        ("crane", r"several classes are called 'crane': 134 \(crane\), 517"),
    ],
)
def test_classes_that_are_not_there(imagenet, text, told):
    with pytest.raises(InputError, match=told) as caught:
        imagenet.index(text)
    assert len(str(caught.value)) < 300


def test_a_thousand_classes_have_names_and_others_numbers(narrow, deep_state):
    assert narrow.condition.index("9") == 9
    with pytest.raises(InputError, match="0 to 9"):
        narrow.condition.index("10")
    thousand = {**deep_state, "embeddings.weight": torch.zeros(128, 1000)}
    condition = BigGANDeep.from_checkpoint(checkpoint(thousand)).condition
    assert isinstance(condition, ImageNetClasses) and condition.width == 128
