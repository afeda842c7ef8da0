"""Keys of taps: `bulkhead keys create DIR`, and reading them.

Six files: a CURVE key pair (ZeroMQ's; 40 characters of Z85 each) for the server, for viewers, and for those who may
also give orders: NAME.secret, mode 0600, and NAME.public. The server needs its secret and the public keys of the
others; a client needs its own secret and public key, and the server's public key. Whoever has the control key may do
what a viewer may.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import zmq

from launcher.cli.exitcodes import ExitCode
from proto.errors import ConfigError

__all__ = ["ROLES", "add_arguments", "client_keys", "create", "public_key", "run", "server_keys"]

ROLES = ("control", "viewer")  # of clients, the mightiest first
SERVER = "server"
KEY_LENGTH = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("action", metavar="create", choices=["create"], help="make new keys")
    parser.add_argument("directory", metavar="DIR", type=Path, help="where; must not have keys yet")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    for path in create(arguments.directory):
        print(path)
    return ExitCode.OK


def create(directory: Path) -> list[Path]:
    """Make all keys; the files. Raises ConfigError when there are any."""
    paths = [directory / f"{name}.{kind}" for name in (SERVER, *ROLES) for kind in ("secret", "public")]
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} is there already", hint="Keys are never overwritten: take another directory.")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (SERVER, *ROLES):
            public, secret = zmq.curve_keypair()
            _write(directory / f"{name}.secret", secret, 0o600)
            _write(directory / f"{name}.public", public, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write keys to {directory}: {(error.strerror or '').lower()}") from error
    return paths


def _write(path: Path, key: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(key + b"\n")


def public_key(directory: Path, name: str) -> bytes:
    """NAME.public. Raises ConfigError."""
    return _read(directory / f"{name}.public")


def server_keys(directory: Path) -> tuple[bytes, bytes, dict[bytes, str]]:
    """The server's public and secret key, and the role of each public key of a client. Raises ConfigError."""
    roles = {_read(path): role for role in ROLES if (path := directory / f"{role}.public").exists()}
    return public_key(directory, SERVER), _read(directory / f"{SERVER}.secret"), roles


def client_keys(directory: Path) -> tuple[bytes, bytes, bytes]:
    """A client's public and secret key, the mightiest there is, and the server's public key. Raises ConfigError."""
    for role in ROLES:
        if (directory / f"{role}.secret").exists():
            secret = _read(directory / f"{role}.secret")
            return zmq.curve_public(secret), secret, public_key(directory, SERVER)
    raise ConfigError(
        f"{directory} has no key to connect with", hint="It needs viewer.secret (or control.secret) and server.public."
    )


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {(error.strerror or '').lower()}", hint="Make keys with: bulkhead keys create DIR"
        ) from error
    if len(key) != KEY_LENGTH:
        raise ConfigError(f"{path} is no key of `bulkhead keys create`")
    return key
