"""steer decompose, and scenes in steer render and steer show."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Steer, refused
from PIL import Image
from torch import Tensor

from steer.checkpoints import save_checkpoint
from steer.datasets.scenes import Scenes
from steer.images import write_png
from steer.scenes.evaluation import evaluate
from steer.scenes.model import SceneModel
from steer.scenes.stored import load


@pytest.fixture(autouse=True)
def _few_at_the_end(monkeypatch) -> None:
    """What backgrounds are like is asked of few pictures, as seconds go; tested in
    test_scene_model."""
    monkeypatch.setattr("steer.training.loop.EXPORT_PICTURES", 32)
    monkeypatch.setattr("steer.training.scenes.COUNTED", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A scene model that was never trained, and sees an object in each of its cells."""
    torch.manual_seed(0)
    network = SceneModel(width=4)
    with torch.no_grad():
        network.objects.decoder[-1].bias[3] = 3
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, network.config, network.state_dict(), "A model.")
    return folder


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for i, picture in enumerate(Scenes().pictures(torch.arange(3))):
        write_png(f"p{i}.png", picture)
    return ["p0.png", "p1.png", "p2.png"]


@pytest.fixture
def scene(steer: Steer, model: Path, pictures: list[str]) -> str:
    assert steer("decompose", "p0.png", "--model", model, "-o", "s.json").status == 0
    return "s.json"


def shown(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)), dtype=int))


def test_a_folder_gets_a_scene_and_a_picture_of_each(steer: Steer, model, pictures):
    ended = steer("decompose", *pictures, "--model", model, "-o", "out", "--json")
    assert ended.status == 0 and ended.err == ""
    assert sorted(p.name for p in Path("out").iterdir()) == sorted(
        f"p{i}.{kind}" for i in range(3) for kind in ("json", "png")
    )
    for row in ended.summary["pictures"]:
        told = json.loads(Path("out", Path(row["picture"]).stem + ".json").read_text())
        assert len(told["objects"]) == row["objects"] > 0 and row["error"] > 0
        assert told["made"]["options"]["picture"] == row["picture"]


def test_the_result_does_not_depend_on_the_batch(steer: Steer, model, pictures):
    for batch in ("1", "3"):
        steer("decompose", *pictures, "--model", model, "-o", f"by{batch}", "--batch", batch)
    for i in range(3):
        one, three = (json.loads(Path(f"by{b}/p{i}.json").read_text()) for b in (1, 3))
        for a, b in zip(one["objects"], three["objects"], strict=True):
            assert a["x"] == pytest.approx(b["x"], abs=1e-5)


def test_a_pipe_from_the_picture_to_the_moved_object(steer: Steer, model, pictures):
    scene = steer("decompose", "-", "--model", model, stdin=Path("p0.png").read_bytes())
    assert scene.status == 0
    same = steer("render", "--scene", "-", stdin=scene.out)
    moved = steer("render", "--scene", "-", "--move", "0:0.2,0", stdin=scene.out)
    assert shown(same.out).shape == (64, 64, 3)
    assert (shown(same.out) - shown(moved.out)).abs().max() > 5


def test_a_scene_is_drawn_as_decompose_reconstructed_it(steer: Steer, model, scene):
    drawn = shown(steer("render", "--scene", scene).out)
    picture = Scenes().pictures(torch.arange(1))
    wanted = load(model, "cpu").find((picture * 255).round() / 255).pictures[0]
    assert (drawn - (255 * wanted.permute(1, 2, 0)).round()).abs().max() <= 1


def test_edits_are_made_in_their_order_and_written_as_a_scene(steer: Steer, scene):
    before = json.loads(Path(scene).read_text())["objects"]
    ended = steer(
        "render", "--scene", scene, "--move", "0:0.1,-0.05", "--scale", "0:2", "--rotate", "1:30",
        "--depth", "1:-1", "--copy", "0:0.1,0", "--remove", 2, "-o", "t.json", "--json",
    )  # fmt: skip
    after = json.loads(Path("t.json").read_text())["objects"]
    assert ended.status == 0 and len(after) == len(before) == len(ended.summary["objects"])
    assert after[0]["x"] == pytest.approx(before[0]["x"] + 0.1)
    assert after[0]["y"] == pytest.approx(before[0]["y"] - 0.05)
    assert after[0]["half_width"] == pytest.approx(2 * before[0]["half_width"])
    assert after[1]["angle"] == pytest.approx(before[1]["angle"] + 30)
    assert after[1]["depth"] == pytest.approx(before[1]["depth"] - 1)
    assert after[-1]["x"] == pytest.approx(after[0]["x"] + 0.1)
    assert after[-1]["what"] == before[0]["what"]
    assert after[2]["x"] == before[3]["x"]


