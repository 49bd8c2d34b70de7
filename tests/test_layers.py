"""The four floors of the package, by its syntax trees; nothing is imported to check them."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import steer

PACKAGE = Path(steer.__file__).parent
#: First part of a module's name under `steer` to its floor; folders count as one.
FLOORS = {
    name: floor
    for floor, names in {
        1: """errors registry disk files hub checkpoints unpickle tensors torch_files pickles
        downloads folders images sheets datasets page""",
        2: """generators transforms backbones losses saliency measures optimise batches
        distributions""",
        3: """encoders inversion trajectories directions regression calibration closed_loop knobs
        fitting bench rivals memory accuracy embedding holding evaluation comparison plots rendering
        report photos populate scores picture_sets conversion sharing training scenes""",
        4: "cli __main__",
    }.items()
    for name in names.split()
}
FILES = {
    ".".join(["steer", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, as its dotted name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            # what is no module of a package is a name that the package itself defines
            names |= {part if part in FILES else str(node.module) for part in parts}
    return names


def own(path: Path) -> set[str]:
    """The package's modules that a file imports."""
    return {name for name in imported(path) if name in FILES and name != "steer"}


def floor(name: str) -> int:
    return FLOORS[name.split(".")[1]]


def test_every_module_has_a_floor():
    rooms = {name.split(".")[1] for name in FILES if "." in name}
    assert rooms - FLOORS.keys() == set()


def test_the_walk_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(
        "import a.b\ndef f():\n    from steer.files import save\n    from steer import hub"
    )
    assert imported(file) == {"a.b", "steer.files", "steer.hub"}
    assert own(file) == {"steer.files", "steer.hub"}


@pytest.mark.parametrize("name", [name for name in FILES if "." in name])
def test_a_file_imports_from_its_own_floor_or_from_below(name):
    above = {other for other in own(FILES[name]) if floor(other) > floor(name)}
    assert above == set()


def test_no_floor_has_a_cycle():
    """An order of files exists in which each imports earlier ones only."""
    graph = {name: own(path) - {name} for name, path in FILES.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(f"modules import each other: {' -> '.join(cycle.args[1])}")
    assert set(order) == set(FILES)


def test_the_ground_floor_starts_from_errors_alone():
    assert imported(FILES["steer.errors"]) == set()


@pytest.mark.parametrize(
    ("library", "allowed"),
    [("matplotlib", {"steer.plots"}), ("typer", "cli"), ("rich", "cli"), ("av", {"steer.sheets"})],
)
def test_who_may_import_a_library(library, allowed):
    users = {
        name
        for name, path in FILES.items()
        if library in {each.split(".")[0] for each in imported(path)}
    }
    strangers = {
        name
        for name in users
        if (not name.startswith("steer.cli") if allowed == "cli" else name not in allowed)
    }
    assert users and strangers == set()


@pytest.mark.parametrize("module", ["steer", "steer.cli", "steer.registry", "steer.errors"])
def test_importing_brings_no_torch(module):
    heavy = "{'torch', 'numpy', 'scipy', 'matplotlib', 'timm', 'PIL'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(sorted({heavy}))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_public_names_are_where_they_are_said_to_be():
    for name in steer.__all__:
        assert getattr(steer, name).__name__ == name
    assert set(steer.__all__) <= set(dir(steer))
    with pytest.raises(AttributeError, match="no attribute 'inverted'"):
        _ = steer.inverted
