"""Sets of pictures wherever they lie: the same pictures, a few at a time."""

from __future__ import annotations

import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from commands import photo
from torch import Tensor
from toys import Blob

from steer.backbones import Seen, extractor
from steer.datasets import Sprites
from steer.errors import InputError
from steer.images import quantise, write_png
from steer.picture_sets import (
    Pictures,
    compare_sets,
    describe,
    generated,
    pictures_at,
    procedural,
    zipped,
)
from steer.scores import frechet_distance, inception_score, kernel_distance, sharpness


class Means:
    """Three features: mean, deviation and largest value; two classes, dark and bright."""

    name = "means"
    dim = 3
    size = (1, 1)
    most = 1000

    def __call__(self, pictures: Sequence[Tensor]) -> Seen:
        if len(pictures) > self.most:
            raise MemoryError
        rows = [torch.stack([p.mean(), p.std(), p.max()]) for p in pictures]
        bright = torch.stack([row[:1] for row in rows])
        return Seen(torch.stack(rows), torch.cat([bright, 1 - bright], dim=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures of two sizes, one of them grey."""
    place = tmp_path_factory.mktemp("pictures")
    for i in range(10):
        photo(place / f"{i}.png", seed=i, size=(20, 16) if i < 6 else (12, 12))
    write_png(place / "grey.png", torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)))
    return place


def test_a_folder_its_files_and_its_zip_are_the_same_set(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"train/{file.name}")
        archive.writestr("train/.hidden.png", b"no picture")
        archive.writestr("readme.txt", b"no picture")
    sources = [
        pictures_at([str(folder)], n=1),
        pictures_at([str(file) for file in sorted(folder.iterdir())], n=1),
        pictures_at([str(tmp_path / "all.zip")], n=1),
    ]
    found = [describe(source, [Means()], batch=4) for source in sources]
    for each in found:
        assert each.n == 11 and each.sizes == {(16, 20), (12, 12), (9, 9)}
        assert torch.equal(each.seen[0].features, found[0].seen[0].features)
        assert torch.equal(each.sharpness, found[0].sharpness)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_does_not_matter(folder: Path, batch: int) -> None:
    told: list[float] = []
    found = describe(
        pictures_at([str(folder)], 1), [Means()], batch, lambda done, said: told.append(done)
    )
    whole = describe(pictures_at([str(folder)], 1), [Means()], 11)
    assert torch.equal(found.seen[0].features, whole.seen[0].features)
    assert told[-1] == 11 and len(told) == -(-11 // batch)


def test_pictures_of_a_generator_are_those_of_its_files(tmp_path: Path) -> None:
    blob = Blob()
    codes = blob.sample(7, seed=3)
    for i, picture in enumerate(blob(codes)):
        write_png(tmp_path / f"{i}.png", picture)
    drawn = generated(blob, lambda items: blob.sample(len(items), 3, items.start), 7)
    a, b = (describe(each, [Means()], 3) for each in (drawn, pictures_at([str(tmp_path)], 1)))
    torch.testing.assert_close(a.seen[0].features, b.seen[0].features)
    torch.testing.assert_close(a.sharpness, sharpness(quantise(blob(codes))))


def test_the_first_pictures_of_a_procedural_set() -> None:
    found = list(pictures_at(["sprites"], 5).read(range(2, 5)))
    torch.testing.assert_close(
        torch.stack(found), quantise(Sprites().pictures(torch.tensor([2, 3, 4])))
    )
    few = Sprites()
    few.size = 3
    assert procedural(few, 5).n == 3 and procedural(few, 2).n == 2


def test_only_a_batch_is_in_memory() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def read(items: range) -> Iterator[Tensor]:
        nonlocal most
        for _ in items:
            picture = torch.rand(3, 16, 16)
            alive.add(picture)
            most = max(most, len(alive))
            yield picture

    assert describe(Pictures("many", 60, read), [Means()], batch=4).n == 60
    assert most <= 2 * 4


def test_large_pictures_are_held_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    class Counting(Means):
        def __call__(self, pictures: Sequence[Tensor]) -> Seen:
            held.append(len(pictures))
            return super().__call__(pictures)

    monkeypatch.setattr("steer.picture_sets.PIXELS", 32 * 32)
    sizes = [8, 8, 64, 64, 8]
    source = Pictures("mixed", 5, lambda items: (torch.rand(3, sizes[i], 9) for i in items))
    describe(source, [Counting()], batch=5)
    assert sum(held) == 5 and len(held) > 1


def test_out_of_memory_halves_the_batch_once(folder: Path, capsys) -> None:
    small = Means()
    small.most = 3
    found = describe(pictures_at([str(folder)], 1), [small], batch=11)
    whole = describe(pictures_at([str(folder)], 1), [Means()], batch=11)
    assert torch.equal(found.seen[0].features, whole.seen[0].features)
    assert capsys.readouterr().err.count("out of memory") == 2  # 11, 5, 2


def test_bad_pictures_are_left_out_by_name(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"<html>")
    write_png(tmp_path / "tiny.png", torch.zeros(3, 1, 5))
    source = pictures_at([str(tmp_path)], 1)
    found = describe(source, [Means()], batch=3)
    clean = describe(pictures_at([str(folder)], 1), [Means()])
    assert torch.equal(found.seen[0].features, clean.seen[0].features)
    assert sorted(source.failed) == [str(tmp_path / "bad.png"), str(tmp_path / "tiny.png")]
    assert "expected 3x3 pixels or more" in source.failed[str(tmp_path / "tiny.png")]


def test_a_set_without_a_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"expected a picture, none of 1 could be read: .*text"):
        describe(pictures_at([str(tmp_path)], 1), [Means()])
    with pytest.raises(InputError, match="does not exist"):
        pictures_at([str(tmp_path / "gone")], 1)


def test_zips_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK but no zip")
    with pytest.raises(InputError, match="expected a zip of pictures, got a damaged"):
        zipped(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"")
    with pytest.raises(InputError, match=r"expected pictures .* in it, found none"):
        zipped(path)
    with pytest.raises(InputError, match=r"cannot read .*gone\.zip"):
        zipped(tmp_path / "gone.zip")


def test_a_picture_of_a_zip_that_is_damaged_is_left_out(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("0.png", "1.png"):
            archive.write(folder / name, name)
        place = archive.getinfo("1.png").header_offset + 100
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    source = zipped(path)
    assert describe(source, [Means()]).n == 1
    assert list(source.failed) == ["1.png"]


def test_two_sets_have_every_score(folder: Path) -> None:
    a = describe(pictures_at([str(folder)], 1), [Means()])
    b = describe(generated(Blob(), lambda items: Blob().sample(len(items)), 8), [Means()])
    scores = compare_sets(a, b, [Means()], seed=2)
    features = [each.seen[0].features for each in (a, b)]
    chances = [each.seen[0].probabilities for each in (a, b)]
    wanted = [
        ("FID", "means", frechet_distance(*features)),
        ("KID", "means", kernel_distance(*features, seed=2)[0]),
        ("inception score", "means", inception_score(chances[0], seed=2)[0]),
        ("inception score", "means", inception_score(chances[1], seed=2)[0]),
        ("sharpness", "pixels", float(a.sharpness.mean())),
        ("sharpness", "pixels", float(b.sharpness.mean())),
    ]
    assert [(s.score, s.extractor, s.value) for s in scores] == wanted
    assert [s.of for s in scores[2:]] == [str(folder), "blob"] * 2
    assert compare_sets(a, a, [Means()])[0].value < 1e-3


def halves_of_cifar(shared: Path, each: int) -> dict[str, float]:
    """FID and KID of the even and the odd ones of every `each`-th test picture."""
    file = shared / "data/backbones/tf_efficientnet_lite0.fp16.safetensors"
    network = extractor(f"tf_efficientnet_lite0={file}")
    whole = zipped(shared / "data/datasets/cifar10-subset-jpg.zip")
    test = 2000  # which come before those of train

    def half(start: int) -> Pictures:
        chosen = range(start * each, test, 2 * each)

        def read(items: range) -> Iterator[Tensor]:
            for i in items:
                yield from whole.read(range(chosen[i], chosen[i] + 1))

        return Pictures("half", len(chosen), read)

    a, b = (describe(half(start), [network]) for start in (0, 1))
    return {score.score: score.value for score in compare_sets(a, b, [network])}


@pytest.mark.shared
def test_two_halves_of_real_pictures_are_alike(shared: Path) -> None:
    """100 pictures against 100: the FID, of 1280 features, is all bias; KID has none."""
    scores = halves_of_cifar(shared, 10)
    assert 134 < scores["FID"] < 143
    assert abs(scores["KID"]) < 2e-3


@pytest.mark.slow
@pytest.mark.shared
def test_the_halves_of_all_test_pictures_are_alike(shared: Path) -> None:
    """1,000 against 1,000: FID 34.5, KID 0.0001."""
    scores = halves_of_cifar(shared, 1)
    assert 34 < scores["FID"] < 35
    assert abs(scores["KID"]) < 5e-4
