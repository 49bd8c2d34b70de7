"""Files by URL: downloaded once into this machine's cache, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit

from steer.disk import cache_folder, in_the_cache, looks_like, printable
from steer.errors import InputError, MachineError, SteerError

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
TRIES = 3
FILE_NAME = re.compile(r"\w[\w.-]{0,150}", re.ASCII)
PATH = re.compile(r"[!-~]*")
STATED = re.compile(r"sha256=(?P<sha256>[0-9a-f]{8,64})|size=(?P<size>[1-9]\d{0,17})", re.I | re.A)
LENGTH = re.compile(r"\d{1,18}", re.ASCII)
# no weights, whatever the server calls them
WRONG = {"empty", "an HTML page", "a gzip archive"}
LATER = {408, 429, *range(500, 600)}  # what a server may answer differently another time

#: Told the bytes that are here, and those of the whole file where the server says.
Report = Callable[[int, int | None], None]


class _CutError(Exception):
    """The connection ended before the file did."""


# what a connection that fails or breaks off raises; HTTPError is among them
NETWORK_ERRORS = (
    *(URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, _CutError),
)


@dataclass(frozen=True)
class Address:
    """A URL, and what is known of the file there: the beginning of its SHA-256, its bytes."""

    text: str
    url: str
    name: str
    sha256: str = ""
    size: int | None = None

    @classmethod
    def parse(cls, text: str, suffixes: tuple[str, ...]) -> Address:
        """InputError where `text` is no `http(s)://host/file[#sha256=HEX&size=N]`, or the file has
        none of the suffixes.

        >>> Address.parse("https://a.b/c/net.pkl#sha256=0123abcd&size=9", (".pkl",)).name
        'net.pkl'
        """
        url, _, fragment = text.partition("#")
        parts = _parts(url)
        if parts is None:
            raise InputError(f"expected a URL such as https://host/file.pkl, got {text!r}.")
        name = unquote(parts.path).rpartition("/")[2]
        if not FILE_NAME.fullmatch(name) or not name.lower().endswith(suffixes):
            raise InputError(
                f"expected the URL of a file that ends in {', '.join(suffixes)}, got {text!r}."
            )
        known = _stated(fragment)
        size = int(known["size"]) if "size" in known else None
        return cls(text, url, name, known.get("sha256", "").lower(), size)

    @property
    def place(self) -> Path:
        """Where the cache keeps the file: one folder for each URL and what is known of its file."""
        return cache_folder() / "urls" / _hex(self.text.encode())[:16] / self.name

    def is_here(self) -> bool:
        """Whether the cache has the file, with as many bytes as are stated."""
        try:
            size = os.path.getsize(self.place)
        except OSError:  # it is not there, or was dropped just now
            return False
        return self.size in (None, size)


def _parts(url: str) -> SplitResult | None:
    """The parts of a URL of http; None where it is none that one can ask for."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port  # ValueError for what is none
    except ValueError:
        return None
    is_asked = parts.scheme in ("http", "https") and host and "@" not in parts.netloc
    is_plain = url.isprintable() and " " not in url and PATH.fullmatch(parts.path + parts.query)
    return parts if is_asked and is_plain else None


def _stated(fragment: str) -> dict[str, str]:
    """What `sha256=HEX&size=BYTES` behind a URL says of the file."""
    known: dict[str, str] = {}
    for part in fragment.split("&") if fragment else []:
        found = STATED.fullmatch(part)
        name = (found and found.lastgroup) or ""
        if found is None or name in known:
            raise InputError(
                "expected #sha256=HEX&size=BYTES behind the URL, HEX of 8 to 64 digits, got "
                f"{fragment[:200]!r}."
            )
        known[name] = found[name]
    return known


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def dropped(place: Path) -> str:
    """Removes a download that makes no sense, and says so; or says where it lies."""
    try:
        place.unlink(missing_ok=True)
    except OSError:
        return f"remove its copy, {place}, for a fresh one"
    return "its copy here is dropped, the next run fetches it anew"


def download(address: Address, report: Report | None = None) -> Path:
    """The file at an address, from the cache where it lies there, without asking anybody.

    A download that broke off goes on where it stopped, if the server can do that and still has the
    same file. Of two processes one downloads and the other waits. A wrong size or checksum, or an
    answer that is no weights, leaves nothing behind.

    Raises InputError where the server has no such file, refuses it or has another one, MachineError
    where the network or the disk fails.
    """
    from filelock import FileLock  # which brings asyncio

    place = address.place
    if address.is_here():
        return place
    with in_the_cache("write", place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name("lock")):
            if not address.is_here():
                _download(address, place.with_name(f"{place.name}.part"), report)
    return place


def _download(address: Address, part: Path, report: Report | None) -> None:
    for again in range(TRIES):
        try:
            _transfer(address, part, report)
            break
        except HTTPError as error:
            if error.code not in LATER or again == TRIES - 1:
                raise _refusal(address, error.code) from error
        except NETWORK_ERRORS as error:
            if again == TRIES - 1:
                why = getattr(error, "reason", None) or error or type(error).__name__
                raise MachineError(f"cannot fetch {address.url}: {_sentence(why)}.") from error
        time.sleep(again)
    _check(address, part)
    os.replace(part, address.place)
    _mark_of(part).unlink(missing_ok=True)  # last: without it, a part is fetched again


