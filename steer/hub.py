"""Models by Hub id, URL, file or folder: where their files lie on this disk, fetched once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from steer.disk import disk_error, in_the_cache, make_folder, printable, write_atomically
from steer.downloads import Address, Report, download
from steer.errors import InputError, MachineError, SteerError
from steer.registry import first_few

CONFIG_NAMES = ("config.json", "specs.json")
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
SUFFIXES = (*WEIGHTS_SUFFIXES, ".pkl", ".json", ".md")
DIRECTIONS = "directions/*.safetensors"
URL = re.compile(r"https?://", re.IGNORECASE)
HUB_ID = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:\\]+))?", re.ASCII
)


@dataclass(frozen=True)
class Source:
    """Where weights lie on this disk: file names to paths, and what the user called them.

    Directions that came with them are among the files, as "directions/NAME.safetensors". `sha256`
    is the weights' checksum as far as the user stated it, perhaps its beginning; `is_download` says
    that they are a copy in our own cache, to be fetched anew at any time.
    """

    files: dict[str, Path]
    origin: str
    sha256: str = ""
    is_download: bool = False


def locate(model: str, report: Report | None = None) -> Source:
    """The files of a local file or folder, of a Hub id, or of a URL; what is not on this disk is
    downloaded once, into the Hub's cache or our own (`cache_folder`).

    A Hub id is `user/repo`, `user/repo@revision`, `user/repo:file` or `user/repo@revision:file`.
    Of a repository without a named file, only configuration, weights, card and directions are
    fetched. A URL is `https://host/file.pkl`, and may end in `#sha256=HEX&size=BYTES`, where HEX
    may be the beginning of the checksum. While a URL is fetched, `report` is told the bytes that
    are here and, where the server says, those of the whole file.

    What the cache holds is used without asking the network, so that a branch such as `main` stays
    as it was when it was fetched: to follow it, remove it from the cache ('hf cache rm') or name a
    newer revision. Where the environment says HF_HUB_OFFLINE=1, nobody is ever asked.

    Raises InputError where the name is malformed or there is no such thing, MachineError where the
    network fails.

    >>> locate("no/such/folder/model.pt")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: no such file: no/such/folder/model.pt.
    """
    if URL.match(model):
        return _by_url(Address.parse(model, SUFFIXES), report)
    place = os.path.expanduser(model)
    if os.path.isdir(place):
        return Source(_files_of(Path(place)), model)
    if os.path.exists(place):
        return Source({Path(place).name: Path(place)}, model)
    if model.startswith((".", "/", "~")) or (":" not in model and model.lower().endswith(SUFFIXES)):
        raise InputError(f"no such file: {model}.")
    return Source(_fetch(HubId.parse(model)), model)


def cached(origin: str) -> bool:
    """Whether `locate` would find a model without the network.

    >>> cached("nobody/nothing-at-all"), cached("https://nowhere/at/all.pkl"), cached(".")
    (False, False, True)
    """
    if URL.match(origin):
        return Address.parse(origin, SUFFIXES).is_here()
    return os.path.exists(os.path.expanduser(origin)) or _is_whole(HubId.parse(origin))


def _offline() -> bool:
    """Whether the Hub's library was told to stay off the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _by_url(address: Address, report: Report | None) -> Source:
    if not address.is_here() and _offline():
        raise MachineError(f"{address.url} is not in this machine's cache (offline).")
    files = {address.name: download(address, report)}
    return Source(files, address.url, address.sha256, is_download=True)


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
        if not parts or not text.isprintable() or _leads_elsewhere(parts):
            raise InputError(
                "expected a file, a folder or a Hub id such as user/repo@revision:file, "
                f"got {text!r}."
            )
        if parts["file"] and not parts["file"].lower().endswith(SUFFIXES):
            raise InputError(f"expected a file that ends in {', '.join(SUFFIXES)}, got {text!r}.")
        return cls(text, parts["repo"], parts["revision"] or "main", parts["file"])


def _leads_elsewhere(parts: re.Match[str]) -> bool:
    """Whether a name would be another one in the cache, or a place outside it."""
    steps = f"{parts['revision'] or 'main'}/{parts['file'] or 'file'}".split("/")
    is_odd = ".." in parts["repo"] or "--" in parts["repo"]
    return is_odd or not {"", ".", ".."}.isdisjoint(steps)


def _files_of(folder: Path) -> dict[str, Path]:
    """The files right inside `folder` that could belong to a model, and its directions."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise disk_error("read", folder, error) from error
    ours = [path for path in paths if path.name.lower().endswith(SUFFIXES)]
    files = {path.name: path for path in ours if path.exists() and not path.is_dir()}
    directions = sorted(folder.glob(DIRECTIONS))
    return files | {f"directions/{path.name}": path for path in directions if path.is_file()}


def choose_weights(names: Iterable[str], where: str) -> str:
    """The weights among file names: model.safetensors, else the only one there is.

    A pickle (.pkl) is taken only where there is nothing else. Raises InputError that lists what is
    there.

    >>> choose_weights(["config.json", "weights.tar"], "a folder")
    'weights.tar'
    """
    names = sorted(names)
    found = _weights_among(names)
    if WEIGHTS_NAME in found:
        return WEIGHTS_NAME
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"expected one file of weights in {where}, found {_shown(found)}: name one."
        )
    raise InputError(
        f"expected weights ({', '.join(WEIGHTS_SUFFIXES)}, .pkl) in {where}, "
        f"found {_shown(names) or 'nothing'}."
    )


def _shown(names: list[str]) -> str:
    """The first of somebody's file names."""
    return printable(first_few(names))