def test_show_says_what_objects_there_are_and_draws_them(steer: Steer, scene):
    told = steer("show", scene, "--json").summary
    assert told["kind"] == "scene" and "x" in told["objects"]["0"]
    assert b"half_width" in steer("show", scene).out
    assert b"half_width" in steer("show", "-", stdin=Path(scene).read_bytes()).out
    assert steer("show", scene, "-o", "shown.png").status == 0
    assert Image.open("shown.png").size == (256, 256)


def test_bad_pictures_are_named_and_the_others_done(steer: Steer, model, pictures):
    Path("bad.png").write_text("no picture")
    ended = steer("decompose", *pictures, "bad.png", "--model", model, "-o", "out", "--json")
    assert ended.status == 3 and "bad.png" in ended.err and ended.err.count("\n") == 1
    assert len(ended.summary["pictures"]) == 3 and list(ended.summary["failed"]) == ["bad.png"]
    refused(steer("decompose", "bad.png", "--model", model, "-o", "x.json"),
            "none of 1 could be read", status=2)  # fmt: skip


@pytest.mark.parametrize("kind", ["noise", "black", "white", "grey", "tiny", "wide"])
def test_what_is_no_scene_gives_one_all_the_same(steer: Steer, model, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    picture = {
        "noise": torch.rand(3, 64, 64), "black": torch.zeros(3, 64, 64),
        "white": torch.ones(3, 70, 50), "grey": torch.full((1, 40, 40), 0.5),
        "tiny": torch.rand(3, 1, 1), "wide": torch.rand(3, 5, 900),
    }[kind]  # fmt: skip
    write_png("p.png", picture)
    ended = steer("decompose", "p.png", "--model", model)
    assert ended.status == 0 and "objects" in json.loads(ended.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decompose"], ["expected pictures to decompose, or --train DATA"]),
        (["decompose", "--train", "scenes", "--objective", "sais"], ["sais", "said"]),
        (["decompose", "--train", "scenes", "--objective", "said", "--grid", 4], ["no --grid for"]),
        (["decompose", "--train", "scenes", "--no-scope"], ["no --scope for the objective"]),
        (["decompose", "--train", "sprites", "--objective", "bfvae"], ["objects are known"]),
        (["decompose", "p0.png", "--steps", 3], ["expected no --steps without --train"]),
        (["decompose", "p0.png", "--train", "scenes"], ["expected no pictures beside --train"]),
        (["decompose", "--train", "scenes", "--align", "crop"], ["expected no --align"]),
        (["decompose", "--train", "scenes", "--rotation", 1], ["expected no --rotation without"]),
        (["decompose", "--train", "scenes", "--size", 32], ["expected no --size"]),
        (["decompose", "--train", "scenes", "--grid", 3], ["cells of 2^k pixels"]),
        (["decompose", "--train", "sprites", "--grid", 64], ["cells of 2^k pixels"]),
        (["decompose", "p0.png", "p1.png", "-o", "-"], ["expected a folder for -o", "2 pictures"]),
        (["decompose", "p0.png", "--model", "./nowhere"], ["nowhere"]),
        (["decompose", "p0.png", "-m", "m", "--json", "-o", "-"], ["-o FILE with --json"]),
        (["decompose", "p0.png", "a/p0.png", "-o", "out"], ["two called p0"]),
        (["render", "--move", "0:1,1"], ["expected no --move without --scene"]),
        (["render", "--scene", "s.json", "--set", "x=1"], ["expected no --set with --scene"]),
        (["render", "--scene", "s.json", "--move", "0:1"], ["NUMBER:X,Y after --move", "'0:1'"]),
        (["render", "--scene", "s.json", "--move", "a:1,1"], ["NUMBER:X,Y after --move"]),
        (["render", "--scene", "s.json", "--scale", "0:inf"], ["expected a number", "'inf'"]),
        (["render", "--scene", "s.json", "--remove", 99], ["expected an object of the scene"]),
        (["render", "--scene", "missing.json"], ["missing.json"]),
        (["render", "--scene", "p0.png"], ["expected a scene of steer decompose"]),
        (["render", "--scene", "s.json", "-o", "x.gif"], ["cannot write x.gif"]),
        (["show", "p0.json"], ["p0.json"]),
    ],
)
def test_mistakes_are_told_in_a_sentence(steer: Steer, model, scene, arguments, words):
    Path("a").mkdir()
    Path("a/p0.png").write_bytes(Path("p0.png").read_bytes())
    if arguments[0] == "decompose" and not {"--train", "--model", "--json"} & set(arguments):
        arguments = [*arguments, "--model", model]
    if arguments[0] == "render" and not {"-o"} & set(arguments):
        arguments = [*arguments, "-o", "drawn.png"]
    refused(steer(*arguments), *words)
    assert not Path("drawn.png").exists()


