"""docs/link.md says what the code does, and its test vectors are messages."""

from __future__ import annotations

import re
from pathlib import Path

from proto.messages import decode, encode
from proto.pages import layout_hash
from proto.reference import VECTORS, update

PAGE = Path(__file__).parents[2] / "docs" / "link.md"


def test_the_page_is_up_to_date():
    page = PAGE.read_text()
    assert page == update(page), "run: make docs"


def test_the_vectors_on_the_page_are_messages():
    block = re.search(r"<!-- begin vectors -->\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    found = [bytes.fromhex(text) for text in re.findall(r":\n((?:    [0-9a-f ]+\n)+)", block)]
    assert found == [data for _, data in VECTORS]
    kick = decode(found[0])
    assert (kick.name, kick.body, kick.epoch, kick.seq, kick.correlation) == ("KICK", {"queue": 3}, 2, 17, 99)
    assert (
        found[0][:40].hex() == "424b484401001200000000000200000011000000000000006300000000000000" + "080000002989463d"
    )
    refused = decode(found[3])
    assert refused.reply and refused.error and refused.body["code"] == "StateError"
    for data in found:
        message = decode(data)
        assert encode(message.name, message.body, **{key: getattr(message, key) for key in OPTIONS}) == data


OPTIONS = ("epoch", "seq", "correlation", "reply", "error")


def test_the_layout_hash_is_on_the_page():
    assert f"`{layout_hash():#018x}`" in PAGE.read_text()
