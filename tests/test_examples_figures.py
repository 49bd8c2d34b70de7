"""The scripts of examples/figures at sizes that take seconds: the numbers mean what they say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published import biggan
from scipy.ndimage import rotate as scipy_rotate
from scipy.special import erf
from skimage import data
from skimage.io import imsave
from torch import Tensor
from toys import AXES, Blob

import steer
from steer.checkpoints import save_checkpoint
from steer.cli import app
from steer.datasets.scenes import OneObject, Scenes
from steer.errors import InputError
from steer.generators import Condition, LatentSpace, generators
from steer.images import read_image
from steer.scenes.evaluation import evaluate
from steer.scenes.model import SceneModel
from steer.scenes.stored import load as load_bfvae

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "examples" / "figures"
SMALL = ("--starts", "8", "--samples", "16")


@pytest.fixture
def figure(monkeypatch, tmp_path, capsys):
    """Runs a script in this process: the rows of its table and of its JSON, and its folder."""
    monkeypatch.syspath_prepend(str(FIGURES))
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> tuple[list[list[str]], list[dict], Path]:
        importlib.import_module(name).main([*arguments, "-o", "out"])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
        kept = json.loads((tmp_path / "out" / f"{name}.json").read_text())["rows"]
        assert len(printed) == len(kept)
        assert (tmp_path / "out" / f"{name}.md").read_text().splitlines() == lines
        return printed, kept, tmp_path / "out"

    return run


def test_every_figure_has_a_test():
    here = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    scripts = [path.stem for path in FIGURES.glob("*.py") if path.stem != "output"]
    assert [name for name in scripts if f'"{name}"' not in here and f"{name}.py" not in here] == []


def test_a_person_runs_it(figure, tmp_path):
    """By its path, from anywhere; the same seed gives the same bytes."""
    options = ["-n", "2", "--transform", "zoom"]
    command = [sys.executable, str(FIGURES / "curvature.py"), *options, "-o", "theirs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figure("curvature", *options)
    for name in ("curvature.json", "curvature.md", "curvature.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


# --- curvature ---


def test_curvature_of_known_curves(figure, monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    curvature = importlib.import_module("curvature").curvature
    assert np.allclose(curvature(np.outer(np.linspace(0, 3, 9), [1.0, 2.0])), (1, 0), atol=1e-6)
    half = np.linspace(0, np.pi, 2001)
    assert np.allclose(
        curvature(np.stack([np.cos(half), np.sin(half)], 1)), (np.pi / 2, 90), atol=0.05
    )


def test_moves_are_curved_and_brightness_is_straight(figure):
    _, rows, out = figure("curvature", "-n", "4", "--transform", "translate-x", "brightness")
    moved, brighter = rows
    # pictures of the embedded generator stay clear of black and white, so that nothing is clamped
    assert brighter["length / chord"] == pytest.approx(1, abs=0.02)
    assert moved["length / chord"] > 2 and moved["angle at the start (degrees)"] > 70
    assert len(moved["ratios"]) == 4 and min(moved["ratios"]) >= 1
    assert read_image(out / "curvature.png").shape[0] == 3


# --- reconstruction losses ---


def test_each_loss_and_the_ball(figure, tmp_path):
    (tmp_path / "photos").mkdir()
    imsave(tmp_path / "photos" / "face.png", data.astronaut()[0:220, 110:330])
    sizes = ("-n", "2", "--steps", "25", "--restarts", "1", "--sigma", "3")
    _, rows, out = figure("reconstruction_losses", *sizes, "--photos", "photos")
    assert read_image(out / "reconstruction_losses-sprites.png").shape[0] == 3
    assert {row["evaluations"] for row in rows} == {25}  # one budget for all
    of = {(row["pictures"], row["minimised"]): row for row in rows}
    assert len(of) == len(rows) == 16
    for (kind, name), row in of.items():
        # two of the generator's own pictures, one photo
        assert len(row["scores"][0]) == {"generated": 2, "photos": 1}[kind]
        assert "no ball" in name or row["largest"] <= row["radius"] * 1.0001
    # a face is far from every sprite: without the ball its codes leave it
    assert of["photos", "DSSIM, no ball"]["largest"] > of["photos", "DSSIM"]["radius"]
    # a loss is best by its own measure, and a sprite nearer to a sprite than a face is
    for loss, score in (("MSE", "mse"), ("DSSIM", "dssim"), ("blurred σ=3", "blurred-mse")):
        own = of["photos", loss][score]
        assert own <= 1.05 * min(
            of["photos", name][score] for name in ("MSE", "DSSIM", "blurred σ=3")
        )
        assert of["generated", loss][score] < own


@pytest.mark.shared
def test_a_backbone_judges(figure, shared):
    weights = shared / "data" / "backbones" / "tf_efficientnet_lite0.fp16.safetensors"
    sizes = ("-n", "2", "--steps", "5", "--restarts", "1", "--sigma", "3")
    _, rows, _ = figure(
        "reconstruction_losses", *sizes, "--backbone", f"tf_efficientnet_lite0={weights}"
    )
    for row in rows:
        assert row["tf_efficientnet_lite0"] == pytest.approx(np.mean(row["scores"][-1]))
        assert row["std of tf_efficientnet_lite0"] == pytest.approx(np.std(row["scores"][-1]))
        assert row["tf_efficientnet_lite0"] > 0


# --- recursion ---


def test_recursion_goes_far_where_the_naive_search_stops(figure):
    sizes = ("--starts", "6", "--points", "4", "--steps", "15")
    printed, rows, out = figure("recursion", *sizes)
    assert [row["t"] for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [row["evaluations"] for row in rows] == [15, 30, 45, 60]
    # the first target is one search from z_0 for both
    assert rows[0]["recursive"] == pytest.approx(rows[0]["naive"], rel=1e-3)
    assert rows[-1]["recursive"] < rows[-1]["naive"] / 3
    assert rows[-1]["recursive is better"] > 0.5 and float(printed[-1][-1]) > 0.5
    for name in ("recursion", "recursion-sprites"):
        assert read_image(out / f"{name}.png").shape[0] == 3


# --- parts and classes: generators whose law is known ---


class TwoLevels(Blob):
    """x and y are told by the first level of the code, the size by the second."""

    def __init__(self):
        super().__init__()
        self.latent = LatentSpace(6, {"coarse": 2, "fine": 4})

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z @ torch.from_numpy(AXES).to(z))


class FourClasses(TwoLevels):
    """Classes of several brightnesses; the last one's x is told by another number of the code."""

    def __init__(self):
        super().__init__()
        self.latent = LatentSpace(6)
        self.condition = Condition(torch.eye(4), ("disc", "spot", "ball", "stray"))

    def forward(self, z: Tensor) -> Tensor:
        stray = z[:, 9:].bool()
        shade = 0.4 + 0.15 * z[:, 6:].argmax(1)
        pictures = super().forward(torch.where(stray, z[:, :6].flip(1), z[:, :6]))
        return shade[:, None, None, None] * pictures


