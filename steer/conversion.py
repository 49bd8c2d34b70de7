"""Checkpoints from anywhere as folders of this project's format."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steer.checkpoints import (
    Checkpoint,
    read_beginning,
    read_checkpoint,
    read_config,
    save_checkpoint,
)
from steer.errors import InputError
from steer.folders import check_same, check_target, filled_beside
from steer.generators import Generator, Known, built, generators, load, unknown_model
from steer.hub import WEIGHTS_NAME, Source, cached, locate

CARD = "README.md"
#: What config.json says of a conversion: the SHA-256 of the weights that were converted first.
ORIGINAL = "source_sha256"
#: The last line of a card as it was written, with the SHA-256 of what stands above it.
MARK = "<!-- written by steer convert, not edited: {} -->\n"
#: What a conversion consists of.
FILES = ("config.json", WEIGHTS_NAME, CARD)
#: How the Hub names licences: a card that says something else says nothing.
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")
#: Bytes of a card that are read: its front matter has some hundred.
MOST_CARD = 1 << 20

Say = Callable[[str], None]


class Form(NamedTuple):
    """A generator as it is written, what is said of it, and an example of what it draws."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    facts: dict[str, Any]
    codes: Tensor
    pictures: Tensor


# --- convert ---


def convert(model: str, folder: str | Path, say: Say = lambda sentence: None) -> dict[str, Any]:
    """Write anything that `--model` takes as config.json, model.safetensors and a card (README.md).

    `load(str(folder))` makes the same pictures, bit for bit. StyleGANs of every layout are written
    in NVIDIA's, the tensors of other families as they were read. A card that somebody has edited
    stays. `say` is told so, the licence of a registered model at its first use, and which
    directions stay behind. Returns what was written.

    Raises InputError where the model cannot be read or the folder holds anything else than an
    earlier conversion of the same weights, MachineError where the Hub or the disk fails.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = convert("sprites", folder)
    ...     same = load(folder, "cpu").checksum == made["sha256"]
    >>> made["family"], made["picture"], same
    ('vae', [3, 64, 64], True)
    """
    folder = Path(folder)
    check_target(folder, FILES)
    source, form = _opened(model, say)
    if folder.is_dir():
        check_same(folder, form.config[ORIGINAL], read_config(locate(str(folder))).get(ORIGINAL))
    with filled_beside(folder) as beside:
        save_checkpoint(beside, form.config, form.state, _card(form.facts, _terms(source)))
        if _is_edited(folder / CARD):
            (beside / CARD).unlink()
            say(f"{folder / CARD} was edited by somebody and stays: remove it for a new one.")
        form.state.clear()  # held once from here on
        again = load(str(beside), "cpu")
        _check_same(form, again)
    return {"model": str(folder), **form.facts, "sha256": again.checksum}


def _opened(model: str, say: Say) -> tuple[Source, Form]:
    """Where the weights of a model lie, without files where it is made by code, and its form."""
    entry = generators.get(model) if model in generators else None
    if entry is None or isinstance(entry, Known):
        place = entry.source if entry else model
        if entry and not cached(place):
            say(f"{model}: {entry.licence}")
        source = _located(place)
        form = _as_read(read_checkpoint(source))
        has_directions = any(name.startswith("directions/") for name in source.files)
    else:
        generator = entry()
        source, form = Source({}, model), _as_made(generator, model)
        has_directions = bool(generator.directions)
    if has_directions:
        say(
            f"the directions of {model} stay behind: they are of its weights file, which the "
            "conversion replaces."
        )
    return source, form


def _located(model: str) -> Source:
    if not re.search(r"[/.]", model) and not _path(model).exists():
        raise unknown_model(model)
    return locate(model)


def _as_read(checkpoint: Checkpoint) -> Form:
    """A checkpoint's network in its own form, or with the checkpoint's tensors where its own are
    not what the family recognises."""
    tensors = dict(checkpoint.state)  # some families take their weights out of the checkpoint
    config = dict(checkpoint.config)
    generator = built(checkpoint)
    as_read = ({**config, "family": generator.family}, tensors)
    written, state = _own_form(generator) or as_read
    original = config.get(ORIGINAL) or checkpoint.sha256
    return _form(checkpoint.origin, generator, {**written, ORIGINAL: original}, state)


def _as_made(generator: Generator, model: str) -> Form:
    own = _own_form(generator)
    if own is None:
        raise InputError(f"expected a checkpoint to convert, {model} is a generator made by code.")
    config, state = own
    return _form(model, generator, {**config, ORIGINAL: generator.checksum}, state)


