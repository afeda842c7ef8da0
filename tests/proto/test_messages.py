"""Every message survives the wire; nothing else gets through, and what is wrong is named."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import messages
from proto.errors import ProtocolError
from proto.messages import HEADER_SIZE, MESSAGES, MessageType, decode, encode, seal


def values(kind) -> st.SearchStrategy:
    """Values that a field type takes."""
    if isinstance(kind, messages.Integer):
        return st.integers(0, kind.maximum)
    if isinstance(kind, messages.Boolean):
        return st.booleans()
    if isinstance(kind, messages.Text):
        return st.text(max_size=min(kind.maximum, 20))
    if isinstance(kind, messages.Bytes):
        return st.binary(max_size=min(kind.maximum, 40))
    if isinstance(kind, messages.Sequence):
        return st.lists(values(kind.item), max_size=min(kind.maximum, 4))
    required = {field.name: values(field.type) for field in kind.fields if not field.optional}
    optional = {field.name: values(field.type) for field in kind.fields if field.optional}
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def any_message(draw):
    kind: MessageType = draw(st.sampled_from(list(MESSAGES.values())))
    reply = kind.answer is not None and draw(st.booleans())
    error = reply and draw(st.booleans())
    structure = messages.ERROR if error else kind.answer if reply else kind.request
    numbers = {"epoch": draw(st.integers(0, 2**32 - 1)), "seq": draw(st.integers(0, 2**64 - 1))}
    return kind.name, draw(values(structure)), {**numbers, "correlation": 7, "reply": reply, "error": error}


@given(any_message())
def test_any_message_survives_the_wire(case):
    name, body, options = case
    message = decode(encode(name, body, **options))
    assert (message.name, message.body) == (name, body)
    assert {key: getattr(message, key) for key in options} == options


@settings(max_examples=300)
@given(any_message(), st.data())
def test_a_damaged_message_is_refused(case, data):
    name, body, options = case
    whole = encode(name, body, **options)
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in {bytes(raw), bytes(raw[:cut]), bytes(raw) + b"\0"} - {whole}:
        with pytest.raises(ProtocolError) as caught:
            decode(damaged)
        assert caught.value.field


@given(any_message(), st.data())
def test_a_damaged_message_with_the_right_checksum_is_refused_or_harmless(case, data):
    name, body, options = case
    raw = bytearray(encode(name, body, **options))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(seal(bytes(raw[: HEADER_SIZE - 4]), bytes(raw[HEADER_SIZE:])))
    except ProtocolError as error:
        assert error.field


@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(ProtocolError):
        decode(noise)


def kick(**change) -> bytes:
    """A KICK with one header field changed, or another body."""
    fields = {"magic": b"BKHD", "version": 1, "type": 18, "flags": 0, "reserved": 0, "epoch": 1, "seq": 1}
    fields |= {"correlation": 0, "length": None, "body": msgpack.packb({"queue": 3})} | change
    body = fields.pop("body")
    fields["length"] = len(body) if fields["length"] is None else fields["length"]
    return seal(struct.pack("<4sHHHHIQQI", *fields.values()), body)


MISTAKES = {
    "header": b"BKHD",
    "magic": kick(magic=b"HTTP"),
    "version": kick(version=2),
    "type": kick(type=999),
    "reserved": kick(reserved=1),
    "flags": kick(flags=2),
    "length": kick(length=1),
    "checksum": kick()[:-1] + b"\x04",
    "body": kick(body=b"\xc1"),
    "KICK": kick(body=msgpack.packb([1])),
    "KICK.queue": kick(body=msgpack.packb({"queue": 16})),
    "KICK.who": kick(body=msgpack.packb({"queue": 3, "who": 1})),
}


@pytest.mark.parametrize("field", MISTAKES)
def test_the_offending_field_is_named(field):
    with pytest.raises(ProtocolError) as caught:
        decode(MISTAKES[field])
    assert caught.value.field == field


@pytest.mark.parametrize(
    "body",
    [{}, {"queue": -1}, {"queue": "3"}, {"queue": True}, {"queue": 3.0}, {"queue": None}],
    ids=["missing", "negative", "text", "bool", "float", "nil"],
)
def test_a_wrong_body_is_not_even_sent(body):
    with pytest.raises(ProtocolError) as caught:
        encode("KICK", body, epoch=1, seq=1)
    assert caught.value.field == "KICK.queue"


def test_a_field_given_twice_is_refused():
    with pytest.raises(ProtocolError, match="twice"):
        decode(kick(body=b"\x82\xa5queue\x01\xa5queue\x02"))


def test_a_posted_message_has_no_answer():
    with pytest.raises(ProtocolError, match="never answered"):
        encode("KICK", {}, epoch=1, seq=1, reply=True)


def test_a_body_is_bounded():
    with pytest.raises(ProtocolError):
        encode("LOAD", {"version": 1, "state": bytes(messages.MAX_BODY + 1)}, epoch=1, seq=1)


def test_numbers_and_names_are_unique():
    assert len({kind.number for kind in MESSAGES.values()}) == len(MESSAGES)
    assert HEADER_SIZE == 40


def test_only_mmio_may_not_be_asked_twice():
    assert {name for name, kind in MESSAGES.items() if not kind.idempotent} == {"MMIO_READ", "MMIO_WRITE"}
