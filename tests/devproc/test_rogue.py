"""A bug stays inside: a device that turns on its host gets nowhere, and each attempt fails with the errno named here.

The device is `rogue.py` beside this file, in a real process in its real sandbox. Its neighbour is another device, and
its keeper this process. That a whole machine goes on beside it is shown in tests/launcher/test_sandbox.py.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from proto.confine import landlock

ROGUE = Path(__file__).with_name("rogue.py")
DEADLINE = 60.0
PERMISSION = "EPERM"  # seccomp
EXPECTED = {
    "read_a_secret": "EACCES",
    "read_shadow": "EACCES",
    "read_the_neighbours_disk": "EACCES",
    "write_the_neighbours_disk": "EACCES",
    "list_a_directory": "EACCES",
    "make_a_file": "EACCES",
    "change_a_module": "EACCES",
    "plant_machine_code": "EACCES",
    "scribble_on_the_neighbours_pages": "EACCES",
    "open_the_neighbours_memory": "EACCES",
    "write_the_cores_page": "EACCES",
    "eat_memory": "ENOMEM",
    "resize_guest_memory": "EBADF",
    "call clone3": "ENOSYS",
}  # everything else: EPERM


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What became of every attack."""
    from launcher.replay.frontend import FrontEnd

    folder = tmp_path_factory.mktemp("rogue")
    home, other = folder / "home", folder / "other"
    for path in (home / ".ssh", other):
        path.mkdir(parents=True)
    secret, image = home / ".ssh" / "id_ed25519", other / "disk.img"
    secret.write_text("secret")
    image.write_bytes(bytes(1 << 20))
    orders, report = folder / "orders", folder / "report"
    orders.touch()
    report.touch()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    neighbour = FrontEnd("blk", backend=f"file:{image}")
    rogue = FrontEnd(f"{ROGUE}:Rogue", {"orders": str(orders), "report": str(report)})
    with listener, neighbour, rogue:
        neighbour.start()
        rogue.start()
        what = {
            "secret": str(secret),
            "image": str(image),
            "socket": str(folder / "socket"),
            "neighbour": neighbour.process.pid,
            "keeper": os.getpid(),
            "descriptors": [neighbour.device_page.fd, neighbour.ram.fd, rogue.ram.fd],
            "ram": len(rogue.ram.view),
        }
        orders.write_text(json.dumps(what) + "\n")
        end = time.monotonic() + DEADLINE
        while not (text := report.read_text()).endswith("\n"):
            assert time.monotonic() < end and rogue.process.poll() is None, rogue.logs
            time.sleep(0.01)
        found = json.loads(text)
        found["neighbour lives"] = neighbour.process.poll() is None and neighbour.request("FEATURES") != {}
        found["memory is whole"] = os.fstat(rogue.ram.fd).st_size == len(rogue.ram.view)
        found["files are whole"] = secret.read_text() == "secret" and image.stat().st_size == 1 << 20
        rogue.process.kill()
    return found


def attacks() -> list[str]:
    import ast

    tree = ast.parse(ROGUE.read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "attack" for d in node.decorator_list)
    ]


@pytest.mark.parametrize("name", attacks())
def test_an_attack_fails(outcome, name):
    if landlock.abi() == 0 and EXPECTED.get(name) == "EACCES":
        pytest.skip("needs Landlock")
    assert outcome[name] == EXPECTED.get(name, PERMISSION)


def test_system_calls_that_no_device_has_fail(outcome):
    calls = {name: what for name, what in outcome.items() if name.startswith("call ")}
    assert len(calls) > 15
    assert calls == {name: EXPECTED.get(name, PERMISSION) for name in calls}


def test_nothing_around_it_has_changed(outcome):
    assert outcome["neighbour lives"]
    assert outcome["memory is whole"]
    assert outcome["files are whole"]
