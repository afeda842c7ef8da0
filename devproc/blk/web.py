"""What a disk asks of a web server: ranges of a file that does not change, and small files whole.

Connections are kept and shared by threads. A request that stalls, breaks off or meets an overloaded server is tried
again, a bounded number of times with growing pauses; then it is an error of that request alone. A file that has changed
(its ETag, date or length) is an error at once, since what was read before no longer belongs to it.
"""

from __future__ import annotations

import http.client
import re
import select
import ssl
import string
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from devproc.blk.network import connect_tcp, connect_tls
from devproc.blk.tls import client_context
from proto.errors import BackendError, ConfigError

__all__ = ["Changed", "Identity", "Web"]

REDIRECTS = 5
PATIENCE = 6  # an answer may take so many times the timeout, as long as something of it comes within each
PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds before the first repetition; it doubles each time
REDIRECTIONS = frozenset({301, 302, 303, 307, 308})
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_EIO, _EACCES, _ETIMEDOUT, _ESTALE = 5, 13, 110, 116

Headers = http.client.HTTPMessage
Check = Callable[[int, Headers, Callable[[], bytes]], Any]


class Changed(BackendError):
    """The file is not the one that was opened."""


class _Again(Exception):
    """Worth another try."""


@dataclass(frozen=True)
class Identity:
    """What tells one state of a file from another."""

    size: int
    etag: str
    modified: str

    def __str__(self) -> str:
        return f"{self.size} {self.etag} {self.modified}"

    def condition(self) -> dict[str, str]:
        """RFC 9110, 13.1.5: a range only if the file is still this one. A weak ETag cannot say so; a date can."""
        if self.etag and not self.etag.startswith("W/"):
            return {"If-Range": self.etag}
        return {"If-Range": self.modified} if self.modified else {}


