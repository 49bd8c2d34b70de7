"""Hub ids, local files, and the reading of checkpoints as data: nothing downloaded ever runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from steer.errors import InputError, MachineError, SteerError
from steer.files import (
    check_finite,
    disk_error,
    first_few,
    looks_like,
    make_folder,
    own_copy,
    parse_safetensors,
    read_whole,
    save_json,
    write_atomically,
)

CONFIG_NAMES = ("config.json", "specs.json")
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
SUFFIXES = (*WEIGHTS_SUFFIXES, ".pkl", ".json", ".md")
# where checkpoints keep a generator's state dict, the averaged weights first
STATE_KEYS = ("g_ema", "G_ema", "netG_state_dict", "generator", "state_dict", "model")
HUB_ID = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:]+))?", re.ASCII
)
# what torch.load raises on bytes that are no whole checkpoint
TORCH_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, AttributeError),
    *(TypeError, AssertionError, struct.error, OverflowError, OSError),
)


@dataclass(frozen=True)
class Source:
    """Where weights lie on this disk: file names to paths, and what the user called them."""

    files: dict[str, Path]
    origin: str
    verified: bool = False


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


# --- finding the files ---


def locate(model: str, *, offline: bool = False) -> Source:
    """The files of a local file or folder, or of a Hub id, downloaded once into the Hub's cache.

    A Hub id is `user/repo`, `user/repo@revision`, `user/repo:file` or `user/repo@revision:file`.
    Of a repository without a named file, only configuration, weights and card are fetched. Where
    the Hub does not answer, what the cache holds serves.

    Raises InputError where the name is malformed or there is no such thing, MachineError where the
    network fails.

    >>> locate("no/such/folder/model.pt")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: no such file: no/such/folder/model.pt.
    """
    place = os.path.expanduser(model)
    if os.path.isdir(place):
        return Source(_files_of(Path(place)), model)
    if os.path.exists(place):
        return Source({Path(place).name: Path(place)}, model)
    if model.startswith((".", "/", "~")) or (":" not in model and model.endswith(SUFFIXES)):
        raise InputError(f"no such file: {model}.")
    return Source(_fetch(HubId.parse(model), offline), model)


def cached(origin: str) -> bool:
    """Whether the weights of a Hub id are on this disk already.

    >>> cached("nobody/nothing-at-all")
    False
    """
    return bool(_cached_files(HubId.parse(origin)))


@dataclass(frozen=True)
class HubId:
    """A repository on the Hub, a revision of it, and perhaps one of its files."""

    text: str
    repo: str
    revision: str
    file: str | None

    @classmethod
    def parse(cls, text: str) -> HubId:
        """InputError where `text` is no `user/repo[@revision][:file]`.

        >>> HubId.parse("user/repo:a.pt")
        HubId(text='user/repo:a.pt', repo='user/repo', revision='main', file='a.pt')
        """
        parts = HUB_ID.fullmatch(text)
        if not parts or ".." in text or "--" in parts["repo"]:
            raise InputError(
                "expected a file, a folder or a Hub id such as user/repo@revision:file, "
                f"got {text!r}."
            )
        if parts["file"] and not parts["file"].endswith(SUFFIXES):
            raise InputError(f"expected a file that ends in {', '.join(SUFFIXES)}, got {text!r}.")
        return cls(text, parts["repo"], parts["revision"] or "main", parts["file"])


def _files_of(folder: Path) -> dict[str, Path]:
    """The files right inside `folder` that could belong to a model."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise disk_error("read", folder, error) from error
    return {path.name: path for path in paths if path.suffix in SUFFIXES and path.is_file()}