@pytest.fixture
def known(listed):
    listed(generators, "two-levels", TwoLevels)
    listed(generators, "four-classes", FourClasses)


def test_norms_lie_in_the_level_that_moves_the_picture(figure, known):
    _, rows, out = figure("norms", "two-levels", *SMALL, "--transform", "translate-x", "zoom")
    moved, grown, random = rows
    assert moved["coarse"] > 0.95 and grown["fine"] > 0.95
    assert all(row["coarse"] + row["fine"] == pytest.approx(1) for row in rows)
    assert (random["coarse"], random["fine"]) == pytest.approx((1 / 3, 2 / 3))
    assert read_image(out / "norms.png").shape[0] == 3


def test_norms_of_a_network_with_levels(figure, tmp_path):
    """Nothing is learned here: norms add up, and R^2 says that they mean nothing."""
    path = biggan(tmp_path / "biggan")
    _, (row, random), _ = figure("norms", str(path), *SMALL, "--transform", "brightness")
    levels = [name for name in row if name.startswith("level")]
    assert len(levels) > 2 and sum(row[name] for name in levels) == pytest.approx(1)
    assert sum(random[name] for name in levels) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "words"), [("norms", "no parts"), ("shared_direction", "no classes")]
)
def test_the_embedded_generator_has_no_parts_and_no_classes(name, words, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FIGURES))
    importlib.import_module(name).main([])
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("held_out", "shared"), [("ball", True), ("stray", False)])
def test_a_direction_is_shared_or_not(figure, known, held_out, shared):
    classes = ("--class", "disc", "--class", "spot", "--held-out", held_out)
    _, (fitted, held), out = figure("shared_direction", "--model", "four-classes", *classes, *SMALL)
    reach = 0.3 * erf(2 / np.sqrt(2))
    assert (fitted["mean at α = -2"], fitted["at 2"]) == pytest.approx((-reach, reach), abs=0.05)
    assert fitted["std"] < 0.03 and fitted["open RMS"] < 0.03 and fitted["closed reached"] > 0.9
    if shared:
        assert held["std"] < 0.03 and held["open RMS"] < 0.03 and held["closed reached"] > 0.9
    else:
        assert held["std"] > 0.1 and held["open RMS"] > 0.1 and held["closed reached"] < 0.2
    assert read_image(out / "shared_direction.png").shape[0] == 3


