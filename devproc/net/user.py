"""`user`: a network without any rights on the host, by libslirp (Debian: libslirp0).

The guest sees 10.0.2.0/24: itself at 10.0.2.15 by DHCP, the host at 10.0.2.2 (its loopback services too, unless
`restrict`), a name server at 10.0.2.3 that asks the host's. What the guest sends is sent again by sockets of this
process. `hostfwd=tcp:[ADDRESS:]PORT-GUESTPORT` (or udp) lets the host in; ADDRESS is 127.0.0.1 unless given.

libslirp is C and looks at every byte the guest sends: it runs here, where there is nothing else. It is called through
ctypes; the structures below are those of libslirp.h, configuration version 1, which every libslirp since 4.1 takes.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import re
import select
import sys
import time
from collections.abc import Sequence
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint8, c_uint32
from ctypes import c_void_p as c_pointer
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from devproc.net.backend import Target, Wire
from devproc.net.offload import FRAME_MAX, HEADER
from proto.errors import ConfigError
from proto.virtio import NetHeaderFlag

__all__ = ["Forward", "UserPeer", "parse_forward"]

GUEST = "10.0.2.15"
MTU = 65520
FORWARD = re.compile(r"(tcp|udp):(?:([\d.]+):)?(\d+)-(\d+)")
VALID = bytes([NetHeaderFlag.DATA_VALID]) + bytes(HEADER - 1)  # libslirp has made the checksums: no need to look again
_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 4: select.POLLPRI, 8: select.POLLERR, 16: select.POLLHUP}
# Both ways for every set of them: they are asked for several times a frame.
TO_POLL = [sum(bit for flag, bit in _EVENTS.items() if flags & flag) for flags in range(2 * max(_EVENTS))]
FROM_POLL = [sum(flag for flag, bit in _EVENTS.items() if bits & bit) for bits in range(2 * max(_EVENTS.values()))]
ANY = len(FROM_POLL) - 1
NEVER = 0xFFFFFFFF  # ms

_TimerCallback = CFUNCTYPE(None, c_pointer)
_AddPoll = CFUNCTYPE(c_int, c_int, c_int, c_pointer)
_GetEvents = CFUNCTYPE(c_int, c_int, c_pointer)


_Frame = c_uint8 * FRAME_MAX  # one type for frames of every size: making a type takes longer than sending a frame
_IN, _IN6 = c_uint32 * 1, c_uint32 * 4  # struct in_addr, in6_addr: aligned like numbers


class _Config(ctypes.Structure):
    """SlirpConfig."""

    _fields_ = (
        ("version", c_uint32),
        ("restricted", c_int),
        ("in_enabled", c_bool),
        ("vnetwork", _IN),
        ("vnetmask", _IN),
        ("vhost", _IN),
        ("in6_enabled", c_bool),
        ("vprefix_addr6", _IN6),
        ("vprefix_len", c_uint8),
        ("vhost6", _IN6),
        ("vhostname", c_char_p),
        ("tftp_server_name", c_char_p),
        ("tftp_path", c_char_p),
        ("bootfile", c_char_p),
        ("vdhcp_start", _IN),
        ("vnameserver", _IN),
        ("vnameserver6", _IN6),
        ("vdnssearch", c_pointer),
        ("vdomainname", c_char_p),
        ("if_mtu", c_size_t),
        ("if_mru", c_size_t),
        ("disable_host_loopback", c_bool),
        ("enable_emu", c_bool),
        ("later_versions", c_uint8 * 64),
    )


class _InAddress(ctypes.Structure):
    """struct in_addr, which is passed by value."""

    _fields_ = (("address", c_uint32),)


_CALLBACKS: tuple[tuple[str, Any], ...] = (
    ("send_packet", CFUNCTYPE(c_ssize_t, c_pointer, c_size_t, c_pointer)),
    ("guest_error", CFUNCTYPE(None, c_char_p, c_pointer)),
    ("clock_get_ns", CFUNCTYPE(c_int64, c_pointer)),
    ("timer_new", CFUNCTYPE(c_pointer, c_pointer, c_pointer, c_pointer)),
    ("timer_free", CFUNCTYPE(None, c_pointer, c_pointer)),
    ("timer_mod", CFUNCTYPE(None, c_pointer, c_int64, c_pointer)),
    ("register_poll_fd", CFUNCTYPE(None, c_int, c_pointer)),
    ("unregister_poll_fd", CFUNCTYPE(None, c_int, c_pointer)),
    ("notify", CFUNCTYPE(None, c_pointer)),
)


class _Callbacks(ctypes.Structure):
    """SlirpCb."""

    _fields_ = (*_CALLBACKS, ("later_versions", c_pointer * 8))


class Forward:
    """One `hostfwd`."""

    def __init__(self, udp: bool, address: str, port: int, guest_port: int) -> None:
        self.udp, self.address, self.port, self.guest_port = udp, address, port, guest_port


def parse_forward(text: str) -> Forward:
    """`tcp:[ADDRESS:]PORT-GUESTPORT`, or udp. Raises ConfigError."""
    match = FORWARD.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        address = match[2] or "127.0.0.1"
        inet_pton(AF_INET, address)
        port, guest_port = int(match[3]), int(match[4])
        if not (0 < port < 65536 and 0 < guest_port < 65536):
            raise ValueError
    except (ValueError, OSError):
        raise ConfigError(
            f"hostfwd={text}: expected tcp:[ADDRESS:]PORT-GUESTPORT, or udp:…", hint="For example: tcp:8080-80"
        ) from None
    return Forward(match[1] == "udp", address, port, guest_port)


def load_libslirp() -> ctypes.CDLL:
    """libslirp with its functions declared. Raises ConfigError."""
    try:
        library = ctypes.CDLL("libslirp.so.0")
    except OSError:
        raise ConfigError("the network `user` needs libslirp", hint="Install it:  apt-get install libslirp0") from None
    library.slirp_new.restype = c_pointer
    library.slirp_new.argtypes = (c_pointer, c_pointer, c_pointer)
    library.slirp_cleanup.argtypes = (c_pointer,)
    library.slirp_input.argtypes = (c_pointer, c_pointer, c_int)
    library.slirp_pollfds_fill.argtypes = (c_pointer, POINTER(c_uint32), _AddPoll, c_pointer)
    library.slirp_pollfds_poll.argtypes = (c_pointer, c_int, _GetEvents, c_pointer)
    library.slirp_add_hostfwd.argtypes = (c_pointer, c_int, _InAddress, c_int, _InAddress, c_int)
    return library


class UserPeer:
    """libslirp behind the wire."""

    def __init__(self, target: Target) -> None:
        self._forwards = [parse_forward(text) for text in target.values("hostfwd")]
        self._restricted = target.flag("restrict")
        self._library = load_libslirp()
        self._slirp: int | None = None
        self._polled: list[int] = []  # descriptors in the order in which libslirp has named them
        self._wanted: dict[int, int] = {}  # and the events of each
        self._events: dict[int, int] = {}
        self._timers: dict[int, tuple[Any, int | None]] = {}
        self._ticket = itertools.count(1)
        self._due: list[tuple[int, int]] = []  # (ms, timer)
        self._keep: list[Any] = []  # what libslirp has pointers to

    def start(self, wire: Wire) -> None:
        self._wire = wire
        self._add_poll = _AddPoll(self._poll_one)
        self._get_events = _GetEvents(self._events_of)
        config, callbacks = self._configuration(), self._callbacks()
        self._keep += [config, callbacks]
        self._slirp = self._library.slirp_new(ctypes.byref(config), ctypes.byref(callbacks), None)
        if not self._slirp:
            raise ConfigError("libslirp does not start")
        for forward in self._forwards:
            self._forward(forward)
        wire.link(True)

    def transmit(self, message: memoryview) -> None:
        at = ctypes.addressof(c_uint8.from_buffer(message, HEADER))
        self._library.slirp_input(self._slirp, at, len(message) - HEADER)

    def poll(self) -> tuple[Sequence[tuple[int, int]], float | None]:
        self._polled, self._wanted = [], {}
        wait = c_uint32(NEVER)
        self._library.slirp_pollfds_fill(self._slirp, ctypes.byref(wait), self._add_poll, None)
        if self._due:
            wait.value = min(wait.value, max(0, self._due[0][0] - _milliseconds()))
        return list(self._wanted.items()), None if wait.value == NEVER else wait.value / 1000

    def ready(self, events: dict[int, int]) -> None:
        self._events = events
        self._library.slirp_pollfds_poll(self._slirp, 0, self._get_events, None)
        now = _milliseconds()
        while self._due and self._due[0][0] <= now:
            due, number = heapq.heappop(self._due)
            callback, wanted = self._timers.get(number, (None, None))
            if callback is not None and wanted == due:
                self._timers[number] = (callback, None)
                callback()

    def close(self) -> None:
        if self._slirp:
            self._library.slirp_cleanup(self._slirp)
            self._slirp = None

    # -- beginning -------------------------------------------------------------------------------------------------

    def _configuration(self) -> _Config:
        config = _Config(version=1, restricted=int(self._restricted), in_enabled=True, in6_enabled=True)
        config.disable_host_loopback = self._restricted
        config.vprefix_len = 64
        config.vhostname = b"bulkhead"
        config.if_mtu = config.if_mru = MTU
        for field, family, text in (
            ("vnetwork", AF_INET, "10.0.2.0"),
            ("vnetmask", AF_INET, "255.255.255.0"),
            ("vhost", AF_INET, "10.0.2.2"),
            ("vdhcp_start", AF_INET, GUEST),
            ("vnameserver", AF_INET, "10.0.2.3"),
            ("vprefix_addr6", AF_INET6, "fec0::"),
            ("vhost6", AF_INET6, "fec0::2"),
            ("vnameserver6", AF_INET6, "fec0::3"),
        ):
            packed = inet_pton(family, text)
            ctypes.memmove(getattr(config, field), packed, len(packed))
        return config

    def _callbacks(self) -> _Callbacks:
        callbacks = _Callbacks()
        for name, kind in _CALLBACKS:
            setattr(callbacks, name, kind(getattr(self, f"_{name}")))
        return callbacks

    def _forward(self, forward: Forward) -> None:
        kind = "udp" if forward.udp else "tcp"
        host, guest = (inet_pton(AF_INET, text) for text in (forward.address, GUEST))
        arguments = (int(forward.udp), _in_address(host), forward.port, _in_address(guest), forward.guest_port)
        if self._library.slirp_add_hostfwd(self._slirp, *arguments) < 0:
            raise ConfigError(
                f"hostfwd: {kind} port {forward.port} on {forward.address} is taken, or not allowed",
                hint="Choose another, above 1023:  hostfwd=tcp:8080-80",
            )

    # -- what libslirp calls ---------------------------------------------------------------------------------------

    def _send_packet(self, data: int, size: int, _opaque: None) -> int:
        if size > FRAME_MAX:
            return -1
        self._wire.send(memoryview(_Frame.from_address(data))[:size], VALID)
        return size

    def _guest_error(self, text: bytes, _opaque: None) -> None:
        self._wire.log(f"the guest: {text.decode(errors='replace')}")

    def _clock_get_ns(self, _opaque: None) -> int:
        return time.monotonic_ns()

    def _timer_new(self, callback: int, argument: Any, _opaque: None) -> int:
        number = next(self._ticket)
        function = _TimerCallback(callback)
        self._timers[number] = (lambda: function(argument), None)
        return number

    def _timer_free(self, number: int, _opaque: None) -> None:
        self._timers.pop(number, None)

    def _timer_mod(self, number: int, due: int, _opaque: None) -> None:
        self._timers[number] = (self._timers[number][0], due)
        heapq.heappush(self._due, (due, number))

    def _register_poll_fd(self, fd: int, _opaque: None) -> None:
        """All descriptors are asked for anew before every wait."""

    def _unregister_poll_fd(self, fd: int, _opaque: None) -> None:
        """As above."""

    def _notify(self, _opaque: None) -> None:
        """There is one thread, and it is about to look."""

    def _poll_one(self, fd: int, events: int, _opaque: None) -> int:
        self._polled.append(fd)
        self._wanted[fd] = self._wanted.get(fd, 0) | TO_POLL[events & ANY]
        return len(self._polled) - 1

    def _events_of(self, index: int, _opaque: None) -> int:
        return FROM_POLL[self._events.get(self._polled[index], 0) & ANY]


def _in_address(packed: bytes) -> _InAddress:
    return _InAddress(int.from_bytes(packed, sys.byteorder))


def _milliseconds() -> int:
    return time.monotonic_ns() // 1_000_000
