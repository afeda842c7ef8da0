"""A command for the guest to run, as a cpio archive to append to the initramfs, and what its output looks like.

`guest/init.sh` is the other half: it runs the command instead of a shell, frames what it prints on the console by two
marker lines, and powers the machine off, the command's exit status in the test finisher. The marker is new for each
run, so nothing the command prints can be mistaken for it.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from launcher.images.cpio import archive, directory, regular

__all__ = ["Command"]


def _new_marker() -> str:
    # It begins with a byte that texts do not have, so that who looks for it need not hold back the end of any line.
    return f"\x1ebulkhead-{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Command:
    """What to run, with which additions to the environment, on a console of which size.

    Without `argv` it is the shell there always is. Without a `size`, the console of a command is a pipe: no echo, bytes
    as the command wrote them. With one, (rows, columns), it is a terminal, in the state a shell leaves one in."""

    argv: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    marker: str = field(default_factory=_new_marker)

    def archive(self) -> bytes:
        """To be appended to the initramfs."""
        entries = {"bulkhead": directory(), "bulkhead/terminal": regular(self._terminal())}
        if self.argv:
            exports = [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items()]
            entries["bulkhead/marker"] = regular(f"{self.marker}\n")
            entries["bulkhead/command"] = regular(f"{''.join(exports)}exec {shlex.join(self.argv)}\n")
        return archive(entries)

    def _terminal(self) -> str:
        if self.size is not None:
            rows, columns = self.size
            terminal = shlex.quote(os.environ.get("TERM", "linux"))
            return f'stty -F "$console" sane rows {rows} cols {columns}\nexport TERM={terminal}\n'
        return 'stty -F "$console" -echo -opost\n' if self.argv else ""

    @property
    def begin(self) -> bytes:
        """The console's bytes after which, and a line feed, the command's output starts."""
        return f"{self.marker} begin".encode()

    @property
    def end(self) -> re.Pattern[bytes]:
        """Matches the console's bytes from the end of the command's output on; group 1 is the exit status."""
        return re.compile(re.escape(self.marker.encode()) + rb" end (\d+)\r?\n")
