"""What every test may use, and what none may leave behind.

Each test has a run directory of its own (XDG_RUNTIME_DIR) and a mark in the environment that its processes inherit.
A test that leaves a process, a socket or file of a machine, or a segment of shared memory fails, and what it left is
removed, so that the next one begins clean.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
MARK = "BULKHEAD_TEST"
GRACE = 3.0  # seconds that what a test started may take to end after it
DESCRIPTORS = 40  # that a test may leave open: what others keep for the next, not what grows with each step
COMMAND = [sys.executable, "-P", "-m", "launcher"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job; commands would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy host is slow, and that is no finding: what must be fast is measured in bench/.
settings.register_profile("bulkhead", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bulkhead")

Bulkhead = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test that leaks a process, a socket, a file of a machine or a shared segment."""
    mark = uuid.uuid4().hex
    runtime = Path(tempfile.mkdtemp(prefix="bh-", dir="/tmp"))  # short: socket paths have 107 bytes
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("XDG_STATE_HOME", str(runtime / ".state"))  # crash bundles
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
    segments, descriptors = set(_segments()), _descriptors()
    yield
    left = _wait_until_gone(mark, runtime, segments)
    for pid in _marked(mark):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(runtime, ignore_errors=True)
    assert not left, "left behind: " + "; ".join(left)
    if _descriptors() > descriptors + DESCRIPTORS:
        gc.collect()
    assert _descriptors() <= descriptors + DESCRIPTORS, (
        f"of {_descriptors()} descriptors {descriptors} were open before"
    )


def _wait_until_gone(mark: str, runtime: Path, segments: set[str]) -> list[str]:
    deadline = time.monotonic() + GRACE
    while True:
        left = [f"process {pid}: {_command_line(pid)}" for pid in _marked(mark)]
        left += _files(runtime)
        left = [item for item in left if not item.endswith("/.lock")]
        left = [item for item in left if "/.state/" not in item]
        left += [f"/dev/shm/{name}" for name in _segments() if name not in segments]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def _files(directory: Path) -> list[str]:
    """The files and sockets below a directory, which a machine that is ending may be removing meanwhile."""
    try:
        return [str(path) for path in sorted(directory.rglob("*")) if path.is_file() or path.is_socket()]
    except FileNotFoundError:
        return [f"{directory}, which is changing"]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _segments() -> list[str]:
    """Named segments; a living keeper's have a name for microseconds only."""
    return [name for name in os.listdir("/dev/shm") if name.startswith("bulkhead-")]


def _marked(mark: str) -> list[int]:
    """The living processes that inherited the mark."""
    wanted = f"{MARK}={mark}".encode()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and wanted in _environment(int(name))]


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"


@pytest.fixture
def bulkhead() -> Bulkhead:
    """Run the command to its end: `bulkhead("ps", "--json")`, with what it prints as text."""

    def run(*words: str, stdin: str = "", timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*COMMAND, *words], input=stdin, capture_output=True, text=True, timeout=timeout, check=False, **options
        )

    return run


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In continuous integration a test that lacks a tool or an image fails: `make test` must have brought it."""
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("CI") and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(("needs ", "no Debian guest")):
            report.outcome = "failed"
            report.longrepr = f"skipped in continuous integration: {reason}"
