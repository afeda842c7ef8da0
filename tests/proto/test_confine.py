"""The kernel's means of confinement, each by itself: filters as programs, and what a process may still do after them.

What can be tried is tried in a child of its own, since nothing here can be taken back.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.confine import landlock, limits, namespaces, seccomp
from proto.confine.numbers import NUMBERS
from proto.confine.syscalls import ALLOWED, ARGUMENTS, NEVER, NEWEST, PROFILES, number

MACHINES = ("x86_64", "aarch64")
PID = 4242
EPERM, ENOSYS = seccomp.errno_action(errno.EPERM), seccomp.errno_action(errno.ENOSYS)
NOBODY = 65534


def in_child(act: Callable[[], object], user: int | None = None) -> str:
    """What `act` says in a process of its own; the name of its errno, or of the signal that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "failed"
        faulthandler.disable()
        try:
            os.close(reading)
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            said = str(act())
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, str(error))
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


def confine(profile: str = "device") -> None:
    limits.no_new_privileges()
    seccomp.install(seccomp.allowlist(PROFILES[profile], os.getpid(), os.uname().machine))


# -- the table and its programs ----------------------------------------------------------------------------------------


def test_every_call_is_in_the_table_once():
    names = [name for row in ALLOWED for name in row.names]
    assert len(names) == len(set(names))
    assert set(names) <= set(NUMBERS)
    assert not set(names) & {name for denied, _ in NEVER for name in denied}
    assert set(ARGUMENTS) <= set(names)
    assert all(numbers[at] is None or numbers[at] < NEWEST for numbers in NUMBERS.values() for at in (0, 1))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_allows_its_groups_and_nothing_else(profile, machine):
    groups = PROFILES[profile]
    program = seccomp.allowlist(groups, PID, machine)
    assert len(program) < 4096  # BPF_MAXINSNS
    for row in ALLOWED:
        for name in row.names:
            nr = number(name, machine)
            if nr is not None and name not in ARGUMENTS:
                expected = seccomp.ALLOW if row.group in groups else EPERM
                assert seccomp.simulate(program, nr, arch=machine) == expected, name
    for names, _ in NEVER:
        for nr in (number(name, machine) for name in names):
            assert nr is None or seccomp.simulate(program, nr, arch=machine) == EPERM


@settings(deadline=None)
@given(nr=st.integers(0, 2**32 - 1), arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_no_call_leads_out_of_the_program(nr, arguments):
    for machine in MACHINES:
        program = seccomp.allowlist(PROFILES["device"], PID, machine)
        answer = seccomp.simulate(program, nr if nr < 2**31 else nr - 2**32, arguments, arch=machine)
        assert answer in (seccomp.ALLOW, seccomp.KILL, EPERM, ENOSYS)


def ask(name: str, *arguments: int) -> int:
    machine = "x86_64"
    return seccomp.simulate(seccomp.allowlist(PROFILES["device"], PID, machine), number(name, machine), arguments)


def test_clone_makes_threads_only():
    thread = 0x003D0F00  # pthread_create's
    assert ask("clone", thread) == seccomp.ALLOW
    assert ask("clone", signal.SIGCHLD) == EPERM
    assert ask("clone", thread | 0x10000000) == EPERM  # CLONE_NEWUSER


def test_signals_go_to_itself_only():
    assert ask("kill", PID, 9) == ask("tgkill", PID, 1, 6) == seccomp.ALLOW
    assert ask("kill", PID + 1, 9) == ask("kill", 0, 9) == ask("kill", 2**32 - 1, 9) == EPERM
    assert ask("tgkill", PID + 1, 1, 6) == EPERM


def test_a_pointer_is_compared_whole():
    assert ask("sendto", 3, 0, 0, 0, 0) == seccomp.ALLOW
    assert ask("sendto", 3, 0, 0, 0, 0x7F00) == ask("sendto", 3, 0, 0, 0, 1 << 32) == EPERM
    assert ask("prlimit64", 0, 2, 1 << 40) == EPERM


def test_the_owner_of_a_descriptor_stays():
    assert ask("fcntl", 1, 4) == seccomp.ALLOW
    assert ask("fcntl", 1, 8) == ask("fcntl", 1, 10) == ask("fcntl", 1, 15) == EPERM  # F_SETOWN, F_SETSIG, F_SETOWN_EX


def test_another_architecture_is_the_end():
    program = seccomp.allowlist(PROFILES["device"], PID, "x86_64")
    assert seccomp.simulate(program, 0, arch="aarch64") == seccomp.KILL
    assert seccomp.simulate(program, 0x40000000 | 39) == seccomp.KILL  # x32
    assert seccomp.simulate(program, NEWEST) == ENOSYS


def test_the_core_keeps_all_but_what_nobody_needs():
    program = seccomp.denylist(PID, "x86_64")
    assert seccomp.simulate(program, NUMBERS["socket"][0]) == seccomp.ALLOW
    assert seccomp.simulate(program, NUMBERS["execve"][0]) == EPERM
    assert seccomp.simulate(program, NUMBERS["kill"][0], [PID + 1]) == EPERM


# -- in a process ------------------------------------------------------------------------------------------------------


def test_the_filter_binds_threads_that_are_there_already():
    def act() -> str:
        go, said = threading.Event(), []

        def late() -> None:
            go.wait(10)
            try:
                socket.socket()
            except OSError as error:
                said.append(errno.errorcode[error.errno])

        thread = threading.Thread(target=late)
        thread.start()
        confine()
        go.set()
        thread.join()
        return said[0]

    assert in_child(act) == "EPERM"


def test_threads_can_still_be_started():
    def act() -> str:
        confine()
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append("ran"))
        thread.start()
        thread.join()
        return said[0]

    assert in_child(act) == "ran"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64 has them")
