"""A device that attacks whatever it can reach, and says how each attempt failed. Not a test: `test_rogue.py` runs it.

`orders` is a file with what to attack, as JSON; once it is there the attacks are made, and what became of them is
written to `report`: the name of the errno, "done" when an attack succeeded.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
from typing import Any

from devproc.device import MmioDevice
from devproc.properties import Property
from proto.confine.syscalls import number

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
ATTACKS: dict[str, Any] = {}
MANY = 2 << 30  # bytes: more than a device may have


def attack(function: Any) -> Any:
    ATTACKS[function.__name__] = function
    return function


def call(name: str, *arguments: Any) -> int:
    result = libc.syscall(number(name, os.uname().machine), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def simple(name: str, *arguments: Any) -> None:
    """A system call that must not succeed, as an attack of its own name."""
    ATTACKS[f"call {name}"] = lambda _: call(name, *arguments)


for _name in (
    "io_uring_setup",
    "userfaultfd",
    "bpf",
    "keyctl",
    "perf_event_open",
    "open_by_handle_at",
    "setns",
    "shmget",
):
    simple(_name, 1, 0, 0, 0, 0)
for _name in ("unshare", "mount", "pivot_root", "chroot", "personality", "setuid", "syslog", "reboot", "memfd_create"):
    simple(_name, 0, 0, 0, 0, 0)
simple("pidfd_open", 1, 0)
simple("fork" if os.uname().machine == "x86_64" else "clone", signal.SIGCHLD)
simple("clone3", 0, 0)
simple("clone", 0x00010000 | 0x10000000, 0)  # a thread, it says, and a user namespace


# -- files -------------------------------------------------------------------------------------------------------------


@attack
def read_a_secret(orders: dict[str, Any]) -> None:
    os.open(orders["secret"], os.O_RDONLY)


@attack
def read_shadow(_: dict[str, Any]) -> None:
    os.open("/etc/shadow", os.O_RDONLY)


@attack
def read_the_neighbours_disk(orders: dict[str, Any]) -> None:
    os.open(orders["image"], os.O_RDONLY)


@attack
def write_the_neighbours_disk(orders: dict[str, Any]) -> None:
    os.open(orders["image"], os.O_RDWR)


@attack
def list_a_directory(orders: dict[str, Any]) -> None:
    os.listdir(os.path.dirname(orders["image"]))


@attack
def make_a_file(orders: dict[str, Any]) -> None:
    open(f"{orders['image']}.rogue", "w").close()


@attack
def change_a_module(_: dict[str, Any]) -> None:
    import devproc.device

    open(devproc.device.__file__, "r+b").close()


@attack
def plant_machine_code(_: dict[str, Any]) -> None:
    from native.cache import directory

    open(directory() / "rogue", "wb").close()


@attack
def truncate_by_name(orders: dict[str, Any]) -> None:
    os.truncate(orders["image"], 0)


@attack
def change_modes(orders: dict[str, Any]) -> None:
    os.chmod(orders["secret"], 0o777)


@attack
def change_times(orders: dict[str, Any]) -> None:
    os.utime(orders["secret"])


@attack
def set_an_attribute(orders: dict[str, Any]) -> None:
    os.setxattr(orders["secret"], "user.rogue", b"1")


@attack
def remove_a_file(orders: dict[str, Any]) -> None:
    os.unlink(orders["secret"])


@attack
def rename_a_file(orders: dict[str, Any]) -> None:
    os.rename(orders["secret"], f"{orders['secret']}.gone")


# -- sockets -----------------------------------------------------------------------------------------------------------


@attack
def open_a_tcp_socket(_: dict[str, Any]) -> None:
    socket.socket(socket.AF_INET).close()


@attack
def open_a_raw_socket(_: dict[str, Any]) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW).close()


@attack
def open_a_unix_socket(_: dict[str, Any]) -> None:
    socket.socket(socket.AF_UNIX).close()


@attack
def connect_to_a_socket_in_the_file_system(orders: dict[str, Any]) -> None:
    """With the connection it has, since it gets no other socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.connect(orders["socket"])


@attack
def send_to_an_address(_: dict[str, Any]) -> None:
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


@attack
def send_with_an_address(orders: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.sendto(b"!", orders["socket"])


# -- processes ---------------------------------------------------------------------------------------------------------


@attack
def fork_by_library(_: dict[str, Any]) -> None:
    if os.fork() == 0:
        os._exit(0)


@attack
def run_a_program(_: dict[str, Any]) -> None:
    os.execv("/bin/true", ["true"])


@attack
def spawn_a_program(_: dict[str, Any]) -> None:
    os.posix_spawn("/bin/true", ["true"], {})


@attack
def kill_the_neighbour(orders: dict[str, Any]) -> None:
    os.kill(orders["neighbour"], signal.SIGKILL)


@attack
def kill_the_keeper(orders: dict[str, Any]) -> None:
    os.kill(orders["keeper"], signal.SIGKILL)


@attack
def kill_everybody(_: dict[str, Any]) -> None:
    os.kill(-1, signal.SIGCONT)


@attack
def kill_by_descriptor(orders: dict[str, Any]) -> None:
    """The kernel sends a signal of one's choice to the owner of a descriptor."""
    ours, _theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, orders["neighbour"])


