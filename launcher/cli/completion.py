"""`bulkhead completion SHELL`: scripts for bash, zsh and fish, made from the tables of verbs and options.

They complete verbs, options, choices, files, devices, and the names of running machines and their processes, which they
ask `bulkhead completion machines` and `bulkhead completion processes` for.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass

from launcher.cli.exitcodes import ExitCode
from launcher.cli.verbs import VERBS, Verb
from proto.errors import ConfigError

__all__ = ["add_arguments", "run"]


@dataclass(frozen=True)
class Word:
    """One option of a verb, as completion sees it."""

    names: tuple[str, ...]
    help: str
    takes: str  # "" (nothing), file, device, machine, value, or choices separated by |


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.shell not in _WRITERS:
        raise ConfigError(f"completion {arguments.shell}: expected bash, zsh or fish")
    print(_WRITERS[arguments.shell](), end="")
    return ExitCode.OK


def options_of(verb: Verb) -> list[Word]:
    """The options of a verb."""
    from launcher.cli.main import make_parser
    from launcher.machine.options import RUN_OPTIONS

    takes = {}
    for option in RUN_OPTIONS:
        takes[option.long] = "" if option.kind == "flag" else "|".join(option.choices) or option.complete or "value"
    words = []
    for action in make_parser(verb)._actions:
        if action.option_strings:
            name = action.option_strings[-1]
            known = "" if action.nargs == 0 else "machine" if name == "--machine" else takes.get(name) or _value(action)
            words.append(Word(tuple(action.option_strings), (action.help or "").split(";")[0].split(":")[0], known))
    return words


def _value(action: argparse.Action) -> str:
    """What an option of a verb's own takes."""
    if action.choices:
        return "|".join(str(choice) for choice in action.choices)
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return metavar if "|" in metavar else "file" if metavar in ("FILE", "OUT", "DIR") else "value"


def _positions(verb: Verb) -> tuple[list[str], list[str]]:
    """What a verb's first word may be, and each word after it."""
    first, _, later = verb.completes.partition(" / ")
    return first.split(), (later or first).split()


def _machines() -> str:
    from launcher.run.rundir import machines

    return "".join(f"{name}\n" for name in machines())


def _processes() -> str:
    from launcher.control import connect, request
    from launcher.run.rundir import machines
    from proto.errors import BulkheadError

    names: list[str] = []
    for machine in machines():
        try:
            with connect(machine) as channel:
                names += [row["id"] for row in request(channel, "PS")["processes"]]
        except BulkheadError:
            continue
    return "".join(f"{name}\n" for name in dict.fromkeys(names))


def _devices() -> list[str]:
    from launcher.machine.plan import device_names

    return device_names()


# -- bash --------------------------------------------------------------------------------------------------------------

_BASH = """\
# bash completion of bulkhead
_bulkhead() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} i
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
        return
    fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        [ "${{COMP_WORDS[i]}}" = -- ] && return
    done
    case "$verb $before" in
{values}
    esac
    case "$word" in
    -*)
        case $verb in
{options}
        esac ;;
    *)
        case $verb in
{positionals}
        esac ;;
    esac
}}
complete -o default -F _bulkhead bulkhead
"""


def _bash() -> str:
    values, options, positionals = [], [], []
    for verb in VERBS:
        words = options_of(verb)
        names = " ".join(name for word in words for name in word.names)
        options.append(f'        {verb.name}) COMPREPLY=($(compgen -W "{names}" -- "$word")) ;;')
        for word in words:
            if not word.takes:
                continue
            pattern = "|".join(f'"{verb.name} {name}"' for name in word.names)
            values.append(f"    {pattern}) {_bash_value(word.takes)}; return ;;")
        if verb.completes:
            first, later = (_bash_words(words) for words in _positions(verb))
            choice = first if first == later else f'if [ "$COMP_CWORD" = 2 ]; then {first}; else {later}; fi'
            positionals.append(f"        {verb.name}) {choice} ;;")
    return _BASH.format(
        verbs=" ".join(verb.name for verb in VERBS),
        values="\n".join(values),
        options="\n".join(options),
        positionals="\n".join(positionals),
    )