def test_a_scene_of_other_weights_is_refused(steer: Steer, scene, tmp_path):
    save_checkpoint(tmp_path / "other", (o := SceneModel(width=4)).config, o.state_dict(), "Other.")
    refused(steer("render", "--scene", scene, "--model", tmp_path / "other", "-o", "x.png"),
            "expected the weights that the scene was found by")  # fmt: skip


def test_a_scene_does_not_choose_where_we_connect_to(steer: Steer, scene):
    told = json.loads(Path(scene).read_text())
    told["model"]["model"] = "https://example.com/model.safetensors"
    Path("evil.json").write_text(json.dumps(told))
    refused(steer("render", "--scene", "evil.json", "-o", "x.png"), "on this machine")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("side", 65),
        ("grid", 0),
        ("most", 10**9),
        ("glimpse", "a"),
        ("width", True),
        ("family", "vae"),
    ],
)
def test_a_configuration_that_makes_no_model(steer: Steer, model, pictures, tmp_path, name, value):
    network = SceneModel(width=4)
    save_checkpoint(tmp_path / "m", {**network.config, name: value}, network.state_dict(), "M.")
    refused(steer("decompose", "p0.png", "--model", tmp_path / "m", "-o", "x.json"), "expected")


@pytest.mark.parametrize("turns", [False, True])
def test_training_makes_a_model_that_decomposes(steer: Steer, pictures, turns):
    flags = ["--turns"] * turns
    ended = steer("decompose", "--train", "scenes", "--steps", 8, "--batch", 2, *flags, "-o", "m")
    assert ended.status == 0, ended.err
    log = [json.loads(line) for line in Path("m/stats.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 8 and ("rotation" in log[-1]) == turns
    assert steer("decompose", "p0.png", "--model", "m", "-o", "s.json").status == 0
    assert steer("decompose", "--train", "scenes", "--steps", 8, "-o", "m").status == 2


def test_training_that_was_killed_ends_with_the_same_bytes(
    steer: Steer, pictures, monkeypatch, tmp_path
):
    from steer.training.scenes import Scenes as Objective

    arguments = ["decompose", "--train", "scenes", "--steps", 6, "--batch", 2, "--every", 2]
    steer(*arguments, "-o", "whole")
    real = Objective.step

    def step(self, pictures, step, noise):
        if step == 5:
            raise OSError
        return real(self, pictures, step, noise)

    monkeypatch.setattr(Objective, "step", step)
    with pytest.raises(OSError):  # noqa: PT011
        steer(*arguments, "-o", tmp_path / "killed")
    monkeypatch.setattr(Objective, "step", real)
    assert steer(*arguments, "-o", tmp_path / "killed", "--resume").status == 0
    for name in ("model.safetensors", "config.json"):
        assert Path("whole", name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_found_objects_lie_by_picture(model):
    found = load(model, "cpu").find(Scenes().pictures(torch.arange(3)))
    assert found.counts.sum() == len(found.masks) == sum(len(found.of(i)) for i in range(3))


def test_a_run_that_finds_nothing_begins_anew_and_says_so(steer: Steer, pictures, monkeypatch):
    from steer.training import scenes

    real, shares = scenes.Scenes.step, iter([0.0, 0.5, 0.5])

    def step(self, pictures, step, noise):
        stats = real(self, pictures, step, noise)
        return {**stats, "foreground share": next(shares)} if step == 3 else stats

    monkeypatch.setattr(scenes.Scenes, "step", step)
    monkeypatch.setattr(scenes, "JUDGED_EVERY", 4)
    arguments = ["--train", "scenes", "--steps", 6, "--batch", 2, "--seed", 5, "--every", 1]
    ended = steer("decompose", *arguments, "-o", "m")
    assert ended.status == 0, ended.err
    assert "no objects were found: the foreground has 0.00% of the pictures at step 4" in ended.err
    assert "Beginning anew with seed 1005" in ended.err
    chosen = json.loads(Path("m/options.json").read_text())
    assert (chosen["seed"], chosen["attempt"]) == (1005, 1)
    steps = [json.loads(line)["step"] for line in Path("m/stats.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert steer("decompose", *arguments, "-o", "m", "--resume").status == 0


def test_a_run_that_never_finds_anything_ends_in_a_sentence(steer: Steer, pictures, monkeypatch):
    from steer.training import scenes

    monkeypatch.setattr(scenes, "FOREGROUND", (2, 3))
    monkeypatch.setattr(scenes, "JUDGED_EVERY", 1)
    ended = steer("decompose", "--train", "scenes", "--steps", 4, "--batch", 2, "-o", "m")
    assert ended.status == 1 and ended.err.count("no objects were found") == 3
    assert ended.err.count("Beginning anew") == 2 and not Path("m/training.pt").exists()


def test_scenes_are_drawn_from_the_prior_around_what_is_kept(steer: Steer, model, scene):
    ended = steer("sample", "--scenes", "-n", 3, "--model", model, "-o", "new", "--json")
    assert ended.status == 0, ended.err
    assert sorted(p.name for p in Path("new").iterdir()) == [
        f"{i:05d}.{kind}" for i in range(3) for kind in ("json", "png")
    ]
    counts = [len(json.loads(Path(f"new/{i:05d}.json").read_text())["objects"]) for i in range(3)]
    assert ended.summary["objects"] == counts
    few = ["--remove", 2, "--remove", 3] if counts[0] > 3 else []
    assert steer("render", "--scene", "new/00000.json", *few, "-o", "kept.json").status == 0
    kept = json.loads(Path("kept.json").read_text())["objects"]
    order = "left-of" if kept[0]["x"] < kept[1]["x"] else "right-of"
    ended = steer("sample", "--scenes", "-n", 2, "--keep", "kept.json", "--relation",
                  f"0 {order} 1", "-o", "more", "--seed", 4)  # fmt: skip
    assert ended.status == 0, ended.err
    for i in range(2):
        again = json.loads(Path(f"more/{i:05d}.json").read_text())["objects"]
        assert again[: len(kept)] == kept


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenes", "-o", "-"], ["expected a folder for -o with --scenes"]),
        (["--scenes", "--relation", "0 near 1"], ["expected a relation left-of", "'near'"]),
        (["--scenes", "--truncation", 1], ["expected no --truncation with --scenes"]),
        (["--keep", "s.json"], ["expected no --keep without --scenes"]),
        (["--scenes", "--keep", "p0.png"], ["expected a scene of steer decompose"]),
    ],
)
def test_mistakes_in_sampling_are_told_in_a_sentence(steer: Steer, model, scene, arguments, words):
    where = ["--model", model] if len(arguments) > 1 and arguments[0] == "--scenes" else []
    refused(steer("sample", *arguments, *where), *words)


def test_resuming_does_what_is_missing(steer: Steer, model, pictures):
    Path("p3.png").write_bytes(b"no picture")
    arguments = ["decompose", *pictures, "p3.png", "--model", model, "-o", "out", "--json"]
    first = steer(*arguments)
    assert first.status == 3 and "p3.png" in first.err
    edited = Path("out/p0.json")
    told = json.loads(edited.read_text())
    told["objects"] = told["objects"][:1]
    edited.write_text(json.dumps(told))
    kept = {name: Path(f"out/{name}.json").stat().st_mtime_ns for name in ("p0", "p1")}
    Path("out/p2.json").write_bytes(Path("out/p2.json").read_bytes()[:500])
    again = steer(*arguments, "--resume")
    assert again.status == 3
    assert {n: Path(f"out/{n}.json").stat().st_mtime_ns for n in kept} == kept
    rows = [row["objects"] for row in first.summary["pictures"]]
    assert [row["objects"] for row in again.summary["pictures"]] == [1, *rows[1:]]
    letterboxed = steer(*arguments, "--resume", "--align", "letterbox")
    assert letterboxed.summary["pictures"][0]["objects"] == rows[0]


def test_a_said_finds_objects_that_can_be_moved(steer: Steer, pictures, tmp_path):
    digits = tmp_path / "digits"
    digits.mkdir()
    stroke = torch.zeros(3, 20, 20)
    stroke[:, 2:18, 8:12] = 1
    write_png(digits / "one.png", stroke)
    train = ["decompose", "--train", f"multi-mnist:{digits}", "--objective", "said"]
    ended = steer(*train, "--steps", 3, "--batch", 2, "--no-scope", "-o", "said", "--json")
    assert ended.status == 0, ended.err
    assert ended.summary["scope"] is False and ended.summary["sigma"] == 0.1
    assert steer("decompose", "p0.png", "--model", "said", "-o", "s.json").status == 0
    drawn = steer("render", "--scene", "s.json")
    assert shown(drawn.out).shape == (64, 64, 3)
    refused(steer("sample", "--scenes", "--model", "said", "-o", "x"), "objective scenes")


def test_a_bfvae_swaps_what_is_before_pictures(steer: Steer, pictures):
    train = ["decompose", "--train", "one-object", "--objective", "bfvae", "--steps", 3]
    ended = steer(*train, "--batch", 2, "-o", "bfvae", "--json")
    assert ended.status == 0, ended.err
    assert ended.summary["beta"] == 20
    Path("p9.png").write_bytes(b"no picture")
    given = [*pictures, "p9.png", "--model", "bfvae"]
    swapped = steer("decompose", *given, "-o", "swapped.png", "--json")
    assert swapped.status == 3 and swapped.summary["output"] == "swapped.png"
    assert swapped.summary["pictures"] == pictures and list(swapped.summary["failed"]) == ["p9.png"]
    height, width = shown(Path("swapped.png").read_bytes()).shape[:2]
    assert height > 5 * 64 and width > 4 * 64
    scene = ["decompose", "p0.png", "--model", "bfvae"]
    refused(steer(*scene, "--resume"), "--resume")
    refused(steer(*scene, "-o", "s.json"), "s.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["p0.png", "--align", "stretch"], "stretch"),
        (["-", "--resume"], "--resume"),
        (["--train", "scenes", "-o", "-"], "folder"),
        (["--train", "scenes", "--sigma", "inf"], "finite"),
    ],
)
def test_what_cannot_be_is_refused(steer: Steer, model, pictures, arguments, said):
    given = [] if "--train" in arguments else ["--model", model]
    refused(steer("decompose", *arguments, *given), said)


def test_the_picture_stays_where_its_scene_is_written_beside_it(steer: Steer, model, pictures):
    before = Path("p0.png").read_bytes()
    assert steer("decompose", "p0.png", "--model", model, "-o", "p0.json").status == 0
    refused(steer("decompose", "p0.png", "--model", model, "-o", "."), "p0.png lies")
    assert Path("p0.png").read_bytes() == before


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (["--depth", "0:100"], "depths from -50 to 50"),
        (["--scale", "0:1000"], "up to 10 pictures"),
        (["--move", "9" * 5000 + ":0,0"], "NUMBER:X,Y"),
    ],
)
def test_edits_that_no_scene_can_have(steer: Steer, model, scene, edit, said):
    refused(steer("render", "--scene", scene, *edit, "-o", "e.json"), said)
    assert not Path("e.json").exists()


