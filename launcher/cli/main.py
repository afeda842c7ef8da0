"""`bulkhead`: the command line. Finds the verb, reads its arguments, and turns what goes wrong into a sentence.

Errors are one line that begins with "bulkhead:" and says what was wrong, and lines below that say what to do; a
traceback is shown only with --debug.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from launcher import __version__
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode, help_text
from launcher.cli.verbs import GROUPS, VERBS, Verb, find_verb
from launcher.machine.options import RUN_OPTIONS
from proto.errors import BulkheadError, ConfigError
from proto.suggest import did_you_mean, one_of

__all__ = ["main", "make_parser"]

WIDEST = 110  # columns of help


class _Parser(argparse.ArgumentParser):
    """Errors are ConfigErrors, in our words."""

    verb: Verb

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"the following arguments are required: (.*)", message):
            names = [name.split("/")[-1] for name in found[1].split(", ")]
            what = f"{self.verb.name}: {one_of(names, 'and')} {'is' if len(names) == 1 else 'are'} missing"
            raise ConfigError(what, hint="\n".join([f"Usage: {self.verb.usage}", *self._example()]))
        hint = f"See: {self.prog} --help"
        if found := re.match(r"argument (\S+): (.*)", message):
            raise ConfigError(_in_our_words(found[1].split("/")[-1], found[2]), hint=hint)
        raise ConfigError(message, hint=hint)

    def _example(self) -> list[str]:
        return [f"For example: {command}" for command, _ in self.verb.examples[:1]]


def _in_our_words(name: str, complaint: str) -> str:
    """What argparse says of one argument's value."""
    if complaint.startswith("expected "):
        return f"{name} needs a value"
    if found := re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", complaint):
        choices = [choice.strip("'") for choice in found[2].split(", ")]
        return f"{name} {found[1]}: expected {one_of(choices)}{did_you_mean(found[1], choices)}"
    if found := re.match(r"invalid (?:int|float) value: '(.*)'", complaint):
        return f"{name} {found[1]}: expected a number"
    return f"{name}: {complaint}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Wide columns where the terminal has them; an option with a value shows it once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_columns())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def _terminal_columns() -> int:
    """Of the terminal that is looked at, also when the output goes there through a pager."""
    for fd in (1, 2, 0):
        try:
            return os.get_terminal_size(fd).columns or WIDEST
        except OSError:
            continue
    return WIDEST


def _columns() -> int:
    return min(WIDEST, int(os.environ.get("COLUMNS") or _terminal_columns())) - 2


