"""What an equal answer is, by kind of device, and how a different one is shown.

exact    every byte that was written, and the used length
status   the operation's outcome, as the device's own words have it
length   how much was written
none     that there was an answer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from devproc.tellers import tell
from launcher.record.words import records_of
from proto.recording import Request
from proto.virtio import BlkStatus

__all__ = ["MODES", "differs", "hexdump", "mode_of"]

MODES = ("exact", "status", "length", "none")
_BY_DEVICE = {"rng": "length", "9p": "status", "virtiofs": "status", "v86fs": "status"}  # random; inodes and times
ROWS = 4  # of a hexdump, round the first difference
WIDTH = 16


def mode_of(device: str) -> str:
    """How answers of this device are compared if nobody says otherwise."""
    return _BY_DEVICE.get(device, "exact")


def differs(device: Mapping[str, Any], request: Request, used: int, got: bytes, mode: str) -> str:
    """Why an answer is another than the recorded one; "": it is the same."""
    done = request.done
    if done is None or mode == "none":
        return ""
    if mode == "status":
        return _status(device, request, used, got)
    if device.get("device") == "blk" and done.payload and got and done.payload[-1] != got[-1]:
        return f"its status is {_blk_status(got[-1])}, and was {_blk_status(done.payload[-1])}"
    if used != done.a:
        return f"{used} bytes were written, and {done.a} then"
    if mode == "length":
        return ""
    if device.get("device") == "blk" and got and got[-1] != BlkStatus.OK:
        return ""  # what was read is not defined then
    if device.get("device") == "net" and not request.readable:  # a frame: num_buffers was not there yet
        then = done.payload[:10] + got[10:12] + done.payload[12:]
        return "" if got == then else f"it differs from byte {_first(then, got)} on"
    if got != done.payload:
        return f"it differs from byte {_first(done.payload, got)} on"
    return ""


def hexdump(recorded: bytes, replayed: bytes) -> list[str]:
    """Both, side by side round the first difference; rows that differ are marked."""
    begin = max(0, _first(recorded, replayed) // WIDTH - 1) * WIDTH
    lines = [f"{'':8}{'recorded':<{3 * WIDTH + 1}}{'replayed'}"]
    for at in range(begin, min(begin + ROWS * WIDTH, max(len(recorded), len(replayed))), WIDTH):
        one, other = recorded[at : at + WIDTH], replayed[at : at + WIDTH]
        mark = " " if one == other else "*"
        lines.append(f"{at:06x} {mark}{one.hex(' '):<{3 * WIDTH}} {other.hex(' ')}".rstrip())
    return lines


def _first(one: bytes, other: bytes) -> int:
    """Where they first differ."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


def _status(device: Mapping[str, Any], request: Request, used: int, got: bytes) -> str:
    assert request.done is not None
    kind = device.get("device", "")
    now = request._replace(done=request.done._replace(a=used, payload=got))
    then, found = (tell(kind, *records_of(kind, each))["status"] for each in (request, now))
    return "" if then == found else f"its status is {found}, and was {then}"


def _blk_status(number: int) -> str:
    return BlkStatus(number).name if number in list(BlkStatus) else str(number)
