"""`bulkhead`, and `python -m launcher`: the command's entry, which imports the rest so that Ctrl-C is already taken."""

import sys


def main() -> int:
    """Run the command. Returns the exit code."""
    try:
        from launcher.cli import main as command

        return command()
    except KeyboardInterrupt:
        return 124  # launcher.exitcodes.ExitCode.KILLED: it may not have been imported


if __name__ == "__main__":
    sys.exit(main())