@attack
def trace_the_neighbour(orders: dict[str, Any]) -> None:
    call("ptrace", 16, orders["neighbour"], 0, 0)


@attack
def read_the_neighbours_memory(orders: dict[str, Any]) -> None:
    call("process_vm_readv", orders["neighbour"], 0, 0, 0, 0, 0)


@attack
def open_the_neighbours_memory(orders: dict[str, Any]) -> None:
    open(f"/proc/{orders['neighbour']}/mem", "r+b").close()


@attack
def scribble_on_the_neighbours_pages(orders: dict[str, Any]) -> None:
    """The keeper has a descriptor of every control page, and of guest RAM."""
    for fd in sorted(orders["descriptors"]):
        with open(f"/proc/{orders['keeper']}/fd/{fd}", "r+b") as page:
            os.ftruncate(page.fileno(), 0)


@attack
def limit_the_neighbour(orders: dict[str, Any]) -> None:
    resource.prlimit(orders["neighbour"], resource.RLIMIT_CPU, (1, 1))


@attack
def slow_the_neighbour_down(orders: dict[str, Any]) -> None:
    os.setpriority(os.PRIO_PROCESS, orders["neighbour"], 19)


# -- memory ------------------------------------------------------------------------------------------------------------


@attack
def eat_memory(_: dict[str, Any]) -> None:
    mmap.mmap(-1, MANY, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@attack
def eat_memory_that_nobody_counts(_: dict[str, Any]) -> None:
    mmap.mmap(-1, 4096, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


@attack
def raise_its_limits(_: dict[str, Any]) -> None:
    unlimited = resource.RLIM_INFINITY
    call("prlimit64", 0, resource.RLIMIT_DATA, struct.pack("qq", unlimited, unlimited), 0)


@attack
def resize_guest_memory(orders: dict[str, Any]) -> None:
    """Through any descriptor it has."""
    tried = False
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.fstat(int(name)).st_size == orders["ram"]:
                tried = True
                os.ftruncate(int(name), 0)
        except OSError:
            if tried:
                raise
    if not tried:
        raise OSError(errno.EBADF, "it has no descriptor of guest memory")


@attack
def write_the_cores_page(_: dict[str, Any]) -> None:
    """It is mapped for reading; make it writable."""
    tried = False
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split()
            if words[1] == "r--s" and int(words[4]):
                start, end = (int(word, 16) for word in words[0].split("-"))
                tried = True
                if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 3) == 0:
                    return
    raise OSError(ctypes.get_errno() if tried else 0, "mprotect")


class Rogue(MmioDevice):
    """The device."""

    orders = Property(str, help="the file with what to attack")
    report = Property(str, help="the file for what became of it")
    flood = Property(bool, False, "then flood the link and the keeper, for ever")

    def start(self) -> None:
        self._runtime: Any = self.log.__self__
        self._timer = socket.socketpair()
        self._timer[1].send(b"!")  # readable for ever: called in every turn of the loop
        self._done = False
        self.watch(self._timer[0].fileno(), self._turn, select.POLLIN)

    def _turn(self) -> None:
        if self._done:
            if self.flood:
                self._flood()
            return
        with open(self.orders) as file:
            text = file.read()
        if not text.endswith("\n"):
            return
        with open(self.report, "w") as file:
            json.dump({name: self._try(act, json.loads(text)) for name, act in ATTACKS.items()}, file)
            file.write("\n")
        self._done = True
        if not self.flood:
            self.unwatch(self._timer[0].fileno())

    @staticmethod
    def _try(act: Any, orders: dict[str, Any]) -> str:
        try:
            act(orders)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return "done"

    def _flood(self) -> None:
        """Garbage, nonsense and sense, as much as the sockets take; the keeper's channel too."""
        import zmq

        from proto.messages import encode

        runtime = self._runtime
        epoch = runtime._epoch
        shouting = encode("LOG", {"level": 40, "text": "x" * 500}, epoch=epoch, seq=1)
        for message in (b"garbage", bytes(60000), shouting, encode("CALL", {"queue": 0}, epoch=epoch, seq=2)) * 100:
            try:
                runtime._socket.send(message, zmq.NOBLOCK)
            except zmq.Again:
                break
        flood = (("LOG", {"level": 40, "text": "y" * 500}), ("STATE", {"state": "busy"}), ("NONSENSE", {}))
        for kind, body in flood * 10:
            runtime._channel.send(kind, body)
        runtime._channel.send("STORE", {}, {f"junk{os.urandom(2).hex()}": self._timer[0].fileno()})
