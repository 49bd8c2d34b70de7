"""steer score: how like pictures are to others, in the features of a named network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.given import refuse_given
from steer.cli.options import (
    Batch,
    Class,
    Device,
    Json,
    Noise,
    OptionalModel,
    Quiet,
    Seed,
    Space,
    Truncation,
)
from steer.cli.progress import progress
from steer.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steer.backbones import Extractor
    from steer.files import Artefact
    from steer.generators import Generator
    from steer.losses import Perceptual
    from steer.picture_sets import Described, Pictures
    from steer.scores import Score

NAME = "score"
#: The network by default: a small one, 19 MB.
EXTRACTOR = "tf_efficientnet_lite0"
LPIPS = "lpips"


def command(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            help="Folder, zip or file of pictures, name of a procedural set, latents file, or - "
            "for latents through a pipe; without it, samples of --model.",
        ),
    ] = None,
    against: Annotated[
        list[str], typer.Option("--against", help="The same, to compare with. Repeatable: files.")
    ] = [],  # noqa: B006
    extractor: Annotated[
        list[str],
        typer.Option(
            "--extractor",
            help="A timm model as NAME or NAME=FILE of its weights; inception=FILE for the FID of "
            "papers (sets); lpips or lpips=FILE of VGG16's weights (pairs). Repeatable.",
        ),
    ] = [EXTRACTOR],  # noqa: B006
    model: OptionalModel = None,
    n: Annotated[
        int, typer.Option("-n", min=2, help="Pictures of --model, and of a procedural set.")
    ] = 1000,
    class_: Class = [],  # noqa: B006
    truncation: Truncation = None,
    noise: Noise = None,
    space: Space = None,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a set of pictures with another: FID, KID, inception score, sharpness. Latents that
    `steer invert` made are compared with their photos pair by pair: MSE, SSIM, perceptual distance.

    Every picture of a set is resized by the extractor, whose name stands beside each number: those
    of different extractors, or FIDs of different n, are not comparable. No score uses the features
    that its own loss used. Pictures that cannot be read are named on stderr, the others are
    compared, and the status is 3.

    Example: steer score --model sprites -n 500 --against sprites
    """
    from steer.scores import refuse_own_features

    if what is None and model is None:
        raise InputError("expected pictures or latents to score, or --model to draw them.")
    if not against:
        raise InputError("expected --against with the pictures to compare with.")
    artefacts = [_latents(what), _latents(against[0] if len(against) == 1 else None)]
    _refuse_without_effect(context, what, artefacts, against)
    for artefact in filter(None, artefacts):
        for text in extractor:
            refuse_own_features(artefact.made, "vgg16" if _is_lpips(text) else text)
    generator = None
    if what is None or artefacts[0]:
        generator = options.open_generator(
            model, device, artefacts[0],
            classes=class_, truncation=truncation, noise=noise, space=space,
        )  # fmt: skip
    photos = _photos(artefacts, against)
    if photos and generator and artefacts[0]:
        found = _pairs(generator, artefacts[0], photos, extractor, batch, quiet)
    else:
        sets = [
            _pictures([what] if what else [], artefacts[0], generator, n, seed, device),
            _pictures(against, artefacts[1], None, n, seed, device),
        ]
        found = _sets(sets, extractor, batch, seed, device, quiet)
    found["made"] = _made(generator, artefacts[0], seed, what=what, against=against, n=found["n"])
    if json_:
        options.print_json(found)
    else:
        _print(found)
    if found["failed"]:
        raise typer.Exit(3)


# --- parse ---


def _latents(text: str | None) -> Artefact | None:
    """The latents in a file, a folder of shards or a pipe; None for anything else."""
    from steer.files import load

    if text is None:
        return None
    shards = Path(text).is_dir() and any(Path(text).glob("shard-*.safetensors"))
    is_latents = text == "-" or text.lower().endswith(".safetensors") or shards
    return load(text, "latents") if is_latents else None


def _is_lpips(text: str) -> bool:
    return text.partition("=")[0] == LPIPS


def _refuse_without_effect(
    context: typer.Context,
    what: str | None,
    artefacts: list[Artefact | None],
    against: Sequence[str],
) -> None:
    """InputError for options that do nothing beside the others."""
    from steer.datasets import is_procedural

    if what is not None and artefacts[0] is None:
        drawing = ("model", "class_", "truncation", "noise", "space")
        refuse_given(context, drawing, f"with {what}, which no generator draws")
    if artefacts[0]:
        refuse_given(context, ("class_", "space"), "with latents, which are the codes")
    if what is not None and not any(map(is_procedural, (what, *against))):
        refuse_given(context, ("n",), "where nothing is drawn anew")


def _photos(artefacts: list[Artefact | None], against: list[str]) -> list[Path]:
    """The photos that the latents were found for, where it is those that we score against."""
    from steer.datasets import is_procedural
    from steer.images import find_images
    from steer.scores import photos_inverted

    elsewhere = is_procedural(against[0]) or against[0].lower().endswith(".zip")
    if artefacts[0] is None or artefacts[1] or elsewhere:
        return []
    photos = photos_inverted(artefacts[0], find_images(against))
    if not photos and artefacts[0].made.get("command") == "invert":
        options.note("none of the photos that were inverted is there: compared as sets.")
    return photos