def test_an_x32_call_ends_the_process():
    def act() -> None:
        confine()
        ctypes.CDLL(None).syscall(0x40000000 | 39)

    assert in_child(act) == "SIGSYS"


def test_abort_still_works():
    def act() -> None:
        confine()
        os.abort()

    assert in_child(act) == "SIGABRT"


needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")


@needs_landlock
@pytest.mark.parametrize("version", range(1, max(landlock.abi(), 1) + 1))
def test_landlock_of_every_version_keeps_files(tmp_path: Path, version: int):
    """An older kernel is asked for less; what is asked for is given."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / "other").write_text("other")

    def act() -> str:
        limits.no_new_privileges()
        landlock.restrict([(str(tmp_path / "mine"), "read"), ("/nowhere", "read")], version)
        assert (tmp_path / "mine" / "file").read_text() == "mine"
        found = []
        for attempt in (
            lambda: (tmp_path / "other").read_text(),
            lambda: (tmp_path / "mine" / "file").write_text("x"),
            lambda: (tmp_path / "mine" / "new").touch(),
            lambda: os.unlink(tmp_path / "mine" / "file"),
        ):
            try:
                attempt()
                found.append("done")
            except OSError as error:
                found.append(errno.errorcode[error.errno])
        return " ".join(found)

    assert in_child(act) == "EACCES EACCES EACCES EACCES"


@needs_landlock
def test_landlock_forbids_tcp_unless_asked_not_to():
    if landlock.abi() < 4:
        pytest.skip("the kernel's Landlock knows nothing of TCP")

    def act(network: bool) -> Callable[[], str]:
        def listen() -> str:
            limits.no_new_privileges()
            landlock.restrict([], landlock.abi(), network=network)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
            return "done"

        return listen

    assert (in_child(act(False)), in_child(act(True))) == ("EACCES", "done")


@needs_landlock
def test_landlock_keeps_signals_inside():
    if landlock.abi() < 6:
        pytest.skip("the kernel's Landlock knows nothing of signals")
    keeper = os.getpid()

    def act() -> str:
        limits.no_new_privileges()
        landlock.restrict([], landlock.abi())
        os.kill(keeper, 0)
        return "done"

    assert in_child(act) == "EPERM"


def test_what_a_later_version_would_give_is_named():
    assert landlock.missing(0)[0] == "files" and len(landlock.missing(1)) == 5
    assert landlock.missing(7) == []


@pytest.mark.parametrize("user", [None, NOBODY])
def test_namespaces_of_its_own(user: int | None):
    if user is not None and os.geteuid() != 0:
        pytest.skip("the same as the other")

    def act() -> str:
        refused = namespaces.probe()
        if any(refused.values()):
            return f"the host refuses: {refused}"
        before = os.geteuid(), os.getegid()
        outside = os.readlink("/proc/self/ns/net")
        namespaces.enter(["net", "ipc", "uts"])
        assert (os.geteuid(), os.getegid()) == before  # who it is stays: owners of files are compared with it
        assert os.readlink("/proc/self/ns/net") != outside
        with socket.socket() as sock:
            return errno.errorcode[sock.connect_ex(("127.0.0.1", 9))]

    said = in_child(act, user)
    assert said == "ENETUNREACH" or said.startswith("the host refuses")


@pytest.mark.parametrize("user", [None, NOBODY])
def test_a_mount_namespace_freezes_all_but_what_is_served(tmp_path: Path, user: int | None):
    if user is not None and os.geteuid() != 0:
        pytest.skip("the same as the other")
    for path in (tmp_path, *tmp_path.parents[:3]):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(0o755)
    served, other = tmp_path / "served", tmp_path / "other"
    for path in (served, other):
        path.mkdir()
        if user is not None:
            os.chown(path, user, user)

    def act() -> str:
        if any(namespaces.probe().values()):
            return "the host refuses"
        namespaces.enter(["mount"], [str(served)])
        (served / "new").touch()
        os.chmod(served / "new", 0o600)
        os.chmod(other, 0o700)
        return "done"

    assert in_child(act, user) in ("EROFS", "the host refuses")


def test_root_keeps_its_capabilities_to_files_only():
    if os.geteuid() != 0:
        pytest.skip("root's affair")

    def act() -> str:
        namespaces.forget_capabilities()
        lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
        return lines["CapEff"]

    assert in_child(act) == f"{0b1110:016x}"


def test_memory_is_bounded_and_stays_so():
    def act() -> str:
        limits.set_limits(64 << 20, own_users=False)
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        try:
            bytearray(128 << 20)
        except MemoryError:
            return "bounded"
        return "unbounded"

    assert in_child(act) == "bounded"


def test_the_page_has_the_tables_of_the_code():
    from proto.confine.reference import BLOCKS
    from proto.reference import update

    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    assert update(page, BLOCKS) == page
