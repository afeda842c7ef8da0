"""One FUSE session: takes a request apart, has the function for its opcode answer, and writes the answer.

The functions are in the files beside this one, marked with `answers`; `collect` makes a table of them. They are called
with the session, the header and the fields of the request; they return the bytes of the answer, or raise OSError, whose
errno the guest gets. FORGET and BATCH_FORGET have no answer at all.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Mapping
from types import ModuleType

from devproc.fs.fuse.messages import IN_HEADER, OUT_HEADER, REQUESTS, Header, Opcode, attributes, decode
from devproc.fs.fuse.nodes import Handle, Nodes
from devproc.fs.intents import Careful, Intents
from devproc.fs.journal import Journal
from devproc.fs.tree import Attributes, OpenFile, Owner, Tree, fail, open_again
from devproc.request import Request
from proto.errors import BackendError

__all__ = ["DATA_AT", "Session", "answers", "collect"]

REQUEST_MAX = 1 << 17  # bytes of a request without the data of WRITE: SETXATTR's value, BATCH_FORGET's list
DATA_AT = OUT_HEADER.size  # where the data of READ begins
_ENTRY = struct.Struct("<QQQQII")
_ATTR = struct.Struct("<QII")

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

    def __init__(self, tree: Tree, journal: Journal, answers: Mapping[int, Answer]) -> None:
        self._answers = answers
        self.intents = Intents(journal)
        self.tree: Tree = Careful(tree, self.intents)
        self.nodes = Nodes(journal)
        self.request: Request  # the one being answered: READ and WRITE move their data themselves
        self.rest = b""  # what follows the fields of the request

    def handle(self, request: Request) -> None:
        """Answer one request. A message without a whole header, or without room for an answer, gets nothing."""
        head = request.read(IN_HEADER.size)
        if len(head) < IN_HEADER.size:
            return
        header = Header(*IN_HEADER.unpack(head))
        self.request = request
        limit = REQUESTS[Opcode.WRITE][0].size if header.opcode == Opcode.WRITE else REQUEST_MAX
        message = request.read(limit)
        known = self.intents.begin(request, head + message) if header.opcode in ONCE else None
        answer = self._answer(header, message) if known is None else known
        if known is None and header.opcode in ONCE:
            self.intents.finish(answer)
        if answer and request.writable >= OUT_HEADER.size:
            request.write_at(0, answer)

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

    # -- what the functions share ----------------------------------------------------------------------------------

    def path(self, nodeid: int) -> bytes:
        """Where a node is. Raises OSError ESTALE."""
        return self.nodes.get(nodeid).path

    def file(self, handle: Handle) -> OpenFile:
        """The open file of a handle; a successor opens it again. Raises OSError ESTALE."""
        if handle.file is None:
            node = self.nodes.get(handle.node)
            identity = node.identity
            if node.path == b"":
                seen = self.tree.stat(b"")
                identity = (seen.device, seen.inode)
            handle.file = open_again(self.tree, node.path, handle.flags, identity)
        return handle.file

    def open_file(self, nodeid: int) -> OpenFile | None:
        """A file that the guest has open on a node, for a node without a name."""
        held = (handle for handle in self.nodes.handles.values() if handle.node == nodeid and handle.file is not None)
        return next((handle.file for handle in held), None)

    def attributes(self, nodeid: int) -> Attributes:
        """Of a node, with a name or without."""
        node = self.nodes.get(nodeid)
        if node.paths:
            return self.tree.stat(node.path)
        file = self.open_file(nodeid)
        return file.attributes() if file is not None else fail(errno.ESTALE)

    def entry(self, path: bytes) -> bytes:
        """struct fuse_entry_out: what is at a path, held once more by the guest. Nothing is to be cached without
        asking: the host may change it."""
        seen = self.tree.stat(path)
        return _ENTRY.pack(self.nodes.found(path, seen).number, 0, 0, 0, 0, 0) + attributes(seen)

    @staticmethod
    def attr_out(seen: Attributes) -> bytes:
        """struct fuse_attr_out."""
        return _ATTR.pack(0, 0, 0) + attributes(seen)

    @staticmethod
    def owner(header: Header) -> Owner:
        """Whom a new file belongs to."""
        return Owner(header.uid, header.gid)