def test_scenes_without_objects_are_scenes(steer: Steer, model, scene):
    told = json.loads(Path(scene).read_text())
    Path("none.json").write_text(json.dumps({**told, "objects": []}))
    ended = steer("sample", "--scenes", "-n", 2, "--keep", "none.json", "-o", "new")
    assert ended.status == 0, ended.err
    short = {**told, "background": told["background"][:3]}
    Path("short.json").write_text(json.dumps(short))
    refused(steer("sample", "--scenes", "--keep", "short.json", "-o", "x"), "of another model")
    itself = ["--relation", "0 left-of 0"]
    refused(steer("sample", "--scenes", "--keep", scene, *itself, "-o", "x"), "can hold")
    for options in ([], {"sha256": "0"}):
        Path("s.json").write_text(json.dumps({**told, "made": {"options": options}}))
        again = steer("decompose", "p0.png", "--model", model, "-o", "s.json", "--resume")
        assert again.status == 0, again.err


def test_the_model_of_the_package_takes_scenes_apart(steer: Steer, pictures):
    """Offline, at once, and what it finds is in the main what is there."""
    assert steer("sample", "--scenes", "-n", 2, "-o", "new").status == 0
    ended = steer("decompose", *pictures, "-o", "out", "--json")
    assert ended.status == 0, ended.err
    counts = Scenes().truth(torch.arange(3)).counts.tolist()
    found = [row["objects"] for row in ended.summary["pictures"]]
    assert sum(abs(a - b) for a, b in zip(found, counts, strict=True)) <= sum(counts) / 3
    measured = evaluate(load("scenes", "cpu"), Scenes(), torch.arange(10**9, 10**9 + 20))
    assert measured["AP 0.5"] > 0.5 and measured["looked at"] < 0.1 * 256
