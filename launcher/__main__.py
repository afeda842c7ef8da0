"""`bulkhead`, and `python -m launcher`: the command's entry, which imports the rest so that Ctrl-C is already taken."""

import os
import sys


def main() -> int:
    """Run the command. Returns the exit code."""
    _open_standard_streams()
    try:
        from launcher.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return 124  # launcher.cli.exitcodes.ExitCode.KILLED: it may not have been imported


def _open_standard_streams() -> None:
    """One that was closed (`bulkhead … <&-`) is nothing from now on, not the first file or socket that is opened."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    sys.exit(main())
