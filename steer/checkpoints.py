"""Checkpoints read as data, whatever they claim to be: nothing in them ever runs."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from steer.disk import (
    disk_error,
    fsync_folder,
    looks_like,
    make_folder,
    plain,
    require_file,
    save_json,
    write_atomically,
)
from steer.downloads import dropped
from steer.errors import InputError, MachineError
from steer.files import check_finite, own_copy
from steer.hub import CONFIG_NAMES, WEIGHTS_NAME, Source, choose_weights, known_checksum
from steer.pickles import Network, networks_in, open_pickle, read_network
from steer.registry import first_few
from steer.tensors import HashedFile, read_safetensors
from steer.torch_files import Pickled
from steer.unpickle import shown

State = dict[str, Tensor]
# where checkpoints keep a generator's state dict, the averaged weights first
STATE_KEYS = ("g_ema", "G_ema", "netG_state_dict", "generator", "state_dict", "model")
# the networks of NVIDIA's pickles, the averaged weights first
NETWORK_KEYS = ("G_ema", "G")
# what NVIDIA's generators call their arguments, in order
GENERATOR_ARGUMENTS = (
    *("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
    *("mapping_kwargs", "synthesis_kwargs"),
)
MOST_CONFIG = 1 << 20  # bytes; in memory it may take 50 times as much
LONGEST_NAME = 200


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

    def shape_of(self, name: str, dims: int) -> tuple[int, ...]:
        """The shape of a tensor that the architecture is read from; InputError unless it is there
        and has `dims` dimensions, none of length 0.

        >>> import torch
        >>> Checkpoint("a.pt", {}, {"w": torch.zeros(3, 2)}, "", False).shape_of("w", 2)
        (3, 2)
        """
        tensor = self.state.get(name)
        if tensor is None or tensor.dim() != dims or not tensor.numel():
            got = "none" if tensor is None else f"shape {list(tensor.shape)}"
            raise InputError(
                f"{self.origin}: expected a tensor {name} of {dims} dimensions, got {got}."
            )
        return tuple(tensor.shape)


def read_checkpoint(source: Source, sha256: str | None = None) -> Checkpoint:
    """Configuration and weights of a source, as data: nothing in them is executed.

    The weights' SHA-256 is compared with `sha256`, with what the source states, with the "sha256"
    of config.json (which `save_checkpoint` writes), and with the Hub's own where those are known;
    a beginning is compared, but verifies nothing. The state dict may be
    nested under one of STATE_KEYS, or be that of a network of NVIDIA's, whose arguments are then
    the "init_kwargs" of the configuration.

    Only the tensors that are kept are read, each straight into memory of its own, and hashed on the
    way where they lie in the order of the file. Raises InputError that says what the file looks
    like where it is no whole checkpoint; a download that is none is dropped.
    """
    try:
        return _read(source, sha256)
    except InputError as error:
        if not source.is_download:
            raise
        raise InputError(f"{str(error).rstrip('.')}; {dropped(*source.files.values())}.") from error


def _read(source: Source, sha256: str | None) -> Checkpoint:
    name = choose_weights(source.files, source.origin)
    path = source.files[name]
    where = source.origin if len(source.files) == 1 else f"{name} of {source.origin}"
    config = read_config(source)
    expected = (sha256, config.pop("sha256", None), known_checksum(path))
    known = [checksum for checksum in expected if checksum is not None]
    try:
        with HashedFile(path) as hashed, BufferedReader(hashed) as file:
            before = _stamp(file)
            try:
                state, beside, described = _parse_weights(name, file, where)
                _check_names([*state, *beside], where)
            except InputError:  # the first to be told is that it is another file
                _compare(hashed.digest(), known, source.sha256, where)
                raise
            digest = hashed.digest()
            _compare(digest, known, source.sha256, where)
            if _stamp(file) != before:
                raise InputError(f"{where} was changed by something else while it was read.")
    except OSError as error:
        raise disk_error("read", path, error) from error
    return Checkpoint(
        origin=source.origin,
        config=config or described,
        state=state,
        sha256=digest,
        verified=bool(known) or source.sha256 == digest,
        beside=beside,
    )


def _stamp(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _compare(digest: str, known: list[str], beginning: str, where: str) -> None:
    wrong = [checksum for checksum in known if checksum != digest]
    if not digest.startswith(beginning):
        wrong.append(beginning)
    if wrong:
        raise InputError(
            f"{where} is damaged or another file: expected SHA-256 {shown(str(wrong[0]))}, "
            f"got {digest}."
        )


def _check_names(names: list[str], where: str) -> None:
    """Names stand in sentences, and nobody's are longer than a line."""
    for name in names:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise InputError(f"expected names of tensors in {where}, found {shown(name)!r}.")


def read_config(source: Source) -> dict[str, Any]:
    """The configuration beside the weights, empty where there is none; InputError for no JSON."""
    for name in CONFIG_NAMES:
        if name in source.files:
            data = read_beginning(source.files[name], MOST_CONFIG + 1)
            return _parse_config(data, f"{name} of {source.origin}")
    return {}


def read_beginning(path: Path, count: int) -> bytes:
    """The first bytes of a file; raises what `disk_error` makes of an OSError."""
    require_file(path)
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise disk_error("read", path, error) from error


