"""steer models: the generators there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steer.cli import options
from steer.cli.options import Json
from steer.errors import InputError

NAME = "models"


def command(json_: Json = False) -> None:
    """List the generators known by name, what each can do, and what is cached.

    Any Hub id, file or folder can be given to --model besides; those that lie in the Hub's cache on
    this machine and say of which family they are come after the registered names.

    Example: steer models --json
    """
    from steer.generators import families, generators

    rows = [_row(name) for name in generators.names()]
    for name, folder in _cached(families.names()).items():
        rows.append({**describe(folder), "name": name, "where": "Hub cache"})
    if json_:
        options.print_json({"models": rows, "families": families.names()})
        return
    options.print_table([[_cell(value) for value in row.values()] for row in rows], list(rows[0]))
    print(f"Checkpoints of these families can be loaded: {', '.join(families.names())}.")


def _row(name: str) -> dict[str, Any]:
    """What is listed of a registered name: of published weights, without loading them."""
    from steer.generators import Known, generators
    from steer.hub import cached

    known = generators.get(name)
    if not isinstance(known, Known):
        return {**describe(name), "where": "installed"}
    place = "URL" if "://" in known.source else "Hub"
    return {
        "name": name,
        "family": known.family,
        "picture": list(known.picture),
        "latents": known.latents,
        "encoder": False,
        "directions": [],
        "where": "cached" if cached(known.source) else place,
    }


def describe(name: str) -> dict[str, Any]:
    """What one generator can do."""
    from steer.generators import load

    generator = load(name, device="cpu")
    return {
        "name": name,
        "family": generator.family or "plugin",
        "picture": list(generator.picture),
        "latents": generator.latent.dim,
        "encoder": generator.has_encoder,
        "directions": sorted(generator.directions),
    }


def _cached(families: list[str]) -> dict[str, str]:
    """Ids and folders of the models in the Hub's cache whose configuration names a family."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    folders = {
        repository.repo_id: revision.snapshot_path
        for repository in repositories
        for revision in repository.revisions
        if repository.repo_type == "model" and "main" in revision.refs
    }
    return {name: str(at) for name, at in sorted(folders.items()) if _family(at) in families}


def _family(folder: Path) -> str | None:
    from steer.checkpoints import read_config
    from steer.hub import locate

    try:
        return read_config(locate(str(folder))).get("family")
    except InputError:  # a repository of somebody else's whose configuration is no JSON
        return None


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        separator = "x" if value and isinstance(value[0], int) else ", "
        return separator.join(map(str, value)) or "none"
    return str(value)
