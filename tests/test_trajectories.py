"""Codes that follow a transform, on a blob whose place is a known function of its code."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import AXES, Blob

from steer.errors import InputError
from steer.files import finished_shards, load, shard_path
from steer.inversion import Search
from steer.trajectories import Follow, Trajectories, follow, follow_in_shards
from steer.transforms import transforms

SLOPE = 0.12
FINE = Search(loss="mse", rate=0.1, final_rate=0.005, tolerance=1e-9)
QUICK = Follow("translate-x", extent=0.1, points=2, steps=4, search=FINE)


class Line(Blob):
    """A blob whose x is 0.12 a unit, and whose size does not change."""

    def __init__(self):
        super().__init__(lambda s: SLOPE * s, size=24)


@pytest.fixture(scope="module")
def blob():
    return Line()


def of(trajectories: Trajectories) -> dict[str, torch.Tensor]:
    return vars(trajectories)


def test_a_translation_is_followed_exactly(blob):
    """x = 0.12 <AXES[0], z> and y = 0.1 <AXES[1], z>, so the shift fixes the step along each."""
    # whole pixels of the 24: no interpolation blurs the targets
    how = Follow("translate-x", extent=3 / 24, points=3, steps=60, search=FINE)
    found = follow(blob, how, starts=6)
    axes = torch.from_numpy(AXES).float()
    step = (found.z - found.z_0[:, None]) @ axes.T
    assert torch.allclose(step[:, :, 0], found.shift / SLOPE, atol=0.02)
    assert step[:, :, 1].abs().max() < 0.02 and step[:, :, 2].abs().max() < 0.1
    assert found.error.max() < 1e-5


def test_shapes_order_and_starts(blob):
    found = follow(blob, QUICK, starts=5)
    assert found.z.shape == (5, 4, 6) and found.error.shape == (5, 4)
    assert found.shift.shape == (5, 4) and found.evaluations.shape == (5,)
    assert torch.allclose(found.shift, torch.tensor([-0.1, -0.05, 0.05, 0.1]).expand(5, 4))
    prior = blob.latent.project(blob.latent.sample(5, QUICK.search.seed))
    assert torch.equal(found.z_0, prior)
    assert (found.evaluations <= 4 * 4).all()


def test_the_middle_comes_first_and_each_target_starts_from_the_one_before(blob, monkeypatch):
    seen = []

    class Watched(Line):
        def forward(self, z):
            seen.append(z.detach().clone())
            return super().forward(z)

    steps = 3
    how = Follow("translate-x", extent=0.1, points=3, steps=steps, search=FINE)
    found = follow(Watched(), how, starts=2)
    firsts = seen[1::steps]  # seen[0] draws I_0; then the first evaluation of each target
    assert len(firsts) == 3
    origin = found.z_0.repeat(2, 1)
    minus = [found.z[:, i] for i in (2, 1, 0)]
    plus = [found.z[:, i] for i in (3, 4, 5)]
    outward = [torch.cat(pair) for pair in zip(minus, plus, strict=True)]
    ball = blob.latent.project
    assert torch.allclose(firsts[0], origin, atol=1e-6)
    assert torch.allclose(firsts[1], ball(2 * outward[0] - origin), atol=1e-6)
    assert torch.allclose(firsts[2], ball(2 * outward[1] - outward[0]), atol=1e-6)


def test_the_naive_way_starts_from_the_first_code_with_the_steps_spent(blob):
    seen = []

    class Watched(Line):
        def forward(self, z):
            seen.append(z.detach().clone())
            return super().forward(z)

    search = Search(loss="mse", tolerance=0.0)
    how = Follow("translate-x", extent=0.1, points=3, steps=2, naive=True, search=search)
    found = follow(Watched(), how, starts=2)
    for first in (1, 1 + 2, 1 + 2 + 4):
        assert torch.allclose(seen[first], found.z_0.repeat(2, 1), atol=1e-6)
    assert len(seen) == 1 + 2 + 4 + 6
    # two sides; the last target of each had three times two steps
    assert (found.evaluations == 12).all()
    recursive = follow(blob, Follow("translate-x", 0.1, 3, 2, search=search), starts=2)
    assert torch.equal(recursive.evaluations, found.evaluations)


def test_far_from_the_start_the_recursion_beats_the_naive_way(blob):
    options = {"extent": 0.3, "points": 5, "steps": 8, "search": Search(loss="mse", tolerance=0.0)}
    errors = {
        naive: follow(blob, Follow("translate-x", naive=naive, **options), starts=8).error[:, -1]
        for naive in (False, True)
    }
    assert errors[False].median() < errors[True].median()


@pytest.mark.parametrize("sides", [(-1,), (1,), (1, -1)])
def test_sides(blob, sides):
    how = Follow("translate-x", extent=0.1, points=2, steps=3, sides=sides, search=FINE)
    found = follow(blob, how, starts=2)
    both = follow(blob, Follow("translate-x", 0.1, 2, 3, search=FINE), starts=2)
    wanted = [s for s in (-0.1, -0.05, 0.05, 0.1) if (s > 0) - (s < 0) in sides]
    assert found.shift[0].tolist() == pytest.approx(wanted)
    kept = [i for i, s in enumerate((-1, -1, 1, 1)) if s in sides]
    assert torch.allclose(found.z, both.z[:, kept], atol=1e-5)


@pytest.mark.parametrize(("cut", "batch"), [(1, 32), (2, 32), (5, 2), (5, 1)])
def test_the_cut_changes_nothing(blob, cut, batch):
    whole = of(follow(blob, QUICK, starts=5))
    parts = [
        of(follow(blob, QUICK, min(cut, 5 - first), first=first, batch=batch))
        for first in range(0, 5, cut)
    ]
    for name, value in whole.items():
        joined = torch.cat([part[name] for part in parts])
        assert torch.allclose(joined, value, atol=1e-5), name


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"transform": "translate-z"}, "did you mean translate-"),
        ({"points": 0}, "expected points of 1 or more"),
        ({"steps": 0}, "expected steps of 1 or more"),
        ({"extent": 0.0}, "expected an extent above 0"),
        ({"extent": -0.1}, "expected an extent above 0"),
        ({"extent": 1.5}, "at most 1 width"),
        ({"extent": float("nan")}, "expected an extent above 0"),
    ],
)
def test_wrong_options(wrong, said):
    with pytest.raises(InputError, match=said):
        Follow(**{"transform": "translate-x", **wrong})


@pytest.mark.parametrize(("sides", "extent"), [((-1, 1), 0.3), ((1,), 0.9), ((-1,), 0.3)])
def test_limits_of_each_side(sides, extent, monkeypatch):
    """A transform of a plugin need not go as far on both sides."""
    lopsided = replace(transforms.get("zoom"), limits=(-0.3, 0.9))
    monkeypatch.setattr(Follow, "warp", property(lambda self: lopsided))
    assert Follow("zoom", extent=extent, sides=sides).reach == extent
    with pytest.raises(InputError, match=f"at most {extent:g} log2 for zoom, got"):
        Follow("zoom", extent=extent + 0.01, sides=sides)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Follow("translate-x", extent=1.0), "translate-x that leaves pixels for blurred-mse"),
        (Follow("translate-y", extent=0.7, search=Search(loss="dssim")), "leaves pixels for dssim"),
        (Follow("hue"), "colour pictures of 3 channels; got 1"),
        (Follow("zoom", search=Search(loss="nothing")), "unknown loss 'nothing'"),
        (Follow("zoom", search=Search(sigma=-1.0)), "a sigma above 0"),
    ],
)
def test_what_cannot_be_followed_is_said_before_the_work(blob, tmp_path, monkeypatch, how, said):
    monkeypatch.setattr("steer.trajectories.minimise", None)
    with pytest.raises(InputError, match=said):
        follow(blob, how, starts=2)
    with pytest.raises(InputError, match=said):
        follow_in_shards(blob, how, 2, tmp_path / "shards", {})
    assert not (tmp_path / "shards").exists()


def test_the_largest_shift_that_leaves_a_pixel_is_followed(blob):
    """A shift by 22 of 24 columns leaves 2 of the start's; by 23, 1."""
    how = Follow("translate-x", extent=22 / 24, points=1, steps=1)
    assert follow(blob, how, starts=2).error.isfinite().all()


