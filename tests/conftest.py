"""Shared fixtures."""

import os
import signal
from pathlib import Path

# before torch is imported: small batches run slower on two threads than on one
os.environ.setdefault("OMP_NUM_THREADS", "1")

# run in the background, a process ignores SIGINT, and what it starts does too
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from commands import _blob, knob, knob_y, other, steer, tiny  # noqa: F401 (fixtures)
from hypothesis import settings

# how long an example takes says more about the machine's load than about the code
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An encoder that somebody fitted, found in their cache, would change what searches do."""
    os.environ["STEER_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Trained models and photos beside the checkout; absent for most people, so the test skips."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared/data beside the checkout")
    return folder


@pytest.fixture
def listed(monkeypatch):
    """Adds `thing` to a registry under `name`, for the length of the test."""

    def add(registry, name, thing) -> None:
        monkeypatch.setitem(registry._entries, name, lambda: thing)
        monkeypatch.setitem(registry._loaded, name, thing)

    return add
