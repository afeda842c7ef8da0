"""gdb's remote protocol on a machine in this process: what a debugger may count on, packet by packet."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bare import BareMachine
from core.board.virt import RAM_BASE, Machine
from core.cpu.engine import load_engine
from core.events import EventKind
from core.gdb.packet import INTERRUPT, Packets, escape, frame, unescape
from core.gdb.registers import CSR_FIRST, F_FIRST, PC, PRIVILEGE
from core.gdb.server import GdbServer
from core.gdb.target import Target
from core.isa.text import assemble

TABLE = RAM_BASE + 0x2000  # data of the programs
MSCRATCH, MINSTRET = CSR_FIRST + 0x340, CSR_FIRST + 0xB02


def code(*lines: tuple[str, dict[str, int]]) -> bytes:
    return b"".join(assemble(name, **operands).to_bytes(4, "little") for name, operands in lines)


COUNT = code(  # counts in x10 and at TABLE (in x11), for ever
    ("addi", {"rd": 10, "rs1": 10, "imm": 1}),  # +0
    ("sd", {"rs1": 11, "rs2": 10, "imm": 0}),  # +4
    ("ld", {"rd": 12, "rs1": 11, "imm": 8}),  # +8
    ("jal", {"rd": 0, "imm": -12}),  # +12
)
SELF_LOOP = code(("jal", {"rd": 0, "imm": 0}))


class Gdb:
    """A client that speaks packets."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self._packets = Packets()
        self._arrived: list[bytes] = []

    def send(self, payload: bytes) -> None:
        self.socket.sendall(frame(payload))

    def receive(self) -> bytes:
        while not self._arrived:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._arrived += self._packets.feed(data)
            with contextlib.suppress(BrokenPipeError):  # what came was its last word
                self.socket.sendall(self._packets.answers)
            self._packets.answers = b""
        return self._arrived.pop(0)

    def ask(self, payload: bytes | str) -> bytes:
        self.send(payload.encode() if isinstance(payload, str) else payload)
        return self.receive()

    def register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}").decode()), "little")

    def interrupt(self) -> bytes:
        self.socket.sendall(INTERRUPT)
        return self.receive()


class Served:
    """A machine whose link thread serves gdb only."""

    def __init__(self, path: Path, program: bytes, harts: int) -> None:
        self.machine = BareMachine(load_engine(), Machine(memory=1 << 20, harts=harts))
        self.machine.write(RAM_BASE, program)
        for hart in self.machine.harts:
            hart.x[11] = TABLE
            hart.pc = RAM_BASE
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self.killed = threading.Event()
        self.dirty = bytearray(256)
        target = Target(
            self.machine.engine,
            self.machine.harts,
            self.machine.ram.view(),
            self.machine.built.rom.view(),
            memoryview(self.dirty),
        )
        self.server = GdbServer(listener, target, self.killed.set)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self.machine.start()
        self._thread.start()

    def _serve(self) -> None:
        while not self._done.is_set():
            poll = select.poll()
            for descriptor, events in self.server.interests():
                poll.register(descriptor, events)
            for descriptor, events in poll.poll(1):
                self.server.ready(descriptor, events)
            for kind, _, _, _ in self.machine.take_events():
                if kind == EventKind.HART_HELD:
                    self.server.hart_held()
            self.server.look()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.server.close()
        self.machine.close()


Debugged = Callable[..., tuple[Gdb, Served]]


@pytest.fixture
def debugged(tmp_path: Path) -> Iterator[Debugged]:
    """A machine that runs a program, and a debugger that has just stopped it."""
    made: list[Served] = []
    clients: list[Gdb] = []

    def make(program: bytes = COUNT, harts: int = 1) -> tuple[Gdb, Served]:
        made.append(Served(tmp_path / "gdb", program, harts))
        gdb = Gdb(tmp_path / "gdb")
        clients.append(gdb)
        assert gdb.ask("?").startswith(b"T02")
        return gdb, made[0]

    yield make
    for client in clients:
        client.socket.close()
    for served in made:
        served.close()


