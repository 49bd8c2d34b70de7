"""Artefacts: tensors that travel between commands, versioned, self-checking."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from steer.disk import (
    flat,
    looks_like,
    plain,
    read_stdin,
    read_whole,
    write_atomically,
    write_stdout,
)
from steer.errors import InputError
from steer.registry import first_few

FORMAT = 1  # of the description in the safetensors metadata; raised when old readers would err
DESCRIPTION = {"format": int, "kind": str, "made": dict, "sha256": str}
SHARD_NAME = re.compile(r"shard-(\d{5,})-of-(\d{5,})\.safetensors")
# where a generator lies says nothing of its weights, whose checksum is compared
MAY_MOVE = {"generator.model", "generator.name", "generator.verified"}

# what safetensors.torch.load raises on bytes that are no whole safetensors
PARSE_ERRORS = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AssertionError)


class DamagedError(InputError):
    """The bytes are not, or no longer, what a command of ours wrote."""


# --- safetensors ---


def parse_safetensors(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that is in memory; `where` names it in errors.

    Raises DamagedError that says what the bytes look like.

    >>> data = safetensors.torch.save({"u": torch.zeros(3)}, metadata={"by": "me"})
    >>> parse_safetensors(data, "u.safetensors")
    ({'u': tensor([0., 0., 0.])}, {'by': 'me'})
    """
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except PARSE_ERRORS as error:
        raise DamagedError(
            f"expected a safetensors file, {where} is {looks_like(data)}."
        ) from error
    return tensors, header.get("__metadata__", {})


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """InputError that names the first tensor which holds NaN or infinite values, and how many."""
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or _all_finite(tensor):
            continue
        wide = tensor.float() if tensor.itemsize == 1 else tensor  # no isfinite for 8-bit floats
        bad = int((~torch.isfinite(wide)).sum())
        if bad:
            raise InputError(
                f"expected finite numbers, tensor {name!r} in {where} holds {bad} NaN or infinite "
                f"of {tensor.numel()}."
            )


def _all_finite(tensor: Tensor) -> bool:
    """Whether the ends of a tensor's range are finite: without a second tensor of its size."""
    if not tensor.numel() or tensor.is_complex() or tensor.itemsize == 1:
        return not tensor.numel()
    return all(math.isfinite(end) for end in tensor.aminmax())


# --- artefacts ---


@dataclass
class Artefact:
    """What travels between commands: tensors, what they are, and how they were made.

    `kind` is "latents", "trajectories" or "direction"; `made` is what `how_made` gives.
    """

    kind: str
    tensors: dict[str, Tensor]
    made: dict[str, Any] = field(default_factory=dict)


