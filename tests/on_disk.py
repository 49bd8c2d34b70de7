"""Files and streams for the tests of reading and writing."""

from __future__ import annotations

import io
from pathlib import Path

import torch

STATE = {"main.0.weight": torch.arange(6.0).reshape(2, 3), "main.0.bias": torch.ones(2)}


def torch_bytes(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def folder_of(folder: Path, **files: bytes) -> Path:
    """A folder with files; the first underscore of each name stands for its dot."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("_", ".", 1)).write_bytes(data)
    return folder


def assert_state(found: dict, expected: dict = STATE) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


class Stream:
    """Standard input or output, as a terminal or not."""

    def __init__(self, data: bytes = b"", terminal: bool = False):
        self.buffer = io.BytesIO(data)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal
