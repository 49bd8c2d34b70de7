"""Data sets in parts: what the files hold, what an earlier run left, what came out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_1samp, spearmanr
from toys import AXES, Bar, Blob, curved, erf_law, straight

import steer.populate
from steer.distributions import parse_distribution
from steer.errors import InputError, MachineError
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.images import read_image
from steer.knobs import Setting
from steer.measures import Measure
from steer.populate import Recipe, folder_names, populate
from steer.populate.outcome import dependence
from steer.populate.place import Place
from steer.populate.recipe import SPLITS

X = "translate-x"
MADE: dict[str, Any] = {"command": "render", "seed": 0, "options": {"n": 7}}
WANTED = Setting(X, "distribution", parse_distribution("uniform(-0.2, 0.2)"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # slow, and tested in test_disk


class Coloured(Generator):
    """Three classes, each of one grey."""

    def __init__(self) -> None:
        names = ("AC/DC", "dog", "train")
        super().__init__(LatentSpace(2), PictureShape(1, 4, 4), Condition(torch.eye(3), names))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        grey = z[:, 2:] @ torch.tensor([0.2, 0.5, 0.8])
        return grey[:, None, None, None].expand(-1, *self.picture)


def recipe(n: int = 7, settings: Any = (WANTED,), generator: Any = None, **more: Any) -> Recipe:
    """`n` codes of a blob, with x set to a distribution in closed loop."""
    generator = generator or Blob(size=16)
    knobs = {X: curved(X, AXES[0], erf_law), "translate-y": straight("translate-y", AXES[1], 0.1)}
    more = {"directions": knobs, "exact": bool(settings), **more}
    return Recipe(
        generator, lambda items: generator.sample(len(items), 0, items.start), n, settings, **more
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def killed_after(count: int, made: Recipe, folder: Path, how: dict[str, Any]) -> None:
    """Begins a set in parts of 2 and dies once `count` of them are written."""
    save, saved = steer.populate.save, []

    def counted(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments)
        if len(saved) == count:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steer.populate, "save", counted)
        with pytest.raises(KeyboardInterrupt):
            populate(made, folder, how, shard=2)


# --- what is written ---


def test_the_files_hold_what_is_said_of_them(tmp_path: Path) -> None:
    told = populate(recipe(), tmp_path, MADE, shard=3)
    assert set(tree(tmp_path)) == {
        "manifest.json", "metadata.jsonl", *(f"blob/{i:07d}.png" for i in range(7)),
    }  # fmt: skip
    assert json.loads((tmp_path / "manifest.json").read_text()) == told
    assert told is not None and told["made"] == MADE and told["counts"] == {"reached": 7}
    assert (told["items"], told["steps"], told["classes"]) == (7, 1, {"blob": 7})
    for i, row in enumerate(rows(tmp_path)):
        picture = read_image(tmp_path / row["file_name"])[None]
        assert row["item"] == i and row["file_name"] == f"blob/{i:07d}.png"
        data = (tmp_path / row["file_name"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        # what is said is what anybody measures on the file, and near what was asked
        for name in (X, "zoom", "brightness"):
            assert row[f"measured_{name}"] == pytest.approx(Measure([name])(picture).item())
        assert row[f"measured_{X}"] == pytest.approx(row[f"asked_{X}"], abs=0.005)


@pytest.mark.parametrize(("shard", "batch"), [(1, 1), (3, 64), (7, 2), (64, 64)])
def test_an_item_does_not_depend_on_the_cut(tmp_path: Path, shard: int, batch: int) -> None:
    populate(recipe(batch=3), tmp_path / "a", MADE, shard=4)
    populate(recipe(batch=batch), tmp_path / "b", MADE, shard=shard)
    for one, other in zip(rows(tmp_path / "a"), rows(tmp_path / "b"), strict=True):
        del one["sha256"], other["sha256"]  # a value in the middle of two may fall to either
        assert one == {name: pytest.approx(value) for name, value in other.items()}
        a, b = (read_image(tmp_path / side / one["file_name"]) for side in "ab")
        assert (a - b).abs().max() < 1.5 / 255


def test_without_settings_there_is_nothing_to_measure(tmp_path: Path) -> None:
    told = populate(recipe(3, settings=()), tmp_path, MADE)
    assert rows(tmp_path)[2].keys() == {"file_name", "item", "sha256"}
    assert told == {"classes": {"blob": 3}, "items": 3, "steps": 1, "made": MADE}


def test_pictures_lie_in_their_classes(tmp_path: Path) -> None:
    told = populate(recipe(9, (), Coloured()), tmp_path, MADE, shard=2)
    assert told is not None and set(told["classes"]) == {"AC_DC", "dog", "Train"}
    shade = {"AC_DC": 0.2, "dog": 0.5, "Train": 0.8}
    for row in rows(tmp_path):
        folder = row["file_name"].split("/")[0]
        assert {"AC_DC": "AC/DC", "Train": "train"}.get(folder, folder) == row["class"]
        assert read_image(tmp_path / row["file_name"]).mean() == pytest.approx(
            shade[folder], abs=0.5 / 255 + 1e-6
        )


def test_a_class_of_a_splits_name_is_no_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face would take the folder "train" for all there is."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    populate(recipe(9, (), Coloured()), tmp_path / "set", MADE)
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path)
    )
    assert found["item"] == list(range(9)) and {"AC/DC", "dog", "train"} == set(found["class"])


def test_a_traversal(tmp_path: Path) -> None:
    held = Setting("translate-y", "set", 0.1)
    walk = recipe(3, (held,), along=X, values=(-0.1, 0.1), sources=("a.png", "b.png", "c.png"))
    told = populate(walk, tmp_path, MADE, shard=2)
    found = rows(tmp_path)
    assert told is not None and told["classes"] == {"blob": 6} and told["steps"] == 2
    assert [row["file_name"] for row in found[:3]] == [
        "blob/0000000-000.png", "blob/0000000-001.png", "blob/0000001-000.png",
    ]  # fmt: skip
    assert [row["source"] for row in found] == ["a.png"] * 2 + ["b.png"] * 2 + ["c.png"] * 2
    for i, row in enumerate(found):
        assert row["step"] == i % 2 and row[f"asked_{X}"] == (-0.1, 0.1)[i % 2]
        assert row[f"measured_{X}"] == pytest.approx(row[f"asked_{X}"], abs=0.005)
        assert row["measured_translate-y"] == pytest.approx(0.1, abs=0.005)
        assert (tmp_path / row["file_name"]).is_file()


def test_what_is_not_there_is_null(tmp_path: Path) -> None:
    class Black(Blob):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return super().forward(z) * 0

    told = populate(recipe(3, generator=Black(size=16)), tmp_path, MADE)
    assert told is not None and told["counts"] == {"no object found": 3}
    outcome = told["settings"][X]
    assert outcome["ks"] is None and outcome["measured"] == {"mean": None, "std": None}
    assert rows(tmp_path)[0][f"measured_{X}"] is None


# --- figures ---


def test_the_figures_of_a_distribution(tmp_path: Path) -> None:
    """Half of it cannot be reached: the blob stops at 0.3."""
    wanted = parse_distribution("uniform(0, 0.6)")
    told = populate(recipe(60, (Setting(X, "distribution", wanted),)), tmp_path, MADE)
    found = rows(tmp_path)
    assert told is not None
    outcome = told["settings"][X]
    asked, measured = (np.array([row[f"{k}_{X}"] for row in found]) for k in ("asked", "measured"))
    reached = np.array([row["status"] == "reached" for row in found])
    assert 15 < reached.sum() < 45
    assert outcome["ks"] == pytest.approx(ks_1samp(measured, wanted.cdf).statistic)
    assert outcome["ks_reached"] == pytest.approx(ks_1samp(measured[reached], wanted.cdf).statistic)
    assert outcome["asked"]["mean"] == pytest.approx(asked.mean())
    assert outcome["asked"]["std"] == pytest.approx(asked.std())
    assert outcome["measured"]["std"] == pytest.approx(measured.std())


def test_the_dependence_before_and_after(tmp_path: Path) -> None:
    """What is drawn along directions that lean on each other is independent: each item moved by the
    ranks of its own coordinates would have a correlation of (0.5 + 0.5) / (1 + 0.25) = 0.8."""
    knobs = {
        X: straight(X, AXES[0] + 0.5 * AXES[1], 0.1),
        "translate-y": straight("translate-y", AXES[1] + 0.5 * AXES[0], 0.1),
    }
    both = [Setting(name, "distribution", WANTED.value) for name in knobs]
    told = populate(recipe(80, both, directions=knobs), tmp_path, MADE)
    assert told is not None
    tables = told["dependence"]
    measured, asked = (
        np.array([[row[f"{kind}_{name}"] for name in knobs] for row in rows(tmp_path)])
        for kind in ("measured", "asked")
    )
    after = spearmanr(*measured.T).statistic
    assert tables["after"][X]["translate-y"] == pytest.approx(after)
    assert after == pytest.approx(spearmanr(*asked.T).statistic, abs=0.05)
    assert abs(after) < 3 / np.sqrt(80)  # three standard errors of independent ranks
    drawn = Measure([X, "translate-y"])(Blob(size=16)(Blob().sample(80)))
    before = spearmanr(*drawn.numpy().T).statistic
    assert tables["before"]["translate-y"][X] == pytest.approx(before, abs=0.02)
    assert tables["before"][X][X] == 1


def test_a_distribution_across_the_end_of_a_circle(tmp_path: Path) -> None:
    """Hues from 150 to 210 degrees are measured as 150 to 180 and -180 to -150."""
    knob = straight("hue", np.eye(3)[1], 60.0, 180.0, find="background")
    wanted = Setting("hue", "distribution", parse_distribution("uniform(150, 210)"))
    made = recipe(40, (wanted,), Bar(hue=180), directions={"hue": knob})
    told = populate(made, tmp_path, MADE)
    assert told is not None
    outcome = told["settings"]["hue"]
    hues = np.array([row["measured_hue"] for row in rows(tmp_path)])
    assert (hues < 0).any() and (hues > 0).any()
    assert outcome["ks"] == pytest.approx(
        ks_1samp(hues % 360, wanted.value.cdf).statistic, abs=1e-6
    )
    assert outcome["measured"]["mean"] == pytest.approx((hues % 360).mean())


numbers = st.one_of(st.just(float("nan")), st.integers(-5, 5).map(float))


@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=30))
def test_dependence_is_that_of_pandas(values: list[tuple[float, ...]]) -> None:
    pandas = pytest.importorskip("pandas")
    table = np.array(values, float).reshape(-1, 3)
    found = dependence([X, "zoom", "area"], torch.from_numpy(table))
    wanted = pandas.DataFrame(table).corr("spearman", min_periods=3).to_numpy()
    assert np.allclose(found, wanted, equal_nan=True)


def test_dependence_of_what_is_periodic() -> None:
    steps = torch.linspace(0, 1, 20, dtype=torch.float64)
    hue = (150 + 60 * steps + 180) % 360 - 180
    assert dependence([X, "hue"], torch.stack([steps, hue], 1))[0, 1] == pytest.approx(1)


@given(st.lists(st.text(max_size=12), max_size=8))
def test_names_of_folders(names: list[str]) -> None:
    folders = folder_names([*names, "val", "test 2"])
    assert len({name.casefold() for name in folders}) == len(names) + 2
    for name in folders:
        assert name == name.strip(" ._") and name and "/" not in name and "\0" not in name
        assert not SPLITS.search(name)
    assert folder_names(["great white shark"]) == ["great white shark"]


# --- what an earlier run left ---


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_resume_gives_the_same_files(tmp_path: Path, parts: int) -> None:
    populate(recipe(), tmp_path / "plain", MADE, shard=2)
    folder = tmp_path / "set"
    killed_after(parts, recipe(), folder, MADE)
    (folder / "blob" / f".{16 * 'a'}.tmp").write_bytes(b"half")
    with pytest.raises(InputError, match=f"holds {parts} parts of an unfinished .* --resume"):
        populate(recipe(), folder, MADE, shard=2)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("blob/*.png")}
    populate(recipe(), folder, MADE, shard=2, resume=True)
    assert tree(folder) == tree(tmp_path / "plain")
    assert not (folder / ".parts").exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_part_whose_pictures_are_gone_or_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    populate(recipe(), tmp_path / "plain", MADE, shard=2)
    folder = tmp_path / "set"
    killed_after(3, recipe(), folder, MADE)
    (folder / "blob" / "0000001.png").unlink()
    second = folder / ".parts" / "shard-00001-of-00004.safetensors"
    second.write_bytes(second.read_bytes()[:-1])
    populate(recipe(), folder, MADE, shard=2, resume=True)
    assert tree(folder) == tree(tmp_path / "plain")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-20],
    "another bit": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
}


@pytest.mark.parametrize("when", ["begun", "finished"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_picture_is_made_again(tmp_path: Path, when: str, damage: str) -> None:
    populate(recipe(), tmp_path / "plain", MADE, shard=2)
    folder = tmp_path / "set"
    if when == "begun":
        killed_after(3, recipe(), folder, MADE)
    else:
        populate(recipe(), folder, MADE, shard=2)
    picture = folder / "blob" / "0000003.png"
    picture.write_bytes(DAMAGES[damage](picture.read_bytes()))
    untouched = (folder / "blob" / "0000000.png").stat().st_mtime_ns
    populate(recipe(), folder, MADE, shard=2, resume=True)
    assert tree(folder) == tree(tmp_path / "plain")
    if when == "begun":
        assert (folder / "blob" / "0000000.png").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("text", ["", "{}\n" * 7, "[]\n" * 7, "half\n" * 7])
def test_damaged_metadata_is_made_again(tmp_path: Path, text: str) -> None:
    populate(recipe(), tmp_path, MADE)
    whole = tree(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(text)
    populate(recipe(), tmp_path, MADE, resume=True)
    assert tree(tmp_path) == whole


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_set_of_other_options_is_not_replaced(tmp_path: Path, resume: bool) -> None:
    populate(recipe(), tmp_path, MADE)
    before = tree(tmp_path)
    other = {**MADE, "options": {"n": 3}}
    with pytest.raises(InputError, match=r"options\.n \(7, not 3\).* another place"):
        populate(recipe(3), tmp_path, other, resume=resume)
    assert tree(tmp_path) == before
    populate(recipe(), tmp_path, MADE)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("when", ["begun", "finished"])
def test_resume_with_other_options_is_refused(tmp_path: Path, when: str) -> None:
    if when == "begun":
        killed_after(1, recipe(), tmp_path, MADE)
    else:
        populate(recipe(), tmp_path, MADE, shard=2)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"differs from this run in seed \(0, not 1\)"):
        populate(recipe(), tmp_path, {**MADE, "seed": 1}, shard=2, resume=True)
    if when == "begun":
        with pytest.raises(InputError, match=r"items_in_a_part \(2, not 3\)"):
            populate(recipe(), tmp_path, MADE, shard=3, resume=True)
    assert tree(tmp_path) == before


def test_resume_of_a_finished_set_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = populate(recipe(), tmp_path, MADE)
    whole = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(steer.populate, "control", None)
        assert populate(recipe(), tmp_path, MADE, shard=3, resume=True) == told
        # killed once all was written
        (tmp_path / ".parts").mkdir()
        assert populate(recipe(), tmp_path, MADE, resume=True) == told
        assert not (tmp_path / ".parts").exists()
    (tmp_path / "blob" / "0000003.png").unlink()
    assert populate(recipe(), tmp_path, MADE, resume=True) == told
    assert tree(tmp_path) == whole


def test_a_new_set_replaces_an_old_one_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    populate(recipe(9), tmp_path / "set", MADE)
    populate(recipe(2, (), Coloured()), tmp_path / "set", MADE)
    (tmp_path / "set" / "notes.txt").write_bytes(b"kept")
    populate(recipe(4, along=X, values=(0.0, 0.1), settings=()), tmp_path / "set", MADE)
    populate(recipe(4), tmp_path / "set", MADE)
    populate(recipe(4), tmp_path / "plain", MADE)
    assert tree(tmp_path / "set") == tree(tmp_path / "plain") | {"notes.txt": b"kept"}
    assert {path.name for path in (tmp_path / "set").iterdir() if path.is_dir()} == {"blob"}


def test_a_new_set_that_was_killed_over_an_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    populate(recipe(20, (), Coloured()), folder, MADE)
    killed_after(1, recipe(), folder, MADE)
    populate(recipe(), folder, MADE, shard=2, resume=True)
    populate(recipe(), tmp_path / "plain", MADE, shard=2)
    assert tree(folder) == tree(tmp_path / "plain")
    assert {path.name for path in folder.iterdir()} == {"blob", "manifest.json", "metadata.jsonl"}


@pytest.mark.parametrize(
    "name",
    ["cat.png", "cats/1.jpeg", "blob/cat.BMP", "blob/0000099.png", "blob/sub/", ".git/HEAD",
     "metadata.jsonl"],
)  # fmt: skip
@pytest.mark.parametrize("after", [False, True])
def test_what_would_mix_with_the_set_is_refused(tmp_path: Path, name: str, after: bool) -> None:
    if after:
        populate(recipe(), tmp_path, MADE)
    if after and name == "metadata.jsonl":
        pytest.skip("it is its own")
    path = tmp_path / name
    path.mkdir(parents=True) if name.endswith("/") else path.parent.mkdir(exist_ok=True)
    if not path.is_dir():
        path.write_bytes(b"kept")
    before = tree(tmp_path)
    known = after and name.startswith("blob")
    shown = name if known or "/" not in name else name[: name.index("/") + 1]
    with pytest.raises(InputError, match=f"expected an empty folder .* holds .*{shown}"):
        populate(recipe(), tmp_path, MADE)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "no JSON", "[]", '{"items": [3]}', '{"name": "my app"}', "[" * 100_000, "\xff",
        '{"items": "3", "made": {}, "classes": []}', '{"items": 3, "made": 0, "classes": []}',
        '{"items": 3, "made": {}, "classes": [1]}', '{"items": 3, "made": {}, "classes": 1}',
    ],
)  # fmt: skip
def test_a_manifest_of_something_else_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"the manifest of an earlier render at .*manifest\.json"):
        populate(recipe(), tmp_path, MADE)
    assert tree(tmp_path) == {"manifest.json": text.encode("latin1")}


def test_a_manifest_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    outside, empty, folder = (tmp_path / name for name in ("0000000.png", "empty", "out"))
    outside.write_bytes(b"kept")
    empty.mkdir()
    folder.mkdir()
    listed = {
        "classes": ["..", str(tmp_path), str(empty)],
        "items": 9,
        "made": MADE,
    }
    (folder / "manifest.json").write_text(json.dumps(listed))
    populate(recipe(2), folder, MADE)
    assert outside.read_bytes() == b"kept" and empty.is_dir() and len(tree(folder)) == 4


def test_more_pictures_than_the_disk_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def room(free: float) -> None:
        usage = namedtuple("usage", "total used free")(10**9, 0, int(free))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    monkeypatch.setattr(steer.populate.place, "BLOCK", 10**6)
    folder = tmp_path / "set"
    room(6.5e6)
    with pytest.raises(MachineError, match=r"for 7 more pictures, 7\.0 MB or .* has 6\.5 MB free"):
        populate(recipe(), folder, MADE)
    assert not folder.exists()
    room(7e6)
    killed_after(2, recipe(), folder, MADE)
    room(2.9e6)
    with pytest.raises(MachineError, match=r"for 3 more pictures, 3\.0 MB or .* has 2\.9 MB free"):
        populate(recipe(), folder, MADE, shard=2, resume=True)
    room(3e6)
    assert populate(recipe(), folder, MADE, shard=2, resume=True)


@pytest.mark.parametrize("name", ["notes.txt", "plan.txt", "shard-00000-of-00001.safetensors"])
@pytest.mark.parametrize("after", [False, True])
def test_parts_that_are_not_ours_are_left(tmp_path: Path, name: str, after: bool) -> None:
    if after:
        populate(recipe(), tmp_path, MADE)
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / name).write_bytes(b"kept")
    before = tree(tmp_path)
    for resume in (False, True):
        with pytest.raises(InputError, match=rf"holds \.parts/{name}: name another folder"):
            populate(recipe(), tmp_path, MADE, resume=resume)
    assert tree(tmp_path) == before


def test_what_is_laid_among_the_parts_meanwhile_is_left(tmp_path: Path) -> None:
    told = populate(
        recipe(), tmp_path, MADE,
        report=lambda done, said: (tmp_path / ".parts" / "mine.txt").touch() if said else None,
    )  # fmt: skip
    assert told and [path.name for path in (tmp_path / ".parts").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("held", [False, True])
def test_a_link_for_the_parts_is_not_followed(tmp_path: Path, held: bool) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "set"
    elsewhere.mkdir()
    if held:
        killed_after(1, recipe(), tmp_path / "other", MADE)
        shutil.copytree(tmp_path / "other" / ".parts", elsewhere, dirs_exist_ok=True)
    folder.mkdir()
    (folder / ".parts").symlink_to(elsewhere)
    before = tree(elsewhere)
    with pytest.raises(InputError, match=r"holds \.parts/"):
        populate(recipe(), folder, MADE, shard=2, resume=held)
    assert tree(elsewhere) == before and (folder / ".parts").is_symlink()


def test_parts_left_by_a_run_that_was_killed_at_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    killed_after(1, recipe(), folder, MADE)
    left = shutil.copytree(folder / ".parts", tmp_path / "left")
    populate(recipe(), folder, MADE, shard=2, resume=True)
    whole = tree(folder)
    for resume in (False, True):
        shutil.copytree(left, folder / ".parts")
        (folder / ".parts" / "plan.json").unlink()
        populate(recipe(), folder, MADE, shard=2, resume=resume)
        assert tree(folder) == whole and not (folder / ".parts").exists()


def test_an_error_before_the_first_picture_leaves_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tolerance above 0"):
        populate(recipe(tolerance=-1.0), tmp_path, {**MADE, "seed": 1})
    assert not list(tmp_path.iterdir())


# --- several processes ---


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0, 1)])
def test_processes_share_the_parts_and_the_last_puts_them_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    told = populate(recipe(), tmp_path / "plain", MADE, shard=2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    given_back = []
    for rank in order:
        monkeypatch.setenv("RANK", str(rank))
        given_back.append(populate(recipe(), tmp_path / "set", MADE, shard=2))
    assert given_back == [None, None, told, told][: len(order)]
    assert tree(tmp_path / "set") == tree(tmp_path / "plain")


OTHER = {**MADE, "seed": 1}


def once(work: Callable[[], Any]) -> Callable[[int, str], None]:
    """Reports of which the first does the work."""
    left = [work]
    return lambda done, said: left.pop()() if left else None


def test_a_run_into_a_folder_at_work_is_refused(tmp_path: Path) -> None:
    """The plan is there and no part yet: the pictures of both would mix."""
    populate(recipe(), tmp_path / "plain", MADE, shard=2)
    folder = tmp_path / "set"

    def others() -> None:
        before = tree(folder)
        for made in (MADE, OTHER):
            with pytest.raises(InputError, match="holds 0 parts of an unfinished data set"):
                populate(recipe(9), folder, made, shard=2)
        with pytest.raises(InputError, match=r"differs from this run in seed \(0, not 1\)"):
            populate(recipe(9), folder, OTHER, shard=2, resume=True)
        assert tree(folder) == before

    populate(recipe(), folder, MADE, shard=2, report=once(others))
    assert tree(folder) == tree(tmp_path / "plain")


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_begin_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:  # exFAT
        monkeypatch.setattr(os, "link", no_links)
    first, second, third = (Place(tmp_path) for _ in range(3))
    assert first.begin(recipe(), MADE, 2, resume=False) == set()
    before = tree(tmp_path)
    with pytest.raises(InputError, match="holds 0 parts of an unfinished data set"):
        second.begin(recipe(), OTHER, 2, resume=False)
    with pytest.raises(InputError, match=r"differs from this run in seed \(0, not 1\)"):
        second.begin(recipe(), OTHER, 2, resume=True)
    assert third.begin(recipe(), MADE, 2, resume=True) == set()
    assert tree(tmp_path) == before and list(before) == [".parts/plan.json"]


@pytest.mark.parametrize("shard", [2, 7])
def test_a_run_whose_folder_was_taken_ends(tmp_path: Path, shard: int) -> None:
    """Somebody removed it all and began something else there; shard 7: the last part is at work."""
    folder = tmp_path / "set"

    def taken() -> None:
        shutil.rmtree(folder)
        killed_after(1, recipe(), folder, OTHER)

    with pytest.raises(InputError, match=r"differs from this run in .*seed \(1, not 0\)"):
        populate(recipe(), folder, MADE, shard=shard, report=once(taken))
    populate(recipe(), folder, OTHER, shard=2, resume=True)
    populate(recipe(), tmp_path / "plain", OTHER, shard=2)
    assert tree(folder) == tree(tmp_path / "plain")


def test_a_set_that_was_taken_at_its_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, described = tmp_path / "set", steer.populate.manifest_of

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        shutil.rmtree(folder)
        killed_after(1, recipe(), folder, OTHER)
        return described(*arguments)

    monkeypatch.setattr(steer.populate, "manifest_of", late)
    with pytest.raises(InputError, match=r"differs from this run in .*seed \(1, not 0\)"):
        populate(recipe(), folder, MADE)
    assert not (folder / "manifest.json").exists()


def test_a_run_whose_folder_was_removed_says_so(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"the plan of this run in .*\.parts, it was removed"):
        populate(recipe(), tmp_path, MADE, report=once(lambda: shutil.rmtree(tmp_path / ".parts")))


@pytest.mark.parametrize("shard", [2, 7])
def test_one_that_goes_on_with_a_set_at_work_may_end_it(tmp_path: Path, shard: int) -> None:
    told = populate(recipe(), tmp_path / "plain", MADE, shard=shard)
    folder, ended = tmp_path / "set", []

    def another() -> None:
        ended.append(populate(recipe(), folder, MADE, shard=shard, resume=True))

    assert populate(recipe(), folder, MADE, shard=shard, report=once(another)) == told
    assert ended == [told] and tree(folder) == tree(tmp_path / "plain")


def test_two_that_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one reads the parts, the other has put them together and removed them."""
    told = populate(recipe(), tmp_path / "plain", MADE)
    load, folder = steer.populate.place.load, tmp_path / "set"

    def late(*arguments: Any) -> Any:
        for name in ("manifest.json", "metadata.jsonl"):
            shutil.copy(tmp_path / "plain" / name, folder / name)
        shutil.rmtree(folder / ".parts")
        return load(*arguments)

    monkeypatch.setattr(steer.populate.place, "load", late)
    assert populate(recipe(), folder, MADE) == told