def how_made(
    command: str,
    generator: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    shard: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """The `made` of an artefact: command, generator, seed, options and versions; None is left out.

    `shard` says which part of the work this is; it is what shards of one set may differ in.

    >>> made = how_made("invert", {"name": "sprites"}, seed=0, steps=50, loss=None)
    >>> made["command"], made["generator"], made["seed"], made["options"]
    ('invert', {'name': 'sprites'}, 0, {'steps': 50})
    >>> sorted(made["versions"])
    ['steer', 'torch']
    """
    made = {
        "command": command,
        "generator": generator,
        "options": {name: value for name, value in options.items() if value is not None},
        "seed": seed,
        "shard": shard,
        "versions": {package: version(package) for package in ("steer", "torch")},
    }
    return plain({name: value for name, value in sorted(made.items()) if value is not None})


def pack(artefact: Artefact) -> bytes:
    """The artefact as a safetensors file; the same artefact gives the same bytes.

    The metadata holds one key, "steer": JSON of format, kind, made and a SHA-256 over all of them
    and over every tensor's name, dtype, shape and bytes (safetensors itself has no checksum).
    """
    tensors = {name: own_copy(tensor) for name, tensor in artefact.tensors.items()}
    described = {"format": FORMAT, "kind": artefact.kind, "made": plain(artefact.made)}
    described["sha256"] = _digest(described, tensors)
    return safetensors.torch.save(tensors, metadata={"steer": _canonical(described)})


def unpack(data: bytes, where: str) -> Artefact:
    """The artefact in `data`, checked; `where` names it in errors.

    >>> unpack(pack(Artefact("latents", {"z": torch.zeros(2)}, {"seed": 1})), "a pipe")
    Artefact(kind='latents', tensors={'z': tensor([0., 0.])}, made={'seed': 1})
    """
    tensors, metadata = parse_safetensors(data, where)
    if "steer" not in metadata:
        raise DamagedError(
            f"expected what a steer command wrote, {where} is a safetensors file of another origin."
        )
    described = _parse_description(metadata["steer"], where)
    if described.pop("sha256") != _digest(described, tensors):
        raise DamagedError(f"{where} is damaged: its contents do not match its checksum.")
    check_finite(tensors, where)
    return Artefact(described["kind"], tensors, described["made"])


def save(artefact: Artefact, target: str | Path) -> None:
    """Write the artefact to a file, whole or not at all, or to standard output where it is "-".

    Raises InputError where a tensor holds NaN or infinite values (every reader would refuse the
    file), and what `write_atomically` and `write_stdout` raise.
    """
    check_finite(artefact.tensors, f"the {artefact.kind} to be saved")
    data = pack(artefact)
    if str(target) == "-":
        write_stdout(data)
    else:
        write_atomically(Path(target), data)


def load(source: str | Path | bytes, kind: str | tuple[str, ...] | None = None) -> Artefact:
    """Read an artefact from a file, a folder of shards, standard input ("-") or bytes.

    Raises InputError in one sentence where there is none, it is damaged (DamagedError), of a newer
    format, of another kind than asked for, or holds values that are not finite.

    >>> load(pack(Artefact("direction", {"u": torch.ones(2)})), kind="latents")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected latents, the given data holds a direction.
    """
    artefact, where = _load_any(source)
    kinds = (kind,) if isinstance(kind, str) else kind
    if kinds and artefact.kind not in kinds:
        wanted = " or ".join(map(_with_article, kinds))
        raise InputError(f"expected {wanted}, {where} holds {_with_article(artefact.kind)}.")
    return artefact


def _load_any(source: str | Path | bytes) -> tuple[Artefact, str]:
    """The artefact and where it was read."""
    if isinstance(source, bytes):
        return unpack(source, "the given data"), "the given data"
    if str(source) == "-":
        return unpack(read_stdin(), "standard input"), "standard input"
    if os.path.isdir(source):
        return _load_shards(Path(source)), str(source)
    return unpack(read_whole(Path(source)), str(source)), str(source)


def _with_article(kind: str) -> str:
    return kind if kind.endswith("s") else f"a {kind}"


def own_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors wants it."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(_canonical(described).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parse_description(text: str, where: str) -> dict[str, Any]:
    damaged = DamagedError(f"{where} is damaged: its description cannot be read.")
    try:
        described = json.loads(text)
        is_canonical = text == _canonical(described)  # 1e5 and 1E5 differ by one bit
    except ValueError as error:
        raise damaged from error
    if not isinstance(described, dict):
        raise damaged
    number = described.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise InputError(
            f"{where} is of format {number}, this steer reads up to {FORMAT}: upgrade steer."
        )
    types = {name: type(value) for name, value in described.items()}
    if not is_canonical or types != DESCRIPTION:
        raise damaged
    return described


# --- shards: one set of items in several files ---


def shard_path(folder: Path, index: int, count: int) -> Path:
    """Where part `index` (from 0) of `count` lies.

    >>> shard_path(Path("run"), 3, 16).as_posix()
    'run/shard-00003-of-00016.safetensors'
    """
    return Path(folder) / f"shard-{index:05d}-of-{count:05d}.safetensors"


def finished_shards(folder: Path, count: int, made: Mapping[str, Any]) -> set[int]:
    """Which of `count` parts are there, whole, and made as `made` says (its "shard" apart).

    A damaged part is not done: its path exists and its index is not in the answer. Raises
    InputError where a whole one was made otherwise, or the folder was cut into another `count`.
    """
    for other in _shard_counts(Path(folder)) - {count}:
        raise InputError(
            f"{folder} holds a set of {other} shards, this run makes {count}: "
            "use the same number or another folder."
        )
    done = set()
    for index in range(count):
        path = shard_path(folder, index, count)
        if is_done(path, made):
            done.add(index)
    return done


def is_done(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether a whole artefact lies at `path`; InputError where it was not made as `made` says."""
    if not path.exists():
        return False
    try:
        found = load(path)
    except DamagedError:
        return False
    refuse_other_options(path, found.made, made, "this run")
    return True


def _load_shards(folder: Path) -> Artefact:
    """Every part of the one set in `folder`, joined along the first dimension in order."""
    counts = sorted(_shard_counts(folder))
    if len(counts) != 1:
        found = f"sets of {' and '.join(map(str, counts))} shards" if counts else "none"
        raise InputError(
            f"expected a file or a folder with one set of shards, {folder} holds {found}."
        )
    paths = [shard_path(folder, index, counts[0]) for index in range(counts[0])]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {counts[0]} shards: {first_few(missing)}."
        )
    return _join(paths, [load(path) for path in paths])


def _join(paths: list[Path], parts: list[Artefact]) -> Artefact:
    first = parts[0]
    for path, part in zip(paths, parts, strict=True):
        refuse_other_options(path, part.made, first.made, paths[0].name)
        if _described(part) != _described(first):
            raise InputError(
                f"{path} does not fit {paths[0].name}: expected {_described(first)}, "
                f"it holds {_described(part)}."
            )
    tensors = {
        name: torch.cat([torch.atleast_1d(part.tensors[name]) for part in parts])
        for name in first.tensors
    }
    return Artefact(first.kind, tensors, _without_shard(first.made))


def _described(artefact: Artefact) -> str:
    """Its kind, and each tensor's dtype and shape after the first dimension."""
    tensors = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')} [{', '.join(['n', *sides])}]"
        for name, tensor in sorted(artefact.tensors.items())
        for sides in [map(str, tensor.shape[1:])]
    ]
    return f"{artefact.kind} of {', '.join(tensors) or 'nothing'}"


def _shard_counts(folder: Path) -> set[int]:
    names = (SHARD_NAME.fullmatch(path.name) for path in folder.glob("shard-*.safetensors"))
    return {int(name[2]) for name in names if name}


def refuse_other_options(
    path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], whose: str
) -> None:
    """InputError that names what differs where one `made` is not another, their "shard" apart."""
    there, here = flat(_without_shard(found)), flat(_without_shard(wanted))
    differing = sorted(
        name for name in (there | here).keys() - MAY_MOVE if there.get(name) != here.get(name)
    )
    if differing:
        what = [f"{n} ({_shown(there.get(n))}, not {_shown(here.get(n))})" for n in differing]
        raise InputError(
            f"{path} differs from {whose} in {first_few(what)}: "
            "use the same options or another place."
        )


def _shown(value: Any) -> str:
    return "none" if value is None else reprlib.repr(value)


def _without_shard(made: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain(made).items() if name != "shard"}
