"""Capture files in the pcap format, with nanoseconds, that survive a kill at any moment.

The keeper opens the file and lends the descriptor; each process that takes it over cuts off what a predecessor may
have left half written, and appends. A record is one write (`devproc.net.fast`).
"""

from __future__ import annotations

import fcntl
import os
import struct

from devproc.net.offload import FRAME_MAX
from proto.errors import ConfigError

__all__ = ["open_capture"]

_HEAD = struct.Struct("<IHHiIII")  # magic, version 2.4, zone, accuracy, snapshot length, link type
_RECORD = struct.Struct("<IIII")
_MAGIC_NANOSECONDS = 0xA1B23C4D
_SNAPSHOT = 262144
_ETHERNET = 1


def open_capture(fd: int) -> int:
    """Make sure that the file is a capture of whole records, and give the descriptor back, set to append. Raises
    ConfigError."""
    try:
        end = _whole(fd)
        os.ftruncate(fd, end)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        if end == 0:
            os.write(fd, _HEAD.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAPSHOT, _ETHERNET))
    except OSError as error:
        raise ConfigError(f"the capture file cannot be written: {error.strerror}") from error
    return fd


def _whole(fd: int) -> int:
    """Where the last whole record ends; 0 for a file that is no capture of ours."""
    size = os.fstat(fd).st_size
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or _HEAD.unpack(head)[0] != _MAGIC_NANOSECONDS:
        return 0
    at = _HEAD.size
    while True:
        record = os.pread(fd, _RECORD.size, at)
        if len(record) < _RECORD.size:
            return at
        captured = _RECORD.unpack(record)[2]
        if captured > FRAME_MAX or at + _RECORD.size + captured > size:
            return at
        at += _RECORD.size + captured
