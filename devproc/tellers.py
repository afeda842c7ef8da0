"""What the first bytes of a request and its answer say, device by device: the words of `bulkhead trace` and of rules.

A teller is a function of the POP and DONE records of a request to the fields that a filter may ask for; `op` and
`status` are among them, and `words` is what stands in the line between the two. Fields that a request does not have are
left out. `HEADERS` says how many of the first bytes are a device's own header, not the guest's data: those a viewer
gets who asked for no payload.

A new device needs nothing here: it is told as REQUEST with its sizes.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

from devproc.fs.fuse.messages import Opcode
from devproc.fs.ninep.messages import Type
from devproc.fs.v86fs.messages import Type as V86Type
from proto.trace import DATA_BYTES, TracePoint, TraceRecord
from proto.virtio import BLK_SECTOR_SIZE, BlkStatus, BlkType, ConsoleEvent

__all__ = ["HEADERS", "TELLERS", "amount", "strip", "tell", "tell_fields"]

Fields = dict[str, Any]
Teller = Callable[[Fields, Fields], Fields]

BLK_OPS = {BlkType.IN: "READ", BlkType.OUT: "WRITE"}
BLK_CALLS = {"READ": "preadv", "WRITE": "pwritev", "FLUSH": "fdatasync", "DISCARD": "fallocate"}
BLK_HEADER = 16
NET_HEADER = 12
RLERROR = 7
ETHERTYPES = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "VLAN"}
HEADERS = {
    "blk": (BLK_HEADER, 0),
    "9p": (7, 11),
    "virtiofs": (DATA_BYTES, DATA_BYTES),
    "v86fs": (7, 11),
}  # of the request, of the answer


def tell(device: str, pop: TraceRecord, done: TraceRecord) -> Fields:
    """The fields of a request, in the words of a device of this kind."""
    return tell_fields(device, pop.fields(), done.fields())


def tell_fields(device: str, asked: Fields, answered: Fields) -> Fields:
    """Of the fields that POP and DONE have, or would have."""
    if asked["error"]:
        return {"op": "MALFORMED", "status": "ERROR", "words": f"chain error {asked['error']}"}
    return TELLERS.get(device, _any)(asked, answered)


def strip(device: str, record: TraceRecord) -> bytes:
    """The first bytes without what is the guest's own."""
    if record.point not in (TracePoint.POP, TracePoint.DONE, TracePoint.CONSOLE_IN, TracePoint.CONSOLE_OUT):
        return record.data
    request, answer = HEADERS.get(device, (0, 0))
    size = {TracePoint.POP: request, TracePoint.DONE: answer}.get(TracePoint(record.point), 0)
    return record.data[:size].ljust(DATA_BYTES, b"\0")


