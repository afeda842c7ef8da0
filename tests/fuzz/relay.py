"""Fuzz targets of relays: what each side is told by the other."""

from __future__ import annotations

from proto.errors import ProtocolError
from proto.relay import MESSAGES, decode, encode
from tests.fuzz.harness import Target, allowed
from tests.fuzz.link import _example


def _seeds() -> list[bytes]:
    return [encode(row.name, _example(row.body), session=7) for row in MESSAGES.values()]  # type: ignore[arg-type]


def _message(data: bytes) -> None:
    """What decodes also encodes, to the same meaning; and for one of the two sides at most."""
    for sender, other in (("relay", "device"), ("device", "relay")):
        for load in (None, b""):
            with allowed(ProtocolError):
                said = decode(data, sender, load)
                assert decode(encode(said.name, said.body, session=said.session), sender, load) == said
                try:
                    decode(data, other, load)
                except ProtocolError:
                    continue
                raise AssertionError(f"{said.name} is taken from both sides")


TARGETS = (Target("relay", "messages between a relay and the device behind it (proto.relay)", _message, _seeds),)
