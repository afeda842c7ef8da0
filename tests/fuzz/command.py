"""Fuzz target of what is typed: the values of the command line's options."""

from __future__ import annotations

from pathlib import Path

from devproc.net.device import parse_mac
from launcher.machine.options import Given
from launcher.machine.values import parse_device, parse_disk, parse_memory, parse_net, parse_serial, parse_share
from proto.errors import ConfigError
from tests.fuzz.harness import Target, allowed

PARSERS = {
    "-m": parse_memory,
    "--disk": parse_disk,
    "--net": lambda given: parse_net(given, {"mac", "mtu", "pairs", "speed"}),
    "--share": parse_share,
    "--serial": parse_serial,
    "--device": parse_device,
    "mac": lambda given: parse_mac(given.value),
}
_TYPED = {
    "-m": ("256M", "1.5G", "512"),
    "--disk": ("disk.img,ro", "qcow2:a,,b.qcow2,serial=x,id=root", "snapshot:overlay=o:http://h/x,ro"),
    "--net": ("user,hostfwd=tcp:2222-22,mac=52:54:00:12:34:56", "stream:tcp:h:1,server", "hub:x,ip=10.0.0.1/24,pcap=f"),
    "--share": ("dir,tag=x,ro,proto=virtiofs",),
    "--serial": ("stdio", "file:x"),
    "--device": ("rng,id=r", "./x.py:X,a=b"),
    "mac": ("52:54:00:12:34:56",),
}


def _seeds() -> list[bytes]:
    return [bytes([number]) + text.encode() for number, option in enumerate(PARSERS) for text in _TYPED.get(option, ())]


def _run(data: bytes) -> None:
    option = list(PARSERS)[data[0] % len(PARSERS) if data else 0]
    text = data[1:].decode("utf-8", "surrogateescape")
    if "\0" in text:
        return  # no argument of a process has one
    with allowed(ConfigError):
        PARSERS[option](Given(text, option, Path("/nowhere")))


TARGETS = (Target("options", "values of the command line's options (launcher.machine.values)", _run, _seeds),)