def test_connecting_stops_the_machine_and_registers_can_be_read_and_written(debugged: Debugged) -> None:
    gdb, served = debugged()
    assert gdb.register(11) == TABLE
    assert gdb.ask(f"P5={(0x1234).to_bytes(8, 'little').hex()}") == b"OK"
    assert gdb.register(5) == served.machine.harts[0].x[5] == 0x1234
    assert gdb.ask(f"P{F_FIRST + 3:x}={(7).to_bytes(8, 'little').hex()}") == b"OK"
    assert gdb.register(F_FIRST + 3) == 7
    whole = bytes.fromhex(gdb.ask("g").decode())
    assert len(whole) == 33 * 8
    assert int.from_bytes(whole[32 * 8 :], "little") == gdb.register(PC)


def test_csrs_and_the_privilege_mode_are_registers(debugged: Debugged) -> None:
    gdb, _ = debugged()
    assert gdb.ask(f"P{MSCRATCH:x}={(99).to_bytes(8, 'little').hex()}") == b"OK"
    assert gdb.register(MSCRATCH) == 99
    assert gdb.register(PRIVILEGE) == 3
    assert gdb.ask(f"p{CSR_FIRST + 0x7C0:x}") == b"E14"
    xml = b""
    while (part := gdb.ask(f"qXfer:features:read:target.xml:{len(xml):x},fff"))[:1] == b"m":
        xml += unescape(part[1:])
    assert b'name="satp"' in xml + part[1:]


def test_a_step_runs_one_instruction(debugged: Debugged) -> None:
    gdb, _ = debugged()
    before = gdb.register(MINSTRET)
    for _ in range(9):
        pc = gdb.register(PC)
        assert gdb.ask("s").startswith(b"T05")
        assert gdb.register(PC) == (pc + 4 if pc < RAM_BASE + 12 else RAM_BASE)
    assert gdb.register(MINSTRET) == before + 9


def test_a_step_of_a_jump_to_itself_ends(debugged: Debugged) -> None:
    gdb, _ = debugged(SELF_LOOP)
    assert gdb.ask("vCont;s:1").startswith(b"T05thread:1;")
    assert gdb.register(PC) == RAM_BASE


def test_a_breakpoint_stops_before_its_instruction_every_time(debugged: Debugged) -> None:
    gdb, _ = debugged()
    assert gdb.ask(f"Z0,{RAM_BASE + 4:x},4") == b"OK"
    assert gdb.ask("c").startswith(b"T05")
    count = gdb.register(10)
    for more in range(1, 4):
        assert gdb.ask("c").startswith(b"T05")
        assert (gdb.register(PC), gdb.register(10)) == (RAM_BASE + 4, count + more)
    assert gdb.ask(f"z0,{RAM_BASE + 4:x},4") == b"OK"
    while gdb.register(10) < count + 10:  # the interrupt may come before it ran at all
        gdb.send(b"c")
        assert gdb.interrupt().startswith(b"T02")


@pytest.mark.parametrize(
    ("kind", "offset", "word", "instruction"),
    [(b"2", 0, b"watch", 4), (b"3", 8, b"rwatch", 8), (b"4", 0, b"awatch", 4)],
)
def test_a_watchpoint_stops_after_the_access(
    debugged: Debugged, kind: bytes, offset: int, word: bytes, instruction: int
) -> None:
    gdb, served = debugged()
    assert gdb.ask(b"Z%s,%x,8" % (kind, TABLE + offset)) == b"OK"
    assert gdb.ask("c") == b"T05thread:1;%s:%x;" % (word, TABLE + offset)
    assert gdb.register(PC) == RAM_BASE + instruction + 4
    first = gdb.register(10)
    assert int.from_bytes(served.machine.read(TABLE, 8), "little") == first
    assert gdb.ask("c").startswith(b"T05")
    assert gdb.register(10) == first + 1


def test_memory_that_is_written_is_what_runs(debugged: Debugged) -> None:
    gdb, served = debugged()
    add_two = assemble("addi", rd=10, rs1=10, imm=2).to_bytes(4, "little")
    assert gdb.ask(f"M{RAM_BASE:x},4:{add_two.hex()}") == b"OK"
    assert gdb.ask(b"X%x,8:%s" % (TABLE + 64, escape(b"#$}*\0\1\2\3"))) == b"OK"
    assert served.machine.read(TABLE + 64, 8) == b"#$}*\0\1\2\3"
    assert gdb.ask(f"m{TABLE + 64:x},4") == b"23247d2a"
    assert served.dirty[0] and served.dirty[2] and not served.dirty[1]
    assert gdb.ask(f"P{PC:x}={RAM_BASE.to_bytes(8, 'little').hex()}") == b"OK"
    before = gdb.register(10)
    assert gdb.ask("s").startswith(b"T05")
    assert gdb.register(10) == before + 2


