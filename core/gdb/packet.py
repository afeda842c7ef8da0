"""The wire of gdb's remote protocol: `$payload#checksum`, acknowledged by `+` until both agree to do without (gdb
manual, appendix E.1)."""

from __future__ import annotations

__all__ = ["INTERRUPT", "MOST_BYTES", "Packets", "escape", "frame", "unescape"]

INTERRUPT = b"\x03"  # what `Packets.feed` gives for Ctrl-C
MOST_BYTES = 1 << 16  # of one packet; a peer that sends more is not gdb
ESCAPED = b"#$}*"


class Packets:
    """Finds packets in what arrives, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.acknowledge = True
        self.answers = b""  # acknowledgements to be sent

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that are complete now, INTERRUPT among them. Raises ValueError when a packet has no end."""
        self._buffer += data
        found: list[bytes] = []
        while self._buffer:
            first = self._buffer[0]
            if first != ord("$"):  # +, - or noise between packets
                del self._buffer[0]
                if first == INTERRUPT[0]:
                    found.append(INTERRUPT)
                continue
            end = self._buffer.find(b"#")
            if end < 0 or len(self._buffer) < end + 3:
                if len(self._buffer) > MOST_BYTES:
                    raise ValueError(f"a packet of more than {MOST_BYTES} bytes")
                break
            payload, sum = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
            del self._buffer[: end + 3]
            good = not self.acknowledge or sum.lower() == _checksum(payload)
            if self.acknowledge:
                self.answers += b"+" if good else b"-"
            if good:
                found.append(payload)
        return found


def frame(payload: bytes) -> bytes:
    """A packet; `payload` is escaped already where it has to be."""
    return b"$" + payload + b"#" + _checksum(payload)


def escape(data: bytes) -> bytes:
    """Binary data inside a payload."""
    return b"".join(bytes((0x7D, byte ^ 0x20)) if byte in ESCAPED else bytes((byte,)) for byte in data)


def unescape(data: bytes) -> bytes:
    """The inverse of `escape`; an escape with nothing behind it is dropped."""
    result = bytearray()
    rest = iter(data)
    for byte in rest:
        if byte == 0x7D:
            byte = next(rest, -1)
            if byte < 0:
                break
            byte ^= 0x20
        result.append(byte)
    return bytes(result)


def _checksum(payload: bytes) -> bytes:
    return b"%02x" % (sum(payload) & 0xFF)
