"""Generators by name, Hub id, file or folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import torch

from steer.checkpoints import Checkpoint, read_checkpoint
from steer.downloads import Report
from steer.errors import InputError
from steer.generators.avae import AVAE
from steer.generators.base import Condition, Generator, LatentSpace, PictureShape
from steer.generators.biggan import BigGAN
from steer.generators.biggan_deep import BigGANDeep
from steer.generators.dcgan import DCGAN
from steer.generators.known import KNOWN, Known
from steer.generators.spaces import in_space
from steer.generators.stylegan2 import StyleGAN2
from steer.generators.stylegan3 import StyleGAN3
from steer.generators.vae import VAE, DisVAE
from steer.hub import cached, locate
from steer.registry import Registry, unknown

__all__ = [
    "Condition",
    "Generator",
    "Known",
    "LatentSpace",
    "PictureShape",
    "families",
    "generators",
    "load",
    "pick_device",
    "require_same",
    "require_same_weights",
    "with_settings",
]

#: What `--model` finds by name: anything that makes a `Generator` when called, or a `Known`.
generators: Registry[Callable[[], Generator] | Known] = Registry("generator", "steer.generators")
for _name, _known in KNOWN.items():
    generators.register(_name, _known)
#: Kinds of checkpoints, asked in this order of registration whether they recognise one.
families: Registry[type[Generator]] = Registry("family", "steer.families")
for _family in (VAE, AVAE, DisVAE, DCGAN, BigGANDeep, BigGAN, StyleGAN2, StyleGAN3):
    families.register(_family.family, _family)


EMBEDDED = Path(str(package_files("steer"))) / "embedded"


@generators.register("sprites")
def sprites() -> Generator:
    """The embedded generator: coloured sprites, trained by `steer train-vae`."""
    return from_checkpoint(str(EMBEDDED / "sprites"))


@generators.register("textured")
def textured() -> Generator:
    """The other one: sprites with a texture, 32x32, trained by `steer train-avae`."""
    return from_checkpoint(str(EMBEDDED / "textured"))


def load(
    model: str | os.PathLike[str] = "sprites",
    device: str = "auto",
    *,
    classes: Sequence[str | int] | str | int | None = None,
    truncation: float | None = None,
    noise: str | None = None,
    space: str = "z",
    say: Callable[[str], None] = lambda sentence: None,
    report: Report | None = None,
) -> Generator:
    """The generator called `model`, ready to use: evaluation mode, no weight gradients.

    `model` is a registered name, a Hub id (`user/repo`, `user/repo@revision`, `user/repo:file`), a
    URL (`https://host/file.pkl#sha256=...`), a file or a folder. `classes`, by name or number, are
    those that codes are drawn from; `truncation` and `noise` are those of the pictures; `space` is
    that of the codes: `z`, or for a StyleGAN `w` and `w+`. `say` is told the licence of a
    registered model whose weights are not on this machine yet, `report` the bytes fetched from a
    URL and how many there are.

    Raises InputError where there is none, its weights do not fit, or it has no such setting;
    MachineError where the Hub cannot be reached.

    >>> load("sprites", device="cpu").picture
    PictureShape(channels=3, height=64, width=64)
    """
    model, on = os.fspath(model), pick_device(device)
    folder = Path(model).resolve()
    if folder.parent == EMBEDDED and folder.name in generators:
        model = folder.name  # by its name it is found on every machine
    generator = _made(model, say, report)
    place = model.partition("#")[0].rstrip("/")
    generator.name = model if model in generators else Path(place).name
    generator.model = model
    if generator.checksum is None:
        generator.checksum = _fingerprint(generator)
    generator = generator.eval().requires_grad_(False).to(on)
    return with_settings(
        generator, classes=classes, truncation=truncation, noise=noise, space=space
    )


def with_settings(
    generator: Generator,
    *,
    classes: Sequence[str | int] | str | int | None = None,
    truncation: float | None = None,
    noise: str | None = None,
    space: str = "z",
) -> Generator:
    """A generator with the settings that `load` takes: those of the generator itself, or of one in
    another space around it."""
    generator = in_space(generator, space).eval()
    if classes is not None:
        generator.classes = _indices(generator, classes)
    for name, value in (("truncation", truncation), ("noise", noise)):
        if value is None:
            continue
        if getattr(generator, name) is None:
            raise InputError(f"expected no {name} for {generator.name}, which has none.")
        setattr(generator, name, value)
    return generator


def _made(model: str, say: Callable[[str], None], report: Report | None) -> Generator:
    """A generator by its name, or from a checkpoint."""
    entry = generators.get(model) if model in generators else None
    if isinstance(entry, Known):
        if not cached(entry.source):
            say(f"{model}: {entry.licence}")
        return from_checkpoint(entry.source, report)
    return entry() if entry else from_checkpoint(model, report)


def _indices(
    generator: Generator, classes: Sequence[str | int] | str | int
) -> tuple[int, ...] | None:
    """Classes by number, None for none; InputError for those that are not there."""
    if isinstance(classes, str | int):
        classes = [classes]
    if not classes:
        return None
    base = getattr(generator, "base", generator)
    if base.condition is None:
        raise InputError(f"expected no classes for {generator.name}, which has none.")
    return tuple(base.condition.index(str(each)) for each in classes)


def from_checkpoint(model: str, report: Report | None = None) -> Generator:
    """The generator of a Hub id, file or folder, by the first family that recognises it."""
    try:
        source = locate(model, report)
    except InputError as error:
        if "/" in model or "." in model:
            raise
        raise unknown_model(model) from error
    generator = built(read_checkpoint(source))
    generator.directions = {
        Path(name).stem: path
        for name, path in sorted(source.files.items())
        if name.startswith("directions/")
    }
    return generator


def built(checkpoint: Checkpoint) -> Generator:
    """The network of a checkpoint, whose tensors it may take out; InputError names the checkpoint
    where they do not fit."""
    family = recognise(checkpoint)
    try:
        generator = family.from_checkpoint(checkpoint)  # type: ignore[attr-defined]
    except InputError as error:
        if checkpoint.origin in str(error):
            raise
        raise InputError(f"{checkpoint.origin}: {error}") from error
    generator.checksum, generator.verified = checkpoint.sha256, checkpoint.verified
    return generator


def require_same(made_with: Mapping[str, Any], generator: Generator, kind: str) -> None:
    """InputError where an artefact was made with other weights, or in another space of codes, than
    the generator's."""
    require_same_weights(made_with, generator, kind)
    space = made_with.get("space", "z")
    if space != generator.space:
        raise InputError(
            f"expected {kind} in the space {generator.space} of {generator.name}, got {space}."
        )