def _weights_among(names: Iterable[str]) -> list[str]:
    """Top-level weights; pickles only where there is nothing else."""
    top = sorted(name for name in names if "/" not in name)
    readable = [name for name in top if name.lower().endswith(WEIGHTS_SUFFIXES)]
    return readable or [name for name in top if name.lower().endswith(".pkl")]


def _kept(model: HubId) -> Path:
    """Where the Hub's cache keeps the repository."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{model.repo.replace('/', '--')}"


def _snapshot(model: HubId) -> Path:
    """The repository in the Hub's cache at that revision.

    The layout is documented at https://huggingface.co/docs/hub/local-cache.
    """
    root = _kept(model)
    reference = root / "refs" / model.revision
    commit = reference.read_text().strip() if reference.is_file() else model.revision
    return root / "snapshots" / commit


def _cached_files(model: HubId) -> dict[str, Path]:
    """What the Hub's cache holds of it, if that includes weights."""
    with in_the_cache("read", _kept(model)):
        folder = _snapshot(model)
        if model.file:
            path = folder / model.file
            return {path.name: path} if path.is_file() else {}
        files = _files_of(folder) if folder.is_dir() else {}
    return files if _weights_among(files) else {}


def _is_whole(model: HubId) -> bool:
    """Whether the cache holds all that would be fetched. Weights come last, but another program
    may have fetched them alone: there is a configuration, or it is known that there is none."""
    files = _cached_files(model)
    described = any(name in files for name in CONFIG_NAMES)
    lacks_none = all(note.is_file() for note in _absent(_snapshot(model)))
    return bool(files) and (model.file is not None or described or lacks_none)


def _fetch(model: HubId) -> dict[str, Path]:
    saved = _cached_files(model)
    offline = _offline()
    if offline and not saved:
        raise MachineError(f"{model.text} is not in this machine's Hub cache (offline).")
    if offline or _is_whole(model):
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

    def explain(error: Exception) -> SteerError:
        return _refusal(model, error)

    # First a question that is asked once: a download would repeat it for half a minute.
    with hub_failures(explain):
        if model.file:
            get_hf_file_metadata(hf_hub_url(model.repo, model.file, revision=model.revision))
            listed = [model.file]
        else:
            info = HfApi().model_info(model.repo, revision=model.revision, timeout=TIMEOUT)
            listed = [sibling.rfilename for sibling in info.siblings or []]
    weights = model.file or choose_weights(listed, model.text)
    directions = [name for name in listed if fnmatch(name, DIRECTIONS)]
    described = [name for name in CONFIG_NAMES if name in listed]
    card = [name for name in ("README.md",) if name in listed]
    with hub_failures(explain):
        paths = {
            name if name in directions else Path(name).name: Path(
                hf_hub_download(model.repo, name, revision=model.revision)
            )
            for name in (*described, *card, *directions, weights)
        }
    if not (model.file or described):
        _note_absence(paths[weights].parent)
    return paths


def _absent(snapshot: Path) -> list[Path]:
    """Where the Hub's cache notes that a revision has none of the configurations."""
    folder = snapshot.parent.parent / ".no_exist" / snapshot.name
    return [folder / name for name in CONFIG_NAMES]


def _note_absence(snapshot: Path) -> None:
    for note in _absent(snapshot):
        make_folder(note.parent)
        write_atomically(note, b"")


@contextmanager
def hub_failures(explain: Callable[[Exception], SteerError]) -> Iterator[None]:
    """What the Hub's library raises, as what `explain` makes of it."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    # The bases are the HTTP client's own, whichever client this version of the library uses.
    client_errors: tuple[Any, ...] = HfHubHTTPError.__bases__
    failures = (OSError, ValueError, RuntimeError, EntryNotFoundError, *client_errors)
    try:
        yield
    except failures as error:
        raise explain(error) from error


def hub_status(error: Exception) -> int | None:
    """The HTTP status with which the Hub refused, where it answered at all."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def hub_reason(error: Exception) -> str:
    """The first sentence of what the Hub's library says, without its full stop."""
    first = re.split(r"\.?\n|\.\s|\.?$", str(error), maxsplit=1)[0]
    return printable(first) or type(error).__name__


def _refusal(model: HubId, error: Exception) -> SteerError:
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
    status = hub_status(error)
    if status in {401, 403}:
        return InputError(f"{model.text}: the Hub refuses access (HTTP {status}): log in first.")
    if isinstance(error, json.JSONDecodeError):
        return MachineError(
            f"cannot fetch {model.text}: expected JSON from the Hub, something else answers for it."
        )
    return MachineError(f"cannot fetch {model.text} from the Hub: {hub_reason(error)}.")


def known_checksum(path: Path) -> str | None:
    """The SHA-256 after which the Hub's cache names large files, where `path` links into it."""
    blob = Path(os.readlink(path)) if path.is_symlink() else path
    is_named_so = blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    return blob.name if is_named_so else None
