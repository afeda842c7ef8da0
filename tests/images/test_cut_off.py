"""A download that breaks off half-way is an error, or goes on where it was; what was cut is never taken for whole."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mirror as fake
import pytest

from launcher.images import ImagesError, ensure, ready, store

CUT = "linux-image-6"


class Server:
    """A mirror over HTTP that closes the connection in the middle of the large package, so many times."""

    def __init__(self, root: Path) -> None:
        self.cuts = 0
        self.was_cut = 0
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given, directory=str(root))

            def copyfile(self, source: Any, outputfile: Any) -> None:
                data = source.read()
                if CUT in self.path and server.cuts:
                    server.cuts -= 1
                    server.was_cut += 1
                    data = data[: len(data) // 2]
                    self.close_connection = True
                outputfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server(host: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server(mirror)
    (host / "sources.list").write_text(f"deb {made.url} bookworm main\n")
    yield made
    made.close()


def test_a_download_that_is_cut_every_time_leaves_nothing_and_the_next_one_succeeds(server: Server) -> None:
    server.cuts = 100
    with pytest.raises(ImagesError):
        ensure()
    assert server.was_cut and ready() is None
    assert not list(store.cache_directory().glob(".building-*"))
    server.cuts = 0
    assert ensure().kernel.read_bytes() == fake.KERNEL


def test_a_download_that_is_cut_once_is_tried_again(server: Server) -> None:
    server.cuts = 1
    assert ensure().kernel.read_bytes() == fake.KERNEL
    assert server.was_cut == 1
