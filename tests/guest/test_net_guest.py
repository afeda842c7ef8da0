"""The bundled guest's network card: several queue pairs that all carry traffic, also across a kill and a reset."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import signal
import subprocess

import pytest
from conversation import BULKHEAD, Conversation, missing

RUN = (*BULKHEAD, "run", "--guest", "bundled", "--name", "pairs")


@pytest.fixture(autouse=True)
def libslirp() -> None:
    if ctypes.util.find_library("slirp") is None:
        missing("libslirp0")


def pid_of_card() -> int:
    words = [*BULKHEAD, "ps", "--json", "--machine", "pairs"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return int(next(row["pid"] for row in json.loads(answer.stdout)["processes"] if row["id"] == "net0"))


def ping(guest: Conversation, pairs: int) -> None:
    """Every pair sends, and what answers comes to the pair that asked."""
    guest.type("ping 4\n")
    for pair in range(pairs):
        guest.expect(f"pair {pair}: 4 of 4 answered, 4 of them here")


@pytest.mark.slow
@pytest.mark.parametrize("ring", ["", "ring=plain"])
def test_every_queue_pair_carries_traffic_and_outlives_the_card(ring: str) -> None:
    with Conversation([*RUN, "--net", "user,pairs=3,mac=52:54:00:12:34:56", "--append", ring or "x"]) as guest:
        guest.type("net\n")
        guest.expect("mac 52:54:00:12:34:56  mtu 32768  link up  1 of 3 queue pairs used")
        ping(guest, 1)
        guest.type("net 3\n")
        guest.expect("3 of 3 queue pairs used")
        ping(guest, 3)
        os.kill(pid_of_card(), signal.SIGKILL)
        ping(guest, 3)
        guest.type("net 9\n")
        guest.expect("does not use 9 pairs")
        guest.type("net\nexit 0\n")
        status, rest = guest.finish()
    counts = re.findall(r"pair \d: (\d+) sent, (\d+) received", rest)
    assert status == 0 and len(counts) == 3
    assert all(int(sent) >= 8 and int(received) >= 8 for sent, received in counts)


@pytest.mark.slow
def test_a_guest_that_resets_finds_its_network_again() -> None:
    with Conversation([*RUN, "--net", "user,pairs=2"]) as guest:
        for _ in range(2):
            guest.expect("help says what there is")
            guest.type("net 2\n")
            guest.expect("2 of 2 queue pairs used")
            ping(guest, 2)
            guest.type("poke 0x100000 0x7777 4\n")  # the test finisher's reset
        guest.expect("help says what there is")
        guest.type("exit 0\n")
        assert guest.finish()[0] == 0