def _bash_words(what: list[str]) -> str:
    words = " ".join(
        f"$(bulkhead completion {word} 2>/dev/null)" if word in ("machines", "processes") else word
        for word in what
        if word != "files"  # with those bash completes what nothing else fits
    )
    return f'COMPREPLY=($(compgen -W "{words}" -- "$word"))'


def _bash_value(takes: str) -> str:
    if takes == "file":
        return 'COMPREPLY=($(compgen -f -- "$word"))'
    if takes == "device":
        return f'COMPREPLY=($(compgen -W "{" ".join(_devices())} help" -- "$word") $(compgen -f -X "!*.py" -- "$word"))'
    if takes == "machine":
        return _bash_words(["machines"])
    return _bash_words(takes.split("|")) if takes != "value" else ":"


# -- zsh ---------------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef bulkhead
_bulkhead_names() {{ compadd -- ${{(f)"$(bulkhead completion $1 2>/dev/null)"}} }}
_bulkhead() {{
    local -a verbs
    verbs=(
{verbs}
    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    local verb=$words[2]
    shift words
    (( CURRENT-- ))
    case $verb in
{cases}
    esac
}}
compdef _bulkhead bulkhead
"""


def _zsh() -> str:
    verbs = [f"        {shlex.quote(f'{verb.name}:{verb.summary}')}" for verb in VERBS]
    cases = []
    for verb in VERBS:
        specs = [_zsh_option(name, word) for word in options_of(verb) for name in word.names]
        if verb.completes:
            for place, words in zip("1*", _positions(verb), strict=True):
                specs.append(f"'{place}:word:{{{'; '.join(_zsh_word(word) for word in words)}}}'")
        cases.append(f"    {verb.name}) _arguments " + " ".join(specs) + " ;;")
    return _ZSH.format(verbs="\n".join(verbs), cases="\n".join(cases))


def _zsh_word(word: str) -> str:
    return {"processes": "_bulkhead_names processes", "files": "_files"}.get(word, f"compadd -- {word}")


def _zsh_option(name: str, word: Word) -> str:
    text = word.help.replace("[", "(").replace("]", ")").replace(":", "")
    if not word.takes:
        return shlex.quote(f"*{name}[{text}]")
    action = {
        "file": "_files",
        "machine": "{_bulkhead_names machines}",
        "device": f"({' '.join(_devices())})",
        "value": " ",
    }.get(word.takes, f"({word.takes.replace('|', ' ')})")
    return shlex.quote(f"*{name}[{text}]:{word.takes.split('|')[0]}:{action}")


# -- fish --------------------------------------------------------------------------------------------------------------


def _fish() -> str:
    lines = ["# fish completion of bulkhead", "complete -c bulkhead -f"]
    for verb in VERBS:
        lines.append(f"complete -c bulkhead -n __fish_use_subcommand -a {verb.name} -d {shlex.quote(verb.summary)}")
        condition = shlex.quote(f"__fish_seen_subcommand_from {verb.name}")
        for word in options_of(verb):
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in word.names)
            line = f"complete -c bulkhead -n {condition} {names} -d {shlex.quote(word.help)}"
            lines.append(line + _fish_value(word.takes))
        first, later = _positions(verb)
        for words, place in ((first, " -eq 2"), (later, " -gt 2")) if first != later else ((first, ""),):
            there = shlex.quote(f"__fish_seen_subcommand_from {verb.name}; and test (count (commandline -opc)){place}")
            lines += [f"complete -c bulkhead -n {there if place else condition} {_fish_word(word)}" for word in words]
    return "\n".join(lines) + "\n"


def _fish_word(word: str) -> str:
    return {"processes": "-a '(bulkhead completion processes)'", "files": "-F"}.get(word, f"-a {word}")


def _fish_value(takes: str) -> str:
    if not takes:
        return ""
    if takes == "file":
        return " -r -F"
    words = {
        "machine": "(bulkhead completion machines)",
        "device": " ".join(_devices()),
        "value": "",
    }.get(takes, takes.replace("|", " "))
    return f" -x -a {shlex.quote(words)}" if words else " -x"


_WRITERS = {"bash": _bash, "zsh": _zsh, "fish": _fish, "machines": _machines, "processes": _processes}
