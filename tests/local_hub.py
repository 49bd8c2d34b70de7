"""A Hub in miniature for the real `huggingface_hub` client: downloads, uploads, faults."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_nobody"


class LocalHub(ThreadingHTTPServer):
    """Repositories are folders root/user/name/REVISION. `asked` lists every request; `cut` maps a
    file's name to the bytes after which its next transfer breaks off, once; where `patience` is set
    it stops there that many seconds before, from the moment that `stopped` tells."""

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Answer)
        self.root = root
        self.asked: list[str] = []
        self.cut: dict[str, int] = {}
        self.patience = 0.0
        self.stopped, self.go_on = threading.Event(), threading.Event()
        self.large: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT is for a process that is to use this Hub."""
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> Path:
        """Puts files into a repository; its folder."""
        folder = self.root / repo / revision
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds at a branch or a commit; nothing where there is none."""
        for folder in sorted((self.root / repo).glob("*")):
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            if revision in (folder.name, commit_of(found)):
                return found
        return {}

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment variables of a process that uses this Hub, with its cache in `home`."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        ours |= {"STEER_HOME": str(home / "steer"), "OMP_NUM_THREADS": "1"}
        return ours | ({"HF_TOKEN": token} if token else {})


@contextmanager
def running(root: Path) -> Iterator[LocalHub]:
    """A Hub that answers until the block ends."""
    with LocalHub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def commit_of(files: dict[str, bytes]) -> str:
    """40 hexadecimal digits that change with what is there."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: LocalHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.asked.append(f"{self.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/(?P<revision>.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = file or info
        repo = found[1] if found else ""
        revision = (file[2] if file else info and info["revision"]) or "main"
        files = self.server.files(repo, revision)
        if not (self.server.root / repo).is_dir() or not found:
            self.refuse(404, "RepoNotFound")
        elif not files and revision != "main":
            self.refuse(404, "RevisionNotFound")
        elif info:
            siblings = [{"rfilename": name} for name in files]
            self.json({"id": repo, "sha": commit_of(files), "siblings": siblings})
        elif file and file[3] in files:
            self.file(file[3], files[file[3]], commit_of(files))
        else:
            self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def file(self, name: str, data: bytes, commit: str) -> None:
        """A file or the rest of it; broken off where that was asked for."""
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        headers["Accept-Ranges"] = "bytes"
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not start:
            self.answer(200, data, headers, name)
            return
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.answer(206, data[first:], headers, name)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.body()
        with self.server.lock:
            self.server.asked.append(f"{self.command} {path}")
        if path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(403)
            return
        if path == "/api/repos/create":
            told = json.loads(body)
            self.create(f"{told['organization']}/{told['name']}", told)
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self.json(self.batch(json.loads(body)), "application/vnd.git-lfs+json")
        elif posted := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/(.+)", path):
            self.act(posted[2], posted[1], posted[3], body)
        else:
            self.refuse(404, "RepoNotFound")

    def create(self, repo: str, told: dict[str, Any]) -> None:
        is_new = not (self.server.root / repo).is_dir()
        # older versions of the library say private, newer ones visibility
        if is_new and (told.get("private") or told.get("visibility") == "private"):
            self.server.private.add(repo)
        self.server.add(repo, {})
        self.json({"url": f"{self.server.endpoint}/{repo}"}, status=200 if is_new else 409)

    def act(self, action: str, repo: str, revision: str, body: bytes) -> None:
        """preupload, branch or commit."""
        if action == "branch":
            self.server.add(repo, self.server.files(repo), revision)
            self.json({})
        elif action == "preupload":
            self.json({"files": [mode_of(file["path"]) for file in json.loads(body)["files"]]})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = dict(self.content(line) for line in lines if line["key"] != "header")
            self.server.add(repo, files, revision)
            commit = commit_of(self.server.files(repo, revision))
            url = f"{self.server.endpoint}/{repo}/commit/{commit}"
            self.json({"success": True, "commitUrl": url, "commitOid": commit})

    def content(self, line: dict[str, Any]) -> tuple[str, bytes]:
        """Name and bytes of a line of a commit."""
        value = line["value"]
        is_large = line["key"] == "lfsFile"
        data = self.server.large[value["oid"]] if is_large else base64.b64decode(value["content"])
        return value["path"], data

    def batch(self, told: dict[str, Any]) -> dict[str, Any]:
        """Where large files are to be put."""

        def action(oid: str) -> dict[str, Any]:
            return {"upload": {"href": f"{self.server.endpoint}/large/{oid}", "header": {}}}

        objects = [{**each, "actions": action(each["oid"])} for each in told["objects"]]
        return {"transfer": "basic", "objects": objects}

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        data = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() == oid:
            self.server.large[oid] = data
            self.answer(200, b"", {})
        else:
            self.refuse(400)

    def body(self) -> bytes:
        """What came with the request, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def json(self, value: Any, kind: str = "application/json", status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": kind})

    def refuse(self, status: int, code: str | None = None) -> None:
        self.answer(status, b"", {"X-Error-Code": code} if code else {})

    def answer(self, status: int, data: bytes, headers: dict[str, str], name: str = "") -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.server.lock:
            until = self.server.cut.pop(name, None)
        self.wfile.write(data[:until])
        if until is not None:
            self.server.stopped.set()
            self.server.go_on.wait(self.server.patience)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def mode_of(path: str) -> dict[str, Any]:
    """How a file is to be uploaded."""
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}
