"""Which options a person gave, where some have no part beside others."""

from __future__ import annotations

import typer

from steer.errors import InputError


def refuse_given(context: typer.Context, names: tuple[str, ...], beside: str) -> None:
    """InputError that names those options of `names` that were given, although they do nothing.

    `beside` says beside what, and why.
    """
    flags = {parameter.name: parameter.opts[-1] for parameter in context.command.params}
    given = [flags[name] for name in names if was_given(context, name)]
    if given:
        raise InputError(f"expected no {' or '.join(given)} {beside}.")


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option's value came from the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
