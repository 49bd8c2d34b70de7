"""Checkpoints read as data, whatever they claim to be: nothing in them ever runs."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from steer.disk import looks_like, make_folder, read_whole, save_json, write_atomically
from steer.errors import InputError
from steer.files import check_finite, own_copy, parse_safetensors
from steer.hub import CONFIG_NAMES, WEIGHTS_NAME, Source, choose_weights, known_checksum
from steer.registry import first_few

State = dict[str, Tensor]
# where checkpoints keep a generator's state dict, the averaged weights first
STATE_KEYS = ("g_ema", "G_ema", "netG_state_dict", "generator", "state_dict", "model")
# what torch.load raises on bytes that are no whole checkpoint
TORCH_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, AttributeError),
    *(TypeError, AssertionError, struct.error, OverflowError, OSError),
)


@dataclass
class Checkpoint:
    """Weights in memory: a flat state dict, its configuration, and the weights file's SHA-256.

    `verified` says whether that checksum was known beforehand; `beside` holds the tensors that
    stood next to the state dict (such as the `latent_avg` of rosinality's StyleGAN2).
    """

    origin: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    sha256: str
    verified: bool
    beside: dict[str, Tensor] = field(default_factory=dict)


def read_checkpoint(source: Source, sha256: str | None = None) -> Checkpoint:
    """Configuration and weights of a source, as data: nothing in them is executed.

    The weights' SHA-256 is compared with `sha256`, with the "sha256" of config.json (which
    `save_checkpoint` writes), and with the Hub's own where those are known. The state dict may be
    nested under one of STATE_KEYS.

    Raises InputError that says what the file looks like where it is no whole checkpoint.
    """
    name = choose_weights(source.files, source.origin)
    where = source.origin if len(source.files) == 1 else f"{name} of {source.origin}"
    config = read_config(source)
    data = read_whole(source.files[name])
    digest = hashlib.sha256(data).hexdigest()
    expected = (sha256, config.pop("sha256", None), known_checksum(source.files[name]))
    known = [checksum for checksum in expected if checksum is not None]
    for checksum in known:
        if checksum != digest:
            raise InputError(
                f"{where} is damaged or another file: expected SHA-256 {checksum}, got {digest}."
            )
    state, beside, described = _parse_weights(name, data, where)
    return Checkpoint(
        origin=source.origin,
        config=config or described,
        state=state,
        sha256=digest,
        verified=source.verified or bool(known),
        beside=beside,
    )


def read_config(source: Source) -> dict[str, Any]:
    """The configuration beside the weights, empty where there is none; InputError for no JSON."""
    for name in CONFIG_NAMES:
        if name in source.files:
            return _parse_config(read_whole(source.files[name]), f"{name} of {source.origin}")
    return {}


def _parse_config(data: bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON, {where} is {looks_like(data)}.") from error
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise InputError(f"expected a JSON object, {where} is other JSON ({kind}).")
    return config


def _parse_weights(name: str, data: bytes, where: str) -> tuple[State, State, dict[str, Any]]:
    """The state dict, the tensors beside it, and the configuration in the file itself."""
    if name.endswith(".safetensors"):
        tensors, metadata = parse_safetensors(data, where)
        config = _parse_config(metadata.get("config", "{}").encode(), f"the metadata of {where}")
        return tensors, {}, config
    return *_unwrap(_load_torch(data, where), where), {}


def _load_torch(data: bytes, where: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except TORCH_ERRORS as error:
        raise InputError(_why_not_loaded(data, where, str(error))) from error


def _why_not_loaded(data: bytes, where: str, message: str) -> str:
    """One sentence for torch's page."""
    forbidden = re.search(r"GLOBAL (\S+)", message)
    if forbidden:
        return (
            f"expected tensors only, {where} is a pickle that calls {forbidden[1]}: "
            "refused, and nothing of it was run."
        )
    if "TorchScript" in message:
        return f"expected tensors only, {where} is a TorchScript program: refused."
    like = looks_like(data)
    if like in {"a zip archive", "a Python pickle"}:
        like += " that is truncated, damaged or holds more than tensors (nothing in it was run)"
    return f"expected a PyTorch checkpoint, {where} is {like}."


def _unwrap(loaded: Any, where: str) -> tuple[State, State]:
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise InputError(f"expected a dict of tensors, {where} holds something else ({kind}).")
    top = _tensors_in(loaded)
    for key in STATE_KEYS:
        nested = _tensors_in(loaded.get(key))
        if nested:
            return nested, top
    if not top:
        keys = first_few([str(key) for key in loaded]) or "nothing"
        raise InputError(
            f"expected tensors or one of {', '.join(STATE_KEYS)} in {where}, found {keys}."
        )
    return top, {}


def _tensors_in(value: Any) -> State:
    """The dense tensors right inside a mapping; none where it is no mapping."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {str(name): part.detach() for name, part in items if _is_dense(part)}


def _is_dense(value: Any) -> bool:
    is_strided = isinstance(value, Tensor) and value.layout == torch.strided
    return is_strided and value.device.type == "cpu" and not value.is_quantized


# --- using and writing them ---


def match_state(
    expected: Mapping[str, Any], state: Mapping[str, Tensor], where: str = "the checkpoint"
) -> None:
    """InputError unless `state` has exactly the names and shapes of `expected`, all finite.

    `expected` maps names to tensors (a module's `state_dict()`) or to shapes.

    >>> match_state({"a": (2,), "b": (3,)}, {"a": torch.zeros(1)}, "x.pt")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: x.pt does not fit: missing b; a is [1] where [2] was expected.
    """
    shapes = {name: list(getattr(value, "shape", value)) for name, value in expected.items()}
    misshaped = [
        f"{name} is {list(tensor.shape)} where {shapes[name]} was expected"
        for name, tensor in state.items()
        if name in shapes and list(tensor.shape) != shapes[name]
    ]
    complaints = {
        "missing ": [name for name in shapes if name not in state],
        "unexpected ": [name for name in state if name not in shapes],
        "": misshaped,
    }
    told = [start + first_few(items) for start, items in complaints.items() if items]
    if told:
        raise InputError(f"{where} does not fit: {'; '.join(told)}.")
    check_finite(state, where)


def save_checkpoint(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], card: str
) -> None:
    """Write model.safetensors, config.json (with the weights' SHA-256) and README.md into a folder.

    The same weights give the same bytes. Raises what `write_atomically` raises.

    >>> import tempfile
    >>> from steer.hub import locate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder), {"latent": 2}, {"a": torch.zeros(2)}, "# A model")
    ...     checkpoint = read_checkpoint(locate(folder))
    >>> checkpoint.config, checkpoint.state, checkpoint.verified
    ({'latent': 2}, {'a': tensor([0., 0.])}, True)
    """
    check_finite(state, "the weights to be saved")
    weights = safetensors.torch.save({name: own_copy(tensor) for name, tensor in state.items()})
    make_folder(folder)
    write_atomically(folder / WEIGHTS_NAME, weights)
    digest = hashlib.sha256(weights).hexdigest()
    save_json(folder / "config.json", {**config, "sha256": digest})
    write_atomically(folder / "README.md", card.encode())