def _own_form(generator: Generator) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """A generator's own configuration and tensors, where its family recognises them."""
    config, kind = getattr(generator, "config", None), type(generator)
    if config is None:
        return None
    state = generator.state_dict()
    again = Checkpoint(generator.name, config, state, "", False)
    return (config, state) if kind.recognises(again) else None  # type: ignore[attr-defined]


@torch.no_grad()
def _form(
    origin: str, generator: Generator, config: dict[str, Any], state: dict[str, Tensor]
) -> Form:
    codes = generator.eval().sample(1)
    return Form(config, state, _facts(origin, generator), codes, generator(codes))


@torch.no_grad()
def _check_same(form: Form, again: Generator) -> None:
    """InputError unless the generator that was read again draws what it drew before."""
    if not torch.allclose(again(form.codes), form.pictures, rtol=0, atol=0, equal_nan=True):
        raise InputError(
            f"expected the family {again.family} to read its own configuration and tensors again, "
            "its pictures come out different."
        )


# --- the card ---


def _marked(text: bytes) -> bytes:
    """A card with the mark by which an edited one is known."""
    return text + MARK.format(hashlib.sha256(text).hexdigest()).encode()


def _is_edited(card: Path) -> bool:
    """Whether a card is there that is not as it was written."""
    if not card.exists():
        return False
    text = read_beginning(card, MOST_CARD)
    return text != _marked(text[: -len(_marked(b""))])


def _facts(origin: str, generator: Generator) -> dict[str, Any]:
    """What the card and a summary say of a generator."""
    condition = generator.condition
    return {
        # the folders above say where somebody keeps things, nothing of the weights
        "source": _path(origin).resolve().name if _path(origin).exists() else origin,
        "family": generator.family,
        "picture": list(generator.picture),
        "latents": generator.latent.dim,
        "classes": 0 if condition is None else len(condition.codes),
        "source_sha256": generator.checksum,
    }


def _path(origin: str) -> Path:
    return Path(origin).expanduser()


def _repository(origin: str) -> str:
    """Whose weights they are: a Hub id without revision and file, a URL without checksum."""
    return origin.partition("#")[0] if "://" in origin else re.split("[@:]", origin)[0]


def _terms(source: Source) -> dict[str, str]:
    """The licence where it is known, by its name and in a sentence, and the base model."""
    repository = _repository(source.origin)
    same = [known for known in _known() if _repository(known.source) == repository]
    terms = _declared(source.files[CARD]) if CARD in source.files else {}
    if same:
        terms = {"license": same[0].licence_id, "licence": same[0].licence}
    if source.files and not _path(source.origin).exists() and "://" not in source.origin:
        terms["base_model"] = repository
    return terms


def _known() -> list[Known]:
    entries = [generators.get(name) for name in generators.names()]
    return [entry for entry in entries if isinstance(entry, Known)]


def _declared(card: Path) -> dict[str, str]:
    """The licence in the front matter of a card."""
    front = read_beginning(card, MOST_CARD).decode(errors="replace").split("\n---", 1)[0]
    found = re.search(r"^license:\s*['\"]?([^'\"\s]+)", front, re.MULTILINE)
    is_name = front.startswith("---") and found and LICENCE_ID.fullmatch(found[1])
    return {"license": found[1]} if found and is_name else {}


def _card(facts: dict[str, Any], terms: dict[str, str]) -> str:
    """A model card in the Hub's form."""
    from huggingface_hub import ModelCardData

    front = ModelCardData(
        library_name="steer",
        pipeline_tag="unconditional-image-generation",
        tags=[facts["family"], "latent-space"],
        license=terms.get("license"),
        base_model=terms.get("base_model"),
    )
    _, height, width = facts["picture"]
    rows = {
        "Family": facts["family"],
        "Pictures": f"{width} x {height}",
        "Latents": facts["latents"],
        "Classes": facts["classes"] or "none",
        "Converted from": f"`{facts['source']}`",
        "SHA-256 of its weights": facts["source_sha256"],
        "Terms": terms.get("licence", terms.get("license", "as those of its source")),
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items() if value)
    text = f"""---
{front.to_yaml()}
---
# {Path(facts["source"].partition("#")[0]).stem}, converted by `steer convert`

| | |
| --- | --- |
{table}
Some of its pictures, from this folder:

    steer sample --model . -n 8 | steer render - > grid.png

"""
    return _marked(text.encode()).decode()
