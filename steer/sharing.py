"""Generators to and from the Hub, as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steer.checkpoints import read_checkpoint
from steer.conversion import FILES
from steer.disk import disk_error, make_folder, read_whole, write_atomically
from steer.errors import InputError, MachineError, SteerError
from steer.files import load as load_artefact
from steer.folders import check_place, check_same, check_target, filled_beside
from steer.generators import load
from steer.hub import HubId, choose_weights, hub_failures, hub_reason, hub_status, locate
from steer.tensors import HashedFile


def push(
    folder: str | Path, repo: str, private: bool = False, revision: str | None = None
) -> dict[str, Any]:
    """Upload a generator's folder (config.json, model.safetensors, README.md and directions) to the
    Hub as `repo`, `user/name`, made where it is not there yet; `revision` is a branch.

    The folder is loaded first, and its directions must be of its weights. Returns what was sent.

    Raises InputError where the folder is no generator of this project's format, nobody is logged in
    or the Hub refuses; MachineError where it cannot be reached.

    >>> push("my-generator", "name")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected user/name to push to, got 'name'.
    """
    folder = Path(folder)
    if _repository_named(repo) != repo:
        raise InputError(f"expected user/name to push to, got {repo!r}.")
    files = _to_be_sent(folder)
    with hub_failures(lambda error: _refusal(repo, error)):
        commit = _upload({name: folder / name for name in files}, repo, private, revision)
    sizes = {name: (folder / name).stat().st_size for name in files}
    return {"repo": repo, "revision": revision or "main", "commit": commit, "files": sizes}


def _repository_named(text: str) -> str | None:
    """The repository that a Hub id names; None where it is no Hub id."""
    try:
        return HubId.parse(text).repo
    except InputError:
        return None


def _to_be_sent(folder: Path) -> list[str]:
    """Names of the files that make a generator; InputError where they make none."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"expected a folder that steer convert or train-vae wrote, {folder} lacks "
            f"{', '.join(missing)}."
        )
    generator = load(str(folder), "cpu")
    directions = sorted((folder / "directions").glob("*.safetensors"))
    for path in directions:
        found = load_artefact(path, "direction").made.get("generator", {}).get("checksum")
        if found != generator.checksum:
            raise InputError(f"expected directions of {folder}, {path.name} is of other weights.")
    return [*FILES, *(f"directions/{path.name}" for path in directions)]


def _upload(files: dict[str, Path], repo: str, private: bool, revision: str | None) -> str:
    """One commit with the files; its name."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=True, library_name="steer")
    api.create_repo(repo, private=private, exist_ok=True)
    if revision:
        api.create_branch(repo, branch=revision, exist_ok=True)
    additions = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    message = "Upload by steer push"
    commit = api.create_commit(repo, additions, commit_message=message, revision=revision)
    return str(commit.oid)


def _refusal(repo: str, error: Exception) -> SteerError:
    """What the Hub's library raises on uploads, as one sentence."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    status = hub_status(error)
    if isinstance(error, LocalTokenNotFoundError):
        return InputError(f"expected a login to the Hub to push {repo}: run 'hf auth login'.")
    if status in {401, 403}:
        return InputError(
            f"the Hub refuses {repo} (HTTP {status}): expected a login that may write there."
        )
    reason = hub_reason(error)
    # what the library checks itself, such as the card; no JSON means that something else answered
    is_refused = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
    if is_refused or (status is not None and 400 <= status < 500):
        return InputError(f"the Hub does not take {repo}: {reason}.")
    return MachineError(f"cannot push {repo} to the Hub: {reason}.")


def pull(model: str, folder: str | Path) -> dict[str, Any]:
    """Copy what `--model user/repo` uses, a repository of the Hub with the directions in it, into a
    folder, which then is a model as well. Returns what was copied.

    Raises InputError where `model` is no Hub id, its weights cannot be read or the folder holds
    other files or weights; MachineError where the Hub or the disk fails.

    >>> pull("sprites", "my-sprites")
    Traceback (most recent call last):
        ...
    steer.errors.InputError: expected a model on the Hub such as user/repo, got 'sprites'.
    """
    folder = Path(folder)
    if _repository_named(model) is None or Path(model).exists():
        raise InputError(f"expected a model on the Hub such as user/repo, got {model!r}.")
    check_place(folder)
    source = locate(model)
    check_target(folder, source.files)
    sha256 = read_checkpoint(source).sha256
    check_same(folder, sha256, _digest(folder / choose_weights(source.files, model)))
    with filled_beside(folder) as beside:
        for name, path in source.files.items():
            make_folder((beside / name).parent)
            write_atomically(beside / name, read_whole(path))
    return {
        "model": str(folder),
        "source": model,
        "sha256": sha256,
        "files": sorted(source.files),
    }


def _digest(path: Path) -> str | None:
    """The SHA-256 of a file, where there is one."""
    if not path.is_file():
        return None
    try:
        with HashedFile(path) as file:
            return file.digest()
    except OSError as error:
        raise disk_error("read", path, error) from error
