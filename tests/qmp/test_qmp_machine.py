"""QMP, the monitor and metrics of a real machine, with QEMU's own client library."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError

Bulkhead = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def machine(bulkhead: Bulkhead, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What `ps` says of a machine with a disk."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 8 << 20)
    options = ("--detach", "--name", "served", "--qmp", "0", "--metrics", "0", "--smp", "2")
    started = bulkhead("run", "--guest", "bundled", "--disk", str(disk), *options)
    assert started.returncode == 0, started.stderr
    yield json.loads(bulkhead("ps", "--json").stdout)
    bulkhead("stop", "--machine", "served")


@pytest.fixture
def qmp_path(machine: dict[str, Any]) -> str:
    return f"{os.environ['XDG_RUNTIME_DIR']}/bulkhead/served/qmp"


def test_qemus_own_client_controls_the_machine(qmp_path: str, tmp_path: Path) -> None:
    async def conversation() -> None:
        client = QMPClient("test")
        await client.connect(qmp_path)
        assert (await client.execute("query-status"))["running"] is True
        names = {entry["name"] for entry in await client.execute("query-commands")}
        assert {"stop", "cont", "quit", "query-qmp-schema", "qom-set"} <= names
        assert await client.execute("query-qmp-schema")
        with client.listener(("STOP", "RESUME", "DEVICE_RESTARTED", "DEVICE_SWAPPED")) as events:
            await client.execute("stop")
            assert (await asyncio.wait_for(events.get(), 10))["event"] == "STOP"
            assert (await client.execute("query-status"))["status"] == "paused"
            await client.execute("cont")
            assert (await asyncio.wait_for(events.get(), 10))["event"] == "RESUME"
            restarted = await client.execute("device-restart", {"id": "blk0"})
            assert restarted["epoch"] == 2
            uri = await client.execute("qom-get", {"path": "/machine/devices/blk0/backend", "property": "uri"})
            slow = {"path": "/machine/devices/blk0/backend", "property": "uri", "value": f"delay:ms=1:{uri}"}
            await client.execute("qom-set", slow)
            assert (await client.execute("query-block"))[0]["inserted"]["drv"] == "delay"
        with pytest.raises(QMPError, match="no such file"):
            await client.execute("device-swap", {"id": "blk0", "uri": f"file:{tmp_path}/missing"})
        registers = await client.execute("human-monitor-command", {"command-line": "info registers", "cpu-index": 1})
        assert registers.startswith("hart 1:") and " satp " in registers
        with pytest.raises(QMPError, match="did you mean quit"):
            await client.execute("quitt")
        await client.execute("quit")
        await client.disconnect()

    asyncio.run(asyncio.wait_for(conversation(), 60))


def test_a_conversation_goes_on_while_a_device_is_killed_and_swapped(qmp_path: str, machine: dict[str, Any]) -> None:
    """Each of it is told in its order, and the next command is answered."""
    (pid,) = [row["pid"] for row in machine["processes"] if row["id"] == "blk0"]

    async def conversation() -> None:
        client = QMPClient("test")
        await client.connect(qmp_path)
        with client.listener(("DEVICE_DIED", "DEVICE_RESTARTED", "DEVICE_SWAPPED")) as events:
            os.kill(pid, signal.SIGKILL)
            for name in ("DEVICE_DIED", "DEVICE_RESTARTED"):
                event = await asyncio.wait_for(events.get(), 60)
                assert (event["event"], event["data"]["id"]) == (name, "blk0")
            uri = await client.execute("qom-get", {"path": "/machine/devices/blk0/backend", "property": "uri"})
            await client.execute("device-swap", {"id": "blk0", "uri": f"delay:ms=1:{uri}"})
            assert (await asyncio.wait_for(events.get(), 60))["event"] == "DEVICE_SWAPPED"
            assert await client.execute("qom-get", {"path": "/machine/devices/blk0", "property": "epoch"}) == 3
        await client.disconnect()

    asyncio.run(asyncio.wait_for(conversation(), 200))


def test_a_disk_is_mirrored_and_the_copy_is_what_the_guest_uses(qmp_path: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.img"
    copy.touch()
    os.truncate(copy, 8 << 20)

    async def conversation() -> None:
        client = QMPClient("test")
        await client.connect(qmp_path)
        assert await client.execute("query-block-jobs") == []
        with client.listener("BLOCK_JOB_READY") as events:
            await client.execute("block-mirror", {"device": "blk0", "target": f"file:{copy}"})
            assert (await asyncio.wait_for(events.get(), 30))["data"]["id"] == "blk0"
        while (await client.execute("query-block-jobs"))[0]["status"] != "done":
            await asyncio.sleep(0.02)
        assert (await client.execute("query-block"))[0]["inserted"]["file"] == f"file:{copy}"
        await client.disconnect()

    asyncio.run(asyncio.wait_for(conversation(), 60))


def test_qmp_shell_works(qmp_path: str) -> None:
    shell = [sys.executable, "-m", "qemu.qmp.qmp_shell", qmp_path]
    typed = "query-name\nqom-get path=/machine property=harts\n"
    done = subprocess.run(shell, input=typed, capture_output=True, text=True, timeout=60)
    assert "served" in done.stdout and '{"return": 2}' in done.stdout, done.stdout + done.stderr


def test_a_killed_server_costs_its_clients_only_and_the_next_client_gets_another(
    machine: dict[str, Any], bulkhead: Bulkhead
) -> None:
    host, _, port = machine["qmp"].rpartition(":")

    async def status() -> Any:
        client = QMPClient("test")
        await client.connect((host, int(port)))
        answer = await client.execute("query-status")
        await client.disconnect()
        return answer

    for _ in range(2):
        assert asyncio.run(asyncio.wait_for(status(), 30))["running"]
        rows = json.loads(bulkhead("ps", "--json").stdout)["processes"]
        os.kill(next(row["pid"] for row in rows if row["id"] == "qmp"), signal.SIGKILL)


def test_the_monitor_shows_registers_memory_and_the_tree(machine: dict[str, Any], bulkhead: Bulkhead) -> None:
    assert "0000000080200000: 0x" in bulkhead("monitor", "xp/4xw", "0x80200000").stdout
    assert "/blk0 (blk)" in bulkhead("monitor", "info", "qom-tree").stdout
    assert "virtio" in bulkhead("monitor", "info", "mtree").stdout
    mistake = bulkhead("monitor", "inof", "mtree")
    assert mistake.returncode == 125 and mistake.stderr.startswith("bulkhead: no command inof; did you mean info?")
    said = bulkhead("monitor", stdin="info cpus\ncpu 1\ninfo cpus\nxp/1xw 0\nnonsense\n").stdout
    assert "* CPU #0" in said and "* CPU #1" in said
    assert "no memory at physical address 0x0" in said and "no command nonsense" in said


def test_prometheus_gets_the_figures(machine: dict[str, Any]) -> None:
    with urllib.request.urlopen(f"http://{machine['metrics']}/metrics", timeout=60) as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'bulkhead_guest_running{machine="served"} 1' in text
    assert 'bulkhead_device_restarts_total{machine="served",id="blk0",role="blk"} 0' in text
    assert "# TYPE bulkhead_device_requests_total counter" in text


def test_qmp_on_standard_input_and_output(machine: dict[str, Any], bulkhead: Bulkhead) -> None:
    lines = [{"execute": "qmp_capabilities"}, {"execute": "query-name", "id": 1}]
    said = bulkhead("qmp", "--stdio", stdin="".join(json.dumps(line) for line in lines)).stdout
    greeting, ready, name = (json.loads(line) for line in said.splitlines())
    assert "QMP" in greeting and ready == {"return": {}}
    assert name == {"return": {"name": "served"}, "id": 1}


def test_system_reset_starts_the_guest_again(machine: dict[str, Any], bulkhead: Bulkhead) -> None:
    before = next(row["pid"] for row in machine["processes"] if row["id"] == "core")
    assert bulkhead("qmp", "system_reset").returncode == 0
    for _ in range(500):
        seen = json.loads(bulkhead("ps", "--json").stdout)
        core = next(row for row in seen["processes"] if row["id"] == "core")
        if seen["phase"] == "running" and core["pid"] != before:
            return
    pytest.fail("the guest did not start again")


def test_mistakes_on_the_command_line_are_named(bulkhead: Bulkhead) -> None:
    assert "did you mean query-status" in bulkhead("qmp", "query-statos").stderr
    assert "no machine is running" in bulkhead("qmp", "query-status").stderr
    assert "device-swap" in bulkhead("qmp").stdout