def require_same_weights(made_with: Mapping[str, Any], generator: Generator, kind: str) -> None:
    """InputError where an artefact was made with other weights than the generator's."""
    if made_with.get("checksum") != generator.checksum:
        raise InputError(
            f"expected {kind} of {generator.name} (weights {str(generator.checksum)[:12]}), got "
            f"{kind} of {made_with.get('name', 'an unknown generator')} "
            f"(weights {str(made_with.get('checksum'))[:12]})."
        )


def unknown_model(model: str) -> InputError:
    """The error for a bare word that is no registered name."""
    return unknown("generator", model, generators.names())


def recognise(checkpoint: Checkpoint) -> type[Generator]:
    """The family of a checkpoint; InputError lists the families where none or several fit."""
    kinds = [families.get(name) for name in families.names()]
    fitting = [kind for kind in kinds if kind.recognises(checkpoint)]  # type: ignore[attr-defined]
    if len(fitting) == 1:
        return fitting[0]
    found = "several fit" if fitting else "none fits its tensors"
    raise InputError(
        f"{checkpoint.origin}: expected a checkpoint of one of the families "
        f"{', '.join(families.names())}, but {found}."
    )


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is a GPU where there is one; InputError where the device asked for is not there."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    kind, colon, index = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    numbered = not colon or (index.isdecimal() and int(index) < count)
    if not (available.get(kind, False) and numbered):
        there = ", ".join(name for name, here in available.items() if here)
        raise InputError(f"expected a device that is here (auto, {there}), got {device!r}.")
    return torch.device(device)


def _fingerprint(generator: Generator) -> str:
    """SHA-256 over the tensors of a generator that was not read from a file."""
    digest = hashlib.sha256()
    state: Iterable = sorted(generator.state_dict().items())
    for name, tensor in state:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
