"""`tap:NAME`: a tap of the host, which then is a cable between the guest and the host's network stack.

The keeper opens it (the device process gets the descriptor and nothing else), so it is there as long as the machine.
An existing tap is used as it is; another is made, which needs CAP_NET_ADMIN, and is gone with the machine. Addresses,
routes and bridges are the host's affair.
"""

from __future__ import annotations

import fcntl
import os
import struct

from devproc.net.backend import Target
from devproc.net.offload import HEADER
from proto.errors import ConfigError

__all__ = ["open_tap"]

_TUNSETIFF, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFNAMSIZ = 16


def open_tap(target: Target) -> int:
    """A descriptor of the tap: a NetHeader and a frame a read or write. Raises ConfigError."""
    name = target.target
    if len(name.encode()) >= _IFNAMSIZ or "/" in name:
        raise ConfigError(f"tap:{name}: an interface's name has at most {_IFNAMSIZ - 1} letters", value=name)
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "modprobe tun; in a container: --device /dev/net/tun" if error.errno == 2 else _HINT.format(name)
        raise ConfigError(f"cannot open /dev/net/tun: {_lower(error)}", hint=hint) from error
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    except OSError as error:
        os.close(fd)
        hint = "Another machine has it open." if error.errno == 16 else _HINT.format(name)
        raise ConfigError(f"cannot use the tap {name}: {_lower(error)}", hint=hint) from error
    return fd


_HINT = "Without root, have root make one for you:  ip tuntap add {} mode tap user $USER"


def _lower(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
