"""The core's half of a swap: from one device process to another while the guest runs.

The keeper leads (`launcher.keeper.swap` has the numbered order); each step here is one of its packets, and ends in a
report. One `Handover` a device, owned by its `DeviceLink`.

    DEVICE candidate   bind a second endpoint → DEVICE_READY; a HELLO there that fits → CANDIDATE, else REFUSED
    DEVICE quiesce     QUIESCE, SAVE and perhaps RELEASE to the process that serves → QUIET{error}
                       and, once both are there, the saved state to the candidate by LOAD → LOADED, or REFUSED
    DEVICE adopt       the old process is fenced: TAKE_OVER and everything settled to the new one → CONNECTED
    DEVICE abandon     no swap after all: the old process is told RESUME, if it is quiet

From `quiesce` on, what harts want of the device by message waits (`DeviceLink.held`), so that the state that was saved
is the state that is loaded. Until `adopt` the candidate is sent nothing but the answer to its HELLO and LOAD.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from core.candidate import check_candidate
from proto.errors import BulkheadError, ProtocolError
from proto.messages import VERSION, Message, decode, encode
from proto.pages import layout_hash

if TYPE_CHECKING:
    from core.link import DeviceLink

__all__ = ["Handover", "check_hello"]

NO_DEADLINE = float("inf")  # the keeper's deadlines count: it fences
RESUME_DEADLINE = 2.0  # seconds; after a swap that failed nobody but the link looks after the device


class Handover:
    """A swap of one device, if one is under way."""

    def __init__(self, link: DeviceLink, bind: Callable[[str], zmq.Socket[bytes]]) -> None:
        self._link = link
        self._bind = bind
        self.socket: zmq.Socket[bytes] | None = None
        self.epoch = 0
        self._hello: dict[str, Any] | None = None
        self._saved: dict[str, Any] | None = None
        self._quiet = False  # the old process has answered all it was asked, or is dead
        self._asked = False  # QUIESCE was sent

    # -- what the keeper says --------------------------------------------------------------------------------------

    def candidate(self, epoch: int, endpoint: str) -> None:
        """Bind the endpoint of a process that may become the device."""
        self._forget()
        self.epoch = epoch
        self.socket = self._bind(endpoint)

    def quiesce(self, epoch: int, release: bool) -> None:
        """Have the old process finish what it has taken, give its state and, with `release`, its images."""
        if epoch != self.epoch or self._asked:
            return
        link = self._link
        self._asked = True
        link.hold()

        def quiet(_: dict[str, Any] | None) -> None:
            self._then("SAVE", saved)

        def saved(body: dict[str, Any] | None) -> None:
            self._saved = body
            if release:
                self._then("RELEASE", released)
            else:
                released(None)

        def released(body: dict[str, Any] | None) -> None:
            if self.epoch == epoch and release and body is None and link.up:
                self._report("REFUSED", "the old process does not let go")
            elif self.epoch == epoch:
                self._quiet = True
                self._report("QUIET")
                self._load()

        self._then("QUIESCE", quiet)

    def adopt(self, epoch: int) -> None:
        """The old process is fenced, its page is reset: the candidate is the device."""
        if epoch != self.epoch or self.socket is None or self._hello is None:
            return
        socket, hello, self.socket = self.socket, self._hello, None
        self._forget()
        self._link.adopt(socket, epoch, hello)

    def abandon(self, epoch: int) -> None:
        """The old process goes on, if it lives."""
        if epoch != self.epoch:
            return
        resume = self._asked
        self._forget()
        if resume:
            self._link.ask("RESUME", {}, lambda _: None, RESUME_DEADLINE)
            self._link.let_go()

    # -- what the candidate says -----------------------------------------------------------------------------------

    def receive(self) -> None:
        """Handle what the candidate has sent. A malformed message is reported and dropped."""
        while self.socket is not None and int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            for data in self._link.through(self.socket.recv(zmq.NOBLOCK)):
                self._arrived(data)

    def _arrived(self, data: bytes) -> None:
        try:
            message = decode(data)
            if message.epoch == self.epoch:
                self._dispatch(message)
        except BulkheadError as error:
            name = self._link.name
            text = f"{name} (candidate): {error.describe()}"
            self._link.report("LOG", {"id": name, "level": 30, "text": text})

    def close(self) -> None:
        """The core ends."""
        self._forget()

    def _dispatch(self, message: Message) -> None:
        if message.name == "HELLO" and not message.reply:
            self._check(message)
        elif message.name == "LOAD" and message.reply:
            if message.error:
                self._report("REFUSED", message.body["text"], message.body.get("hint", ""))
            else:
                self._report("LOADED")
        elif message.name == "LOG" and not message.reply:
            self._link.report("LOG", {"id": self._link.name, **message.body})

    def _check(self, message: Message) -> None:
        link = self._link
        try:
            check_hello(message.body, link.name, self.epoch)
            check_candidate(link.port, message.body)
        except ProtocolError as error:
            refusal = {"code": type(error).__name__, "text": str(error)[:4000]}
            self._send("HELLO", refusal, seq=message.seq, reply=True, error=True)
            self._report("REFUSED", str(error), error.hint)
            return
        self._hello = message.body
        self._send("HELLO", {}, seq=message.seq, reply=True)
        self._report("CANDIDATE")
        self._load()

    def _load(self) -> None:
        """Hand the saved state over, when there is one and somebody to take it."""
        if not self._quiet or self._hello is None:
            return
        if self._saved is None:
            self._report("LOADED")
        else:
            self._send("LOAD", self._saved, seq=1)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _then(self, name: str, then: Callable[[dict[str, Any] | None], None]) -> None:
        """Ask the old process; without one, the answer is None at once."""
        if not self._link.ask(name, {}, then, NO_DEADLINE):
            then(None)

    def _report(self, kind: str, error: str = "", hint: str = "") -> None:
        body = {"id": self._link.name, "epoch": self.epoch, "error": error, "hint": hint}
        self._link.report(kind, body)

    def _send(self, name: str, body: dict[str, Any], *, seq: int, reply: bool = False, error: bool = False) -> None:
        if self.socket is not None:
            with contextlib.suppress(zmq.ZMQError):
                data = encode(name, body, epoch=self.epoch, seq=seq, reply=reply, error=error)
                for leaving in self._link.through(data):
                    self.socket.send(leaving, zmq.NOBLOCK)

    def _forget(self) -> None:
        if self.socket is not None:
            self.socket.close(0)
        self.socket = self._hello = self._saved = None
        self._quiet = self._asked = False
        self.epoch = 0


def check_hello(body: dict[str, Any], name: str, epoch: int) -> None:
    """Is it the process that is expected, and does it speak our language? Raises ProtocolError."""
    if body["version"] != VERSION:
        raise ProtocolError(f"protocol version {body['version']}, this side speaks {VERSION}", field="version")
    if body["layout"] != layout_hash():
        raise ProtocolError("its shared-memory layout is another version's", field="layout")
    if body["id"] != name or body["epoch"] != epoch:
        raise ProtocolError(f"HELLO of {body['id']} epoch {body['epoch']}", field="id")
