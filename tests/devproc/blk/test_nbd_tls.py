"""NBD over TLS, against Debian's servers with certificates made here, and against servers that are not what they should
be."""

from __future__ import annotations

import datetime
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disk_model import Model, random_requests, read, write
from hostile_server import saying

from devproc.blk.backend import open_backend
from proto.errors import BackendError, ConfigError

pytest.importorskip("cryptography")
from authority import Authority

SIZE = 1 << 20
CONTENT = random.Random(7).randbytes(SIZE)
DEADLINE = 60.0

Serve = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers at the socket `s` and waits until they listen; ends them after the test."""
    running = []

    def begin(*words: object, wait: bool = True) -> subprocess.Popen[bytes]:
        if shutil.which(str(words[0])) is None:
            pytest.skip("needs nbdkit and qemu-utils")
        process = subprocess.Popen([str(word) for word in words], stderr=subprocess.DEVNULL)
        running.append(process)
        deadline = time.monotonic() + DEADLINE
        while wait:
            with socket.socket(socket.AF_UNIX) as sock:
                if sock.connect_ex(f"{tmp_path}/s") == 0:
                    break
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def nbdkit(tmp_path: Path, image: Path, certificates: Path, *words: str) -> list[object]:
    head = ["nbdkit", "-f", "--exit-with-parent", "-U", tmp_path / "s", "--tls=require"]
    return [*head, f"--tls-certificates={certificates}", *words, "file", image]


def uri(tmp_path: Path, certificates: Path, *parameters: str) -> str:
    given = "".join(f"{word}:" for word in (f"certificates={certificates}", *parameters))
    return f"nbds+unix:{given}///?socket={tmp_path}/s"


def test_nbdkit_that_asks_for_a_certificate(serve: Serve, authority: Authority, image: Path, tmp_path: Path) -> None:
    server, client = authority.server(tmp_path / "server"), authority.client(tmp_path / "client")
    serve(*nbdkit(tmp_path, image, server, "--tls-verify-peer"))
    model = random_requests(uri(tmp_path, client), CONTENT, 1, 120, reopen=True)
    assert image.read_bytes() == model.data


def test_qemu_nbd_over_tcp(serve: Serve, authority: Authority, image: Path, tmp_path: Path) -> None:
    server, client = authority.server(tmp_path / "server", "127.0.0.1"), authority.client(tmp_path / "client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls = f"tls-creds-x509,id=tls0,endpoint=server,dir={server},verify-peer=yes"
    words = ["--object", tls, "--tls-creds", "tls0", "-f", "raw", "-t", "-b", "127.0.0.1", "-p", port]
    serve("qemu-nbd", *words, "-x", "e", image, wait=False)
    name = f"nbds:certificates={client}://127.0.0.1:{port}/e"
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            open_backend(name).close()
            break
        except ConfigError as error:
            assert "refused" in error.message and time.monotonic() < deadline, error.describe()
            time.sleep(0.02)
    model = random_requests(name, CONTENT, 2, 80)
    assert image.read_bytes() == model.data


def test_eight_threads_at_once_over_one_connection(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    """OpenSSL is never read and written by two threads at once, and records do not mix."""
    server, client = authority.server(tmp_path / "server"), authority.client(tmp_path / "client", anonymous=True)
    serve(*nbdkit(tmp_path, image, server))
    disk = open_backend(uri(tmp_path, client))
    share = SIZE // 8
    failures: list[BaseException] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        data = bytearray(CONTENT[number * share : (number + 1) * share])
        try:
            for _ in range(60):
                at, size = rng.randrange(share // 512 - 64) * 512, rng.choice([512, 4096, 32768])
                if rng.random() < 0.5:
                    data[at : at + size] = rng.randbytes(size)
                    write(disk, number * share + at, bytes(data[at : at + size]))
                else:
                    assert read(disk, number * share + at, size) == data[at : at + size]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    disk.close()
    assert not failures


def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    server, client = authority.server(tmp_path / "server"), authority.client(tmp_path / "client")
    words = nbdkit(tmp_path, image, server, "--tls-verify-peer")
    process = serve(*words)
    disk = open_backend(uri(tmp_path, client, "patience=60"))
    model, rng = Model(CONTENT), random.Random(3)
    for _ in range(2):
        for _ in range(15):
            model.step(disk, rng)
        process.kill()
        process.wait()
        os.unlink(tmp_path / "s")
        process = serve(*words, wait=False)  # comes up while the next request already waits
    for _ in range(15):
        model.step(disk, rng)
    model.check(disk)
    disk.close()


def test_a_server_that_comes_back_as_somebody_else_gets_nothing(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    process = serve(*nbdkit(tmp_path, image, authority.server(tmp_path / "server")))
    disk = open_backend(uri(tmp_path, authority.client(tmp_path / "client", anonymous=True)))
    assert read(disk, 0, 512) == CONTENT[:512]
    process.kill()
    process.wait()
    os.unlink(tmp_path / "s")
    serve(*nbdkit(tmp_path, image, Authority("another").server(tmp_path / "other")))
    with pytest.raises(BackendError, match="certificate does not hold"):
        write(disk, 0, bytes(512))
    disk.close()
    assert image.read_bytes() == CONTENT


def wrong_name(authority: Authority, place: Path) -> tuple[Path, Path]:
    return authority.server(place / "server", "example.org"), authority.client(place / "client")


def wrong_authority(authority: Authority, place: Path) -> tuple[Path, Path]:
    return Authority("another").server(place / "server"), authority.client(place / "client")


def expired(authority: Authority, place: Path) -> tuple[Path, Path]:
    yesterday = datetime.timedelta(days=-1)
    return authority.server(place / "server", until=yesterday), authority.client(place / "client")


def revoked(authority: Authority, place: Path) -> tuple[Path, Path]:
    server, client = authority.server(place / "server"), authority.client(place / "client")
    authority.revoke_all(server)
    (server / "ca-crl.pem").rename(client / "ca-crl.pem")
    return server, client


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (wrong_name, "mismatch"),
        (wrong_authority, "local issuer|self.signed"),
        (expired, "expired"),
        (revoked, "revoked"),
    ],
)
def test_a_server_whose_certificate_does_not_hold_is_refused(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path, case: Any, why: str
) -> None:
    server, client = case(authority, tmp_path)
    serve(*nbdkit(tmp_path, image, server))
    with pytest.raises(ConfigError, match=why) as caught:
        open_backend(uri(tmp_path, client))
    assert "It must be for localhost" in caught.value.hint


def test_the_name_in_the_certificate_may_be_given(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    server, client = wrong_name(authority, tmp_path)
    serve(*nbdkit(tmp_path, image, server))
    disk = open_backend(uri(tmp_path, client, "hostname=example.org"))
    assert read(disk, 512, 512) == CONTENT[512:1024]
    disk.close()


def test_a_client_without_a_certificate_is_told_what_the_server_may_want(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    serve(*nbdkit(tmp_path, image, authority.server(tmp_path / "server"), "--tls-verify-peer"))
    with pytest.raises(ConfigError) as caught:
        open_backend(uri(tmp_path, authority.client(tmp_path / "client", anonymous=True)))
    assert "client-cert.pem" in caught.value.hint


def test_a_server_that_wants_tls_says_so_to_who_has_none(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    serve(*nbdkit(tmp_path, image, authority.server(tmp_path / "server")))
    with pytest.raises(ConfigError, match="wants TLS") as caught:
        open_backend(f"nbd+unix:///?socket={tmp_path}/s")
    assert "nbds" in caught.value.hint


def test_a_server_without_tls_is_not_used_without(
    serve: Serve, authority: Authority, image: Path, tmp_path: Path
) -> None:
    serve("nbdkit", "-f", "--exit-with-parent", "-U", tmp_path / "s", "file", image)
    with pytest.raises(ConfigError, match="no encryption"):
        open_backend(uri(tmp_path, authority.client(tmp_path / "client")))


def empty(place: Path) -> None:
    """No file at all."""


def nonsense(place: Path) -> None:
    (place / "ca-cert.pem").write_text("not a certificate")


def without_key(place: Path) -> None:
    (place / "client-key.pem").unlink()


@pytest.mark.parametrize(
    ("spoil", "why"), [(empty, "complete"), (nonsense, "cannot be used"), (without_key, "complete")]
)
def test_certificates_that_are_not_there_are_a_clear_error(
    authority: Authority, tmp_path: Path, spoil: Any, why: str
) -> None:
    """Before anything is connected."""
    place = tmp_path / "client"
    place.mkdir()
    if spoil is not empty:
        authority.client(place)
    spoil(place)
    with pytest.raises(ConfigError, match=why):
        open_backend(uri(tmp_path, place))


MAGIC = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 1)
ACK = struct.pack(">QIII", 0x3E889045565A9, 5, 1, 0)
HOSTILE = {
    "no TLS after all": MAGIC + ACK + b"\0" * 64,
    "an alert": MAGIC + ACK + b"\x15\x03\x03\x00\x02\x02\x28",
    "an acknowledgement with something behind it": MAGIC + ACK[:16] + struct.pack(">I", 4) + b"oops",
    "nothing more": MAGIC + ACK,
    "half a record": MAGIC + ACK + b"\x16\x03\x03\x40\x00\x02",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_server_is_refused(tmp_path: Path, authority: Authority, what: str) -> None:
    with saying(HOSTILE[what], tmp_path / "s"), pytest.raises(ConfigError):
        open_backend(uri(tmp_path, authority.client(tmp_path / "client"), "timeout=10"))
