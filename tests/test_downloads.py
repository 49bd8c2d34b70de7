"""Files by URL: fetched once, resumed where they broke off, and never half or wrong."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from huggingface_hub import constants
from on_disk import STATE, assert_state, torch_bytes

from steer import downloads
from steer.checkpoints import read_checkpoint
from steer.errors import InputError, MachineError
from steer.hub import cached, locate

DATA = torch_bytes(STATE)
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER = DATA[:-1] + b"x"


REDIRECTS = {
    "ftp": "ftp://x/a.pt",
    "round": "/a/moved-round.pt",
    "bad": "http://[::bad/x.pt",
    "dots": "http://a..b/x.pt",
}


class Server(http.server.ThreadingHTTPServer):
    """Serves `data` at any path ending in .pt; `cuts` are the bytes after which transfers end."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.data, self.tag = DATA, '"one"'
        self.cuts: list[int] = []
        self.ranges = True
        self.chunked = False
        self.asked: list[str] = []

    def url(self, name: str = "net.pt") -> str:
        return f"http://127.0.0.1:{self.server_port}/a/{name}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted or "all")
        if status := re.search(r"/(\d\d\d)\.pt", self.path):
            self.send_error(int(status[1]))
            return
        if "rude" in self.path:
            self.wfile.write(b"HTTP/1.1 \x1b]0;title\x07 no\r\n\r\n")
            self.close_connection = True
            return
        if "moved" in self.path:
            self.send_response(302)
            kind = self.path.partition("moved-")[2].partition(".")[0]
            self.send_header("Location", REDIRECTS.get(kind, "/a/net.pt"))
            self.end_headers()
            return
        fresh = self.headers.get("If-Range") == server.tag
        start = int(wanted[6:-1]) if wanted and server.ranges and fresh else 0
        if wanted and start >= len(server.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.data)}")
            self.end_headers()
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body)}/{len(server.data)}")
        if server.tag:
            self.send_header("Last-Modified" if "GMT" in server.tag else "ETag", server.tag)
        page = "page" in self.path
        self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.chunks(body)
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0) if server.cuts else None])

    def chunks(self, body: bytes):
        """The body, twenty times over where nobody hangs up; `asked` tells how often."""
        try:
            for _ in range(20):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
                self.server.asked.append("chunk")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def left(tmp_path) -> set[str]:
    """What the cache holds beside locks."""
    files = (path for path in (tmp_path / "home").rglob("*") if path.is_file())
    return {path.name for path in files} - {"lock"}


