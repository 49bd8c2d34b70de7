"""A folder of photos, some of them bad: what is named, what is reused, what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import Linear

from steer.errors import InputError
from steer.files import load, pack
from steer.images import write_png
from steer.inversion import Search
from steer.photos import invert_photos, partial_path, preview_of

SEARCH = Search(loss="mse", steps=7, restarts=2, pool=16, tolerance=0.0)


@pytest.fixture
def linear():
    made = Linear()
    made.checksum = "a" * 64
    return made


@pytest.fixture
def album(tmp_path, linear) -> list[Path]:
    """Seven photos that the generator can make."""
    folder = tmp_path / "album"
    folder.mkdir()
    pictures = linear(linear.latent.sample(7, seed=5)).clamp(0, 1)
    for i, picture in enumerate(pictures):
        write_png(folder / f"{i}.png", picture)
    return sorted(folder.iterdir())


@pytest.fixture
def bad(tmp_path, album) -> list[Path]:
    """One of each kind of file that is no picture."""
    folder = tmp_path / "bad"
    folder.mkdir()
    files = {
        "text.png": b"hello",
        "empty.png": b"",
        "half.png": album[0].read_bytes()[:60],
        "page.jpg": b"<!doctype html><html></html>",
        "bomb.png": _header(20_000, 20_000),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [*sorted(folder.iterdir()), folder / "missing.png", folder]


def _header(width: int, height: int) -> bytes:
    import struct
    import zlib

    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


class Interrupted(BaseException):
    pass


def interrupted_after(photos: int):
    def report(done, loss):
        if done > photos and done % 1 == 0:  # shares are of those at work
            raise Interrupted

    return report


def same(a, b) -> None:
    for name, value in a.tensors.items():
        close = torch.allclose(value.double(), b.tensors[name].double(), atol=2e-4)
        assert close or name == "reconstruction", name
    off = (a.tensors["reconstruction"].int() - b.tensors["reconstruction"].int()).abs()
    assert off.max() <= 1


def test_bad_files_are_named_and_the_others_are_as_without_them(linear, album, bad, tmp_path):
    mixed = [path for pair in zip(album, bad, strict=True) for path in pair]
    out = tmp_path / "z.safetensors"
    done = invert_photos(linear, mixed, SEARCH, batch=3, out=out)
    clean = invert_photos(linear, album, SEARCH, batch=3)
    same(done.artefact, clean.artefact)
    assert done.artefact.made["pictures"] == [str(path) for path in album]
    assert set(done.failed) == {str(path) for path in bad}
    for path, reason in done.failed.items():
        assert Path(path).name in reason and reason.endswith(".") and "\n" not in reason
    assert pack(load(out)) == pack(done.artefact)
    assert not list(tmp_path.glob("*.partial"))


def test_a_summary_has_a_row_for_each_photo(linear, album, bad):
    summary = invert_photos(linear, [*album, bad[0]], SEARCH).summary()
    assert [row["picture"] for row in summary["pictures"]] == [str(path) for path in album]
    row = summary["pictures"][0]
    assert row["evaluations"] > 0 and row["status"] == "all steps were used"
    assert set(row["errors"]) == {"blurred-mse", "mse", "l1"}
    assert row["loss"] == pytest.approx(row["errors"]["mse"])
    assert list(summary["failed"]) == [str(bad[0])] and summary["reused"] == 0


def test_nothing_that_can_be_read(linear, bad, tmp_path):
    with pytest.raises(InputError, match=r"expected a picture, none of 2 could be read: .*bomb"):
        invert_photos(linear, bad[:2], SEARCH, out=tmp_path / "z.safetensors")
    assert not (tmp_path / "z.safetensors").exists()


# --- resume ---


def test_interrupted_and_resumed_it_ends_with_the_same_bytes(linear, album, tmp_path):
    clean, out = tmp_path / "clean.safetensors", tmp_path / "z.safetensors"
    invert_photos(linear, album, SEARCH, batch=2, out=clean)
    with pytest.raises(Interrupted):
        invert_photos(linear, album, SEARCH, batch=2, out=out, report=interrupted_after(4))
    partial = out.with_name(out.name + ".partial")
    assert partial.exists() and not out.exists()
    assert len(load(partial, "latents").tensors["z"]) == 6
    again = invert_photos(linear, album, SEARCH, batch=2, out=out, resume=True)
    assert again.reused == 6 and not partial.exists()
    assert out.read_bytes() == clean.read_bytes()


CHOICES = st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.tuples(CHOICES, st.integers(1, 9)), min_size=2, max_size=5))
def test_no_sequence_of_resumed_and_cut_runs_loses_a_row(linear, album, tmp_path, runs):
    """Each run has other photos in another order, and is cut when `cut` of them are reported."""
    out = tmp_path / "z.safetensors"
    places = (out, partial_path(out))
    for place in places:
        place.unlink(missing_ok=True)
    done: set[str] = set()
    for chosen, cut in runs:
        paths = [album[i] for i in chosen]
        checksums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        report = interrupted_after(cut - 1)
        with contextlib.suppress(Interrupted):
            run = invert_photos(linear, paths, SEARCH, batch=2, out=out, resume=True, report=report)
            assert run.reused == len(done & set(checksums))
        reported = checksums[: math.ceil(cut / 2) * 2]
        done = set(checksums) if len(reported) == len(checksums) else done | set(reported)
        kept = [load(place).made["checksums"] for place in places if place.exists()]
        assert done == {checksum for each in kept for checksum in each}


def test_a_cut_run_with_other_options_is_gone_on_with_over_an_older_result(linear, album, tmp_path):
    out, other = tmp_path / "z.safetensors", replace(SEARCH, seed=1)
    invert_photos(linear, album, SEARCH, out=out)
    with pytest.raises(Interrupted):
        invert_photos(linear, album, other, batch=2, out=out, report=interrupted_after(3))
    again = invert_photos(linear, album, other, batch=2, out=out, resume=True)
    assert again.reused == 4 and load(out).made["seed"] == 1


def test_a_second_run_touches_only_what_is_missing(linear, album, tmp_path):
    out = tmp_path / "z.safetensors"
    first = invert_photos(linear, album[:5], SEARCH, out=out)
    linear.codes = 0
    again = invert_photos(linear, album[:5], SEARCH, out=out, resume=True)
    assert again.reused == 5 and linear.codes == 0
    assert pack(again.artefact) == pack(first.artefact)
    more = invert_photos(linear, album, SEARCH, out=out, resume=True)
    assert more.reused == 5 and len(more.artefact.tensors["z"]) == 7
    same(more.artefact, invert_photos(linear, album, SEARCH).artefact)


def test_a_photo_is_known_by_its_bytes_not_its_place(linear, album, tmp_path):
    out = tmp_path / "z.safetensors"
    invert_photos(linear, album[:3], SEARCH, out=out)
    moved = tmp_path / "moved"
    moved.mkdir()
    renamed = [Path(shutil.copy(path, moved / f"x{path.name}")) for path in album[:3]]
    # another picture under a name that is known
    write_png(album[0], torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)))
    again = invert_photos(linear, [*renamed, album[0]], SEARCH, out=out, resume=True)
    assert again.reused == 3
    assert again.artefact.made["pictures"] == [str(path) for path in [*renamed, album[0]]]
    fresh = invert_photos(linear, [*renamed, album[0]], SEARCH)
    same(again.artefact, fresh.artefact)


def test_the_same_photo_twice_is_inverted_once(linear, album):
    linear.codes = 0
    once = invert_photos(linear, album[:1], SEARCH)
    spent, linear.codes = linear.codes, 0
    twice = invert_photos(linear, [album[0], album[0]], SEARCH)
    assert linear.codes == spent
    assert torch.equal(twice.artefact.tensors["z"][0], twice.artefact.tensors["z"][1])
    same(invert_photos(linear, album[:1], SEARCH).artefact, once.artefact)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
@pytest.mark.parametrize("which", ["z.safetensors", "z.safetensors.partial"])
def test_a_damaged_leftover_never_counts_as_done(linear, album, tmp_path, which, damage):
    out = tmp_path / "z.safetensors"
    invert_photos(linear, album[:3], SEARCH, out=out)
    data = out.read_bytes()
    out.unlink()
    middle = len(data) - 40
    (tmp_path / which).write_bytes(
        {
            "truncated": data[:-9],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
        }[damage]
    )
    again = invert_photos(linear, album[:3], SEARCH, out=out, resume=True)
    assert again.reused == 0 and out.read_bytes() == data


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"search": replace(SEARCH, steps=9)}, r"this run in options.steps \(7, not 9\)"),
        ({"search": replace(SEARCH, loss="mse+l1")}, r"options.loss \('mse', not 'mse\+l1'\)"),
        ({"search": replace(SEARCH, seed=1)}, r"seed \(0, not 1\)"),
        ({"align": "letterbox"}, r"options.align \('crop', not 'letterbox'\)"),
    ],
)
def test_resuming_with_other_options_is_refused(linear, album, tmp_path, other, said):
    out = tmp_path / "z.safetensors"
    invert_photos(linear, album[:2], SEARCH, out=out)
    before = out.read_bytes()
    options = {"search": SEARCH, **other}
    with pytest.raises(InputError, match=said) as caught:
        invert_photos(linear, album[:2], out=out, resume=True, **options)
    assert "z.safetensors" in str(caught.value) and out.read_bytes() == before
    # without resume it is a new run
    assert invert_photos(linear, album[:2], out=out, **options).reused == 0


def test_resuming_with_other_weights_is_refused(linear, album, tmp_path):
    out = tmp_path / "z.safetensors"
    invert_photos(linear, album[:2], SEARCH, out=out)
    linear.checksum = "b" * 64
    with pytest.raises(InputError, match=r"z\.safetensors.*\(weights bbb.*\(weights aaa"):
        invert_photos(linear, album[:2], SEARCH, out=out, resume=True)


def test_latents_of_another_command_are_no_leftovers(linear, album, tmp_path):
    from steer.files import Artefact, how_made, save

    out = tmp_path / "z.safetensors"
    made = how_made("sample", linear.identity(), seed=0)
    save(Artefact("latents", {"z": torch.zeros(2, 6)}, made), out)
    with pytest.raises(InputError, match=r"command \('sample', not 'invert'\)"):
        invert_photos(linear, album[:2], SEARCH, out=out, resume=True)


# --- fitting, previews ---


def test_photos_are_fitted_as_asked(linear, tmp_path):
    """A white bar at each end of a wide photo: cropped away, or kept and made small."""
    pixels = np.full((16, 48, 3), 128, np.uint8)
    pixels[:, :12] = pixels[:, -12:] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = {
        align: invert_photos(linear, [tmp_path / "wide.png"], SEARCH, align=align)
        for align in ("crop", "letterbox")
    }
    assert found["crop"].artefact.tensors["loss"] < found["letterbox"].artefact.tensors["loss"]
    for align, done in found.items():
        assert done.artefact.made["options"]["align"] == align


def test_the_preview_shows_both(linear, album):
    done = invert_photos(linear, album[:2], SEARCH)
    picture = preview_of(linear, done, "crop")
    assert picture.shape[0] == 3 and min(picture.shape[1:]) > 2 * 8