def test_the_report_counts_to_the_number_of_targets(blob):
    told = []
    follow(blob, QUICK, starts=3, batch=2, report=lambda n, e: told.append(n))
    assert told == sorted(told) and told[-1] == 3 * QUICK.points


# --- shards ---

MADE = {"command": "trajectories", "seed": 0}


def in_shards(folder, generator, starts=5, shard=2, made=MADE, how=QUICK, **options):
    return follow_in_shards(generator, how, starts, folder, made, shard=shard, **options)


def test_shards_read_as_one_set(blob, tmp_path):
    in_shards(tmp_path / "run", blob)
    assert len(list((tmp_path / "run").iterdir())) == 3
    found = Trajectories.of(load(tmp_path / "run", "trajectories"))
    for name, value in of(follow(blob, QUICK, starts=5)).items():
        assert torch.allclose(of(found)[name], value, atol=1e-5), name


def test_resume_makes_only_what_is_missing_and_gives_the_same_bytes(blob, tmp_path):
    in_shards(tmp_path / "clean", blob)
    in_shards(tmp_path / "run", blob)
    missing, damaged = (shard_path(tmp_path / "run", i, 3) for i in (0, 2))
    kept = shard_path(tmp_path / "run", 1, 3)
    stamp = kept.stat().st_mtime_ns
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-7])
    told = []
    in_shards(tmp_path / "run", blob, resume=True, report=lambda n, e: told.append(n))
    assert kept.stat().st_mtime_ns == stamp and told[-1] == 5 * QUICK.points
    for index in range(3):
        again, clean = (shard_path(tmp_path / name, index, 3) for name in ("run", "clean"))
        assert again.read_bytes() == clean.read_bytes()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"made": {**MADE, "seed": 1}}, "seed"),
        ({"made": {**MADE, "extra": 2}}, "extra"),
        ({"shard": 1}, "3 shards, this run makes 5"),
        ({"starts": 6, "shard": 3}, "3 shards, this run makes 2"),
    ],
)
def test_resuming_with_other_options_is_refused(blob, tmp_path, other, said):
    in_shards(tmp_path, blob)
    with pytest.raises(InputError, match=said):
        in_shards(tmp_path, blob, **{"resume": True, **other})


