"""Bytes appear whole or not at all, and what the disk and the pipes refuse is one sentence."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import text
from on_disk import Stream

from steer.disk import (
    cache_folder,
    printable,
    read_stdin,
    save_json,
    write_atomically,
    write_stdout,
)
from steer.errors import InputError, MachineError

# --- write_atomically ---


def test_written_bytes_replace_the_old_ones_and_nothing_else_stays(tmp_path):
    path = tmp_path / "a.bin"
    for data in (b"old", b"", bytes(100_000)):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    write_atomically(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_file_is_on_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, call=call, name=name: (done.append(name), call(*given))
        )
    write_atomically(tmp_path / "a", b"x")
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("gone/a.bin", "the folder {0}/gone does not exist"),
        ("folder", "it is a folder"),
        ("file/a.bin", "{0}/file is a file, no folder"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_impossible_place_is_the_users_mistake(tmp_path, place, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=sentence.format(tmp_path)) as caught:
        write_atomically(tmp_path / place, b"x")
    assert str(tmp_path / place) in str(caught.value)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, InputError),
        (errno.EPERM, InputError),
        (errno.EROFS, InputError),
        (errno.ENOSPC, MachineError),
        (errno.EDQUOT, MachineError),
        (errno.EIO, MachineError),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_leftover(tmp_path, monkeypatch, number, kind, call):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(kind, match=os.strerror(number)) as caught:
        write_atomically(tmp_path / "a", b"new")
    assert "\n" not in str(caught.value)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a", b"old")]


def test_an_interrupt_leaves_no_leftover(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_a_named_pipe_is_written_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_atomically(tmp_path / "pipe", b"through")
    reader.join()
    assert received == [b"through"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_full_device_is_the_machines_failure():
    with pytest.raises(MachineError, match="cannot write /dev/full: No space left"):
        write_atomically(Path("/dev/full"), b"x")


# --- pipes ---


def test_the_cache_is_under_a_home_that_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for said, place in (("~/x", "x"), ("", ".cache/steer"), (str(tmp_path / "y"), "y")):
        monkeypatch.setenv("STEER_HOME", said)
        assert cache_folder() == tmp_path / place


@given(text())
def test_no_control_character_is_left(said):
    assert printable(said).isprintable()


@pytest.mark.parametrize("said", ["fine", "für 3 €", "日本"])
def test_text_that_is_fine_stays(said):
    assert printable(said) == said


@pytest.mark.parametrize("stream", [Stream(terminal=True), None])
def test_a_terminal_gets_and_gives_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stdin", stream)
    with pytest.raises(InputError, match="name a file instead of -"):
        write_stdout(b"x")
    with pytest.raises(InputError, match="before the pipe wrote on standard input, it"):
        read_stdin()
    assert stream is None or stream.buffer.getvalue() == b""


def test_an_empty_pipe_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stream())
    with pytest.raises(InputError, match="before the pipe wrote on standard input, it is empty"):
        read_stdin()


def test_a_reader_that_leaves_early_costs_one_sentence():
    script = (
        "import sys; from steer.disk import *; from steer.errors import MachineError\n"
        "sys.stdin.read()\n"
        "try: write_stdout(bytes(1_000_000))\n"
        "except MachineError as error: print(error, file=sys.stderr)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer.stdout.close()
    writer.stdin.close()
    assert writer.stderr.read() == b"standard output was closed before everything was written.\n"
    assert writer.wait() == 0
    writer.stderr.close()


# --- JSON ---


def test_save_json_is_sorted_and_has_null_for_what_is_not_finite(tmp_path):
    value = {
        "b": [float("nan"), float("inf"), 1.5],
        "a": {
            "tensor": torch.tensor([1.0, float("nan")]),
            "number": np.float32(0.5),
            3: np.int64(4),
        },
        "path": tmp_path / "é",
    }
    save_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "a": {"tensor": [1.0, None], "number": 0.5, "3": 4},
        "b": [None, None, 1.5],
        "path": str(tmp_path / "é"),
    }
    assert text.startswith('{\n  "a": {\n    "3": 4,\n') and text.endswith("}\n")


def test_what_json_cannot_hold_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match="no JSON for set"):
        save_json(tmp_path / "a.json", {"a": {1, 2}})
    assert list(tmp_path.iterdir()) == []