def _pictures(
    texts: list[str],
    artefact: Artefact | None,
    generator: Generator | None,
    n: int,
    seed: int,
    device: str,
) -> Pictures:
    """The set at `texts`: drawn from latents, or by a generator from its prior, or stored."""
    from steer.picture_sets import generated, pictures_at

    if artefact:
        generator = generator or options.open_generator(None, device, artefact)
        codes = options.codes_of(artefact, generator)
        return generated(generator, lambda items: codes[items.start : items.stop], len(codes))
    if generator:
        drawn = generator
        return generated(drawn, lambda items: drawn.sample(len(items), seed, items.start), n)
    return pictures_at(texts, n)


# --- work ---


def _sets(
    sets: list[Pictures],
    names: Sequence[str],
    batch: int,
    seed: int,
    device: str,
    quiet: bool,
) -> dict[str, Any]:
    """Scores of two sets of pictures."""
    from steer.backbones import extractor
    from steer.generators import pick_device
    from steer.picture_sets import compare_sets, describe

    for name in filter(_is_lpips, names):
        raise InputError(f"expected an extractor for sets of pictures, {name} compares pairs.")
    for pictures in sets:
        if pictures.n < 2:
            raise InputError(f"expected 2 or more pictures in {pictures.name}, got {pictures.n}.")
    extractors = [extractor(name, pick_device(device)) for name in names]
    described = []
    for pictures in sets:
        with progress("looking", pictures.n, quiet) as bar:
            described.append(describe(pictures, extractors, batch, bar))
    failed = {name: why for pictures in sets for name, why in pictures.failed.items()}
    for why in failed.values():
        options.note(f"left out: {why}")
    _note_limits(described, extractors)
    a, b = described
    return {
        "title": f"{a.n} pictures of {a.name} against {b.n} of {b.name}",
        "n": {"what": a.n, "against": b.n},
        "failed": failed,
        "scores": _rows(compare_sets(a, b, extractors, seed)),
    }


def _note_limits(described: list[Described], extractors: list[Extractor]) -> None:
    """What a reader of the numbers has to know."""
    least = min(each.n for each in described)
    for one in extractors:
        if least <= one.dim:
            options.note(
                f"{least} pictures are no more than the {one.dim} features of {one.name}: the FID "
                "is biased upwards, and comparable at equal n only."
            )
    sizes = sorted(set.union(*(each.sizes for each in described)))
    if len(sizes) > 1:
        shown = [f"{height}x{width}" for height, width in sizes]
        options.note(
            f"pictures of {shown[0]} to {shown[-1]} pixels are each resized by the extractor; "
            "sharpness is that of their own size, and not comparable."
        )


def _pairs(
    generator: Generator,
    latents: Artefact,
    photos: list[Path],
    names: Sequence[str],
    batch: int,
    quiet: bool,
) -> dict[str, Any]:
    """Scores of pictures and the photos that they were found for, one by one."""
    from steer.scores import compare_pairs, likenesses, pair_scores

    options.codes_of(latents, generator)
    height, width = generator.picture[1:]
    by = likenesses(height, width, [_distance(name, generator) for name in names])
    with progress("comparing", len(photos), quiet) as bar:
        rows = compare_pairs(generator, latents, photos, by, batch, bar)
    columns = [f"{each.score} by {each.by}" for each in by]
    return {
        "title": f"{len(photos)} pictures of {generator.name} against their photos, at "
        f"{height}x{width} pixels",
        "n": {"what": len(photos), "against": len(photos)},
        "failed": {},
        "scores": _rows(pair_scores(rows, by, latents.made)),
        "pictures": [
            {"picture": str(photo), **dict(zip(columns, row, strict=True))}
            for photo, row in zip(photos, rows.tolist(), strict=True)
        ],
    }


def _distance(name: str, generator: Generator) -> Perceptual:
    """The distance between two pictures by the features of an extractor."""
    from steer.backbones import INCEPTION, VGG
    from steer.losses import lpips, perceptual

    first, equals, file = name.partition("=")
    if first == INCEPTION:
        raise InputError(f"expected an extractor for pairs of pictures, {name} compares sets.")
    height, device = generator.picture.height, generator.device
    if _is_lpips(name):
        return lpips(height, device, f"{VGG}{equals}{file}")
    return perceptual(height, device, name)


# --- print ---


def _made(
    generator: Generator | None, latents: Artefact | None, seed: int, **asked: Any
) -> dict[str, Any]:
    """How the scores came about."""
    from steer.files import how_made

    identity = generator.identity() if generator else None
    return how_made(
        "score", identity, seed=seed, latents=latents.made if latents else None, **asked
    )


def _rows(scores: list[Score]) -> list[dict[str, Any]]:
    return [asdict(score) for score in scores]


def _print(found: dict[str, Any]) -> None:
    lines = [
        [
            row["score"] + (" (its own loss)" if row["own_loss"] else ""),
            f"{row['value']:.4g}",
            "" if row["std"] != row["std"] else f"{row['std']:.2g}",
            row["extractor"],
            row["of"],
        ]
        for row in found["scores"]
    ]
    options.print_table(lines, ("score", "value", "std", "by", "of"), found["title"])
