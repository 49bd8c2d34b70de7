"""steer models: the generators there are."""

from __future__ import annotations

from typing import Any

from steer.cli import options
from steer.cli.options import Json

NAME = "models"


def command(json_: Json = False) -> None:
    """List the generators known by name, what each can do, and what is cached.

    Any Hub id, file or folder can be given to --model besides.
    """
    from steer.generators import families, generators

    rows = [describe(name) for name in generators.names()]
    if json_:
        options.print_json({"models": rows, "families": families.names()})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "family", "picture", "latents", "encoder", "directions", "cached")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    console.print(table)
    console.print(f"Checkpoints of these families can be loaded: {', '.join(families.names())}.")


def describe(name: str) -> dict[str, Any]:
    """What one registered generator can do."""
    from steer.generators import load

    generator = load(name, device="cpu")
    return {
        "name": name,
        "family": generator.family or "plugin",
        "picture": list(generator.picture),
        "latents": generator.latent.dim,
        "encoder": generator.has_encoder,
        "directions": sorted(generator.directions),
        "cached": True,
    }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(v, int) for v in value) and value:
        return "x".join(map(str, value))
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)