@pytest.mark.parametrize(
    ("known", "verified"),
    [
        ("", False),
        (f"#sha256={DIGEST}", True),
        (f"#sha256={DIGEST[:8]}", False),
        (f"#size={len(DATA)}", False),
        (f"#sha256={DIGEST}&size={len(DATA)}", True),
        (f"#size={len(DATA)}&sha256={DIGEST.upper()}", True),
    ],
)
def test_a_url_is_fetched_once(server, tmp_path, monkeypatch, known, verified):
    url = server.url() + known
    assert not cached(url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match=r"net\.pt is not in this machine's cache \(offline\)\."):
        locate(url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for _ in range(2):
        found = read_checkpoint(locate(url))
        assert_state(found.state)
        assert (found.verified, found.origin) == (verified, server.url())
    assert server.asked == ["all"] and cached(url) and left(tmp_path) == {"net.pt"}
    online = locate(url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(url) == online


ANEW = r"; its copy here is dropped, the next run fetches it anew\.$"


def test_damage_in_the_cache_is_noticed_and_mended(server):
    source = locate(f"{server.url()}#sha256={DIGEST[:10]}")
    source.files["net.pt"].write_bytes(OTHER)
    with pytest.raises(
        InputError, match=f"damaged or another file: expected SHA-256 {DIGEST[:10]}.*{ANEW}"
    ):
        read_checkpoint(source)
    assert not cached(f"{server.url()}#sha256={DIGEST[:10]}")
    assert_state(read_checkpoint(locate(f"{server.url()}#sha256={DIGEST[:10]}")).state)


@pytest.mark.parametrize("wrong", [b"log in first", b'{"error": "log in first"}', DATA[:-9]])
def test_a_server_that_is_repaired_is_asked_again(server, wrong):
    server.data = wrong
    with pytest.raises(InputError, match=ANEW):
        read_checkpoint(locate(server.url()))
    server.data = DATA
    assert_state(read_checkpoint(locate(server.url())).state)


def test_a_copy_that_cannot_be_removed_is_named(server, monkeypatch):
    def refuses(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    server.data = b"log in first"
    source = locate(server.url())
    monkeypatch.setattr("pathlib.Path.unlink", refuses)
    with pytest.raises(InputError, match=rf"remove its copy, {source.files['net.pt']}, for a"):
        read_checkpoint(source)


def test_a_pipe_in_the_cache_is_not_read(server):
    place = locate(server.url()).files["net.pt"]
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(InputError, match=rf"expected a file, {place} is a pipe{ANEW}"):
        read_checkpoint(locate(server.url()))
    assert_state(read_checkpoint(locate(server.url())).state)


def test_only_downloads_are_dropped(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"net\.pt is text\.$"):
        read_checkpoint(locate(str(tmp_path / "net.pt")))
    assert (tmp_path / "net.pt").read_bytes() == b"mine"


def test_a_copy_of_another_size_is_fetched_anew(server):
    url = f"{server.url()}#size={len(DATA)}"
    locate(url).files["net.pt"].write_bytes(DATA[:-1])
    assert not cached(url)
    assert locate(url).files["net.pt"].read_bytes() == DATA and cached(url)


@pytest.mark.parametrize(
    ("answer", "like"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (gzip.compress(DATA), "a gzip archive"),
    ],
)
def test_what_is_no_weights_is_not_kept(server, tmp_path, answer, like):
    server.tag, server.chunked, server.data = "", bool(answer), answer
    with pytest.raises(InputError, match=rf"expected a file at .*net\.pt, the answer is {like}\.$"):
        locate(server.url())
    assert left(tmp_path) == set()


def test_a_fetch_reports_how_far_it_is(server):
    told: list[tuple[int, int | None]] = []
    locate(server.url(), lambda done, total: told.append((done, total)))
    assert told[-1] == (len(DATA), len(DATA))
    locate(server.url(), lambda done, total: told.append((-1, None)))
    assert told[-1] == (len(DATA), len(DATA)), "nothing is fetched the second time"


@pytest.mark.parametrize(("home", "told"), [("file", "file is a file, no folder"), ("~/x", "")])
def test_the_cache_has_a_place(server, tmp_path, monkeypatch, home, told):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STEER_HOME", str(tmp_path / home) if told else home)
    if told:
        with pytest.raises(MachineError, match=told):
            locate(server.url())
    else:
        assert tmp_path / "x" in locate(server.url()).files["net.pt"].parents


@contextmanager
def no_permission(folder):
    """Nobody may look into a folder, root neither."""
    folder.chmod(0)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_cache_without_permission_is_the_machines_failure(server, tmp_path):
    locate(server.url())  # and imports what it needs, which lies where root alone may read
    with no_permission(tmp_path / "home"):
        for name in ("net.pt", "other.pt"):
            with pytest.raises(MachineError, match=rf"cannot write .*{name}: no permission"):
                locate(server.url(name))


def test_a_hub_cache_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    with no_permission(tmp_path / "hub"):
        with pytest.raises(MachineError, match=r"models--user--repo: no permission"):
            locate("user/repo")
        with pytest.raises(MachineError, match="no permission"):
            cached("user/repo:a.pt")


@pytest.mark.parametrize("tag", ['"one"', "Sat, 21 Nov 2026 12:00:00 GMT"])
def test_what_breaks_off_goes_on_where_it_stopped(server, tmp_path, tag):
    server.tag, server.cuts = tag, [100, 50]
    assert_state(read_checkpoint(locate(f"{server.url()}#sha256={DIGEST}")).state)
    assert server.asked == ["all", "bytes=100-", "bytes=150-"]
    assert left(tmp_path) == {"net.pt"}


def test_another_process_goes_on_where_one_stopped(server, tmp_path):
    server.cuts = [100, 0, 0]
    with pytest.raises(MachineError, match=f"broke off after 100 of {len(DATA)} bytes"):
        locate(server.url())
    assert left(tmp_path) == {"net.pt.part", "net.pt.part.mark"} and not cached(server.url())
    assert_state(read_checkpoint(locate(server.url())).state)
    assert server.asked[-1] == "bytes=100-" and left(tmp_path) == {"net.pt"}


@pytest.fixture
def killed(monkeypatch):
    """Fetches a file, and is killed before some function."""

    def stop(*_):
        raise KeyboardInterrupt

    def fetch(url: str, before: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(f"steer.downloads.{before}", stop)
            with pytest.raises(KeyboardInterrupt):
                locate(url)

    return fetch


@pytest.mark.parametrize("before", ["_check", "os.replace"])
@pytest.mark.parametrize("known", ["", f"#sha256={DIGEST}&size={len(DATA)}"])
def test_what_lies_here_whole_is_not_fetched_again(server, tmp_path, killed, before, known):
    killed(server.url() + known, before)
    assert left(tmp_path) == {"net.pt.part", "net.pt.part.mark"}
    assert locate(server.url() + known).files["net.pt"].read_bytes() == DATA
    assert server.asked == ["all", f"bytes={len(DATA)}-"] and left(tmp_path) == {"net.pt"}


def test_what_lies_here_whole_is_checked(server, tmp_path, killed):
    url = f"{server.url()}#sha256={DIGEST}"
    killed(url, "_check")
    next((tmp_path / "home").rglob("*.part")).write_bytes(OTHER)
    with pytest.raises(InputError, match="damaged or another file"):
        locate(url)
    assert left(tmp_path) == set() and server.asked == ["all", f"bytes={len(DATA)}-"]


@pytest.mark.parametrize("change", ["tag", "no ranges", "no tag", "weak tag", "shorter"])
def test_bytes_of_another_file_are_not_mixed(server, change):
    whole = server.data
    server.cuts = [100]
    server.tag = {"no tag": "", "weak tag": 'W/"one"'}.get(change, server.tag)
    server.ranges = change != "no ranges"
    server.data = OTHER if change == "tag" else whole
    if change == "shorter":
        server.cuts, server.data = [len(whole) - 1, 0, 0], whole
        with pytest.raises(MachineError):
            locate(server.url())
        server.data = whole[:500]
    elif change == "tag":
        answer = Answer.do_GET

        def once(self):
            answer(self)
            server.tag, server.data = '"two"', whole

        server.RequestHandlerClass = type("Once", (Answer,), {"do_GET": once})
    assert locate(server.url()).files["net.pt"].read_bytes() == server.data


@pytest.mark.parametrize(
    ("name", "known", "kind", "said"),
    [
        ("404.pt", "", InputError, "/a/404.pt: the server has no such file (HTTP 404)."),
        ("410.pt", "", InputError, "/a/410.pt: the server has no such file (HTTP 410)."),
        ("403.pt", "", InputError, "/a/403.pt: the server refuses it (HTTP 403)."),
        ("500.pt", "", MachineError, "/a/500.pt: the server fails (HTTP 500)."),
        ("page.pt", "", InputError, "/a/page.pt, a web page answers."),
        ("moved-ftp.pt", "", MachineError, "cannot fetch http"),
        ("moved-round.pt", "", MachineError, "the server redirects in a loop"),
        ("moved-bad.pt", "", MachineError, "moved-bad.pt: it redirects to what is no URL."),
        ("moved-dots.pt", "", MachineError, "moved-dots.pt: it redirects to what is no URL."),
        ("rude.pt", "", MachineError, r"rude.pt: HTTP/1.1 \x1b]0;title\x07 no."),
        ("net.pt", f"#sha256={'0' * 64}", InputError, f"SHA-256 {'0' * 64}, got {DIGEST}."),
        ("net.pt", "#sha256=00000000", InputError, f"SHA-256 00000000, got {DIGEST}."),
        ("net.pt", "#size=7", InputError, f"expected 7 bytes, got {len(DATA)}."),
    ],
)
def test_what_cannot_be_had_is_one_sentence_and_leaves_nothing(
    server, tmp_path, name, known, kind, said
):
    with pytest.raises(kind) as caught:
        locate(server.url(name) + known)
    assert said in str(caught.value) and str(caught.value).isprintable()
    assert left(tmp_path) == set()


def test_no_more_is_fetched_than_was_stated(server, tmp_path):
    server.chunked, server.data = True, bytes(4 << 20)
    with pytest.raises(InputError, match=r"another file: expected 10 bytes, got more\.$"):
        locate(f"{server.url()}#size=10")
    assert server.asked.count("all") == 1 and server.asked.count("chunk") < 10
    assert left(tmp_path) == set()


def test_a_size_that_nobody_states(server):
    server.chunked = True
    assert locate(server.url()).files["net.pt"].read_bytes() == DATA * 20
    assert locate(f"{server.url()}#size={len(DATA) * 20}").files["net.pt"].exists()
    with pytest.raises(
        InputError, match=f"expected {len(DATA) * 20 + 1} bytes, got {len(DATA) * 20}"
    ):
        locate(f"{server.url()}#size={len(DATA) * 20 + 1}")


def test_redirects_are_followed_within_http(server):
    assert locate(server.url("moved.pt")).files["moved.pt"].read_bytes() == DATA


def test_no_redirect_leaves_https():
    handler = downloads._Redirects()
    request = downloads.urllib.request.Request("https://a.b/c.pt")
    with pytest.raises(downloads.URLError, match="without https"):
        handler.redirect_request(request, None, 302, "", {}, "http://a.b/c.pt")
    assert handler.redirect_request(request, None, 302, "", {}, "https://d.e/c.pt")


def test_no_network(server, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/net.pt"
        with pytest.raises(MachineError, match=r"cannot fetch http.*: Connection refused\.$"):
            locate(url)
    with pytest.raises(MachineError, match=r"cannot fetch http://nowhere\.invalid/net\.pt: .*\.$"):
        locate("http://nowhere.invalid/net.pt")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_full_disk_is_one_sentence(server, tmp_path, monkeypatch, chunked):
    """What came of a file that may have no end is removed again."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.chunked = chunked
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"cannot write .*net\.pt: No space left on device\.$"):
        locate(server.url())
    assert ("net.pt.part" in left(tmp_path)) == (not chunked)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("https://a.b", "expected the URL of a file"),
        ("https:///a.pt", "expected a URL"),
        ("https://a.b/\x1b.pt", "expected a URL"),
        ("https://[a/c.pt", "expected a URL"),
        ("https://a.b/c.py", "expected the URL of a file that ends in .safetensors"),
        ("https://a.b/..%2f.pt", "expected the URL of a file"),
        ("https://a.b/c.pt#md5=1", "expected #sha256=HEX&size=BYTES behind the URL"),
        ("https://a.b/c.pt#sha256=0123", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#sha256=XYZ01234", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#size=-1", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#0123", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#size=0", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#sha256=", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#sha256=&size=3", "expected #sha256=HEX&size=BYTES"),
        ("https://a.b/c.pt#size=3&size=4", "expected #sha256=HEX&size=BYTES"),
        (f"https://a.b/c.pt#size={'9' * 5000}", "expected #sha256=HEX&size=BYTES"),
        ("http://a..b/c.pt", "expected a URL"),
        ("http://..../c.pt", "expected a URL"),
        (f"http://{'a' * 64}.b/c.pt", "expected a URL"),
        ("http://127.0.0.1:abc/c.pt", "expected a URL"),
        ("http://127.0.0.1:99999/c.pt", "expected a URL"),
        ("http://me:word@a.b/c.pt", "expected a URL"),
        ("http://a.b/d e/c.pt", "expected a URL"),
        ("http://a.b/ü/c.pt", "expected a URL"),
        ("http:///c.pt", "expected a URL"),
    ],
)
def test_a_malformed_url_is_refused(model, said):
    with pytest.raises(InputError, match=said):
        locate(model)


FETCH = "import sys; from steer.hub import locate; print(*locate(sys.argv[1]).files.values())"


def test_two_at_once_share_a_cache(server, tmp_path):
    server.data = bytes(3 << 20)
    command = [sys.executable, "-c", FETCH, f"{server.url()}#size={3 << 20}"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    (first, _), (second, _) = [process.communicate(timeout=60) for process in both]
    assert first == second and left(tmp_path) == {"net.pt"} and server.asked == ["all"]
    with open(first.strip(), "rb") as file:
        assert file.read() == server.data
