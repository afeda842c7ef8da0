"""How each kind of device says "I/O error": for requests that never reach the device's own code.

One table by virtio device id. It is used for requests that are condemned (`devproc.careful`), for a device that has no
words of its own for a failure (`VirtioDevice.failed`), and by the stand-in of a device in quarantine
(`devproc.standin`). A kind that the table does not have is given its request back with nothing written.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from devproc.request import Request
from proto.virtio import BlkStatus, DeviceId

__all__ = ["accept", "refuse"]

_NINEP_HEADER = struct.Struct("<IBH")  # size, type, tag
_NINEP_ERROR = struct.Struct("<IBHI")
_RLERROR = 7
_FUSE_HEADER = struct.Struct("<IIQ")  # len, opcode, unique
_FUSE_ANSWER = struct.Struct("<IiQ")

NET_OK, NET_ERR = 0, 1


def refuse(device_id: int, request: Request) -> None:
    """Answer `request` with the I/O error of that kind of device."""
    request.failed = True
    answer = _ANSWERS.get(device_id)
    if answer is not None:
        answer(request)


def accept(device_id: int, request: Request) -> None:
    """Answer `request` as if it had been carried out, where that can be said in few words: for disks and network
    cards. Any other request is given back with nothing written."""
    if device_id == DeviceId.BLOCK and request.writable:
        request.write_at(request.writable - 1, bytes([BlkStatus.OK]))
    elif device_id == DeviceId.NET and request.readable and request.writable:
        request.write_at(0, bytes([NET_OK]))


def _block(request: Request) -> None:
    """5.2.6: the status is the last writable byte."""
    if request.writable:
        request.write_at(request.writable - 1, bytes([BlkStatus.IOERR]))


def _net(request: Request) -> None:
    """5.1.6.5: `ack` of the control queue is all that a network card ever answers."""
    if request.readable and request.writable:
        request.write_at(0, bytes([NET_ERR]))


def _ninep(request: Request) -> None:
    """Rlerror with the request's tag."""
    head = _first(request, _NINEP_HEADER.size)
    if len(head) == _NINEP_HEADER.size:
        _, _, tag = _NINEP_HEADER.unpack(head)
        _whole(request, _NINEP_ERROR.pack(_NINEP_ERROR.size, _RLERROR, tag, errno.EIO))


def _fuse(request: Request) -> None:
    """struct fuse_out_header; FORGET has no room for one and gets none."""
    head = _first(request, _FUSE_HEADER.size)
    if len(head) == _FUSE_HEADER.size:
        _, _, unique = _FUSE_HEADER.unpack(head)
        _whole(request, _FUSE_ANSWER.pack(_FUSE_ANSWER.size, -errno.EIO, unique))


def _v86fs(request: Request) -> None:
    """The request's response, failed."""
    from devproc.fs.v86fs.messages import HEADER, REQUESTS, encode_error, encode_response

    head = _first(request, HEADER.size)
    if len(head) == HEADER.size:
        _, kind, tag = HEADER.unpack(head)
        known = kind in REQUESTS
        _whole(request, encode_response(kind, tag, errno.EIO) if known else encode_error(tag, errno.EIO))


def _first(request: Request, size: int) -> bytes:
    """The first readable bytes, whatever was read before."""
    return b"".join(request.views_readable(0, min(size, request.readable)))


def _whole(request: Request, answer: bytes) -> None:
    """Write an answer that means something only if there is room for all of it."""
    if len(answer) <= request.writable:
        request.write_at(0, answer)
        request.written = len(answer)


_ANSWERS: dict[int, Callable[[Request], None]] = {
    DeviceId.BLOCK: _block,
    DeviceId.NET: _net,
    DeviceId.NINEP: _ninep,
    DeviceId.FS: _fuse,
    DeviceId.V86FS: _v86fs,
}
