"""Sheets and films, against Pillow, PyAV and closed forms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steer import sheets
from steer.errors import InputError, MachineError
from steer.images import quantise
from steer.sheets import grid, side_by_side, write_animation

# --- grids ---------------------------------------------------------------------------------------


def holds(sheet: torch.Tensor, picture: torch.Tensor, top: int, left: int, factor: int) -> bool:
    """Whether the enlarged picture lies there, pixel for pixel."""
    enlarged = quantise(picture).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    height, width = enlarged.shape[1:]
    return torch.equal(
        sheet[:, top : top + height, left : left + width], enlarged.expand(3, -1, -1)
    )


def test_a_bare_grid_pixel_for_pixel():
    a, b, c = torch.rand(3, 64, 64), torch.rand(1, 64, 64), torch.rand(3, 64, 64)
    sheet = grid([[a, b], [c, None]])
    margin, cell, gap = 16, 128 + 2, 8
    assert sheet.shape == (3, 2 * margin + 2 * cell + gap, 2 * margin + 2 * cell + gap)
    near, far = margin + 1, margin + 1 + cell + gap
    assert holds(sheet, a, near, near, 2)
    assert holds(sheet, b, near, far, 2)
    assert holds(sheet, c, far, near, 2)
    absent = sheet[:, far : far + 128, far : far + 128]
    assert torch.equal(absent, torch.full_like(absent, 238 / 255))
    assert (sheet[:, :margin] == 1).all()
    assert (sheet[:, -margin:] == 1).all()


@pytest.mark.parametrize(
    ("side", "factor"), [(1, 96), (28, 4), (64, 2), (95, 2), (96, 1), (300, 1)]
)
def test_small_pictures_are_enlarged_by_a_whole_factor(side, factor):
    picture = torch.rand(1, side, side)
    assert holds(grid([[picture]]), picture, 17, 17, factor)


def test_pictures_of_several_sizes_are_centred_in_equal_cells():
    wide, tall = torch.rand(1, 50, 100), torch.rand(1, 100, 50)
    sheet = grid([[wide, tall]])
    assert sheet.shape[1:] == (2 * 16 + 102, 2 * 16 + 2 * 102 + 8)
    assert holds(sheet, wide, 17 + 25, 17, 1)
    assert holds(sheet, tall, 17, 17 + 110 + 25, 1)


def test_texts_take_their_place_beside_the_pictures():
    picture = torch.rand(3, 64, 64)
    bare = grid([[picture]]).shape
    assert grid([[picture]], row_labels=["a row"]).shape[2] > bare[2]
    assert grid([[picture]], column_labels=["a column"]).shape[1] > bare[1]
    assert grid([[picture]], title="a title").shape[1] > bare[1]
    assert grid([[picture]], marks=[["0.201"]]).shape[1] > bare[1]
    assert grid([[picture]], marks=[[None]]).shape == bare


def test_one_line_heads_stand_on_the_pictures_beside_longer_ones():
    picture = torch.ones(1, 64, 64)
    sheet = grid([[picture, picture]], column_labels=["one", "two lines of words wrapped"])
    short = sheet[:, :, 16 : 16 + 130]
    inked = (short.amin(dim=(0, 2)) < 0.5).nonzero().flatten()
    line = sum(sheets._font(13).getmetrics())
    assert sheet.shape[1] == 2 * 16 + 2 * line + 8 + 130
    assert 16 + line <= inked.min() < inked.max() < 16 + 2 * line


def test_narrow_pictures_leave_room_for_words():
    strip = torch.rand(1, 200, 4)
    sheet = grid([[strip]], marks=[["0.201"]])
    assert sheet.shape[2] == 2 * 16 + 66
    assert holds(sheet, strip, 17, 17 + 30, 1)


TEXTS = st.text(st.characters(codec="latin-1", exclude_categories=("C",)), max_size=80)
WORDS = st.lists(st.text("abWi-é", min_size=1, max_size=12), max_size=12).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS | WORDS)
def test_wrapping_keeps_every_letter_within_its_width(text):
    font = sheets._font(13)
    lines = sheets._wrapped(text, font, 100)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        left, _, right, _ = font.getbbox(line)
        assert left >= -1
        assert right <= 100


@pytest.mark.parametrize(
    "place", [{"row_labels": 1}, {"column_labels": 1}, {"title": 1}, {"marks": 1}], ids=str
)
def test_long_texts_are_drawn_whole(place):
    """As much ink as in the words drawn one by one on a wide canvas."""
    text = " ".join(["W" * 40, *["quantité"] * 30])
    picture = torch.ones(1, 64, 64)
    shape = {"row_labels": [text], "column_labels": [text], "title": text, "marks": [[text]]}
    empty = {"row_labels": [""], "column_labels": [""], "title": None, "marks": [[None]]}
    (name,) = place
    size = {"title": 16, "marks": 11}.get(name, 13)
    ink = (1 - grid([[picture]], **{name: shape[name]})).sum()
    frame = (1 - grid([[picture]], **{name: empty[name]})).sum()
    font = sheets._font(size)
    colour = sheets.FADED if name == "marks" else sheets.INK
    alone = [sheets._written(word, font, 1000, ink=colour) for word in text.split()]
    expected = sum((3 - np.asarray(block).sum(2) / 255).sum() for block in alone)
    np.testing.assert_allclose(ink - frame, expected, rtol=0.02)


@pytest.mark.parametrize("letter", ["é", "σ", "−", "→", "Δ", "я"])
def test_letters_that_labels_need_have_glyphs(letter):
    font = sheets._font(20)
    assert bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": []}, "got a row of none"),
        ({"rows": [[None]]}, "got a row of none"),
        ({"rows": [[torch.zeros(1, 2, 2)], []]}, "got a row of none"),
        ({"row_labels": ["a", "b"]}, "expected 1 row labels, got 2"),
        ({"column_labels": ["a", "b"]}, "expected 1 column labels, got 2"),
        ({"marks": [["a"], ["b"]]}, "expected 1 rows of marks, got 2"),
        ({"marks": [["a", "b"]]}, "expected 1 marks in a row, got 2"),
        ({"rows": [[torch.zeros(4, 2, 2)]]}, r"expected a picture \[1 or 3, H, W\]"),
    ],
)
def test_bad_grids(options, message):
    with pytest.raises(InputError, match=message):
        grid(**{"rows": [[torch.zeros(1, 2, 2)]], **options})


def test_grids_do_not_import_matplotlib():
    code = "import sys, torch; from steer.sheets import grid; grid([[torch.zeros(1, 2, 2)]], ['a'])"
    check = f"{code}; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_side_by_side_pairs_eight_a_line():
    originals, others = torch.rand(10, 1, 64, 64), torch.rand(10, 1, 64, 64)
    labelled = ["original", "reconstruction"] * 2
    rows = [list(originals[:8]), list(others[:8]), list(originals[8:]), list(others[8:])]
    assert torch.equal(side_by_side(originals, others), grid(rows, labelled))
    errors = torch.linspace(0, 1, 10)
    texts = [f"{error:.3g}" for error in errors.tolist()]
    marks = [[None] * 8, texts[:8], [None] * 2, texts[8:]]
    assert torch.equal(side_by_side(originals, others, errors), grid(rows, labelled, marks=marks))


def test_side_by_side_counts():
    pair = torch.zeros(2, 1, 4, 4)
    with pytest.raises(InputError, match="expected 2 reconstructions, got 1"):
        side_by_side(pair, pair[:1])
    with pytest.raises(InputError, match="expected 2 errors, got 3"):
        side_by_side(pair, pair, [1, 2, 3])


# --- animations ----------------------------------------------------------------------------------


def flat_frames(channels: int, height: int, width: int, count: int = 5) -> list[torch.Tensor]:
    return [torch.full((channels, height, width), 0.15 + 0.17 * i) for i in range(count)]


def decoded(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames [H, W, 3] in [0, 1] and their rate, by PyAV."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [each.to_ndarray(format="rgb24") / 255 for each in container.decode(stream)]
        return frames, float(stream.average_rate)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 64, 64), (256, 256)), ((1, 28, 20), (280, 200)), ((3, 301, 257), (301, 257))],
    ids=["enlarged", "grey", "odd"],
)
def test_animations_are_read_back(suffix, shape, size, tmp_path):
    path = tmp_path / f"a{suffix}"
    frames = flat_frames(*shape)
    write_animation(path, frames, fps=20)
    read, rate = decoded(path)
    even = tuple(side + side % 2 if suffix == ".mp4" else side for side in size)
    assert [each.shape for each in read] == [(*even, 3)] * 5
    assert rate == 20
    for got, frame in zip(read, frames, strict=True):
        np.testing.assert_allclose(got, frame.mean(), atol=3 / 255)
    write_animation(tmp_path / f"b{suffix}", frames, fps=20)
    assert path.read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(("suffix", "tolerance"), [(".gif", 0.5 / 255), (".mp4", 5 / 255)])
def test_colours_of_animations(suffix, tolerance, tmp_path):
    frames = [
        torch.tensor([r, 0.4, b]).view(3, 1, 1).repeat(1, 64, 64)
        for r, b in ((0.9, 0.1), (0.2, 0.7))
    ]
    frames[0][:, :, 32:] = 0.5
    write_animation(tmp_path / f"a{suffix}", frames)
    for got, frame in zip(decoded(tmp_path / f"a{suffix}")[0], frames, strict=True):
        wanted = frame.repeat_interleave(4, 1).repeat_interleave(4, 2).permute(1, 2, 0)
        np.testing.assert_allclose(got[:, 16:112], wanted[:, 16:112], atol=tolerance)
        np.testing.assert_allclose(got[:, 144:240], wanted[:, 144:240], atol=tolerance)


def test_a_video_says_how_its_colours_are_coded(tmp_path):
    write_animation(tmp_path / "a.mp4", flat_frames(3, 64, 64))
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.colorspace, codec.color_range) == (6, 1)


def test_a_video_does_not_depend_on_what_memory_held_before():
    """glibc fills fresh memory with what MALLOC_PERTURB_ says."""
    script = (
        "import sys, hashlib; from PIL import Image; from steer.sheets import _mp4\n"
        "greys = [Image.new('L', (200, 280), 38 + 43 * i) for i in range(5)]\n"
        "print(hashlib.sha256(_mp4(greys, 20)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "MALLOC_PERTURB_": filling},
            capture_output=True,
            check=True,
        ).stdout
        for filling in ("0", "1")
    }
    assert len(digests) == 1


def test_a_gif_loops_at_its_rate_and_keeps_greys(tmp_path):
    path = tmp_path / "a.gif"
    frames = [torch.linspace(0, 1, 256).view(1, 16, 16), torch.linspace(1, 0, 256).view(1, 16, 16)]
    write_animation(path, frames, fps=4)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (2, 0, 250)
    np.testing.assert_array_equal(
        decoded(path)[0][0][::16, ::16, 0].astype(np.float32), quantise(frames[0])[0]
    )


def test_a_many_coloured_gif_is_close(tmp_path):
    y, x = torch.meshgrid(torch.arange(24), torch.arange(36), indexing="ij")
    frame = torch.stack([x * 7, y * 10, (x * y) % 256]) / 255
    write_animation(tmp_path / "a.gif", [frame])
    step = 256 // 36 + 1
    got = decoded(tmp_path / "a.gif")[0][0][::step, ::step].transpose(2, 0, 1)
    assert 10 * np.log10(1 / np.mean((got - frame.numpy()) ** 2)) > 25


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.webm", flat_frames(1, 4, 4), 10, r"expected a name in \.gif or \.mp4"),
        ("a", flat_frames(1, 4, 4), 10, r"expected a name in \.gif or \.mp4"),
        ("a.gif", [], 10, "expected frames of one size for .*, got none"),
        (
            "a.gif",
            flat_frames(1, 4, 4) + flat_frames(1, 5, 4),
            10,
            "of one size for .*, got 1x4x4, 1x5x4",
        ),
        ("a.mp4", [torch.full((1, 4, 4), float("nan"))], 10, "NaN"),
        *(("a.mp4", flat_frames(1, 4, 4), fps, "frames a second, got") for fps in (0, -1, 1e9)),
        ("a.gif", flat_frames(1, 4, 4), float("nan"), "frames a second, got nan"),
    ],
)
def test_bad_animations(name, frames, fps, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_animation(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())


def test_a_video_that_the_encoder_refuses_is_the_machines_failure(tmp_path, monkeypatch):
    def without(*_, **__):
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(av, "open", without)
    with pytest.raises(MachineError, match=r"cannot encode H\.264 video here: libx264\."):
        write_animation(tmp_path / "a.mp4", flat_frames(1, 4, 4))
