"""steer embed: several sets of pictures as one generator's encoder sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli import options
from steer.cli.options import Batch, Device, Json, Model, Quiet, Seed
from steer.cli.progress import Report, progress
from steer.errors import InputError

if TYPE_CHECKING:
    from steer.embedding import Embedded

NAME = "embed"
HEADINGS = (
    "set", "n", "KL (nats)", "latents: held out", "train", "pixels: held out", "train"
)  # fmt: skip


def command(
    sets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more folders or zips of pictures, or names of procedural sets."
        ),
    ],
    model: Model = "sprites",
    n: Annotated[int, typer.Option("-n", min=10, help="Pictures drawn from each set.")] = 500,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="PNG of the codes' t-SNE map, by set.")
    ] = None,
    batch: Batch = 64,
    seed: Seed = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode sets of pictures with a generator's own encoder: how far they lie from its prior, and
    how far from each other (table 4.1 and figure 4.3 of Zeng 2022).

    KL is the mean divergence of a picture's posterior from the prior N(0, I). The rest is the share
    of each set that a linear classifier (logistic regression, 5-fold cross-validation) tells from
    the other sets, by encoder means and by pixels. Pictures that cannot be read are named on
    stderr, the others are encoded, and the status is 3.

    Example: steer embed cats/ dogs.zip sprites --model my-vae -o map.png
    """
    from steer.embedding import FOLDS, embed, require_encoder
    from steer.picture_sets import pictures_at

    _refuse(sets, out)
    opened = [pictures_at([text], n) for text in sets]
    generator = options.open_generator(model, device)
    require_encoder(generator)
    found = []
    for pictures in opened:
        with progress(f"encoding {pictures.name}", min(n, pictures.n), quiet) as bar:
            found.append(embed(generator, pictures, n, seed, batch, bar))
    failed = {name: why for pictures in opened for name, why in pictures.failed.items()}
    for why in failed.values():
        options.note(f"left out: {why}")
    with progress("telling sets apart", 2 * FOLDS, quiet) as bar:
        rows = _rows(found, seed, bar)
    if out is not None:
        with progress("drawing the map", 1, quiet):
            _draw(found, out, seed, generator.name)
    if json_:
        from steer.files import how_made

        made = how_made("embed", generator.identity(), seed=seed, sets=sets, n=n)
        chance = 1 / len(sets)
        options.print_json({"sets": rows, "chance": chance, "failed": failed, "made": made})
    else:
        _print(rows, generator.name)
    if failed:
        raise typer.Exit(3)


def _refuse(sets: list[str], out: Path | None) -> None:
    """InputError for sets that cannot be compared, and a map that cannot be written."""
    if len(sets) < 2:
        raise InputError(f"expected two or more sets of pictures, got {len(sets)}.")
    places = [Path(text).resolve() for text in sets]
    for text, place in zip(sets, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"expected each set once, got {text} {places.count(place)} times.")
    if out is None:
        return
    if str(out) == "-":
        raise InputError("expected a name in .png for -o, got - for a pipe.")
    options.check_place(out, (".png",))
    for text in sets:
        if out.resolve().is_relative_to(Path(text).resolve()):
            raise InputError(f"cannot write {out}: expected a place outside of {text}.")


def _rows(found: list[Embedded], seed: int, bar: Report) -> list[dict[str, Any]]:
    """A row for each set."""
    from steer.embedding import FOLDS, separability

    latents = separability([each.means for each in found], seed, bar)
    pixels = separability(
        [each.pixels for each in found], seed, lambda done, said: bar(FOLDS + done, said)
    )
    return [
        {
            "set": each.name,
            "n": len(each.means),
            "kl": each.kl,
            "latents": {"train": by_code.train, "held_out": by_code.held_out},
            "pixels": {"train": by_pixel.train, "held_out": by_pixel.held_out},
        }
        for each, by_code, by_pixel in zip(found, latents, pixels, strict=True)
    ]


def _draw(found: list[Embedded], out: Path, seed: int, model: str) -> None:
    """The map of all codes."""
    import torch

    from steer.embedding import short_names, tsne
    from steer.plots import map_figure, save_figure

    places = tsne(torch.cat([each.means for each in found]), seed)
    labels = short_names([each.name for each in found])
    counts = [len(each.means) for each in found]
    save_figure(
        map_figure(places, counts, labels, f"t-SNE of codes by the encoder of {model}"), out
    )


def _print(rows: list[dict[str, Any]], model: str) -> None:
    from steer.embedding import short_names

    names = short_names([row["set"] for row in rows])
    lines = [
        [
            name,
            str(row["n"]),
            "-" if row["kl"] is None else f"{row['kl']:.2f}",
            *(f"{row[of][by]:.1%}" for of in ("latents", "pixels") for by in ("held_out", "train")),
        ]
        for name, row in zip(names, rows, strict=True)
    ]
    title = f"{len(rows)} sets by the encoder of {model}; guessing is right {1 / len(rows):.1%}"
    options.print_table(lines, HEADINGS, title)
