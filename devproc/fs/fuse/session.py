"""One FUSE session: takes a request apart, has the function for its opcode answer, and writes the answer.

The functions are in the files beside this one, marked with `answers`; `collect` makes a table of them. They are called
with the session, the header and the fields of the request; they return the bytes of the answer, or raise OSError, whose
errno the guest gets. FORGET and BATCH_FORGET have no answer at all.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

from devproc.fs.fuse.counts import Counts
from devproc.fs.fuse.listing import Packer
from devproc.fs.fuse.messages import IN_HEADER, OUT_HEADER, REQUESTS, SECOND, Header, Opcode, attributes, decode, statx
from devproc.fs.fuse.nodes import ROOT_NODE, Handle, Identity, Node, Nodes
from devproc.fs.intents import Careful, Intents
from devproc.fs.journal import Journal
from devproc.fs.locks import Locks
from devproc.fs.nameless import Nameless
from devproc.fs.shelf import Shelf
from devproc.fs.tree import ROOT, Attributes, OpenFile, Owner, Tree, fail, open_again
from devproc.fs.waiting import Waiting
from devproc.request import Request
from proto.errors import BackendError

__all__ = ["DATA_AT", "Session", "answers", "collect"]

REQUEST_MAX = 1 << 17  # bytes of a request without the data of WRITE: SETXATTR's value, BATCH_FORGET's list
DATA_AT = OUT_HEADER.size  # where the data of READ begins
_ENTRY = struct.Struct("<QQQQII")
_ATTR = struct.Struct("<QII")
_STATX = struct.Struct("<QII16x")

# Requests that must not be carried out twice: their answers are kept.
ONCE = frozenset(
    {
        *(Opcode.MKDIR, Opcode.MKNOD, Opcode.SYMLINK, Opcode.LINK, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME),
        *(Opcode.RENAME2, Opcode.CREATE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.FORGET, Opcode.BATCH_FORGET),
    }
)

Answer = Callable[..., bytes | None]


def answers(*opcodes: Opcode) -> Callable[[Answer], Answer]:
    """Mark a function as the one that answers these opcodes."""

    def mark(function: Answer) -> Answer:
        function.__dict__["answers"] = opcodes
        return function

    return mark


def collect(*groups: ModuleType) -> dict[int, Answer]:
    """The table of all functions so marked in these files."""
    found = [each for group in groups for each in vars(group).values() if hasattr(each, "answers")]
    return {opcode: each for each in found for opcode in each.answers}


class Session:
    """The state of one guest's session over `tree`."""

    def __init__(
        self,
        tree: Tree,
        journal: Journal,
        counts: Counts,
        answers: Mapping[int, Answer],
        gone: Shelf,
        locked: Shelf,
        cache: float = 0,
    ) -> None:
        """`gone` and `locked` are the shelves of files without names and of locks; what is told of names and
        attributes, the guest may believe for `cache` seconds."""
        self._answers = answers
        self._journal = journal
        self.intents = Intents(journal)
        self.tree: Tree = Careful(tree, self.intents)
        self.nodes = Nodes(journal, counts)
        self.nameless = Nameless(tree, gone)
        self.locks = Locks(tree, locked)
        self.waiting = Waiting()
        self.packer: Packer | None = None  # of directories, where there is machine code
        seconds, nanoseconds = divmod(int(cache * SECOND), SECOND)
        self.cache = bool(cache)
        self._entry_valid = (seconds, seconds, nanoseconds, nanoseconds)
        self._attr_valid = (seconds, nanoseconds, 0)
        self.request: Request  # the one being answered: READ and WRITE move their data themselves
        self.rest = b""  # what follows the fields of the request

    @contextlib.contextmanager
    def in_python(self) -> Iterator[None]:
        """Where machine code serves the session, too: whatever is done here is done with this."""
        self.nodes.catch_up()
        yield
        self.nodes.lend(bool(self.nameless) or bool(self.locks))

    def handle(self, request: Request) -> None:
        """Answer one request. A message without a whole header, or without room for an answer, gets nothing."""
        with self.in_python():
            self._handle(request)

    def _handle(self, request: Request) -> None:
        head = request.read(IN_HEADER.size)
        if len(head) < IN_HEADER.size:
            return
        header = Header(*IN_HEADER.unpack(head))
        self.request = request
        if header.opcode in ONCE:
            answer = self._once(header, head, request.read(REQUEST_MAX))
        else:
            limit = REQUESTS[Opcode.WRITE][0].size if header.opcode == Opcode.WRITE else REQUEST_MAX
            answer = self._answer(header, request.read(limit))
        if request.writable < OUT_HEADER.size:
            request.written = 0
        elif answer and not request.deferred:
            request.write_at(0, answer)

    def _once(self, header: Header, head: bytes, message: bytes) -> bytes:
        """The answer that this request had when it came first, if it did. All that it changes here counts together."""
        known = self.intents.begin(self.request, head + message)
        if known is not None:
            return known
        with self._journal:
            answer = self._answer(header, message)
            self.intents.finish(answer)
        return answer

    def _answer(self, header: Header, message: bytes) -> bytes:
        """The whole answer; nothing for a request that has none."""
        request, failure = self.request, 0
        body: bytes | None = b""
        try:
            if header.opcode not in self._answers:
                fail(errno.ENOSYS)
            fields, self.rest = decode(header.opcode, message)
            body = self._answers[header.opcode](self, header, *fields)
        except OSError as error:
            failure = error.errno or errno.EIO
        except BackendError:
            failure = errno.ENFILE
        except (ValueError, OverflowError):  # a number or text that the host's calls cannot even be given
            failure = errno.EINVAL
        if body is None:
            return b""
        if failure:
            body, request.written = b"", 0
        elif OUT_HEADER.size + len(body) > request.writable:
            body, failure = b"", errno.ERANGE
        size = max(OUT_HEADER.size + len(body), request.written)
        return OUT_HEADER.pack(size, -failure, header.unique) + body

    def wait(self, header: Header, attempt: Callable[[], bool]) -> None:
        """The request is answered, with nothing, once `attempt` succeeds."""

        def answer() -> bytes | None:
            try:
                return refuse(0) if attempt() else None
            except OSError as error:
                return refuse(error.errno or errno.EIO)

        def refuse(number: int) -> bytes:
            return OUT_HEADER.pack(OUT_HEADER.size, -number, header.unique)

        if self.request.writable < OUT_HEADER.size:
            fail(errno.EINVAL)
        self.waiting.add(header.unique, self.request, answer, refuse)

    def clear(self) -> None:
        """A new session begins."""
        self.waiting.clear()
        self.nodes.clear()
        self.nameless.clear()
        self.locks.clear()

    def close(self) -> None:
        """The end of this process, not of the session."""
        self.nodes.catch_up()
        self.nodes.close_files()
        self.nameless.close()
        self.locks.close()

    # -- what the functions share ----------------------------------------------------------------------------------

    def path(self, nodeid: int) -> bytes:
        """Where a node is. Raises OSError ESTALE."""
        return self.nodes.get(nodeid).path

    def file(self, handle: Handle) -> OpenFile:
        """The open file of a handle; a successor opens it again. Raises OSError ESTALE."""
        if handle.file is None:
            node = self.nodes.get(handle.node)
            identity = self.identity(node)
            if node.paths and identity not in self.nameless:
                handle.file = open_again(self.tree, node.path, handle.flags, identity)
            else:
                handle.file = self.nameless.open(identity, handle.flags)
        self.nodes.opened_file(handle)  # another may have had its place among the known
        return handle.file

    def identity(self, node: Node) -> Identity:
        """Device and inode of a node's file."""
        if node.number != ROOT_NODE:
            return node.identity
        seen = self.tree.stat(ROOT)
        return seen.device, seen.inode

    def open(self, nodeid: int, flags: int) -> OpenFile:
        """Open what a node stands for, with a name or without."""
        node = self.nodes.get(nodeid)
        return self.tree.open(node.path, flags) if node.paths else self.nameless.open(node.identity, flags)

    def keep_open(self, path: bytes) -> None:
        """The name is about to go: the guest's open files of it outlive that, and this process."""
        node = self.nodes.at(path)
        if node is not None and node.paths == [path] and self.nodes.is_open(node.number):
            self.nameless.keep(path, node.identity)

    def released(self, fh: int) -> None:
        """A handle is gone; with the last one of a node, what was kept for it."""
        handle = self.nodes.released(fh)
        if handle is None or self.nodes.is_open(handle.node) or handle.node == ROOT_NODE:
            return
        with contextlib.suppress(OSError):  # the guest has forgotten the node already
            identity = self.nodes.get(handle.node).identity
            self.nameless.let_go(identity)
            self.locks.release_file(identity)
            self.nodes.closed(handle.node)

    def open_file(self, nodeid: int) -> OpenFile:
        """A file that the guest has open on a node, for a node without a name. Raises OSError ESTALE."""
        held = (handle for handle in self.nodes.handles.values() if handle.node == nodeid)
        handle = next(held, None)
        return self.file(handle) if handle is not None else fail(errno.ESTALE)

    def attributes(self, nodeid: int) -> Attributes:
        """Of a node, with a name or without."""
        node = self.nodes.get(nodeid)
        if node.paths:
            return self.tree.stat(node.path)
        if node.identity in self.nameless:
            return self.nameless.attributes(node.identity)
        return self.open_file(nodeid).attributes()

    def entry(self, path: bytes) -> bytes:
        """struct fuse_entry_out: what is at a path, held once more by the guest."""
        seen = self.tree.stat(path)
        return self.entry_of(self.nodes.found(path, seen), seen)

    def entry_of(self, node: Node, seen: Attributes) -> bytes:
        """The same for a node that was found."""
        return _ENTRY.pack(node.number, 0, *self._entry_valid) + attributes(seen)

    def attr_out(self, seen: Attributes) -> bytes:
        """struct fuse_attr_out."""
        return _ATTR.pack(*self._attr_valid) + attributes(seen)

    def statx_out(self, seen: Attributes, born: int | None) -> bytes:
        """struct fuse_statx_out."""
        return _STATX.pack(*self._attr_valid) + statx(seen, born)

    @staticmethod
    def owner(header: Header) -> Owner:
        """Whom a new file belongs to."""
        return Owner(header.uid, header.gid)
