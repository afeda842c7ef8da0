"""One 9P session: takes a request apart, has the function for its type answer, and writes the response.

The functions are in the files beside this one, a small group each, marked with `answers`; `collect` makes a table of
them. They are called with the session and the fields of the message; they return the fields of the response, or raise
OSError, whose errno the guest gets in Rlerror. Every request is answered before the next is taken, unless it waits for
a lock.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from devproc.fs.intents import Careful, Intents
from devproc.fs.journal import Journal
from devproc.fs.locks import Locks
from devproc.fs.nameless import Nameless
from devproc.fs.ninep.fids import Fid, Fids
from devproc.fs.ninep.known import NativeFids
from devproc.fs.ninep.messages import HEADER, REQUESTS, Qid, Type, decode, encode, encode_error
from devproc.fs.shelf import Shelf
from devproc.fs.tree import Attributes, OpenFile, Tree, fail, number_of, open_again
from devproc.fs.waiting import Waiting
from devproc.request import Request
from proto.errors import BackendError

__all__ = ["MSIZE_MAX", "MSIZE_MIN", "Session", "answers", "collect"]

MSIZE_MIN, MSIZE_MAX = 4096, 512 << 10
MSIZE_KEY = -1  # of the journal
NOTHING = (0, 0)  # no file's device and inode
LEAST_RESPONSE = HEADER.size + 4  # Rlerror, and the head of Rread
QTDIR, QTSYMLINK, QTFILE = 0x80, 0x02, 0x00
S_IFMT, S_IFDIR, S_IFLNK = 0o170000, 0o040000, 0o120000

# Requests that must not be carried out twice: their responses are kept.
ONCE = frozenset(
    {
        *(Type.LOPEN, Type.LCREATE, Type.SYMLINK, Type.MKNOD, Type.RENAME, Type.XATTRWALK, Type.XATTRCREATE),
        *(Type.LINK, Type.MKDIR, Type.RENAMEAT, Type.UNLINKAT, Type.ATTACH, Type.WALK, Type.CLUNK, Type.REMOVE),
    }
)

Answer = Callable[..., Sequence[Any]]


def answers(kind: Type) -> Callable[[Answer], Answer]:
    """Mark a function as the one that answers a type."""

    def mark(function: Answer) -> Answer:
        function.__dict__["answers"] = (kind,)
        return function

    return mark


def collect(*groups: ModuleType) -> dict[int, Answer]:
    """The table of all functions so marked in these files."""
    found = [each for group in groups for each in vars(group).values() if hasattr(each, "answers")]
    return {kind: each for each in found for kind in each.answers}


class Session:
    """The state of one client's session over `tree`."""

    def __init__(self, tree: Tree, journal: Journal, answers: Mapping[int, Answer], gone: Shelf, locked: Shelf) -> None:
        """`gone` and `locked` are the shelves of files without names and of locks."""
        self._answers = answers
        self.intents = Intents(journal)
        self.tree: Tree = Careful(tree, self.intents)
        self.fids = Fids(journal)
        self.nameless = Nameless(tree, gone)
        self.locks = Locks(tree, locked)
        self.waiting = Waiting()
        self.journal = journal
        self.msize: int = journal.table.get(MSIZE_KEY, MSIZE_MAX)
        self.request: Request  # the one being answered: Tread and Twrite move their data themselves
        self.room = 0  # bytes that its response may have
        self.tag = 0
        self.size = 0  # bytes of the request itself

    def use(self, native: NativeFids) -> None:
        """Machine code serves the session, too, from now on."""
        self.fids.use(native)
        self._lend()

    @contextlib.contextmanager
    def in_python(self) -> Iterator[None]:
        """Where machine code serves the session, too: whatever is done here is done with this."""
        self.fids.catch_up()
        try:
            yield
        finally:
            self._lend()

    def _lend(self) -> None:
        self.fids.lend(self.msize, bool(self.nameless) or bool(self.locks))

    def handle(self, request: Request) -> None:
        """Answer one request. A message without a whole header, or without room for Rlerror, gets nothing."""
        with self.in_python():
            self._handle(request)

    def _handle(self, request: Request) -> None:
        header = request.read(HEADER.size)
        if len(header) < HEADER.size or request.writable < LEAST_RESPONSE:
            return
        self.size, kind, tag = HEADER.unpack(header)
        self.request, self.tag = request, tag
        self.room = min(request.writable, self.msize)
        try:
            response = self._once(kind, tag) if kind in ONCE else self._answer(kind, tag, b"")
        except OSError as error:
            response = encode_error(tag, error.errno or errno.EIO)
        except BackendError:
            response = encode_error(tag, errno.ENFILE)
        except (ValueError, OverflowError):  # a number or text that the host's calls cannot even be given
            response = encode_error(tag, errno.EINVAL)
        if not request.deferred:
            request.write_at(0, response)

    def _once(self, kind: int, tag: int) -> bytes:
        """The response that this request had when it came first, if it did. All that it changes counts together."""
        body = self._body(kind)
        known = self.intents.begin(self.request, HEADER.pack(self.size, kind, tag) + body)
        if known is not None:
            return known
        with self.intents.together():
            try:
                response = self._answer(kind, tag, body)
            except OSError as error:
                response = encode_error(tag, error.errno or errno.EIO)
            self.intents.finish(response)
        return response

    def _body(self, kind: int) -> bytes:
        """What follows the header, but for the data of Twrite, which is left where it is."""
        if kind not in REQUESTS:
            fail(errno.EOPNOTSUPP)
        if self.size > min(self.request.readable, self.msize) or self.size < HEADER.size:
            fail(errno.EMSGSIZE)
        rest = self.size - HEADER.size
        return self.request.read(min(16, rest) if kind == Type.WRITE else rest)

    def _answer(self, kind: int, tag: int, body: bytes) -> bytes:
        fields = decode(kind, body or self._body(kind))
        answer = self._answers.get(kind)
        if answer is None:
            fail(errno.EOPNOTSUPP)
        result = answer(self, *fields)
        data = result[0] if kind in (Type.READ, Type.READDIR) else 0
        response = encode(kind, tag, result, data)
        if len(response) + data > self.room:
            fail(errno.EMSGSIZE)
        return response

    # -- what the functions share ----------------------------------------------------------------------------------

    def fid(self, number: int) -> Fid:
        """A fid that names a file. Raises OSError EBADF."""
        fid = self.fids.get(number)
        if fid.xattr is not None or fid.new_xattr is not None:
            fail(errno.EBADF)
        return fid

    def path(self, number: int) -> bytes:
        """The path a fid stands for. Raises OSError: EBADF, ENOENT when the name was removed."""
        fid = self.fid(number)
        if fid.gone:
            fail(errno.ENOENT)
        return fid.path

    def keep_open(self, path: bytes) -> None:
        """The name is about to go: what is open of it outlives that, and this process."""
        fids = self.fids.at(path)
        identity = next((fid.identity for fid in fids if fid.identity is not None), None)
        if identity is None:
            return
        self.nameless.keep(path, identity)
        for fid in fids:
            if fid.identity is None:
                fid.identity = identity
                self.fids.changed(fid)

    def remove(self, fid: Fid) -> None:
        """The fid is gone; with the last one of a file, what was kept for that."""
        self.fids.remove(fid)
        identity = fid.identity
        if identity is None or (identity not in self.nameless and identity not in self.locks):
            return
        if not self.fids.refers(identity):
            self.nameless.let_go(identity)
            self.locks.release_file(identity)
            self.waiting.look()

    def wait(self, attempt: Callable[[], Sequence[Any] | None], kind: Type) -> None:
        """The request is answered once `attempt` has an answer."""
        tag = self.tag

        def answer() -> bytes | None:
            try:
                found = attempt()
            except OSError as error:
                return encode_error(tag, error.errno or errno.EIO)
            return None if found is None else encode(kind, tag, found)

        self.waiting.add(tag, self.request, answer, lambda number: encode_error(tag, number))

    def clear(self) -> None:
        """A new session begins."""
        self.waiting.clear()
        self.fids.clear()
        self.nameless.clear()
        self.locks.clear()

    def close(self) -> None:
        """The end of this process, not of the session."""
        self.fids.catch_up()
        self.fids.close_files()
        self.nameless.close()
        self.locks.close()

    def forget_again(self, number: int) -> None:
        """A new fid that a predecessor had made before it died, and not told the client of."""
        if self.request.again and number in self.fids:
            self.remove(self.fids.get(number))

    def file(self, fid: Fid) -> OpenFile:
        """The open file of a fid; a successor opens it again. Raises OSError: EBADF when the fid is not open, ESTALE
        when another file has its place by now."""
        if fid.flags is None:
            fail(errno.EBADF)
        if fid.file is None:
            if fid.gone or (fid.identity or NOTHING) in self.nameless:
                file = self.nameless.open(fid.identity or NOTHING, fid.flags)
            else:
                file = open_again(self.tree, fid.path, fid.flags, fid.identity)
            self.fids.opened(fid, file)
            return file
        return fid.file

    def attributes(self, fid: Fid) -> Attributes:
        """Of the open file, or of what is at the path."""
        if fid.gone and fid.flags is None:
            return self.nameless.attributes(fid.identity) if fid.identity else fail(errno.ENOENT)
        return self.file(fid).attributes() if fid.flags is not None else self.tree.stat(fid.path)


def qid(seen: Attributes) -> Qid:
    """A file's qid. The version is never 0, which would mean that the file must not be cached."""
    kind = {S_IFDIR: QTDIR, S_IFLNK: QTSYMLINK}.get(seen.mode & S_IFMT, QTFILE)
    return Qid(kind, (seen.mtime ^ seen.size) & 0xFFFFFFFF or 1, number_of(seen.device, seen.inode))