def test_classes_that_are_both_fitted_and_held_out_are_refused(known, monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    main = importlib.import_module("shared_direction").main
    with pytest.raises(SystemExit):
        main(["--model", "four-classes", "--class", "disc", "--held-out", "disc"])


# --- disentanglement ---


def test_disentanglement_by_beta(figure):
    sizes = (*SMALL, "--transform", "translate-x", "--beta", "1", "--steps", "2")
    printed, rows, out = figure("disentanglement", "sprites", *sizes)
    assert [row[0] for row in printed] == ["sprites", "beta1-2"]
    assert (out / "beta1-2" / "config.json").exists()
    embedded, untrained = rows
    assert embedded["held_out_r2"] > 0.9 and embedded["closed_rms"] <= 0.005
    # two steps teach nothing: no direction, or one that says less of held-out starts
    assert untrained["held_out_r2"] is None or untrained["held_out_r2"] < 0.8
    for name in ("disentanglement", "violins"):
        assert read_image(out / f"{name}.png").shape[0] == 3


# --- the salient object ---


@pytest.mark.shared
def test_the_salient_object_moves_with_the_window(monkeypatch, tmp_path, capsys, shared):
    monkeypatch.syspath_prepend(str(FIGURES))
    weights = shared / "data" / "saliency" / "u2netp.safetensors"
    photo = shared / "data" / "photos" / "horse.jpg"
    main = importlib.import_module("salient_object").main
    main([str(photo), "--weights", str(weights), "-o", str(tmp_path)])
    rows = json.loads((tmp_path / "salient_object.json").read_text())
    assert capsys.readouterr().out.count("|\n") == 2 + len(rows)
    # nothing that stays where it is would do better than the smallest shift
    assert all(0 <= row["median"] <= row["rms"] <= row["worst"] < 0.04 for row in rows.values())
    assert read_image(tmp_path / "salient_object.png").shape[0] == 3


# --- training ---


def album(folder: Path, n: int, seed: int) -> Path:
    """Pictures of two colours that meet at a random height."""
    folder.mkdir()
    drawn = np.random.default_rng(seed)
    for i in range(n):
        picture = np.zeros((16, 16, 3), dtype=np.uint8)
        picture[: drawn.integers(2, 14)] = drawn.integers(80, 255, 3)
        imsave(folder / f"{i:02}.png", picture, check_contrast=False)
    return folder


@pytest.mark.shared
def test_objectives_are_judged_alike(figure, shared, tmp_path):
    weights = shared / "data" / "backbones" / "tf_efficientnet_lite0.fp16.safetensors"
    folders = [str(album(tmp_path / name, 24, seed)) for seed, name in enumerate(("train", "new"))]
    sizes = ("--size", "16", "--width", "4", "--latent", "2", "--steps", "6", "-n", "24",
             "--pairs", "8", "--seeds", "2")  # fmt: skip
    kinds = ["gan", "avae-b", "avae-frozen", "lsr-10"]
    how = (*folders, "--extractor", f"tf_efficientnet_lite0={weights}", *sizes, "--kinds", *kinds)
    _, rows, out = figure("objectives", *how)
    assert [row["kind"] for row in rows] == kinds
    assert [row["seeds"] for row in rows] == [2, 2, 1, 1]
    gan, avae, frozen, _ = rows
    assert gan["MSE"] is None and avae["MSE"] > 0 and gan["deviation of FID"] > 0
    # the score that stands is that of the folder's generator
    generator = steer.load(str(out / "avae-frozen-0"), device="cpu")
    held_out = torch.stack([read_image(path) for path in sorted((tmp_path / "new").iterdir())])
    held_out = held_out[torch.linspace(0, 23, 8).long()]
    with torch.no_grad():
        error = 4 * (generator(generator.encode(held_out)) - held_out).square().mean()
    assert frozen["MSE"] == pytest.approx(error.item(), rel=1e-5)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert {path.parent.name for path in before} >= {"vae-0", "vae-each-0", "gan-1", "avae-b-1"}
    assert figure("objectives", *how)[1] == rows  # nothing is trained or judged again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "objectives.png").exists()


def test_a_vae_of_the_same_pictures_is_worth_more_than_none(figure, tmp_path):
    folder, held_out = (str(album(tmp_path / name, 16, seed)) for seed, name in enumerate("ab"))
    sizes = ("--size", "16", "--width", "4", "--latent", "2", "--batch", "8", "--steps", "150")
    how = ("train-avae", folder, "--objective", "vae", *sizes, "--rate", "2e-3", "-q")
    app([*how, "-o", str(tmp_path / "vae")], standalone_mode=False)
    _, rows, out = figure(
        "transfer", str(tmp_path / "vae"), folder, held_out,
        "--few", "8", "--epochs", "2", "--batch", "4", "--pairs", "16", "--seeds", "2",
    )  # fmt: skip
    assert [row["seed"] for row in rows] == [0, 1, "mean"]
    assert rows[-1]["tuned is better"] == "2 of 2"
    assert rows[0]["tuned"] < 0.9 * rows[0]["anew"] and rows[0]["tuned"] != rows[0]["untouched"]
    assert len(list((out / "pictures-0").iterdir())) == 8 and (out / "transfer.png").exists()


def test_capacity_is_that_of_many_drawn_layouts(figure):
    _, rows, out = figure("capacity", "--objects", "6", "--most", "64")
    found = {(row["cells"], row["boxes a cell"]): row["probability"] for row in rows}
    stream = np.random.default_rng(0)
    for (cells, boxes), probability in found.items():
        counts = stream.poisson(6 / cells, (4000, cells))
        assert abs((counts <= boxes).all(1).mean() - probability) < 0.03
    assert found[16, 4] > 0.99 > 0.8 > found[64, 1]
    assert read_image(out / "capacity.png").shape[0] == 3


def test_what_scene_models_find(figure, tmp_path):
    """An untrained model, whose numbers are those of `evaluate`, and a set without objects."""
    torch.manual_seed(0)
    model = SceneModel(width=4)
    save_checkpoint(tmp_path / "m", model.config, model.state_dict(), "M.")
    _, (row,), out = figure("scenes", str(tmp_path / "m"), "-n", "6")
    wanted = evaluate(model.eval(), Scenes(), torch.arange(10**9, 10**9 + 6))
    assert {k: v for k, v in row.items() if k != "model"} == pytest.approx(wanted, nan_ok=True)
    assert read_image(out / "0-m.png").shape[0] == 3
    with pytest.raises(InputError, match="expected a set whose objects are known, got sprites"):
        figure("scenes", str(tmp_path / "m"), "--data", "sprites")


@pytest.fixture
def present(tmp_path) -> str:
    """A scene model that was never trained, and sees a small red object in some of its cells."""
    torch.manual_seed(0)
    model = SceneModel(width=4)
    with torch.no_grad():
        model.objects.decoder[-1].bias.copy_(torch.tensor([5.0, -5.0, -5.0, 3.0]))
        model.cells.presence[-1].weight *= 40
        model.decoder.box[-1].bias[2:4] = -3
    save_checkpoint(tmp_path / "m", model.config, model.state_dict(), "M.")
    return str(tmp_path / "m")


def test_edits_of_scenes_move_what_is_drawn(figure):
    _, rows, out = figure("scene_edits", "scenes", "-n", "30")
    found = {row["edit"]: row for row in rows}
    assert found["moved"]["n"] > 0 and found["moved"]["within"] == 1
    assert found["left"]["within"] == 1
    assert read_image(out / "edits.png").shape[0] == 3


def test_axes_are_those_of_scikit_image(figure, present):
    from skimage.measure import inertia_tensor_eigvals, regionprops

    edits = importlib.import_module("scene_edits")
    mass = torch.zeros(64, 64)
    mass[20:28, 10:40] = 1
    mass = torch.from_numpy(scipy_rotate(mass.numpy(), 25, reshape=False, order=1)).clamp(0, 1)
    (region,) = regionprops((mass > 0.5).numpy().astype(int))
    ratio, angle = edits.axis((mass > 0.5).float(), torch.ones(64, 64))
    long, short = inertia_tensor_eigvals((mass > 0.5).numpy().astype(float))
    assert ratio == pytest.approx((long / short) ** 0.5, rel=0.02)
    wanted = np.degrees(region.orientation) + 90
    assert abs((angle - wanted + 90) % 180 - 90) < 1


def test_samples_of_a_prior_beside_the_data(figure, present):
    _, rows, out = figure("scene_samples", present, "-n", "20")
    assert [row["prior"] for row in rows][:2] == ["learned prior", "independent Gaussians"]
    for row in rows[:2]:
        assert all(0 <= row[f"KS {name}"] <= 1 for name in ("count", "size", "x", "y"))
    assert read_image(out / "samples.png").shape[0] == 3


def test_what_each_code_of_a_bfvae_tells(figure, monkeypatch):
    """A run as small as can be, and its folder judged again; then codes whose worth is known."""
    sizes = ("-n", "80", "--held-out", "8")
    how = ("--size", "16", "--steps", "3", "--batch", "4", *sizes)
    printed, rows, out = figure("bfvae", *how)
    assert [row[0] for row in printed] == ["z_f by mask", "z_f", "z_b"]
    assert [row["clean"] is None for row in rows] == [True, True, False]
    model, scenes = load_bfvae(out / "model", "cpu"), OneObject()
    scenes.shape, indices = (3, 16, 16), 10**9 + torch.arange(8)
    behind = scenes.backgrounds(scenes.layout(indices).background).clamp(0, 1)
    error = (model.clean(scenes.pictures(indices)) - behind).square().mean().sqrt()
    assert rows[2]["clean"] == pytest.approx(error.item(), rel=1e-5)
    for name in ("bfvae", "between"):
        assert read_image(out / f"{name}.png").shape[0] == 3
    assert figure("bfvae", "--model", str(out / "model"), *sizes)[1] == rows

    script = importlib.import_module("bfvae")
    told = script.attributes(OneObject(), torch.arange(400))
    for name, labels in told.items():
        assert set(labels) == {0, 1, 2, 3}, name
        codes = np.eye(4)[labels] + np.random.default_rng(0).normal(0, 0.1, (400, 4))
        assert script.accuracy(codes[:300], labels[:300], codes[300:], labels[300:]) > 0.95
    hue, shape = told["hue"], told["shape"]
    assert (
        script.accuracy(np.eye(4)[hue[:300]], shape[:300], np.eye(4)[hue[300:]], shape[300:]) < 0.4
    )