def _sentence(why: Any) -> str:
    return printable(" ".join(str(getattr(why, "strerror", None) or why).split()).rstrip("."))


def _refusal(address: Address, status: int) -> SteerError:
    told = f"{address.url}: the server "
    if status in {404, 410}:
        return InputError(f"{told}has no such file (HTTP {status}).")
    if 400 <= status < 500:
        return InputError(f"{told}refuses it (HTTP {status}).")
    if 300 <= status < 400:
        return MachineError(f"{told}redirects in a loop, or to no such URL (HTTP {status}).")
    return MachineError(f"{told}fails (HTTP {status}).")


def _mark_of(part: Path) -> Path:
    """The server's own mark of the file's content: says whether a part still belongs to it."""
    return part.with_name(f"{part.name}.mark")


def _transfer(address: Address, part: Path, report: Report | None) -> None:
    """What is lacking of the file."""
    have = part.stat().st_size if part.exists() and _mark_of(part).exists() else 0
    response = _ask(address, part, have)
    if response is None:
        return
    with response:
        start = have if _goes_on(response, have) else 0
        total = _total(address, response, start)
        _keep_mark(response, part, start)
        most = address.size or total
        try:
            with open(part, "ab") as file:
                _copy(response, file, total, most, report)
        except OSError as error:
            if error.errno == errno.ENOSPC and most is None:
                part.unlink()  # nobody knows how much more there would be
            raise


def _ask(address: Address, part: Path, have: int) -> http.client.HTTPResponse | None:
    """The server's answer; None where all of the file lies here."""
    headers = {"User-Agent": "steer", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _mark_of(part).read_text()}
    request = urllib.request.Request(address.url, headers=headers)  # noqa: S310 (http or https)
    try:
        return _opener().open(request, timeout=TIMEOUT)
    except ValueError as error:  # of Python's parsers: the first URL is one
        raise URLError("it redirects to what is no URL") from error
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return None
        part.unlink(missing_ok=True)
        raise _CutError("the file on the server became shorter") from error


def _keep_mark(response: http.client.HTTPResponse, part: Path, start: int) -> None:
    tag = response.headers.get("ETag", "")
    tag = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    if not start:
        part.unlink(missing_ok=True)  # first, that no mark stands beside bytes of another
    if tag:
        _mark_of(part).write_text(tag)
    else:
        _mark_of(part).unlink(missing_ok=True)


def _goes_on(response: http.client.HTTPResponse, have: int) -> bool:
    if response.status != 206:
        return False
    if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise _CutError("the server sent another part of the file than was asked for")
    return True


def _total(address: Address, response: http.client.HTTPResponse, start: int) -> int | None:
    """Bytes of the whole file, where the server tells them."""
    if response.headers.get_content_type() == "text/html":
        raise InputError(f"expected a file at {address.url}, a web page answers.")
    length = response.headers.get("Content-Length", "")
    # chunks say themselves when they end
    is_told = LENGTH.fullmatch(length) and not response.chunked
    total = start + int(length) if is_told else None
    if address.size is not None and total not in (None, address.size):
        raise _other(address, f"{address.size} bytes", f"{total}")
    return total


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    total: int | None,
    most: int | None,
    report: Report | None,
) -> None:
    """The bytes that a server sends, whose `total` it perhaps told; none beyond `most`."""
    while data := response.read(CHUNK):
        file.write(data)
        if report is not None:
            report(file.tell(), total)
        if most is not None and file.tell() > most:
            break
    file.flush()
    os.fsync(file.fileno())
    if total is not None and file.tell() < total:
        raise _CutError(f"the connection broke off after {file.tell()} of {total} bytes")


def _check(address: Address, part: Path) -> None:
    """Removes the file, and raises InputError, where it is not what the address says."""
    digest, size = hashlib.sha256(), part.stat().st_size
    with open(part, "rb") as file:
        like = looks_like(file.read(1024))
        file.seek(0)
        while data := file.read(CHUNK):
            digest.update(data)
    found, error = digest.hexdigest(), None
    if address.size is not None and size != address.size:
        came = "more" if size > address.size else f"{size}"
        error = _other(address, f"{address.size} bytes", came)
    elif not found.startswith(address.sha256):
        error = _other(address, f"SHA-256 {address.sha256}", found)
    elif like in WRONG:
        error = InputError(f"expected a file at {address.url}, the answer is {like}.")
    if error:
        part.unlink()
        _mark_of(part).unlink(missing_ok=True)
        raise error


def _other(address: Address, expected: str, found: str) -> InputError:
    return InputError(
        f"{address.url} is damaged or another file: expected {expected}, got {found}."
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from https to anything else."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, hs: Any, to: str) -> Any:
        if req.type == "https" and not to.startswith("https:"):
            raise URLError("it redirects to an address without https")
        return super().redirect_request(req, fp, code, msg, hs, to)


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http and https alone: Python's own would follow a redirect to ftp as well."""
    opener = urllib.request.OpenerDirector()
    handlers: list[Callable[[], urllib.request.BaseHandler]] = [
        *(urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler),
        *(urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor),
        *(urllib.request.UnknownHandler, _Redirects),
    ]
    for handler in handlers:
        opener.add_handler(handler())
    return opener
