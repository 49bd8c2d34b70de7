"""Backbones against timm's and torch-fidelity's own networks, on random weights in files."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from steer.backbones import Inception, Pooled, architecture, extractor, find, lpips_heads, stamped
from steer.errors import InputError, MachineError

MODEL = "test_efficientnet"
SIDE = 160


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with batch statistics that are not the defaults."""
    torch.manual_seed(0)
    state = timm.create_model(MODEL).state_dict()
    state = {k: v + 0.01 if "running" in k else v for k, v in state.items()}
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def pooled(weights: Path) -> Pooled:
    return Pooled(f"{MODEL}={weights}")


# --- names ---


def test_a_name_says_which_weights(weights: Path, pooled: Pooled) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert find(f"{MODEL}={weights}").name == f"{MODEL}#sha256={digest[:12]}" == pooled.name
    assert stamped("a", digest) == f"a#sha256={digest[:12]}"


@pytest.mark.parametrize(
    ("text", "name"),
    [("vgg16", "vgg16.tv_in1k"), ("vgg16.tv_in1k", "vgg16.tv_in1k"), (MODEL, f"{MODEL}.r160_in1k")],
)
def test_weights_from_the_hub_are_named_by_timms_tag(text: str, name: str) -> None:
    assert find(text).name == name


@pytest.mark.parametrize("text", ["vgg16", "vgg16.tv_in1k", "vgg16=a.b", "vgg16#sha256=01"])
def test_an_architecture_is_a_name_without_its_weights(text: str) -> None:
    assert architecture(text) == "vgg16"


def test_an_unknown_name_lists_near_matches() -> None:
    with pytest.raises(InputError, match=r"got 'tf_efficientnet_lite', near matches are tf_eff"):
        extractor("tf_efficientnet_lite")


