"""steer score: sets of pictures, and latents with their photos."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from commands import Steer, latents_of, photo, refused
from safetensors.torch import save_file

from steer.files import Artefact, load, save

MODEL = "test_efficientnet"
QUICK = ("--steps", 3, "--start", "encoder")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """NAME=FILE of random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(timm.create_model(MODEL).state_dict(), file)
    return f"{MODEL}={file}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of five photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        photo(folder / f"{i}.png", seed=i)
    return folder


@pytest.fixture
def score(steer: Steer, backbone: str) -> Steer:
    """`steer score` by the small backbone, on the CPU."""
    return lambda *arguments, **more: steer(
        "score", *arguments, "--extractor", backbone, "--device", "cpu", **more
    )


# --- sets ---


def test_a_set_against_itself(score: Steer, photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in sorted(photos.iterdir()):
            archive.write(file, file.name)
    ended = score(photos, "--against", tmp_path / "all.zip", "--json")
    assert ended.status == 0, ended.err
    rows = ended.summary["scores"]
    assert [row["score"] for row in rows] == [
        "FID", "KID", "inception score", "inception score", "sharpness", "sharpness"
    ]  # fmt: skip
    assert rows[0]["value"] < 1e-3
    assert rows[2]["value"] == pytest.approx(rows[3]["value"])
    assert rows[4]["value"] == pytest.approx(rows[5]["value"])
    assert all(r["extractor"].startswith(f"{MODEL}#sha256=") for r in rows[:4])
    assert ended.summary["n"] == {"what": 5, "against": 5}
    assert "5 pictures are no more than the 256 features" in ended.err
    assert "FID is biased" in ended.err and "resized" not in ended.err
    assert ended.summary["made"]["options"]["against"] == [str(tmp_path / "all.zip")]


def test_samples_of_a_generator_as_a_table(score: Steer, tiny: Path) -> None:
    ended = score("--model", tiny, "-n", 6, "--against", "sprites", "--seed", 3)
    assert ended.status == 0, ended.err
    text = ended.out.decode()
    assert "6 pictures of" in text and "against 6 of sprites" in text
    assert "FID" in text and f"{MODEL}#sha256=" in text and "inception score" in text
    assert "pictures of 16x16 to 64x64 pixels are each resized by the extractor" in ended.err


def test_latents_are_drawn_by_their_generator(score: Steer, tiny: Path, tmp_path: Path) -> None:
    z = latents_of(str(tiny), 6, tmp_path / "z.safetensors", seed=3)
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(z, shards / "shard-00000-of-00001.safetensors")
    values = []
    for what in ((z,), ("--model", tiny, "-n", 6, "--seed", 3), ("-",), (shards,)):
        ended = score(*what, "--against", z, "--json", stdin=z.read_bytes())
        assert ended.status == 0, ended.err
        values.append([row["value"] for row in ended.summary["scores"]])
    assert values[0][0] < 1e-3
    torch.testing.assert_close(torch.tensor(values[0]), torch.tensor(values[1]), rtol=0.1, atol=0.1)
    assert values[0] == values[2] == values[3]


def test_the_seed_and_the_batch(score: Steer, tiny: Path, photos: Path) -> None:
    def fid(*options: object) -> float:
        ended = score("--model", tiny, "-n", 8, "--against", photos, "--json", *options)
        return ended.summary["scores"][0]["value"]

    assert fid() == fid()
    assert fid("--batch", 3) == pytest.approx(fid(), rel=1e-3)
    assert fid("--seed", 1) != fid()


def test_bad_pictures_are_named(score: Steer, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"<html>")
    ended = score(photos, "--against", photos / "0.png", "--against", photos / "1.png", "--json")
    assert ended.status == 3
    assert "left out: " in ended.err and "bad.png: expected a PNG" in ended.err
    assert ended.summary["n"] == {"what": 5, "against": 2}
    assert list(ended.summary["failed"]) == [str(photos / "bad.png")]


def test_several_extractors(score: Steer, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    file = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    ended = score(photos, "--against", photos, "--extractor", f"test_resnet={file}", "--json")
    assert ended.status == 0, ended.err
    fids = [row["extractor"] for row in ended.summary["scores"] if row["score"] == "FID"]
    assert [name.partition("#")[0] for name in fids] == ["test_resnet", MODEL]


# --- pairs ---


@pytest.fixture
def inverted(steer: Steer, tiny: Path, photos: Path, tmp_path: Path) -> Path:
    """Latents of three of the photos."""
    z = tmp_path / "z.safetensors"
    chosen = [photos / f"{i}.png" for i in (3, 0, 4)]
    ended = steer("invert", *chosen, "--model", tiny, "--loss", "mse", *QUICK, "-o", z)
    assert ended.status == 0, ended.err
    return z


def test_latents_and_their_photos_pair_by_pair(
    score: Steer, inverted: Path, photos: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    ended = score(inverted, "--against", moved, "--json")
    assert ended.status == 0, ended.err
    rows = ended.summary["scores"]
    assert [(row["score"], row["own_loss"]) for row in rows] == [
        ("MSE", True), ("SSIM", False), ("perceptual", False)
    ]  # fmt: skip
    tensors = load(inverted).tensors
    assert rows[0]["value"] == pytest.approx(tensors["error.mse"].mean().item(), rel=1e-4)
    assert rows[1]["value"] == pytest.approx(1 - 2 * tensors["error.dssim"].mean().item(), rel=1e-4)
    assert rows[2]["extractor"].startswith(f"{MODEL}#sha256=") and rows[2]["value"] > 0
    each = ended.summary["pictures"]
    assert [Path(row["picture"]).name for row in each] == ["3.png", "0.png", "4.png"]
    assert [row["MSE by pixels"] for row in each] == pytest.approx(tensors["error.mse"].tolist())
    table = score(inverted, "--against", moved).out.decode()
    assert "3 pictures of tiny against their photos, at 16x16 pixels" in table
    assert "MSE (its own loss)" in table


def test_other_photos_are_another_set(score: Steer, inverted: Path, photos: Path) -> None:
    ended = score(inverted, "--against", photos / "1.png", "--against", photos / "2.png", "--json")
    assert ended.status == 0, ended.err
    assert ended.summary["scores"][0]["score"] == "FID"
    assert "none of the photos that were inverted is there: compared as sets." in ended.err


def test_a_photo_that_is_missing(score: Steer, inverted: Path, photos: Path) -> None:
    (photos / "0.png").unlink()
    refused(score(inverted, "--against", photos), "1 of 3 are not there:", "0.png")


def test_no_score_by_the_features_of_the_own_loss(
    score: Steer, inverted: Path, photos: Path, backbone: str, tmp_path: Path
) -> None:
    before = load(inverted)
    options = {**before.made["options"], "loss": "mse:1+perceptual:0.1", "backbone": backbone}
    mine = tmp_path / "mine.safetensors"
    save(Artefact("latents", before.tensors, {**before.made, "options": options}), mine)
    words = ("expected another extractor than", MODEL, "found by a loss of the features of")
    for place in (photos, "sprites"):
        refused(score(mine, "--against", place), *words)
    # the default backbone of the loss is that of LPIPS
    del options["backbone"]
    save(Artefact("latents", before.tensors, {**before.made, "options": options}), mine)
    refused(score(mine, "--against", photos, "--extractor", "lpips"), "another extractor", "vgg16")


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--against", "sprites"), ("expected pictures or latents to score, or --model",)),
        (("sprites",), ("expected --against",)),
        (("gone", "--against", "sprites"), ("cannot read gone: it does not exist",)),
        (("gone.safetensors", "--against", "sprites"), ("cannot read gone.safetensors",)),
        (("sprites", "--against", "gone.zip", "-n", 2), ("cannot read gone.zip",)),
        (
            ("sprites", "--against", "sprites", "--model", "sprites"),
            ("expected no -m with sprites",),
        ),
        (("sprites", "--against", "sprites", "--class", "1"), ("expected no --class with",)),
        (("sprites", "--against", "sprites", "--extractor", "nope"), ("a timm model", "'nope'")),
        (("sprites", "--against", "sprites", "--extractor", "inception"), ("inception=FILE",)),
        (("sprites", "--against", "sprites", "--extractor", "lpips"), ("lpips compares pairs",)),
    ],
)
def test_what_cannot_be_scored(steer: Steer, arguments, words, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    refused(steer("score", *arguments, "--device", "cpu"), *words)


def test_options_that_would_do_nothing(
    score: Steer, inverted: Path, photos: Path, tiny: Path
) -> None:
    refused(score(photos, "--against", photos, "-n", 3), "expected no -n where nothing is drawn")
    refused(score(inverted, "--against", photos, "--class", "1"), "expected no --class with")
    refused(score(inverted, "--against", photos, "--extractor", "inception=x.pt"), "compares sets")
    ended = score(inverted, "--against", photos, "--model", "sprites")
    refused(ended, "latents")


def test_too_few_pictures(score: Steer, photos: Path) -> None:
    words = ("expected 2 or more pictures in", "0.png, got 1.")
    refused(score(photos, "--against", photos / "0.png"), *words)
    (photos / "bad.png").write_bytes(b"<html>")
    ended = score(photos, "--against", photos / "0.png", "--against", photos / "bad.png")
    assert ended.status == 2 and "2 or more pictures in each set, got 1." in ended.err


def test_weights_that_cannot_be_fetched(
    steer: Steer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    ended = steer("score", "sprites", "-n", 2, "--against", "sprites", "--device", "cpu")
    words = ("weights of tf_efficientnet_lite0", "could not be fetched", "=FILE")
    refused(ended, *words, status=1)


# --- for real ---


@pytest.mark.shared
def test_faces_are_no_sprites(steer: Steer, shared: Path) -> None:
    file = shared / "data/backbones/tf_efficientnet_lite0.fp16.safetensors"
    faces = shared / "data/generators/dcgan-faces/weights.tar"
    ended = steer(
        "score", "--model", faces, "-n", 40, "--against", "sprites",
        "--extractor", f"tf_efficientnet_lite0={file}", "--json", "--device", "cpu",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    values = {row["score"]: row["value"] for row in ended.summary["scores"]}
    assert values["KID"] > 0.1 and values["FID"] > 100
