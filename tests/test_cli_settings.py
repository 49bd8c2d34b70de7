"""Classes, truncation, noise, spaces and parts, as commands take them and hand them on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Steer, photo, refused, z_of
from PIL import Image

from steer.checkpoints import save_checkpoint
from steer.files import Artefact, load, save
from steer.generators import load as load_generator
from steer.generators.biggan_deep import DeepSizes, published
from steer.generators.style import Mapping
from steer.generators.stylegan2 import StyleGAN2

QUICK = ("--starts", 8, "--points", 2, "--steps", 4, "--samples", 16)


@pytest.fixture(scope="module")
def biggan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BigGAN-deep of ImageNet's classes and 16x16 pictures, weights random."""
    layers = ((False, 2, 2), (True, 2, 1), (False, 1, 1), (True, 1, 1))
    sizes = DeepSizes(layers, width=8, attention=9, z_dim=6, embedding=4, rows=3)
    noise = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=noise) for name, shape in published(sizes).items()}
    for name in state:
        if name.endswith("running_vars"):
            state[name] = state[name].abs() + 0.5
    folder = tmp_path_factory.mktemp("models") / "biggan"
    save_checkpoint(folder, {"layers": [list(each) for each in layers]}, state, "# A network")
    return folder


@pytest.fixture(scope="module")
def stylegan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a StyleGAN2 of three classes and 16x16 pictures, weights random."""
    torch.manual_seed(0)
    network = StyleGAN2(Mapping((8, 8, 8), 3), channels=(8, 8, 8))
    folder = tmp_path_factory.mktemp("models") / "stylegan"
    save_checkpoint(folder, network.config, network.state_dict(), "# A network")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_samples_are_of_the_classes_and_drawn_at_their_truncation(
    steer: Steer, biggan: Path, tmp_path: Path
) -> None:
    asked = ("--class", "golden retriever", "--class", 3, "--truncation", 0.4, "-n", 4)
    drawn = steer("sample", "--model", biggan, *asked, "-o", "-")
    assert drawn.status == 0, drawn.err
    generator = load_generator(str(biggan), "cpu", truncation=0.4)
    told = generator.condition.nearest(z_of(drawn.out)[:, 6:])
    assert told.tolist() == [207, 3, 207, 3]
    for out, extra in (("a/", ()), ("b/", ("--truncation", 1.0))):
        ended = steer("render", "-", *extra, "-o", tmp_path / out, stdin=drawn.out)
        assert ended.status == 0, ended.err
    with torch.no_grad():
        wanted = (generator(z_of(drawn.out))[0] * 255).round().permute(1, 2, 0).numpy()
    shown, other = (pixels(tmp_path / at / "golden retriever/0000000.png") for at in ("a", "b"))
    assert np.abs(shown - wanted).max() <= 1
    assert np.abs(shown - other.astype(float)).max() > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "--class", "golden retreiver"), ("did you mean golden retriever",)),
        (("sample", "--class", "1000"), ("expected a class from 0 to 999, got 1000",)),
        (("sample", "--class", "crane"), ("several classes are called 'crane'",)),
        (("sample", "--truncation", "0"), ("truncation above 0 and up to 1, got 0.0",)),
        (("sample", "--noise", "none"), ("expected no noise for biggan",)),
        (("sample", "--space", "w"), ("expected a StyleGAN for the space w",)),
        (("fit-direction", "--parts", "0"), ("expected no parts for biggan",)),
    ],
)
def test_settings_that_cannot_be_are_said(
    steer: Steer, biggan: Path, tmp_path: Path, arguments: tuple, words: tuple
) -> None:
    command, *options = arguments
    refused(steer(command, "--model", biggan, *options, "-o", tmp_path / "x.safetensors"), *words)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("option", ["--noise=", "--space=", "--class="])
def test_an_empty_setting_is_no_setting(steer: Steer, stylegan: Path, option: str) -> None:
    refused(steer("sample", "--model", stylegan, option, "-o", "-"), "''")


@pytest.mark.parametrize("option", ["--truncation=0.5", "--class=1", "--space=w", "--noise=none"])
def test_a_generator_without_them_refuses_settings(steer: Steer, tiny: Path, option: str) -> None:
    refused(steer("sample", "--model", tiny, option, "-o", "-"), "tiny")


def test_latents_bring_their_class(steer: Steer, biggan: Path, tmp_path: Path) -> None:
    z = tmp_path / "z.safetensors"
    assert steer("sample", "--model", biggan, "-n", 2, "-o", z).status == 0
    refused(steer("render", z, "--class", 3, "-o", "-"), "expected no --class with latents")
    refused(steer("render", z, "--space", "w", "-o", "-"), "expected no --space with latents")


def test_inversion_tells_the_class(steer: Steer, biggan: Path, tmp_path: Path) -> None:
    picture, z = photo(tmp_path / "p.png"), tmp_path / "z.safetensors"
    base = ("invert", picture, "--model", biggan, "--steps", 3, "-o", z, "--json")
    row = steer(*base, "--class", "tench").summary["pictures"][0]
    assert row["class"] == "tench, Tinca tinca"
    own = load_generator(str(biggan), "cpu").condition.codes
    assert torch.equal(z_of(z)[:, 6:], own[[0]])
    free = steer(*base)
    assert free.status == 0, free.err
    assert not torch.isin(z_of(z)[:, 6:], own).all()
    steer(*base, "--class", 0, "--condition", "free")
    assert not torch.equal(z_of(z)[:, 6:], own[[0]])
    refused(steer(*base, "--condition", "none"), "condition auto, fixed or free, got 'none'")


def test_a_generator_without_classes_has_no_condition_to_free(
    steer: Steer, tiny: Path, tmp_path: Path
) -> None:
    picture = photo(tmp_path / "p.png")
    ended = steer("invert", picture, "--model", tiny, "--condition", "free", "-o", "-")
    refused(ended, "expected no --condition for tiny, whose codes of z carry no class")


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_direction_of_a_space_brings_its_settings(
    steer: Steer, stylegan: Path, tmp_path: Path, space: str
) -> None:
    d = tmp_path / "d.safetensors"
    asked = ("--space", space, "--class", 1, "--truncation", 0.7, "--noise", "none")
    fitted = steer(
        "fit-direction", "-t", "brightness", "--model", stylegan, *asked, *QUICK, "-o", d
    )
    assert fitted.status == 0, fitted.err
    made = load(d).made["generator"]
    assert (made["space"], made["classes"], made["truncation"], made["noise"]) == (
        space, [1], 0.7, "none"
    )  # fmt: skip
    walked = steer("render", "-n", 2, "-d", d, "--steps", 3, "-o", tmp_path / "walk.png")
    assert walked.status == 0, walked.err
    judged = steer("evaluate", "-d", d, "-n", 8, "--values", "0.4", "-o", tmp_path / "e")
    assert judged.status == 0, judged.err
    layers = judged.out.decode().count("layer ")
    assert layers == (6 if space == "w+" else 0)
    assert (tmp_path / "e/norms.png").exists() == (space == "w+")
    z = tmp_path / "z.safetensors"
    steer("sample", "--model", stylegan, "-o", z)
    ended = steer("render", z, "-d", d, "--set", "brightness=0.4", "-o", "-")
    refused(ended, "in the space z of stylegan, got " + space)


def test_parts_of_a_code_that_move(steer: Steer, stylegan: Path, tmp_path: Path) -> None:
    t, d = tmp_path / "t.safetensors", tmp_path / "d.safetensors"
    asked = ("--model", stylegan, "--space", "w+", "--parts", "0-1,layer 4", *QUICK[:-2])
    followed = steer("trajectories", "-t", "brightness", *asked, "-o", t)
    assert followed.status == 0, followed.err
    assert load(t).made["options"]["parts"] == ["0-1", "layer 4"]
    fitted = steer("fit-direction", "--trajectories", t, "--samples", 16, "-o", d)
    assert fitted.status == 0, fitted.err
    norms = load(d).tensors["u"].reshape(6, 8).norm(dim=1)
    assert (norms > 0).tolist() == [True, True, False, False, True, False]
    ended = steer("fit-direction", "--trajectories", t, "--parts", "1", "-o", d)
    refused(ended, "expected no --parts beside --trajectories")


@pytest.mark.parametrize("changed", [("--class", 2), ("--truncation", 0.3)])
def test_resuming_with_other_settings_is_refused(
    steer: Steer, biggan: Path, tmp_path: Path, changed: tuple
) -> None:
    z = tmp_path / "z.safetensors"
    base = ("invert", photo(tmp_path / "p.png"), "--model", biggan, "--steps", 2, "-o", z)
    assert steer(*base, "--class", 1).status == 0
    before = z.read_bytes()
    asked = changed if changed[0] == "--class" else ("--class", 1, *changed)
    refused(steer(*base, *asked, "--resume"), "differs from this run", changed[0].strip("-"))
    assert z.read_bytes() == before
    assert steer(*base, "--class", 1, "--resume").status == 0


def test_trajectories_of_several_spaces_are_not_one_direction(
    steer: Steer, stylegan: Path, tmp_path: Path
) -> None:
    files = []
    for space, truncation in (("z", 1), ("w", 1), ("z", 0.5)):
        files.append(tmp_path / f"{space}{truncation}.safetensors")
        asked = ("--space", space, "--truncation", truncation, *QUICK[:-2], "-o", files[-1])
        ended = steer("trajectories", "-t", "brightness", "--model", stylegan, *asked)
        assert ended.status == 0, ended.err
    files.append(tmp_path / "l1.safetensors")
    asked = ("--loss", "l1", *QUICK[:-2], "-o", files[-1])
    steer("trajectories", "-t", "brightness", "--model", stylegan, *asked)
    cases = (files[1], "space w"), (files[2], "truncation 0.5"), (files[3], "loss l1")
    for other, word in cases:
        asked = ("--trajectories", files[0], "--trajectories", other, "-o", "-")
        refused(steer("fit-direction", *asked), "of one transform and generator", word)


def test_directions_beside_a_generator_are_checked_too(
    steer: Steer, stylegan: Path, knob: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stylegan, folder)
    (folder / "directions").mkdir()
    asked = ("--space", "w", *QUICK, "-o", folder / "directions/brightness.safetensors")
    assert steer("fit-direction", "-t", "brightness", "--model", folder, *asked).status == 0
    shutil.copy(knob, folder / "directions/translate-x.safetensors")
    walk = ("render", "--model", folder, "-n", 2, "--steps", 2, "-o", tmp_path / "w.png")
    assert steer(*walk, "--space", "w", "-d", "brightness").status == 0
    refused(steer(*walk, "-d", "brightness"), "direction brightness in the space z", "got w")
    refused(steer(*walk, "-d", "translate-x"), "direction translate-x of model", "of blob")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"truncation": "x"}, "truncation above 0 and up to 1, got 'x'"),
        ({"classes": 5000}, "expected a class from 0 to 999, got 5000"),
        ({"classes": [[1]]}, "class"),
        ({"space": ["w"]}, "expected a space z, w, w+"),
        ({"model": "https://nowhere.example/x.pt"}, "name it with --model to fetch it"),
        ({"model": "user/repo"}, "expected the generator user/repo on this machine"),
    ],
)
def test_what_a_file_says_of_its_generator_is_not_trusted(
    steer: Steer, biggan: Path, tmp_path: Path, settings: dict, said: str
) -> None:
    generator = load_generator(str(biggan), "cpu")
    made = {"generator": {**generator.identity(), **settings}}
    z = tmp_path / "z.safetensors"
    save(Artefact("latents", {"z": generator.sample(2)}, made), z)
    refused(steer("render", z, "-o", "-"), said)


@pytest.mark.parametrize("option", ["--class=2", "--truncation=0.5", "--noise=none", "--space=w"])
def test_trajectories_have_their_settings(
    steer: Steer, stylegan: Path, tmp_path: Path, option: str
) -> None:
    t = tmp_path / "t.safetensors"
    steer("trajectories", "-t", "brightness", "--model", stylegan, *QUICK[:-2], "-o", t)
    ended = steer("fit-direction", "--trajectories", t, option, "-o", "-")
    refused(ended, f"expected no {option.split('=')[0]} beside --trajectories")


def test_a_direction_of_merged_trajectories_is_of_all_their_classes(
    steer: Steer, stylegan: Path, tmp_path: Path
) -> None:
    files = []
    for chosen in ((1,), (0, 1), ()):
        files.append(tmp_path / f"{len(files)}.safetensors")
        classes = [part for each in chosen for part in ("--class", each)]
        asked = ("--model", stylegan, *classes, *QUICK[:-2], "--seed", len(files), "-o", files[-1])
        assert steer("trajectories", "-t", "brightness", *asked).status == 0
    d = tmp_path / "d.safetensors"
    for used, classes in ((files[:2], [1, 0]), (files, None)):
        given = [part for file in used for part in ("--trajectories", file)]
        ended = steer("fit-direction", *given, "--samples", 8, "-o", d)
        assert ended.status == 0, ended.err
        assert load(d).made["generator"].get("classes") == classes


@pytest.mark.parametrize("made", ["text", None, ["a"]])
def test_a_file_that_says_no_generator(steer: Steer, tmp_path: Path, made: object) -> None:
    z = tmp_path / "z.safetensors"
    save(Artefact("latents", {"z": torch.zeros(1, 10)}, {"generator": made}), z)
    refused(steer("render", z, "-o", "-"), "expected the generator that the input was made with")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_latents_of_another_precision_are_drawn(
    steer: Steer, stylegan: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    generator = load_generator(str(stylegan), "cpu")
    z = tmp_path / "z.safetensors"
    made = {"generator": generator.identity()}
    save(Artefact("latents", {"z": generator.sample(2).to(dtype)}, made), z)
    ended = steer("render", z, "-o", tmp_path / "z.png")
    assert ended.status == 0, ended.err