def test_weights_of_no_numbers_are_refused(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    state["conv_stem.weight"][0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match=r"'conv_stem.weight' in .*nan.safetensors holds"):
        extractor(f"{MODEL}={tmp_path}/nan.safetensors")


# --- pooled features of a timm model ---


def test_features_and_probabilities_are_those_of_timm(weights: Path, pooled: Pooled) -> None:
    pictures = noise(3, 3, SIDE, SIDE).mul(255).round().div(255)
    bare, whole = timm.create_model(MODEL, num_classes=0).eval(), timm.create_model(MODEL).eval()
    state = load_file(weights)
    whole.load_state_dict(state)
    bare.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier")})
    mean, std = (torch.tensor(whole.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    seen = pooled(list(pictures))
    with torch.no_grad():
        standard = (pictures - mean) / std
        torch.testing.assert_close(seen.features, bare(standard))
        torch.testing.assert_close(seen.probabilities, whole(standard).softmax(1))
    assert pooled.dim == seen.features.shape[1] and pooled.size == (SIDE, SIDE)


@pytest.mark.parametrize("size", [(40, 40), (32, 90), (400, 300)])
def test_pictures_are_resized_whole_as_pillow_does(pooled: Pooled, size: tuple[int, int]) -> None:
    small = Image.fromarray((noise(5, 4, 3, seed=4) * 255).byte().numpy())
    shown = small.resize(size[::-1], Image.Resampling.BICUBIC)
    picture = torch.from_numpy(np.array(shown)).permute(2, 0, 1) / 255
    wanted = np.array(shown.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    found = pooled.prepared(picture).numpy()
    assert found.min() >= 0 and found.max() <= 1
    assert np.abs(found * 255 - wanted).max() < 1.5


def test_every_picture_is_seen_by_itself(pooled: Pooled) -> None:
    pictures = [noise(3, 20 + 7 * i, 30, seed=i) for i in range(23)]
    together = pooled(pictures)
    alone = torch.cat([pooled([picture]).features for picture in pictures])
    torch.testing.assert_close(together.features, alone, atol=1e-4, rtol=1e-4)
    assert together.features.std(0).min() > 0


def test_grey_is_three_equal_channels_and_8_bits_are_what_counts(pooled: Pooled) -> None:
    grey = noise(1, 30, 30).mul(255).round().div(255)
    wanted = pooled([grey.expand(3, -1, -1)]).features
    assert torch.equal(pooled([grey]).features, wanted)
    assert torch.equal(pooled([grey + 0.3 / 255]).features, wanted)


def test_half_precision_is_cast_up(weights: Path, tmp_path: Path) -> None:
    files = {}
    for name, dtype in (("half", torch.float16), ("single", torch.float32)):
        files[name] = tmp_path / f"{name}.safetensors"
        state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(weights).items()}
        save_file({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()},
                  files[name])  # fmt: skip
    half, single = (Pooled(f"{MODEL}={file}") for file in files.values())
    pictures = [noise(3, 40, 40)]
    assert half(pictures).features.dtype == torch.float32
    assert torch.equal(half(pictures).features, single(pictures).features)
    assert half.name != single.name


def test_a_model_without_classes_gives_no_probabilities(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **o: create(name, num_classes=0, **o))
    state = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}
    save_file(state, tmp_path / "bare.safetensors")
    seen = Pooled(f"{MODEL}={tmp_path}/bare.safetensors")([noise(3, 40, 40), noise(3, 20, 20)])
    assert seen.probabilities is None and len(seen.features) == 2


@pytest.mark.gpu
def test_a_gpu_sees_the_same(weights: Path, pooled: Pooled) -> None:
    pictures = [noise(3, 40, 40, seed=i) for i in range(5)]
    seen = Pooled(f"{MODEL}={weights}", "cuda")(pictures)
    torch.testing.assert_close(seen.features, pooled(pictures).features, atol=1e-2, rtol=1e-2)


@pytest.mark.shared
def test_a_trained_backbone_tells_its_classes(shared: Path) -> None:
    file = shared / "data/backbones/tf_efficientnet_lite0.fp16.safetensors"
    with Image.open(shared / "data/photos/bike.jpg") as photo:
        picture = torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1) / 255
    network = extractor(f"tf_efficientnet_lite0={file}")
    seen = network([picture])
    assert seen.features.shape == (1, 1280) == (1, network.dim)
    # 444 tandem bicycle, 671 mountain bike, 665 moped, 670 motor scooter
    assert int(seen.probabilities.argmax()) in (444, 671, 665, 670)


# --- Inception ---


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of torch-fidelity's Inception, large enough that features are not all 0."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("inception", ["2048"], nothing)
    state = {k: 2.4 * v if k.endswith("conv.weight") else v for k, v in
             network.state_dict().items()}  # fmt: skip
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(state, file)
    return file


def test_inception_is_that_of_torchmetrics(inception: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    found = extractor(f"inception={inception}")
    digest = hashlib.sha256(inception.read_bytes()).hexdigest()
    assert found.name == f"inception#sha256={digest[:12]}" and found.dim == 2048
    pictures = [*noise(2, 3, 32, 32), noise(1, 40, 64)]
    seen = found(pictures)
    for level, values in (("2048", seen.features), ("logits_unbiased", seen.probabilities)):
        oracle = NoTrainInceptionV3("inception", [level], str(inception), antialias=False)
        shown = [(p * 255).round().byte().expand(3, -1, -1)[None] for p in pictures]
        wanted = torch.cat([oracle(each) for each in shown])
        wanted = wanted.softmax(1) if level != "2048" else wanted
        torch.testing.assert_close(values, wanted, rtol=1e-3, atol=1e-6)
    assert seen.features.std(0).max() > 1e-3


def test_what_is_no_inception(
    inception: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"expected inception=FILE, .*; got 'inception'"):
        extractor("inception")
    with pytest.raises(InputError, match=f"torch-fidelity's weights of Inception in {weights}"):
        Inception(str(weights))
    with pytest.raises(InputError, match=r"no such file: gone\.pth"):
        Inception("gone.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(MachineError, match="needs the package torch-fidelity"):
        Inception(str(inception))


# --- LPIPS ---


def test_the_heads_of_lpips() -> None:
    heads = lpips_heads()
    assert [len(head) for head in heads] == [64, 128, 256, 512, 512]
    assert all((head >= 0).all() and head.sum() > 0 for head in heads)