def _parse_config(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MOST_CONFIG:
        raise InputError(f"expected at most {MOST_CONFIG} bytes of JSON, {where} has more.")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        like = looks_like(data).replace("JSON text", "damaged JSON")
        raise InputError(f"expected JSON, {where} is {like}.") from error
    if not isinstance(config, dict):
        kind = type(config).__name__
        raise InputError(f"expected a JSON object, {where} is other JSON ({kind}).")
    return config


def _parse_weights(name: str, file: BinaryIO, where: str) -> tuple[State, State, dict[str, Any]]:
    """The state dict, the tensors beside it, and the configuration in the file itself."""
    if name.lower().endswith(".safetensors"):
        tensors, metadata = read_safetensors(file, where)
        config = _parse_config(
            metadata.get("config", "{}").encode("utf-8", "surrogatepass"),
            f"the metadata of {where}",
        )
        return tensors, {}, config
    pickled = open_pickle(file, where)
    networks = networks_in(pickled.root)
    for key in NETWORK_KEYS:
        if key in networks:
            network = read_network(pickled, networks[key])
            return network.state, {}, _config_of(network)
    return *_unwrap(pickled), {}


def _config_of(network: Network) -> dict[str, Any]:
    """A network's arguments by name; those given by place are named as NVIDIA's generators do."""
    named = dict(zip(GENERATOR_ARGUMENTS, network.init_args, strict=False))
    return {
        "init_kwargs": plain(named | network.init_kwargs),
        "class_name": network.class_name,
        "kind": network.kind,
    }


def _unwrap(pickled: Pickled) -> tuple[State, State]:
    root, where = pickled.root, pickled.where
    if not isinstance(root, dict):
        raise pickled.unlike("a dict of tensors", root)
    top = _tensors_in(pickled, root)
    for key in STATE_KEYS:
        nested = _tensors_in(pickled, root.get(key))
        if nested:
            return nested, top
    if not top:
        empty = {key: f"{key} without tensors" for key in STATE_KEYS}
        keys = first_few([empty.get(key, shown(str(key))) for key in root]) or "nothing"
        raise InputError(
            f"expected tensors or one of {', '.join(STATE_KEYS)} in {where}, found {keys}."
        )
    return top, {}


def _tensors_in(pickled: Pickled, value: Any) -> State:
    """The tensors right inside a dict; none where it is no dict."""
    items = value.items() if isinstance(value, dict) else ()
    return {str(name): pickled.tensor(part) for name, part in items if pickled.is_tensor(part)}


# --- using and writing them ---


def match_state(
    expected: Mapping[str, Any], state: Mapping[str, Tensor], where: str = "the checkpoint"
) -> None:
    """InputError unless `state` has exactly the names and shapes of `expected`, all finite, and
    whole numbers only where `expected` has them.

    `expected` maps names to tensors (a module's `state_dict()`) or to shapes of weights.

    >>> import torch
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
    whole = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in state.items()
        if name in shapes and not tensor.is_floating_point() and not _is_whole(expected[name])
    ]
    complaints = {
        "missing ": [name for name in shapes if name not in state],
        "unexpected ": [name for name in state if name not in shapes],
        "": misshaped,
        "floating point was expected for ": whole,
    }
    told = [start + first_few(items) for start, items in complaints.items() if items]
    if told:
        raise InputError(f"{where} does not fit: {'; '.join(told)}.")
    check_finite(state, where)


def _is_whole(expected: Any) -> bool:
    """Whether whole numbers are expected: counts of batches."""
    return isinstance(expected, Tensor) and not expected.is_floating_point()


def save_checkpoint(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], card: str
) -> None:
    """Write model.safetensors, config.json (with the weights' SHA-256) and README.md into a folder.

    The same weights give the same bytes. Raises what `write_atomically` raises.

    >>> import tempfile, torch
    >>> from steer.hub import locate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(Path(folder), {"latent": 2}, {"a": torch.zeros(2)}, "# A model")
    ...     checkpoint = read_checkpoint(locate(folder))
    >>> checkpoint.config, checkpoint.state, checkpoint.verified
    ({'latent': 2}, {'a': tensor([0., 0.])}, True)
    """
    check_finite(state, "the weights to be saved")
    make_folder(folder)
    digest = _write_weights(folder / WEIGHTS_NAME, state)
    save_json(folder / "config.json", {**config, "sha256": digest})
    write_atomically(folder / "README.md", card.encode())


def _write_weights(path: Path, state: Mapping[str, Tensor]) -> str:
    """As `write_atomically` does, but straight from the tensors; the file's SHA-256."""
    path = path.resolve()
    beside = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode
        safetensors.torch.save_file(_on_their_own(state), beside)
        beside.chmod(mode)  # the library's would shut out everybody else
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        with HashedFile(beside) as written:
            digest = written.digest()
        os.replace(beside, path)
    except OSError as error:
        raise disk_error("write", path, error) from error
    except SafetensorError as error:
        raise MachineError(f"cannot write {path}: {error}.") from error
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return digest


def _on_their_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous, on the CPU, none in the memory of another."""
    own: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in state.items():
        here = tensor.detach().cpu()
        if not here.is_contiguous() or here.untyped_storage().data_ptr() in taken:
            here = own_copy(here)
        taken.add(here.untyped_storage().data_ptr())
        own[name] = here
    return own