def test_a_cut_of_other_sizes_into_as_many_shards_is_refused(blob, tmp_path):
    """5 starts are two shards of 3 and of 4: joined, starts would be missing or double."""
    in_shards(tmp_path, blob, shard=3)
    shard_path(tmp_path, 1, 2).unlink()
    with pytest.raises(InputError, match=r"shard.*3.*4"):
        in_shards(tmp_path, blob, shard=4, resume=True)


def test_what_is_there_is_not_overwritten_unasked(blob, tmp_path):
    in_shards(tmp_path, blob)
    with pytest.raises(InputError, match="already holds 3 finished shards: pass --resume"):
        in_shards(tmp_path, blob)


def test_torchrun_splits_the_shards_by_rank(blob, tmp_path, monkeypatch):
    in_shards(tmp_path / "clean", blob)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    in_shards(tmp_path / "run", blob)
    made = [path.name for path in (tmp_path / "run").iterdir()]
    assert made == [shard_path(tmp_path, 1, 3).name]
    with pytest.raises(InputError, match="lacks 2 of 3 shards"):
        load(tmp_path / "run")
    monkeypatch.setenv("RANK", "0")
    in_shards(tmp_path / "run", blob, resume=True)
    assert finished_shards(tmp_path / "run", 3, load(tmp_path / "clean").made) == {0, 1, 2}
    for index in range(3):
        again, clean = (shard_path(tmp_path / name, index, 3) for name in ("run", "clean"))
        assert again.read_bytes() == clean.read_bytes()


@pytest.mark.slow
def test_killed_again_and_again_and_resumed(blob, tmp_path):
    """kill -9 at 20 moments: the resumed run ends with the bytes of the uninterrupted one."""
    in_shards(tmp_path / "clean", blob, starts=40, shard=2)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_trajectories import Line, in_shards\n"
        "in_shards(Path(sys.argv[2]), Line(), starts=40, shard=2, resume=True)\n"
    )
    here = str(Path(__file__).parent)
    ended = None
    for attempt in range(20):
        run = subprocess.Popen([sys.executable, "-c", script, here, str(tmp_path / "run")])
        try:
            ended = run.wait(timeout=4 + 0.1 * attempt)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
    in_shards(tmp_path / "run", blob, starts=40, shard=2, resume=True)
    assert ended in (0, None)
    for index in range(20):
        again, clean = (shard_path(tmp_path / name, index, 20) for name in ("run", "clean"))
        assert again.read_bytes() == clean.read_bytes()
