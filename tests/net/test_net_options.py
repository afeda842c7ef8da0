"""`--net` on the command line and in a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.machine.options import Given
from launcher.machine.plan import describe_device
from launcher.machine.values import Card, parse_net
from proto.errors import ConfigError

KNOWN = describe_device("net")["properties"]


def parsed(value: Any) -> Card:
    return parse_net(Given(value, "--net", Path("/here")), KNOWN)


def test_what_belongs_to_whom() -> None:
    card = parsed("user,hostfwd=tcp:1-2,mac=52:54:00:00:00:01,hostfwd=udp:3-4,pcap=a.pcap,id=lan,mtu=1400")
    assert card.uri == "user,hostfwd=tcp:1-2,hostfwd=udp:3-4"
    assert card.properties == {"mac": "52:54:00:00:00:01", "mtu": "1400"}
    assert (card.id, card.capture, card.how) == ("lan", "/here/a.pcap", "dhcp")


def test_a_table_says_the_same() -> None:
    card = parsed({"uri": "user", "hostfwd": ["tcp:1-2", "udp:3-4"], "restrict": True, "pairs": 2})
    assert card.uri == "user,hostfwd=tcp:1-2,hostfwd=udp:3-4,restrict=on"
    assert card.properties == {"pairs": "2"}


def test_paths_are_those_of_the_directory() -> None:
    assert parsed("hub:seg").uri == "hub:/here/seg"
    assert parsed("stream:unix:../s,server").uri == "stream:unix:/s,server=on"
    assert parsed("stream:tcp:127.0.0.1:99").uri == "stream:tcp:127.0.0.1:99"


def test_addresses_for_the_guest() -> None:
    card = parsed("hub:/x,ip=10.0.0.1/24,gateway=10.0.0.9")
    assert (card.how, card.gateway) == ("10.0.0.1/24", "10.0.0.9")
    assert parsed("hub:/x").how == "none"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "which network"),
        ("usr", "there is no network"),
        ("user,mak=1", "no option 'mak'"),
        ("user,ip=10.0.0", "does not appear to be"),
        ("user,gateway=x", "does not appear to be"),
        ({"hostfwd": "tcp:1-2"}, "which network"),
    ],
)
def test_mistakes_are_explained(value: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        parsed(value)
    assert error.value.hint
