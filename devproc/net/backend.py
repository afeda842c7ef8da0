"""What can stand behind a network card, chosen by URI: `SCHEME[:TARGET][,OPTION=VALUE…]`.

The device sees one descriptor that keeps message boundaries. For a tap it is the tap. For all else it is one end of a
socket pair whose other end a process of its own serves, the *peer*: the keeper holds both ends, so that either side can
be killed and the other goes on. A message is a `NetHeader` and a frame, or a word of four bytes about the link.

A peer is a small class (`Peer`): what it takes from the device and what its own descriptors bring. `devproc.net.peer`
is the process around it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from devproc.net.offload import CSUM, TSO4, TSO6
from proto.errors import ConfigError

__all__ = ["BACKENDS", "Backend", "Peer", "Target", "Wire", "Word", "parse_uri"]


class Word(IntEnum):
    """Messages of four bytes, little-endian."""

    UP = 1  # peer to device: the link is up
    DOWN = 2
    ASK = 3  # device to peer: how is the link?


@dataclass(frozen=True)
class Backend:
    """One kind of backend: what it takes and gives, and who opens it."""

    opener: str  # module:function, called with a Target: a Peer, or for `descriptor` an open file descriptor
    target: str  # what the URI's target is, for people; "": it has none
    options: tuple[str, ...] = ()
    takes: int = 0  # offloads it takes from the guest; the others are done before
    mtu: int = 1500
    link: bool = False  # is the link up before the peer has said so?
    descriptor: bool = False  # the keeper opens it, and there is no peer
    dhcp: bool = False  # there is a DHCP server behind it


BACKENDS = {
    # libslirp takes whole TCP frames of any size, once their checksums are there. Its window is 64 KiB: the MTU is such
    # that two segments fill it, of a size that leaves what the guest copies aligned (docs/performance.md).
    "user": Backend("devproc.net.user:UserPeer", "", ("hostfwd", "restrict"), TSO4 | TSO6, 32768, True, dhcp=True),
    "tap": Backend("devproc.net.tap:open_tap", "NAME", (), CSUM | TSO4 | TSO6, link=True, descriptor=True),
    "hub": Backend("devproc.net.hub:HubPeer", "PATH", (), CSUM | TSO4 | TSO6),
    "stream": Backend("devproc.net.stream:StreamPeer", "unix:PATH or tcp:HOST:PORT", ("server",)),
}


@dataclass(frozen=True)
class Target:
    """A URI taken apart. `options` are in the order given, and a name may come more than once."""

    scheme: str
    target: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.scheme]

    def values(self, name: str) -> list[str]:
        """What was given for an option."""
        return [value for key, value in self.options if key == name]

    def flag(self, name: str) -> bool:
        """Was an option given without a value, or with "on"?"""
        return self.values(name)[-1:] == ["on"]

    def open(self) -> Any:
        """The Peer, or the descriptor. Raises ConfigError."""
        module, name = self.backend.opener.split(":")
        opener: Callable[[Target], Any] = getattr(importlib.import_module(module), name)
        return opener(self)


def parse_uri(uri: str) -> Target:
    """Take a URI apart. Raises ConfigError saying what is there."""
    head, *rest = uri.split(",")
    scheme, _, target = head.partition(":")
    if scheme not in BACKENDS:
        raise ConfigError(
            f"there is no network {head!r}",
            hint=f"There are {', '.join(name + (':' + b.target if b.target else '') for name, b in BACKENDS.items())}.",
            value=uri,
        )
    backend = BACKENDS[scheme]
    if bool(target) != bool(backend.target):
        wanted = f"{scheme}:{backend.target}" if backend.target else scheme
        raise ConfigError(f"the network {head!r} is not complete", hint=f"It is given as {wanted}.", value=uri)
    options = []
    for part in rest:
        name, equals, value = part.partition("=")
        if name not in backend.options:
            known = ", ".join(backend.options) or "none"
            raise ConfigError(f"the network {scheme} has no option {name!r}", hint=f"It has {known}.", value=uri)
        options.append((name, value if equals else "on"))
    return Target(scheme, target, tuple(options))


class Wire(Protocol):
    """A peer's way to the device."""

    def send(self, frame: bytes | memoryview, header: bytes = ...) -> bool:
        """Give the device a frame, under a NetHeader of zeroes or another. False: there is no room, and it was not
        given; `Peer.ready` is called when there is."""

    def link(self, up: bool) -> None:
        """Say how the link is."""

    def log(self, text: str) -> None:
        """A line for the machine's log."""


class Peer(Protocol):
    """What a backend's process does. Everything is called on one thread; descriptors do not block."""

    def start(self, wire: Wire) -> None:
        """Open what is needed. Raises ConfigError."""

    def transmit(self, message: memoryview) -> None:
        """A message of the device: header and frame, valid until this returns."""

    def poll(self) -> tuple[Sequence[tuple[int, int]], float | None]:
        """What to wait for now: descriptors with poll(2)'s events, and seconds at most (None: no matter)."""

    def ready(self, events: dict[int, int]) -> None:
        """The wait is over: the events of the descriptors that have some."""

    def close(self) -> None:
        """Let go of everything."""
