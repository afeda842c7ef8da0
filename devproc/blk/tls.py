"""Encryption of a connection that several threads use at once: TLS over a socket that is connected already.

OpenSSL's own object must not be read by one thread while another writes to it. So it never touches the socket: it works
on two buffers under a lock, and what waits, waits outside of that lock. The records leave in the order in which they
were made, since who makes one holds the lock of the senders until it is sent.

Certificates are files of a directory with the names that QEMU, nbdkit and libnbd give them. The server's is always
verified, with its name. A connection that ends without TLS's own end is an error.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from proto.errors import BackendError, ConfigError

__all__ = ["CERTIFICATES", "TlsStream", "client_context"]

AUTHORITY, REVOKED, CERTIFICATE, KEY = CERTIFICATES = (
    "ca-cert.pem",
    "ca-crl.pem",
    "client-cert.pem",
    "client-key.pem",
)
CHUNK = 1 << 18


def client_context(directory: str) -> ssl.SSLContext:
    """Whom to trust, and who we are, by the files of a directory; the host's own authorities if it is "". Raises
    ConfigError."""
    if not directory:
        return ssl.create_default_context()
    authority, revoked, certificate, key = (os.path.join(directory, name) for name in CERTIFICATES)
    try:
        context = ssl.create_default_context(cafile=authority)
        if os.path.exists(revoked):
            context.load_verify_locations(revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, key, password=_no_password)
    except FileNotFoundError as error:
        raise ConfigError(
            f"the certificates in {directory} are not complete",
            hint=f"{AUTHORITY} says whom to trust; if the server wants to know who we are, {CERTIFICATE} and {KEY}.",
        ) from error
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"the certificates in {directory} cannot be used: {what}") from error
    return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise ValueError(f"{KEY} is encrypted")


class TlsStream:
    """As much of a socket as a connection of the NBD client uses."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Shake hands. Raises BackendError when the server is not who it should be, else OSError; the socket stays
        the caller's until then."""
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._state = threading.Lock()
        self._sending = threading.Lock()
        try:
            self._until_done(self._tls.do_handshake)
        except ssl.SSLCertVerificationError as error:
            raise BackendError(
                f"the server's certificate does not hold: {error.verify_message}",
                hint=f"It must be for {host}, and signed by whom this host, or certificates=DIR, trusts.",
                errno=13,
            ) from error
        self.version = f"{self._tls.version()}"

    def recv_into(self, view: memoryview) -> int:
        """Some bytes, at least one; 0 at the end. For one thread. Raises OSError."""
        try:
            return int(self._until_done(lambda: self._tls.read(len(view), view)))
        except ssl.SSLZeroReturnError:
            return 0

    def sendall(self, data: bytes) -> None:
        """All of it. For any thread. Raises OSError."""
        with self._sending:
            with self._state:
                self._tls.write(data)
                records = self._outgoing.read()
            self._sock.sendall(records)

    def settimeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()

    def _until_done(self, step: Callable[[], Any]) -> Any:
        """Repeat a step of OpenSSL's until the server has sent what it needs."""
        while True:
            try:
                with self._state:
                    result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._sock.recv(CHUNK)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
                continue
            except ssl.SSLError:
                self._flush()  # an alert that tells the server why
                raise
            self._flush()
            return result

    def _flush(self) -> None:
        """Send what OpenSSL itself has to say."""
        if self._outgoing.pending:
            with self._sending:
                with self._state:
                    records = self._outgoing.read()
                self._sock.sendall(records)