def test_devices_registers_and_holes_are_no_memory(debugged: Debugged) -> None:
    gdb, _ = debugged()
    for address in (0x10000000, 0x0, RAM_BASE + (1 << 20)):
        assert gdb.ask(f"m{address:x},4") == b"E14"
        assert gdb.ask(f"M{address:x},1:00") == b"E14"
    assert len(gdb.ask(f"m{RAM_BASE + (1 << 20) - 2:x},8")) == 4  # what there is


def test_harts_are_threads_and_a_step_moves_one(debugged: Debugged) -> None:
    gdb, served = debugged(harts=2)
    assert gdb.ask("qfThreadInfo") == b"m1,2"
    assert gdb.ask("Hg2") == b"OK"
    other = served.machine.harts[0].x[10], served.machine.harts[0].pc
    pc = gdb.register(PC)
    assert gdb.ask("vCont;s:2;c").startswith(b"T05thread:2;")
    assert gdb.register(PC) != pc
    assert (served.machine.harts[0].x[10], served.machine.harts[0].pc) == other
    assert gdb.ask("Hg3") == b"E22"


def test_all_harts_stop_when_one_reaches_a_breakpoint(debugged: Debugged) -> None:
    gdb, served = debugged(harts=2)
    gdb.ask(f"Z1,{RAM_BASE + 8:x},4")
    for _ in range(5):
        assert gdb.ask("c").startswith(b"T05thread:")
        counts = [hart.x[10] for hart in served.machine.harts]
        assert counts == [hart.x[10] for hart in served.machine.harts]


def test_when_gdb_goes_the_machine_runs_on_without_breakpoints(debugged: Debugged, tmp_path: Path) -> None:
    gdb, served = debugged()
    gdb.ask(f"Z0,{RAM_BASE + 4:x},4")
    gdb.ask("c")
    count = served.machine.harts[0].x[10]
    gdb.socket.close()
    again = Gdb(tmp_path / "gdb")
    reply = again.ask("?")
    while served.machine.harts[0].x[10] < count + 10:  # it may have stopped it before it ran
        again.send(b"c")
        reply = again.interrupt()
    assert reply.startswith(b"T02")
    assert again.ask("D") == b"OK"
    again.socket.close()


def test_kill_ends_the_machine_and_a_second_debugger_is_turned_away(debugged: Debugged, tmp_path: Path) -> None:
    gdb, served = debugged()
    second = Gdb(tmp_path / "gdb")
    assert second.socket.recv(1) == b""
    second.socket.close()
    gdb.send(b"k")
    assert served.killed.wait(60)


def test_nonsense_is_answered_and_nothing_breaks(debugged: Debugged) -> None:
    gdb, _ = debugged()
    for packet in ("p", "pzz", "m1", "M80000000,4:00", "Z9,0,0", "Z0", "Hgzz", "qXfer:features:read:x:0,1", "G0", "!"):
        assert gdb.ask(packet)[:1] in (b"", b"E"), packet
    assert gdb.register(11) == TABLE


def test_registers_of_a_running_hart_are_refused(debugged: Debugged) -> None:
    gdb, _ = debugged()
    gdb.send(b"c")
    assert gdb.ask("g") == b"E16"
    assert gdb.interrupt().startswith(b"T02")


@given(st.binary(max_size=64))
def test_escaping_can_be_undone(data: bytes) -> None:
    assert unescape(escape(data)) == data


@given(st.lists(st.binary(max_size=40)))
def test_whatever_arrives_in_whatever_pieces_is_packets_or_noise(pieces: list[bytes]) -> None:
    whole, parts = Packets(), Packets()
    found = whole.feed(b"".join(pieces))
    assert [packet for piece in pieces for packet in parts.feed(piece)] == found