class Web:
    """One server, and what is asked of it."""

    def __init__(self, url: str, timeout: float, retries: int, certificates: str = "") -> None:
        """`certificates`: a directory as `devproc.blk.tls` has them; "" for the host's own authorities."""
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._certificates = certificates
        self._context: ssl.SSLContext | None = None
        self._closed = False

    def probe(self) -> Identity:
        """Follow redirections to the file and learn what it is. Raises ConfigError."""
        try:
            *_, found = self._led()
        except BackendError as error:
            raise ConfigError(f"cannot open {self.url}: {error.message}", hint=error.hint) from error
        if not isinstance(found, Identity):
            raise ConfigError(f"{self.url}: the server redirects without end")
        return found

    def follow(self) -> Iterator[str]:
        """The URLs that the server's redirections lead to, one after the other. Raises BackendError, ConfigError."""
        for found in self._led():
            if isinstance(found, str):
                yield self.url

    def _led(self) -> Iterator[Identity | str]:
        for _ in range(REDIRECTS):
            found = self._try(self.url, {"Range": "bytes=0-0"}, 1, _probed)
            if isinstance(found, str):
                self.url = self._joined(found)
                self._drop()
            yield found
            if isinstance(found, Identity):
                return

    def _joined(self, location: str) -> str:
        """Where a redirection leads. Raises BackendError when that is no URL."""
        try:
            return urllib.parse.urljoin(self.url, location)
        except ValueError as error:
            raise BackendError(f"{self.url}: the server redirects to {location!r:.200}: {error}") from error

    def range(self, identity: Identity, start: int, size: int) -> bytes:
        """So many bytes of the file. Raises BackendError, Changed."""
        headers = {"Range": f"bytes={start}-{start + size - 1}", **identity.condition()}

        def check(status: int, answer: Headers, body: Callable[[], bytes]) -> bytes:
            if status not in (200, 206, 412, 416):
                raise BackendError(f"{self.url}: the server answers {status}", errno=_EIO)
            if status != 206 or _identity(answer) != identity:
                raise Changed(f"{self.url} has changed on the server", errno=_ESTALE)
            found = _RANGE.fullmatch(answer.get("Content-Range", ""))
            if found is None or (int(found[1]), int(found[2])) != (start, start + size - 1):
                raise BackendError(f"{self.url}: the server sent another range than was asked for", errno=_EIO)
            return _exactly(body(), size)

        found: bytes = self._try(self.url, headers, size, check)
        return found

    def file(self, url: str, size: int | None = None, most: int = 1 << 20) -> bytes:
        """A whole file; `size`: what it must be. Raises BackendError."""

        def check(status: int, answer: Headers, body: Callable[[], bytes]) -> bytes:
            if status != 200:
                raise BackendError(f"{url}: the server answers {status}", errno=_EIO)
            data = body()
            if size is None and len(data) > most:
                raise BackendError(f"{url} is longer than {most} bytes", errno=_EIO)
            return data if size is None else _exactly(data, size)

        found: bytes = self._try(url, {}, size or most, check)
        return found

    def close(self) -> None:
        """Drop the connections."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # -- one request -----------------------------------------------------------------------------------------------

    def _try(self, url: str, headers: Mapping[str, str], most: int, check: Check) -> Any:
        """GET, again and again while it is worth it. `check` gets status, headers and a function that reads the body,
        of which at most one byte more than `most` is read."""
        pause, why = PAUSE, ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                return self._once(url, headers, most, check)
            except _Again as error:
                why = str(error)
            except ssl.SSLCertVerificationError as error:
                raise BackendError(
                    f"the server's certificate does not hold: {error.verify_message}",
                    hint="It must be for the URL's host, and signed by whom this host, or certificates=DIR, trusts.",
                    errno=_EACCES,
                ) from error
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no URL at all
                why = "it does not answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        raise BackendError(f"{urllib.parse.urlsplit(url).netloc}: {why}", errno=_ETIMEDOUT)

    def _once(self, url: str, headers: Mapping[str, str], most: int, check: Check) -> Any:
        parts = _split(url)
        kept = self._take() if parts.netloc == _split(self.url).netloc else None
        connection = kept or self._connect(parts)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        target = urllib.parse.quote(target, safe=string.printable)  # a redirection may have any bytes in it
        deadline = time.monotonic() + PATIENCE * self.timeout
        response: http.client.HTTPResponse | None = None
        try:
            connection.request("GET", target, headers={**headers, "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in AGAIN:
                raise _Again(f"the server answers {response.status} {response.reason}")
            found = check(response.status, response.headers, lambda: _body(response, most, deadline))
        except BaseException:
            if response is not None:
                response.close()  # it keeps a descriptor of its own when the server said that it closes
            connection.close()
            raise
        whole = response.isclosed() or response.length == 0
        response.close()
        if whole and not response.will_close:
            self._keep(connection)
        else:
            connection.close()
        return found

    def _connect(self, parts: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        host, encrypted = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if encrypted else 80)
        connection = http.client.HTTPConnection(parts.netloc.rpartition("@")[2], timeout=self.timeout)
        connection.auto_open = 0
        if encrypted:
            connection.sock = connect_tls(host, port, self.timeout, self._trusted())
        else:
            connection.sock = connect_tcp(host, port, self.timeout)
        return connection

    def _trusted(self) -> ssl.SSLContext:
        """Whom to trust; reading that takes long, and is done once."""
        with self._lock:
            if self._context is None:
                self._context = client_context(self._certificates)
            return self._context

    def _take(self) -> http.client.HTTPConnection | None:
        """A kept connection on which the server has not said goodbye meanwhile."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None or not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url} names no web server", hint="For example: http://localhost:8000/disk.img")
    return parts


def _probed(status: int, answer: Headers, body: Callable[[], bytes]) -> Identity | str:
    """What the file is, or where it is."""
    if status in REDIRECTIONS and answer.get("Location"):
        return answer["Location"]
    if status == 200:
        raise BackendError("the server gives whole files only, no ranges", errno=95)
    found = _identity(answer) if status == 206 else None
    if found is None:
        raise BackendError(f"the server answers {status}", errno=_EIO)
    body()
    return found


def _identity(answer: Headers) -> Identity | None:
    found = _RANGE.fullmatch(answer.get("Content-Range", ""))
    if found is None:
        return None
    return Identity(int(found[3]), answer.get("ETag", ""), answer.get("Last-Modified", ""))


def _body(response: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    parts, size = [], 0
    while size <= most:
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
        part = response.read1(min(1 << 16, most + 1 - size))
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise _Again(f"the answer broke off after {len(data)} of {size} bytes")
    if len(data) > size:
        raise BackendError(f"the server sent more than the {size} bytes that were asked for", errno=_EIO)
    return data
