"""What the network's benchmark waits for, and what it counts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bench import net


def test_a_socket_counts_when_somebody_listens_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "DEADLINE", 0.05)
    path = tmp_path / "wire"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(RuntimeError, match="nobody listens"):
            net.wait_for(path)
        listener.listen()
        net.wait_for(path)


def test_the_machines_of_a_pair_differ() -> None:
    macs, addresses = zip(*net.PAIR, strict=True)
    assert len({net.MAC, *macs}) == 3
    assert len(set(addresses)) == 2