def _wrapped(text: str) -> str:
    """Paragraphs, as wide as the terminal."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(textwrap.fill(paragraph, _columns(), break_on_hyphens=False) for paragraph in paragraphs)


def make_parser(verb: Verb) -> argparse.ArgumentParser:
    """The parser of one verb."""
    parser = _Parser(
        prog=f"bulkhead {verb.name}",
        usage=verb.usage.replace("%", "%%"),
        description=f"{verb.summary[0].upper()}{verb.summary[1:]}.\n\n{_wrapped(verb.details)}".rstrip(),
        epilog=_epilog(verb),
        formatter_class=_Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.verb = verb
    verb.add_arguments(parser)
    others = parser.add_argument_group("other")
    others.add_argument("-h", "--help", action="help", help="show this help")
    others.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _epilog(verb: Verb) -> str:
    parts = []
    if verb.examples:
        widest = max(len(command) for command, _ in verb.examples if len(command) < 60)
        parts.append("examples:")
        parts += [f"  {command.ljust(widest)}  {meaning}".rstrip() for command, meaning in verb.examples]
    if verb.takes_command:
        parts += ["", help_text()]
    return "\n".join(parts)


def overview() -> str:
    """What `bulkhead --help` prints."""
    lines = [
        "usage: bulkhead VERB [options]",
        "",
        "A RISC-V machine whose devices are processes of their own.",
        "",
        *(line for group, title in GROUPS.items() for line in _listed(group, title)),
        _wrapped(
            "`bulkhead VERB --help` explains a verb. Verbs that concern a running machine take --machine NAME, which "
            "is not needed while only one runs. --debug, after any verb, shows the traceback of an error."
        ),
        "",
        help_text(),
    ]
    return "\n".join(lines)


def _listed(group: str, title: str) -> list[str]:
    return [f"{title}:", *(f"  {verb.name:<12}{verb.summary}" for verb in VERBS if verb.group == group), ""]


def print_version(arguments: argparse.Namespace) -> int:
    """The verb `version`."""
    print(f"bulkhead {__version__}")
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    before = words[: words.index("--")] if "--" in words else words
    try:
        return _main(words)
    except BulkheadError as error:
        if "--debug" in before:
            raise
        show.complain(error.message, error.hint)
        return ExitCode.ERROR
    except KeyboardInterrupt:
        if "--debug" in before:
            raise
        return ExitCode.KILLED
    except BrokenPipeError:  # `bulkhead ps | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.ERROR
    except Exception as error:
        if "--debug" in before:
            raise
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            show.complain(f"no space left to write{f' {error.filename}' if error.filename else ''}")
            return ExitCode.ERROR
        show.complain(
            f"{type(error).__name__}: {error}", "This is a mistake in bulkhead. --debug shows where; please report it."
        )
        return ExitCode.ERROR


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        verb = find_verb(words[1]) if len(words) > 1 else None
        print(make_parser(verb).format_help().rstrip() if verb else overview())
        return ExitCode.OK
    if words[0] in ("-V", "--version"):
        return print_version(argparse.Namespace())
    verb = find_verb(words[0])
    if verb is None:
        raise _unknown_verb(words[0])
    arguments = _parse(verb, words[1:])
    if verb.sweeps:
        from launcher.run.rundir import sweep

        sweep()
    return verb.run(arguments)


def _unknown_verb(word: str) -> ConfigError:
    if word.startswith("-"):
        names = [option.long for option in RUN_OPTIONS]
        if _known_option(word, names) in names:
            return ConfigError(f"{word} is an option of run", hint=f"Try: bulkhead run {word} …")
        return ConfigError(f"no option {word}", hint="See: bulkhead --help")
    return ConfigError(
        f"no verb {word}{did_you_mean(word, [verb.name for verb in VERBS])}", hint="See: bulkhead --help"
    )


def _known_option(word: str, names: Sequence[str]) -> str:
    """An option as QEMU spells it (-kernel), as ours (--kernel)."""
    long = f"-{word}" if re.fullmatch(r"-[a-z][a-z-]+", word) else word
    return long if long in names else word


def _parse(verb: Verb, words: list[str]) -> argparse.Namespace:
    command: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
        if not verb.takes_command:
            raise ConfigError(f"{verb.name} takes no COMMAND", hint=f"See: bulkhead {verb.name} --help")
        if not command:
            raise ConfigError("no COMMAND after --", hint="For example: bulkhead run -- uname -a")
    parser = make_parser(verb)
    names = [name for action in parser._actions for name in action.option_strings]
    words = [_known_option(word, names) for word in words]
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in names]
    if unknown:  # before argparse, which would first complain about what is missing
        raise _unknown_option(verb, unknown[0].partition("=")[0], names)
    arguments, rest = parser.parse_known_intermixed_args(words)
    for word in rest:
        if word.startswith("-"):
            raise _unknown_option(verb, word, names)
        hint = f"To run it in the guest: bulkhead run -- {word} …" if verb.takes_command else f"Usage: {verb.usage}"
        raise ConfigError(f"{verb.name}: {word} is too much", hint=hint)
    if verb.takes_command:
        arguments.command = command
    return arguments


def _unknown_option(verb: Verb, word: str, names: Sequence[str]) -> ConfigError:
    suggestion = did_you_mean(word.lstrip("-"), [name[2:] for name in names if name.startswith("--")], prefix="--")
    hint = "" if suggestion else f"See: bulkhead {verb.name} --help"
    return ConfigError(f"no option {word}{suggestion}", hint=hint)


if __name__ == "__main__":
    sys.exit(main())
