"""A driver that builds nonsense, against every device: each chain is given back, the process lives, and nothing is
written outside the buffers that are the device's to write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.replay.frontend import GPA, FrontEnd

OUTSIDE = (0x300000, 0x340000)  # RAM that is in no buffer
DATA = 0x500000
SIZE = 64
DEVICES = ("disk in machine code", "disk in Python", "9p", "virtiofs", "v86fs", "rng")


class Driver:
    """A device process and one queue of it."""

    def __init__(self, name: str, folder: Path) -> None:
        image = folder / "disk.img"
        image.write_bytes(bytes(1 << 20))
        (folder / "share").mkdir()
        (folder / "share" / "file").write_bytes(b"x" * 5000)
        spec, backend, properties = {
            "disk in machine code": ("blk", f"file:{image}", {}),
            "disk in Python": ("blk", f"log:op=flush:file:{image}", {}),
            "9p": ("9p", str(folder / "share"), {"tag": "t"}),
            "virtiofs": ("virtiofs", str(folder / "share"), {"tag": "t"}),
            "v86fs": ("v86fs", str(folder / "share"), {"tag": "t"}),
            "rng": ("rng", "", {}),
        }[name]
        self.front = FrontEnd(spec, properties, backend=backend)
        hello = self.front.start()
        self.front.negotiate()
        count = len(hello["queues"]) if isinstance(hello.get("queues"), list) else 1
        self.queue = 1 if name == "virtiofs" else 0
        self.layouts = [
            self.front.add_queue(index, SIZE, index * 0x10000) for index in range(max(count, self.queue + 1))
        ]
        self.front.driver_ok()

    @property
    def layout(self) -> Any:
        return self.layouts[self.queue]


@pytest.fixture(scope="module", params=DEVICES)
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(request.param, tmp_path_factory.mktemp("nonsense"))
    yield made
    made.front.close()


descriptors = st.lists(
    st.tuples(
        st.one_of(
            st.integers(GPA + DATA, GPA + DATA + 4096),
            st.sampled_from([0, GPA - 1, GPA + (32 << 20) - 1, (1 << 64) - 1]),
        ),
        st.one_of(st.integers(0, 600), st.sampled_from([7, 16, 40, 513, 70000, (1 << 32) - 1])),
        st.integers(0, 7),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=4,
)
headers = st.one_of(
    st.binary(max_size=200),
    st.builds(  # of a disk's request
        lambda kind, sector, rest: struct.pack("<IIQ", kind, 0, sector) + rest,
        st.sampled_from([0, 1, 4, 8, 11, 13, 99]),
        st.one_of(st.integers(0, 2100), st.just((1 << 64) - 1)),
        st.binary(max_size=100),
    ),
    st.builds(  # of 9P's
        lambda size, kind, rest: struct.pack("<IBH", size, kind, 1) + rest,
        st.integers(0, 200),
        st.sampled_from([8, 12, 14, 24, 40, 72, 100, 104, 110, 116, 118, 120]),
        st.binary(max_size=100),
    ),
    st.builds(  # of v86fs's
        lambda size, kind, number, rest: struct.pack("<IBHQ", size, kind, 1, number) + rest,
        st.integers(0, 200),
        st.integers(0, 0x24),
        st.integers(0, 3),
        st.binary(max_size=100),
    ),
    st.builds(  # of FUSE's
        lambda size, opcode, node, rest: struct.pack("<IIQQIIIHH", size, opcode, 1, node, 0, 0, 1, 0, 0) + rest,
        st.integers(0, 200),
        st.integers(0, 60),
        st.integers(0, 3),
        st.binary(max_size=100),
    ),
)


@given(chain=descriptors, data=headers)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_chain_is_given_back(driver: Driver, chain: list[tuple[int, int, int, int]], data: bytes) -> None:
    front, layout, ram = driver.front, driver.layout, driver.front.ram.view
    ram[OUTSIDE[0] : OUTSIDE[1]] = b"\x5a" * (OUTSIDE[1] - OUTSIDE[0])
    ram[DATA : DATA + len(data)] = data
    for number, (address, size, flags, following) in enumerate(chain):
        struct.pack_into("<QIHH", ram, layout.desc + 16 * number, address, size, flags, following)
    front.native.publish(layout.driver, 0)
    front.notify(layout)
    front.wait_used(layout)
    assert bytes(ram[OUTSIDE[0] : OUTSIDE[1]]) == b"\x5a" * (OUTSIDE[1] - OUTSIDE[0])
    assert front.process is not None and front.process.poll() is None


def test_it_is_still_the_same_process(driver: Driver) -> None:
    """After all of that, an honest chain: readable bytes that mean nothing, and room."""
    front, layout, ram = driver.front, driver.layout, driver.front.ram.view
    struct.pack_into("<QIHH", ram, layout.desc, GPA + DATA, 512, 2, 0)
    front.native.publish(layout.driver, 0)
    front.notify(layout)
    front.wait_used(layout)
    assert front.process is not None and front.process.poll() is None
