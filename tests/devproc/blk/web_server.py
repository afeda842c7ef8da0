"""A web server on the loopback for tests: files in memory, ranges, ETags, and faults on demand."""

from __future__ import annotations

import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Serves `files` (path to bytes). A fault, by path or for every path (""), is taken for the next `count` requests:
    stall, short, reset, 503, changed, whole, other range, long."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.faults: list[tuple[str, str]] = []
        self.requests: list[tuple[str, str]] = []  # (path, Range)
        self.connections = 0
        self.pause = 0.0
        self.stalled = threading.Event()  # set: those who stall may go
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self._thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def encrypt(self, certificates: Path, trusted: Path) -> None:
        """Be a server of localhost, with the certificate of a directory, for clients that `trusted` has signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.url = f"https://localhost:{self.http.server_port}"

    def fault(self, kind: str, path: str = "", count: int = 1) -> None:
        """The next `count` requests meet a fault."""
        self.faults += [(path, kind)] * count

    def close(self) -> None:
        self.stalled.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """One request."""
        path = to.path
        self.requests.append((path, to.headers.get("Range", "")))
        time.sleep(self.pause)
        found = next((fault for fault in self.faults if fault[0] in ("", path)), None)
        kind = found[1] if found else ""
        if found:
            self.faults.remove(found)
        if kind == "stall":
            self.stalled.wait(30)
            to.close_connection = True
            return
        if kind == "reset":
            to.close_connection = True
            return
        if kind == "503":
            self._send(to, 503, b"")
        elif path in self.redirects:
            self._send(to, 302, b"", {"Location": self.redirects[path]})
        elif path not in self.files:
            self._send(to, 404, b"no such file")
        else:
            self._file(to, path, kind)

    def _file(self, to: BaseHTTPRequestHandler, path: str, kind: str) -> None:
        data, etag = self.files[path], self.etags.get(path, '"one"')
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", to.headers.get("Range", ""))
        unchanged = to.headers.get("If-Range") in (None, etag)
        if asked is None or kind == "whole" or not unchanged:
            self._send(to, 200, data, {"ETag": etag}, short=kind == "short")
            return
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        if kind == "other range":
            first, last = first + 1, last + 1
        headers = {"ETag": etag, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
        if kind == "changed":
            headers["ETag"] = '"other"'
        body = data[first : last + 1] + (b"x" if kind == "long" else b"")
        self._send(to, 206, body, headers, short=kind == "short")

    @staticmethod
    def _send(to, status: int, body: bytes, headers: dict[str, str] | None = None, short: bool = False) -> None:
        to.send_response(status)
        for name, value in (headers or {}).items():
            to.send_header(name, value)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body[: len(body) // 2] if short else body)
        if short:
            to.close_connection = True
