"""The command line in processes of its own that need not import torch anew (2 s each): they are
forked from one that has. What reads the environment when it is imported, reads each command's."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: Imported once; not the Hub's library, but what it imports (of its HTTP clients the one there is).
PRELOADED = ["scipy.stats", "skimage.transform", "steer.sharing", "steer.photos", "steer.plots"]
PRELOADED += ["steer.cli", "rich.table", "tqdm.auto", "yaml", "httpx2", "httpx", "requests"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


class Command:
    """A running `steer ARGUMENTS` in a folder, with just these environment variables."""

    def __init__(self, arguments: Sequence[object], variables: dict[str, str], folder: Path):
        self.arguments = [str(argument) for argument in arguments]
        log = folder.parent / f"{folder.name}-{os.urandom(4).hex()}"
        self.streams = [log.with_suffix(".out"), log.with_suffix(".err")]
        told = (self.arguments, variables, str(folder), [str(path) for path in self.streams])
        self.process = CONTEXT.Process(target=_run, args=told, daemon=True)
        self.process.start()

    def ended(self, timeout: float = 60) -> subprocess.CompletedProcess:
        """Waits for its end: status and what it wrote."""
        self.process.join(timeout)
        out, err = (path.read_bytes() for path in self.streams)
        for path in self.streams:
            path.unlink()
        status = self.process.exitcode
        assert status is not None, f"still running: {self.arguments}, {err.decode()}"
        return subprocess.CompletedProcess(self.arguments, status, out, err.decode())


def _run(arguments: list[str], variables: dict[str, str], folder: str, streams: list[str]) -> None:
    assert "huggingface_hub" not in sys.modules
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["steer", *arguments]
    from steer.cli import main

    main()
