"""The life of a machine's processes: what is started, what is restarted, and that nothing outlives the machine.

That nothing is left is checked after each of these tests, by the fixture every test has.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.cli.exitcodes import ExitCode

PROMPT = b"> "
PS_KEYS = {"machine", "phase", "guest", "uptime", "kips", "serial", "gdb", "qmp", "processes"}
PROCESS_KEYS = {"id", "role", "pid", "state", "epoch", "restarts", "memory"}
Start = Callable[..., Any]


def runtime() -> Path:
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "bulkhead"


# -- running -----------------------------------------------------------------------------------------------------------


def test_ps_has_the_shape_that_programs_rely_on(start: Start, disk: str) -> None:
    machine = start("--disk", disk, "--device", "rng", "--name", "shape")
    machine.expect(PROMPT)
    seen = machine.ps()
    assert set(seen) == PS_KEYS
    assert seen["machine"] == "shape"
    rows = {row["id"]: row for row in seen["processes"] if row["role"] != "spare"}
    assert list(rows) == ["core", "blk0", "rng0"]
    for row in rows.values():
        assert set(row) >= PROCESS_KEYS
        assert row["state"] == "running"
        os.kill(row["pid"], 0)
        assert row["memory"] > 1 << 20
    assert [row["role"] for row in rows.values()] == ["core", "blk", "rng"]
    assert (rows["core"]["epoch"], rows["core"]["restarts"]) == (None, None)
    assert (rows["blk0"]["epoch"], rows["blk0"]["restarts"]) == (1, 0)
    assert rows["blk0"]["backend"] == f"file:{disk}"


def test_ps_counts_requests(start: Start, disk: str) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    before = machine.row("blk0")
    machine.type("read 0 8\n")
    machine.expect(PROMPT)
    after = machine.row("blk0")
    assert after["requests"] > before["requests"]
    assert after["bytes"] >= before["bytes"] + 8 * 512


def test_ps_as_a_table(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk, "--name", "tab")
    machine.expect(PROMPT)
    lines = bulkhead("ps").stdout.splitlines()
    assert re.match(r"machine tab · running \d+s · \d+ MIPS", lines[0])
    assert re.match(r"  serial \S+ · qmp \S+$|  qmp \S+$", lines[1])
    assert lines[2].split()[:5] == ["ID", "ROLE", "PID", "STATE", "EPOCH"]
    names = [line.split()[0] for line in lines[3:]]
    assert [name for name in names if not name.startswith("spare")] == ["core", "blk0"]


def test_the_guest_s_code_is_the_exit_code(start: Start) -> None:
    assert start("--append", "cmd=exit,7", "--name", "a").wait(DEADLINE) == 7
    assert start("--append", "cmd=exit,0", "--name", "b").wait(DEADLINE) == 0


DEADLINE = 60.0


def test_a_program_starts_in_machine_mode(start: Start, bulkhead: Any) -> None:
    from launcher.machine.bundled import bundled_guest

    answer = bulkhead("run", "--bios", "none", "--kernel", str(bundled_guest()), "--append", "cmd=exit,6")
    assert answer.returncode == 6, answer.stderr


def test_a_disk_can_be_booted_from(bulkhead: Any, tmp_path: Path) -> None:
    disk = tmp_path / "boot.img"
    subprocess.run([sys.executable, "-m", "guest.disk", str(disk), "--size", "8388608"], check=True, timeout=60)
    answer = bulkhead("run", "--boot", "disk", "--disk", str(disk), stdin="exit 5\n")
    assert answer.returncode == 5, answer.stderr
    assert "--boot disk without a disk" in bulkhead("run", "--boot", "disk").stderr


def test_the_link_can_be_messages_only(start: Start, disk: str) -> None:
    machine = start("--link", "messages", "--disk", disk, "--append", "cmd=verify,1;exit,3")
    assert machine.wait(DEADLINE) == 3


def test_two_machines_side_by_side(start: Start, bulkhead: Any, tmp_path: Path) -> None:
    one, two = start("--name", "one"), start("--name", "two", "--device", "rng")
    one.expect(PROMPT)
    two.expect(PROMPT)
    refused = bulkhead("stop")
    assert refused.returncode == ExitCode.ERROR and "Say which: --machine one" in refused.stderr
    tables = bulkhead("ps").stdout
    assert "machine one" in tables and "machine two" in tables
    assert bulkhead("stop", "--machine", "one").returncode == 0
    assert one.wait() == ExitCode.KILLED
    two.type("exit 5\n")
    assert two.wait() == 5


def test_a_name_is_taken_once(start: Start, bulkhead: Any) -> None:
    machine = start("--name", "only")
    machine.expect(PROMPT)
    second = bulkhead("run", "--guest", "bundled", "--name", "only")
    assert second.returncode == ExitCode.ERROR
    assert second.stderr.startswith("bulkhead: a machine named only is running")
    machine.type("echo still here\n")
    machine.expect(b"\nstill here")


def test_machines_without_a_name_get_one(start: Start) -> None:
    first, second = start(), start()
    first.expect(PROMPT)
    second.expect(PROMPT)
    assert sorted(path.name for path in runtime().iterdir() if path.is_dir()) == ["vm1", "vm2"]


def test_a_detached_machine_outlives_its_command(bulkhead: Any) -> None:
    started = bulkhead("run", "--guest", "bundled", "--detach", "--name", "far")
    assert started.returncode == 0, started.stderr
    try:
        assert "machine far" in bulkhead("ps").stdout
        assert (runtime() / "far" / "serial").is_socket()
    finally:
        assert bulkhead("stop").returncode == 0
    assert not (runtime() / "far").exists()


def test_logs(start: Start, disk: str, bulkhead: Any, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    wait_until(lambda: machine.row("blk0")["epoch"] == 2, "the restart")
    assert re.search(r"blk0 \(\d+\) was killed by SIGKILL", bulkhead("logs", "keeper").stdout)
    assert "no process blk; did you mean blk0?" in bulkhead("logs", "blk9").stderr.replace("blk9", "blk")


def test_a_reset_starts_the_machine_again(start: Start, disk: str) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    first = machine.row("core")["pid"]
    machine.type("write 3 kept\npoke 0x100000 0x7777 4\n")
    machine.expect(b"poke 0x100000 0x7777 4")
    machine.expect(b"help says what there is")
    machine.expect(PROMPT)
    rows = {row["id"]: row for row in machine.ps()["processes"]}
    assert rows["core"]["pid"] != first
    assert (rows["blk0"]["epoch"], rows["blk0"]["restarts"]) == (2, 0)
    machine.type("read 3\n")
    machine.expect(b"kept")
    machine.type("exit 4\n")
    assert machine.wait() == 4


def test_a_reset_ends_the_machine_when_asked_to(start: Start) -> None:
    machine = start("--no-reboot")
    machine.expect(PROMPT)
    machine.type("poke 0x100000 0x7777 4\n")
    assert machine.wait() == 0


# -- death of parts ----------------------------------------------------------------------------------------------------


def test_a_killed_device_comes_back_and_the_guest_goes_on(start: Start, disk: str, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    machine.type("write 5 before\n")
    machine.expect(PROMPT)
    for epoch in (2, 3, 4):
        os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
        machine.type("read 5\n")  # at once: it waits for the successor
        machine.expect(b"before")
        row = wait_until(lambda: (r := machine.row("blk0"))["state"] == "running" and r, "the restart")
        assert (row["epoch"], row["restarts"]) == (epoch, epoch - 1)


def test_restart_replaces_a_device(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    before = machine.row("blk0")["pid"]
    answer = bulkhead("restart", "blk0")
    assert answer.returncode == 0, answer.stderr
    assert re.match(r"blk0 \d+ serves, epoch 2, after \d+ ms", answer.stdout)
    assert machine.row("blk0")["pid"] != before
    machine.type("read 0\n")
    machine.expect(b"0000")
    assert "cannot be restarted" in bulkhead("restart", "core").stderr
    assert "did you mean" in bulkhead("restart", "blk7").stderr or "has no process" in bulkhead("restart", "x").stderr


def test_a_device_that_keeps_dying_is_restarted_ever_later(start: Start, tmp_path: Path, wait_until: Any) -> None:
    device = tmp_path / "dying.py"
    marker = tmp_path / "die"
    device.write_text(
        "import os\nfrom devproc.device import Queue, VirtioDevice\n"
        f"if os.path.exists({str(marker)!r}): os._exit(3)\n"
        "class Dying(VirtioDevice):\n    device_id = 4\n    queues = (Queue('requests', size=8),)\n"
    )
    machine = start("--device", f"{device}:Dying")
    machine.expect(PROMPT)
    marker.touch()
    os.kill(machine.row("dying0")["pid"], signal.SIGKILL)
    row = wait_until(lambda: (r := machine.row("dying0"))["restarts"] >= 4 and r, "four restarts")
    assert "ended with status 3" in row["reason"] or "killed" in row["reason"]
    machine.type("echo alive\n")
    machine.expect(b"\nalive")
    marker.unlink()
    wait_until(lambda: machine.row("dying0")["state"] == "running", "the recovery")


def test_each_process_has_a_name_of_its_own(start: Start, disk: str, wait_until: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    keeper = machine.keeper()
    assert {keeper.name()} | {process.name() for process in keeper.children()} >= {"vm1.keeper", "vm1.core", "vm1.blk0"}
    wait_until(lambda: "spare" in {process.name() for process in keeper.children()}, "a spare")
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    wait_until(lambda: machine.row("blk0")["state"] == "running", "the successor")
    assert psutil.Process(machine.row("blk0")["pid"]).name() == "vm1.blk0"


@pytest.mark.parametrize("victim", ["client", "keeper", "core"])
def test_kill_9_ends_everything(start: Start, disk: str, victim: str, wait_until: Any) -> None:
    machine = start("--disk", disk, "--device", "rng")
    machine.expect(PROMPT)
    pids = [row["pid"] for row in machine.ps()["processes"]]
    keeper = machine.keeper()
    pid = {"client": machine.client.pid, "keeper": keeper.pid, "core": pids[0]}[victim]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    machine.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{other}/exe") for other in pids), "the end")
    wait_until(lambda: not (runtime() / "vm1").exists(), "the removal of the run directory")
    assert time.monotonic() - began < 2.0
    if victim != "client":
        assert machine.client.returncode == ExitCode.KILLED


def test_after_kill_9_of_everything_the_next_command_sweeps(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    pids = [machine.client.pid, machine.keeper().pid, *(row["pid"] for row in machine.ps()["processes"])]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # its parent's death may have been its own
            os.kill(pid, signal.SIGKILL)
    machine.wait()
    assert (runtime() / "vm1").exists()
    assert bulkhead("ps").returncode == ExitCode.ERROR
    assert not (runtime() / "vm1").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_command_ends_the_machine(start: Start, number: signal.Signals) -> None:
    machine = start()
    machine.expect(PROMPT)
    machine.client.send_signal(number)
    assert machine.wait() == ExitCode.KILLED


def test_a_signal_to_the_keeper_ends_the_machine(start: Start) -> None:
    machine = start()
    machine.expect(PROMPT)
    machine.keeper().terminate()
    assert machine.wait() == ExitCode.KILLED
    assert "the keeper got SIGTERM" in machine.errors()


def test_a_reader_that_goes_away_ends_the_machine(start: Start) -> None:
    machine = start()
    machine.expect(PROMPT)
    machine.client.stdout.close()
    machine.type("help\n")
    assert machine.wait() == ExitCode.KILLED


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_nothing(closed: str) -> None:
    words = f"{sys.executable} -P -m launcher run --guest bundled --append cmd=exit,3 {closed}"
    answer = subprocess.run(["sh", "-c", words], capture_output=True, timeout=60, check=False)
    assert answer.returncode == 3
    assert b"Traceback" not in answer.stderr


def test_a_command_with_closed_input_can_be_ended() -> None:
    words = f"exec {sys.executable} -P -m launcher run --guest bundled <&-"
    client = subprocess.Popen(["sh", "-c", words], stdout=subprocess.PIPE)
    assert client.stdout is not None
    while client.stdout.readline() and b"> " not in client.stdout.peek(2):
        pass
    client.terminate()
    assert client.wait(60) == ExitCode.KILLED
    client.stdout.close()


def test_ctrl_c_at_any_moment_leaves_nothing(start: Start, disk: str) -> None:
    moments = random.Random(1)
    for number in range(12):
        machine = start("--disk", disk, "--name", f"c{number}")
        time.sleep(moments.uniform(0.0, 0.9))  # the moment is the point
        machine.client.send_signal(signal.SIGINT)
        # The other two are the interpreter's, while it starts and there is no code of ours yet.
        assert machine.wait() in (ExitCode.KILLED, 1, -signal.SIGINT)


def test_stopped_processes_do_not_keep_a_machine_alive(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    for row in machine.ps()["processes"]:
        os.kill(row["pid"], signal.SIGSTOP)
    assert bulkhead("stop").returncode == 0
    assert machine.wait() == ExitCode.KILLED


def test_a_device_s_own_children_do_not_hold_its_channel(start: Start, tmp_path: Path, wait_until: Any) -> None:
    device, ended = tmp_path / "forking.py", tmp_path / "ended"
    device.write_text(
        "import os, time\n"
        "from devproc.device import Queue, VirtioDevice\n"
        "class Forking(VirtioDevice):\n"
        "    device_id = 4\n    queues = (Queue('requests', size=8),)\n"
        "    def start(self):\n"
        "        if os.fork() == 0:\n"
        f"            while not os.path.exists({str(ended)!r}): time.sleep(0.01)\n"
        "            os._exit(0)\n"
    )
    machine = start("--sandbox", "off", "--device", f"{device}:Forking")  # a confined one has no children
    machine.expect(PROMPT)
    os.kill(machine.row("forking0")["pid"], signal.SIGKILL)
    wait_until(lambda: machine.row("forking0")["epoch"] == 2, "the restart")
    machine.type("exit 1\n")
    assert machine.wait() == 1
    ended.touch()  # those children are the device's own, and end by themselves


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_device_that_never_starts_is_given_up(start: Start, tmp_path: Path) -> None:
    device = tmp_path / "waiting.py"
    device.write_text(
        "import time\nfrom devproc.device import VirtioDevice\n"
        "class Waiting(VirtioDevice):\n    device_id = 4\n    def start(self): time.sleep(1000)\n"
    )
    machine = start("--device", f"{device}:Waiting")
    assert machine.wait(100) == ExitCode.ERROR
    assert "waiting0 did not start within 60 s" in machine.errors()


@pytest.mark.slow
def test_an_idle_device_is_left_alone(start: Start, disk: str) -> None:
    machine = start("--disk", disk, "--device", "rng", "--device", "mailbox")
    machine.expect(PROMPT)
    time.sleep(5)  # much longer than a device may be silent
    rows = [row for row in machine.ps()["processes"] if row["role"] != "spare"]
    assert [row["restarts"] for row in rows] == [None, 0, 0, 0]


# -- the serial line ---------------------------------------------------------------------------------------------------


def test_the_serial_line_can_be_a_file(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial"
    assert start("--serial", f"file:{path}", "--append", "cmd=echo,hello;exit,2").wait(DEADLINE) == 2
    assert b"hello" in path.read_bytes()


def test_the_serial_line_can_be_a_socket(start: Start, wait_until: Any) -> None:
    path = runtime().parent / "line"
    machine = start("--serial", f"socket:{path}")
    wait_until(path.is_socket, "the start", 30)
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(60)
        line.connect(str(path))
        line.sendall(b"exit 9\n")
        assert machine.wait(30) == 9
    assert not path.exists()


def test_the_serial_line_can_be_a_pseudo_terminal(start: Start) -> None:
    machine = start("--serial", "pty")
    assert machine.client.stderr is not None
    name = re.match(rb"serial line: (/dev/pts/\d+)", machine.client.stderr.readline())
    assert name is not None
    with open(name[1], "wb", buffering=0) as line:
        line.write(b"exit 8\n")
        assert machine.wait(30) == 8


def test_without_a_serial_line_the_guest_runs_all_the_same(start: Start) -> None:
    assert start("--serial", "none", "--append", "cmd=exit,4").wait(DEADLINE) == 4


# -- what cannot start -------------------------------------------------------------------------------------------------


def refused(bulkhead: Any, *words: str) -> str:
    answer = bulkhead("run", "--guest", "bundled", *words)
    assert answer.returncode == ExitCode.ERROR
    assert "Traceback" not in answer.stderr
    return str(answer.stderr)


def test_a_missing_image_is_an_error(bulkhead: Any, tmp_path: Path) -> None:
    text = refused(bulkhead, "--disk", str(tmp_path / "none.img"))
    assert "no such file" in text and "bulkhead disk create" in text


def test_an_image_of_odd_size_is_an_error(bulkhead: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(1000))
    assert "a disk is a whole number of 512-byte sectors" in refused(bulkhead, "--disk", str(path))


def test_an_image_in_use_is_an_error(start: Start, disk: str, bulkhead: Any) -> None:
    machine = start("--disk", disk)
    machine.expect(PROMPT)
    assert "is locked" in refused(bulkhead, "--disk", disk)


def test_a_wrong_property_is_an_error(bulkhead: Any, disk: str) -> None:
    text = refused(bulkhead, "--disk", f"{disk},logical_blok=512")
    assert "logical_blok" in text and "Did you mean logical_block?" in text


def test_a_device_that_crashes_while_it_starts_shows_why(bulkhead: Any, tmp_path: Path) -> None:
    device = tmp_path / "broken.py"
    device.write_text(
        "from devproc.device import VirtioDevice\n"
        "class Broken(VirtioDevice):\n"
        "    device_id = 4\n"
        "    def start(self):\n"
        "        return {}['absent']\n"
    )
    answer = bulkhead("run", "--guest", "bundled", "--device", f"{device}:Broken")
    assert answer.returncode == ExitCode.ERROR
    assert "broken0" in answer.stderr and "KeyError: 'absent'" in answer.stderr


def test_an_empty_kernel_is_an_error(bulkhead: Any, tmp_path: Path) -> None:
    path = tmp_path / "Image"
    path.touch()
    answer = bulkhead("run", "--kernel", str(path))
    assert answer.returncode == ExitCode.ERROR and "is empty" in answer.stderr


def test_more_memory_than_there_is_is_an_error(bulkhead: Any) -> None:
    text = refused(bulkhead, "-m", "1T")
    assert "no room for guest memory" in text and "-m" in text


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small /dev/shm needs root")
def test_a_full_dev_shm_is_an_error_before_the_start(tmp_path: Path) -> None:
    run = f"{sys.executable} -P -m launcher run --guest bundled -m 64M --append cmd=exit,3"
    script = f"mount -t tmpfs -o size=70m tmpfs /dev/shm && {run}; echo $?; head -c 40m /dev/zero > /dev/shm/x; {run}"
    answer = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    if "unshare" in answer.stderr:
        pytest.skip("this container may not mount")
    assert answer.stdout.rstrip().endswith("3")
    assert answer.returncode == ExitCode.ERROR
    assert "/dev/shm has no room for guest memory of 64 MiB" in answer.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_run_directory_without_room_loses_logs_and_nothing_else(tmp_path: Path) -> None:
    """What the keeper and a device print goes nowhere; the device still comes back, and the guest ends as it wants."""
    device = tmp_path / "talking.py"
    device.write_text(
        "from devproc.device import Queue, VirtioDevice\n"
        "class Talking(VirtioDevice):\n    device_id = 4\n    queues = (Queue('requests', size=8),)\n"
        "    def handle(self, request):\n"
        "        print('x' * 100000, flush=True)\n"
        "        request.write(bytes(request.writable))\n"
    )
    words = f"{sys.executable} -P -m launcher"
    script = (
        "mount -t tmpfs -o size=1m tmpfs $XDG_RUNTIME_DIR && head -c 900k /dev/zero >$XDG_RUNTIME_DIR/full\n"
        f"{words} run --guest bundled --detach --device {device}:Talking --append 'cmd=rng,8;sleep,3000;rng,8' && "
        "cat /dev/zero >>$XDG_RUNTIME_DIR/full\n"
        f"{words} restart talking0 && {words} ps && {words} stop; echo $?"
    )
    answer = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    if "unshare" in answer.stderr:
        pytest.skip("this container may not mount")
    assert re.search(r"talking0 +talking +\d+ +running +2 ", answer.stdout), answer
    assert answer.stdout.endswith("\n0\n"), answer
