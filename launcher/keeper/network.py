"""What the keeper holds of a network: the cable between a card and what is behind it, which neither's death cuts.

A tap is one descriptor. For any other backend the cable is a socket pair with a device process at one end and a peer
process (`devproc.net.peer`) at the other; the keeper keeps both ends. It also opens the capture file, with the rights
and in the directory of whoever started the machine, and memory in which the card keeps what the driver ordered.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from devproc.kept import KEPT_SIZE
from devproc.net.backend import parse_uri
from devproc.net.device import default_mac
from launcher.keeper.member import Member
from launcher.machine.description import NETWORK, WINDOW, Device
from proto.errors import ConfigError

__all__ = [
    "default_address",
    "has_cable",
    "has_peer",
    "lay_cable",
    "lay_frames",
    "open_capture",
    "peer_name",
    "socket_cable",
]

CABLE_BYTES = 1 << 20  # that may be on their way in each direction


def has_cable(device: Device) -> bool:
    """Is it a network card whose cable is here, and not where the card is?"""
    return device.device == NETWORK and device.relay in ("", WINDOW)


def has_peer(device: Device) -> bool:
    """Does the device need a peer process?"""
    return has_cable(device) and not parse_uri(device.backend).backend.descriptor


def peer_name(device: Device) -> tuple[str, str]:
    """Id and role of the peer process: net0.user, user."""
    scheme = parse_uri(device.backend).scheme
    return f"{device.id}.{scheme}", scheme


def default_address(machine: str, id: str) -> str:
    """A card's address, when none was given: the same for the same names on the same host and user."""
    return default_mac(socket.gethostname(), str(os.getuid()), machine, id).hex(":")


def lay_cable(member: Member, peer: Member | None) -> None:
    """Make what both are lent in every START from now on. Raises ConfigError."""
    device = member.device
    assert device is not None
    with contextlib.ExitStack() as undo:
        lent = {"kept": os.memfd_create(f"{member.id}-kept", os.MFD_CLOEXEC)}
        undo.callback(_close, lent)
        os.truncate(lent["kept"], KEPT_SIZE)
        if device.capture:
            lent["capture"] = open_capture(device.capture)
        lent["frames"] = _frames(device, peer)
        undo.pop_all()
    member.lent = lent


def lay_frames(lent: Mapping[str, int], device: Device, peer: Member | None) -> dict[str, int]:
    """What a card is lent that has another cable than `lent` says, and everything else as before. Raises
    ConfigError."""
    return {**lent, "frames": _frames(device, peer)}


def _frames(device: Device, peer: Member | None) -> int:
    """The card's end of its cable; the other end is the peer's."""
    if peer is None:
        frames: int = parse_uri(device.backend).open()
        return frames
    ours, theirs = socket_cable()
    peer.lent = {"frames": theirs}
    return ours


def socket_cable() -> tuple[int, int]:
    """Both ends of a cable between a card and a peer."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CABLE_BYTES)
    return ends[0].detach(), ends[1].detach()


def open_capture(path: str) -> int:
    """A file for captured frames, empty. Raises ConfigError."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write the capture file {path}: {(error.strerror or '').lower()}") from error


def _close(lent: dict[str, int]) -> None:
    for fd in lent.values():
        os.close(fd)