def amount(number: int) -> str:
    """Bytes as people read them: 512 B, 8 KiB, 1.5 MiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}" if number < 1000 * unit else f"{number // unit} {name}"
    return f"{number} B"


def _blk(asked: Fields, answered: Fields) -> Fields:
    number, _, sector = struct.unpack("<IIQ", asked["first"])
    known = number in list(BlkType)
    op = BLK_OPS.get(number) or (BlkType(number).name if known else f"TYPE_{number}")
    status = answered["status"]
    fields: Fields = {"op": op, "status": BlkStatus(status).name if status in list(BlkStatus) else str(status)}
    fields["call"] = BLK_CALLS.get(op, "")
    if op in ("READ", "WRITE"):
        size = max(0, asked["writable"] - 1 if op == "READ" else asked["readable"] - BLK_HEADER)
        fields |= {"sector": sector, "sectors": size // BLK_SECTOR_SIZE, "bytes": size}
        fields["words"] = f"sector {sector}  {amount(size)}"
    return fields


def _net(asked: Fields, answered: Fields) -> Fields:
    status = _errno(answered["status"])
    if asked["queue"] % 2 == 0 and asked["readable"]:
        return {"op": "CONTROL", "status": status, "bytes": asked["readable"]}
    sending = bool(asked["queue"] % 2)
    frame = (asked if sending else answered)["first"]
    size = max(0, (asked["readable"] if sending else answered["written"]) - NET_HEADER)
    fields: Fields = {"op": "SEND" if sending else "RECEIVE", "status": status, "bytes": size}
    if any(frame):
        number = int.from_bytes(frame[12:14], "big")
        fields |= {"dst": frame[:6].hex(":"), "src": frame[6:12].hex(":")}
        fields["protocol"] = ETHERTYPES.get(number, f"{number:#06x}")
        where = f"to {fields['dst']}" if sending else f"from {fields['src']}"
        fields["words"] = f"{where}  {fields['protocol']}  {amount(size)}"
    else:
        fields["words"] = amount(size)
    return fields


def _ninep(asked: Fields, answered: Fields) -> Fields:
    _, number, tag = struct.unpack_from("<IBH", asked["first"])
    op = Type(number).name if number in list(Type) else f"TYPE_{number}"
    fields: Fields = {"op": op, "tag": tag, "bytes": asked["readable"] + answered["written"], "status": "OK"}
    if answered["first"][4] == RLERROR:
        fields["status"] = _errno(int.from_bytes(answered["first"][7:11], "little"))
    if op not in ("VERSION", "AUTH", "FLUSH") and any(asked["first"][7:11]):
        fields["fid"] = int.from_bytes(asked["first"][7:11], "little")
    fid = f"  fid {fields['fid']}" if "fid" in fields else ""
    fields["words"] = f"tag {tag}{fid}  {amount(asked['readable'])} asked  {amount(answered['written'])} answered"
    return fields


def _fuse(asked: Fields, answered: Fields) -> Fields:
    _, number, unique = struct.unpack("<IIQ", asked["first"])
    op = Opcode(number).name if number in list(Opcode) else f"OPCODE_{number}"
    error = struct.unpack_from("<i", answered["first"], 4)[0] if answered["written"] else 0
    return {
        "op": op,
        "status": _errno(-error),
        "unique": unique,
        "bytes": asked["readable"] + answered["written"],
        "words": f"unique {unique}  {amount(asked['readable'])} asked  {amount(answered['written'])} answered",
    }


def _v86fs(asked: Fields, answered: Fields) -> Fields:
    pushed = not asked["readable"]  # a notice: it stands in a buffer that the guest had lent
    _, number, tag = struct.unpack_from("<IBH", (answered if pushed else asked)["first"])
    op = V86Type(number).name if number in list(V86Type) else f"TYPE_{number}"
    status = 0 if pushed or not answered["written"] else int.from_bytes(answered["first"][7:11], "little")
    return {
        "op": op,
        "status": _errno(status),
        "tag": tag,
        "bytes": asked["readable"] + answered["written"],
        "words": f"tag {tag}  {amount(asked['readable'])} asked  {amount(answered['written'])} answered",
    }


def _console(asked: Fields, answered: Fields) -> Fields:
    """5.3.2: queues 2 and 3 are for control, the others the ports', in pairs."""
    number, sending = asked["queue"] // 2, bool(asked["queue"] % 2)
    size = asked["readable"] if sending else answered["written"]
    fields: Fields = {"status": _errno(answered["status"]), "bytes": size}
    if number == 1:
        port, event = struct.unpack_from("<IH", (asked if sending else answered)["first"])
        name = ConsoleEvent(event).name if event in list(ConsoleEvent) else f"EVENT_{event}"
        return fields | {"op": name, "port": port, "words": f"port {port}"}
    port = max(0, number - 1)
    return fields | {"op": "SEND" if sending else "RECEIVE", "port": port, "words": f"port {port}  {amount(size)}"}


def _rng(asked: Fields, answered: Fields) -> Fields:
    return {
        "op": "ENTROPY",
        "status": "FAILED" if answered["status"] else "OK",
        "bytes": answered["written"],
        "words": amount(answered["written"]),
    }


def _any(asked: Fields, answered: Fields) -> Fields:
    return {
        "op": "REQUEST",
        "status": "FAILED" if answered["status"] else "OK",
        "bytes": asked["readable"] + answered["written"],
        "words": f"{amount(asked['readable'])} asked  {amount(answered['written'])} answered",
    }


def _errno(number: int) -> str:
    if number == 0:
        return "OK"
    return errno.errorcode.get(number) or (os.strerror(number) if 0 < number < 4096 else str(number))


TELLERS: dict[str, Teller] = {
    "blk": _blk,
    "net": _net,
    "9p": _ninep,
    "virtiofs": _fuse,
    "v86fs": _v86fs,
    "rng": _rng,
    "console": _console,
}
