"""Photos on disk to a latents file: bad ones left out by name, done ones not done again."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steer.backbones import find
from steer.batches import affordable
from steer.disk import read_stdin, read_whole
from steer.encoders import fitted
from steer.errors import InputError
from steer.files import Artefact, DamagedError, how_made, load, refuse_other_options, save
from steer.generators import Condition, Generator, require_same
from steer.images import FITS, fit, read_image
from steer.inversion import Inversion, Pool, Report, Search, invert
from steer.optimise import Status
from steer.registry import unknown
from steer.sheets import side_by_side


@dataclass
class Photos:
    """The latents of the photos that could be read, and why the others could not."""

    artefact: Artefact
    failed: dict[str, str]
    reused: int

    def summary(self, condition: Condition | None = None) -> dict[str, Any]:
        """What `--json` prints: a row per picture; `condition` names its class."""
        tensors, made = self.artefact.tensors, self.artefact.made
        errors = {k.removeprefix("error."): v for k, v in tensors.items() if k.startswith("error.")}
        rows = [
            {
                "picture": name,
                "loss": float(tensors["loss"][i]),
                "status": Status(int(tensors["status"][i])).message,
                "evaluations": int(tensors["evaluations"][i]),
                "errors": {key: float(value[i]) for key, value in errors.items()},
            }
            for i, name in enumerate(made["pictures"])
        ]
        for row, index in zip(rows, tensors.get("class", torch.empty(0)).tolist(), strict=False):
            row["class"] = condition.name(index) if condition else index
        return {"pictures": rows, "failed": self.failed, "reused": self.reused}


@dataclass(frozen=True)
class _Photo:
    """A photo that was read: its path, the checksum of its file, and the fitted picture."""

    path: str
    checksum: str
    picture: Tensor


@dataclass(frozen=True)
class _Row:
    """What was found for a photo, one tensor a column, and where it lay then."""

    path: str
    values: dict[str, Tensor]

    @property
    def diverged(self) -> bool:
        return int(self.values["status"]) == Status.DIVERGED


def invert_photos(
    generator: Generator,
    paths: list[Path],
    search: Search,
    *,
    align: str = "crop",
    batch: int = 32,
    out: Path | None = None,
    resume: bool = False,
    report: Report = lambda done, said: None,
) -> Photos:
    """Inverts the photos that can be read, `batch` at a time, and says why the others cannot be.

    After each batch all that is known so far lies in `OUT.partial`; with `resume`, photos whose
    bytes are found there or in `out` (wherever they lie now) are not inverted again, and none of
    them is lost until a run has ended, which leaves the photos that it was given in `out`. `report`
    is told of photos that are saved, with the share of those at work.

    Raises InputError where no photo can be read, or where what is to be resumed was made with other
    options or weights.
    """
    if align not in FITS:
        raise unknown("fit", align, FITS)
    search = search.settled(generator)
    made = _options(generator, search, align)
    rows = _rows_done(generator, out, made) if resume and out else {}
    known, reused = set(rows), 0
    order: list[tuple[str, str]] = []
    failed: dict[str, str] = {}
    pool: Pool | None = None
    batch = affordable(generator, batch, search.restarts or 1)  # what is done is saved after each
    for first in range(0, len(paths), batch):
        photos = _readable(paths[first : first + batch], generator, align, failed)
        reused += sum(photo.checksum in known for photo in photos)
        fresh = list({p.checksum: p for p in photos if p.checksum not in rows}.values())
        if fresh:
            if pool is None and search.start != "encoder":
                pool = Pool(generator, search, lambda said, first=first: report(first, said))  # type: ignore[misc]
            pictures = torch.stack([photo.picture for photo in fresh])
            found = invert(
                generator, pictures, search,
                batch=batch, pool=pool, report=lambda n, said, first=first: report(first + n, said),  # type: ignore[misc]
            )  # fmt: skip
            found_rows = _rows(found, fresh, generator)
            rows |= zip((p.checksum for p in fresh), found_rows, strict=True)
        for photo in photos:
            if rows[photo.checksum].diverged:
                failed[photo.path] = f"{Status.DIVERGED.message}."
            else:
                order.append((photo.path, photo.checksum))
        done = min(first + batch, len(paths))
        if out and order:
            if done == len(paths):
                save(_artefact(rows, order, made), out)
                partial_path(out).unlink(missing_ok=True)
            elif fresh:
                save(_artefact(rows, _whole(rows), made), partial_path(out))
        report(done, float(rows[order[-1][1]].values["loss"]) if order else float("nan"))
    if not order:
        raise InputError(
            f"expected a picture, none of {len(paths)} could be read: "
            f"{next(iter(failed.values()), 'none given')}"
        )
    return Photos(_artefact(rows, order, made), failed, reused)


def preview_of(generator: Generator, done: Photos, align: str) -> Tensor:
    """The photos over their reconstructions [3, H, W], each with its loss."""
    used = done.artefact.made["pictures"]
    originals = [fit(read_image(path), *generator.picture, how=align) for path in used]
    tensors = done.artefact.tensors
    pictures = tensors["reconstruction"].float() / 255
    return side_by_side(torch.stack(originals), pictures, tensors["loss"].tolist())


def _readable(
    paths: list[Path], generator: Generator, align: str, failed: dict[str, str]
) -> list[_Photo]:
    photos = []
    for path in paths:
        try:
            data = read_stdin() if str(path) == "-" else read_whole(path)
            picture = fit(read_image(data, name=str(path)), *generator.picture, how=align)
        except InputError as error:
            failed[str(path)] = str(error)
        else:
            photos.append(_Photo(str(path), hashlib.sha256(data).hexdigest(), picture))
    return photos


def _options(generator: Generator, search: Search, align: str) -> dict[str, Any]:
    options = {name: value for name, value in asdict(search).items() if name != "seed"}
    if search.backbone:
        options["backbone"] = find(search.backbone).name  # what it is, not where it lies
    if search.start != "prior" and (encoder := fitted(generator)):
        options["encoder"] = encoder.checksum
    return how_made("invert", generator.identity(), seed=search.seed, align=align, **options)


def _rows(found: Inversion, photos: list[_Photo], generator: Generator) -> list[_Row]:
    """A row for each photo; where there are classes, with the one nearest to what was found."""
    told = generator.condition
    columns = {
        "z": found.z,
        "loss": found.loss,
        "status": found.status,
        "evaluations": found.evaluations,
        "reconstruction": (found.pictures * 255).round().to(torch.uint8),
        **{f"error.{name}": value for name, value in found.errors.items()},
        **({"class": told.nearest(found.z[:, generator.latent.dim :])} if told else {}),
    }
    return [
        _Row(photo.path, {name: value[i] for name, value in columns.items()})
        for i, photo in enumerate(photos)
    ]


def _whole(rows: dict[str, _Row]) -> list[tuple[str, str]]:
    """Path and checksum of every row that can be saved, this run's or an earlier one's."""
    return [(row.path, checksum) for checksum, row in rows.items() if not row.diverged]


def _artefact(
    rows: dict[str, _Row], order: list[tuple[str, str]], made: dict[str, Any]
) -> Artefact:
    chosen = [rows[checksum].values for _, checksum in order]
    tensors = {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}
    paths, checksums = zip(*order, strict=True)
    return Artefact(
        "latents", tensors, {**made, "pictures": list(paths), "checksums": list(checksums)}
    )


def partial_path(out: Path) -> Path:
    """Where the photos done so far lie until all are."""
    return out.with_name(out.name + ".partial")


def _rows_done(generator: Generator, out: Path, made: dict[str, Any]) -> dict[str, _Row]:
    """Rows by checksum of what earlier runs left; a damaged leftover counts as nothing.

    Where a run was cut short that was to replace latents made otherwise, its own are gone on with.
    """
    rows: dict[str, _Row] = {}
    for path in (partial_path(out), out):
        before = _leftover(path)
        if before is None or (rows and not _alike(before.made, made)):
            continue
        require_same(before.made.get("generator", {}), generator, f"{path}: latents")
        refuse_other_options(path, _choices(before.made), _choices(made), "this run")
        for i, checksum in enumerate(before.made["checksums"]):
            values = {name: value[i] for name, value in before.tensors.items()}
            rows[checksum] = _Row(before.made["pictures"][i], values)
    return rows


def _leftover(path: Path) -> Artefact | None:
    """The whole latents at `path`, if there are any."""
    try:
        return load(path, "latents") if path.exists() else None
    except DamagedError:
        return None


def _alike(made: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs had the same weights and options."""
    checksums = [each.get("generator", {}).get("checksum") for each in (made, other)]
    return checksums[0] == checksums[1] and _choices(made) == _choices(other)


def _choices(made: dict[str, Any]) -> dict[str, Any]:
    return {part: made.get(part) for part in ("command", "generator", "options", "seed")}