def _cached_files(model: HubId) -> dict[str, Path]:
    """What the Hub's cache holds of it, if that includes weights.

    The layout is documented at https://huggingface.co/docs/hub/local-cache.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    root = Path(HF_HUB_CACHE) / f"models--{model.repo.replace('/', '--')}"
    reference = root / "refs" / model.revision
    commit = reference.read_text().strip() if reference.is_file() else model.revision
    folder = root / "snapshots" / commit
    if model.file:
        path = folder / model.file
        return {path.name: path} if path.is_file() else {}
    files = _files_of(folder) if folder.is_dir() else {}
    return files if _weights_among(files) else {}


def _fetch(model: HubId, offline: bool) -> dict[str, Path]:
    saved = _cached_files(model)
    if offline:
        if not saved:
            raise MachineError(f"{model.text} is not in this machine's Hub cache (offline).")
        return saved
    try:
        return _download(model)
    except MachineError:
        if not saved:
            raise
        return saved


def _download(model: HubId) -> dict[str, Path]:
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT as TIMEOUT

    # First a question that is asked once: a download would repeat it for half a minute.
    with _hub_failures(model):
        if model.file:
            get_hf_file_metadata(hf_hub_url(model.repo, model.file, revision=model.revision))
            listed = [model.file]
        else:
            info = HfApi().model_info(model.repo, revision=model.revision, timeout=TIMEOUT)
            listed = [sibling.rfilename for sibling in info.siblings or []]
    weights = model.file or choose_weights(listed, model.text)
    wanted = [name for name in (weights, *CONFIG_NAMES, "README.md") if name in listed]
    with _hub_failures(model):
        paths = [hf_hub_download(model.repo, name, revision=model.revision) for name in wanted]
    return {Path(path).name: Path(path) for path in paths}


@contextmanager
def _hub_failures(model: HubId) -> Iterator[None]:
    """What the Hub's library raises, as one sentence that names the id."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    # The bases are the HTTP client's own, whichever client this version of the library uses.
    client_errors: tuple[Any, ...] = HfHubHTTPError.__bases__
    failures = (OSError, ValueError, RuntimeError, EntryNotFoundError, *client_errors)
    try:
        yield
    except failures as error:
        raise _hub_error(model, error) from error


def _hub_error(model: HubId, error: Exception) -> SteerError:
    from huggingface_hub import errors as hub

    refusals = {
        hub.GatedRepoError: "is gated: accept its terms on the Hub and run 'hf auth login'",
        hub.RepositoryNotFoundError: "is not on the Hub, or is private",
        hub.RevisionNotFoundError: f"has no revision {model.revision!r} on the Hub",
        hub.HFValidationError: "is no Hub id such as user/repo",
    }
    for kind, refusal in refusals.items():
        if isinstance(error, kind):
            return InputError(f"{model.text} {refusal}.")
    is_local = isinstance(error, hub.LocalEntryNotFoundError)
    if isinstance(error, hub.EntryNotFoundError) and not is_local:
        return InputError(f"{model.text}: the repository on the Hub has no file of that name.")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403}:
        return InputError(f"{model.text}: the Hub refuses access (HTTP {status}): log in first.")
    if isinstance(error, json.JSONDecodeError):
        return MachineError(
            f"cannot fetch {model.text}: expected JSON from the Hub, something else answers for it."
        )
    reason = re.split(r"\.?\n|\.\s|\.?$", str(error), maxsplit=1)[0] or type(error).__name__
    return MachineError(f"cannot fetch {model.text} from the Hub: {reason}.")


# --- reading checkpoints ---


def choose_weights(names: Iterable[str], where: str) -> str:
    """The weights among file names: model.safetensors, else the only one there is.

    Raises InputError that lists what is there. A pickle of NVIDIA's is not read yet.

    >>> choose_weights(["config.json", "weights.tar"], "a folder")
    'weights.tar'
    """
    names = sorted(names)
    found = _weights_among(names)
    if WEIGHTS_NAME in found:
        return WEIGHTS_NAME
    if len(found) == 1 and not found[0].endswith(".pkl"):
        return found[0]
    if found and all(name.endswith(".pkl") for name in found):
        raise InputError(f"NVIDIA pickles are not read yet: {where} holds {', '.join(found)}.")
    if found:
        raise InputError(
            f"expected one file of weights in {where}, found {', '.join(found)}: name one."
        )
    raise InputError(
        f"expected weights ({', '.join(WEIGHTS_SUFFIXES)}) in {where}, "
        f"found {', '.join(names) or 'nothing'}."
    )


def _weights_among(names: Iterable[str]) -> list[str]:
    """Top-level weights; pickles only where there is nothing else."""
    top = sorted(name for name in names if "/" not in name)
    readable = [name for name in top if name.endswith(WEIGHTS_SUFFIXES)]
    return readable or [name for name in top if name.endswith(".pkl")]


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
    expected = (sha256, config.pop("sha256", None), _hub_checksum(source.files[name]))
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
        raise InputError(f"expected a JSON object, {where} is a {type(config).__name__}.")
    return config


def _hub_checksum(path: Path) -> str | None:
    """The SHA-256 after which the Hub's cache names large files, where `path` links into it."""
    blob = Path(os.readlink(path)) if path.is_symlink() else path
    is_named_so = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    return blob.name if is_named_so else None


State = dict[str, Tensor]


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
        raise InputError(f"expected a dict of tensors, {where} holds a {type(loaded).__name__}.")
    top = _tensors_in(loaded)
    for key in STATE_KEYS:
        nested = _tensors_in(loaded.get(key))
        if nested:
            return nested, top
    if not top:
        keys = ", ".join(map(str, loaded)) or "nothing"
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
