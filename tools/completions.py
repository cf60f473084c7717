"""Shell completion for airtap, made from its own command line: python3 tools/completions.py DIR

Writes airtap.bash, _airtap (zsh) and airtap.fish. Each holds the same table, a row for each
command, and a few lines that look the command up and offer what its row has. DEV, DEVICE and the
like are completed with the network devices that are there at that moment, from /sys.

It needs nothing but Python and src/, for packages are built where nothing else may be.

shtab was tried instead (1.13, and 1.5.5, which Debian 12 builds with). It would lose what people
have: 1.5.5 knows no fish; in bash, whatever readline takes apart (--kind=ses, and all that follows
a qemu:///system) is completed no more, and file names are offered where nothing can be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from airtap.cli.parser import build

# What is typed for a metavar: network devices, or files. For others nothing can be offered.
_DEVICES = {"DEV", "DEVICE", "GUEST", "DEV|DOMAIN"}
_FILES = {"FILE", "PATH"}


@dataclass(frozen=True)
class Option:
    """One option. value: what follows it; None if nothing does."""

    names: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True)
class Value:
    """What can be offered for an argument: words, devices, files, or nothing."""

    words: tuple[str, ...] = ()
    devices: bool = False
    files: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Command:
    """One command line: its words after "airtap", and what can follow them."""

    path: tuple[str, ...]
    options: tuple[Option, ...]
    subcommands: tuple[tuple[str, str], ...]
    positionals: tuple[Value, ...]


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """A parser's own command, and those of all its subparsers."""
    subparsers: dict[str, argparse.ArgumentParser] = {}
    helps: dict[str, str] = {}
    options, positionals = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            subparsers = dict(action.choices)
            helps = {each.dest: each.help or "" for each in action._choices_actions}
        elif action.option_strings:
            value = None if action.nargs == 0 else _value(action)
            options.append(Option(tuple(action.option_strings), _line(action), value))
        else:
            positionals.append(_value(action))
    named = tuple((name, helps.get(name, "")) for name in subparsers)
    yield Command(path, tuple(options), named, tuple(positionals))
    for name, subparser in subparsers.items():
        yield from commands(subparser, (*path, name))


def _value(action: argparse.Action) -> Value:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return Value(
        tuple(map(str, action.choices or ())),
        metavar in _DEVICES,
        metavar in _FILES,
        action.nargs == "?",
    )


def _line(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def bash(table: Sequence[Command]) -> str:
    """A completion function for bash, which needs no bash-completion."""
    return _BASH.format(
        paths=_cases(" ".join(row.path) for row in table if row.path),
        values="".join(map(_bash_values, table)),
        rows="".join(map(_bash_row, table)),
    )


def _cases(words: Iterator[str]) -> str:
    return "|".join(f'"{word}"' for word in words)


def _bash_values(row: Command) -> str:
    path = " ".join(row.path)
    taking = [(option, option.value) for option in row.options if option.value]
    cases = [_cases(f"{path}:{name}" for name in option.names) for option, _value in taking]
    offers = [_bash_offer(value) for _option, value in taking]
    return "".join(f"        {c}) {o};;\n" for c, o in zip(cases, offers, strict=True))


def _bash_offer(value: Value) -> str:
    if value.devices:
        return "_airtap_devices"
    if value.files:
        return "_airtap_files"
    return f"_airtap_words {' '.join(value.words)}".rstrip()


def _bash_row(row: Command) -> str:
    path = " ".join(row.path)
    names = [name for option in row.options for name in option.names]
    lines = [f'        "{path}:-") _airtap_words {" ".join(names)};;\n']
    if row.subcommands:
        subcommands = " ".join(name for name, _help in row.subcommands)
        lines.append(f'        "{path}:0") _airtap_words {subcommands};;\n')
    for number, value in enumerate(row.positionals):
        lines.append(f'        "{path}:{number}") {_bash_offer(value)};;\n')
    return "".join(lines)


def zsh(table: Sequence[Command]) -> str:
    """A completion function for zsh, to be found by name in its fpath."""
    functions = "".join(f"\n{_zsh_function(row)}" for row in table)
    return f"#compdef airtap\n{functions}{_ZSH}"


def _zsh_name(path: tuple[str, ...]) -> str:
    return "_".join(("_airtap", *path))


def _zsh_function(row: Command) -> str:
    lines = [f"{_zsh_option(name, option)} \\" for option in row.options for name in option.names]
    if not row.subcommands:
        lines += [f"'{n}:argument:{_zsh_offer(v)}' \\" for n, v in enumerate(row.positionals, 1)]
        arguments = "\n        ".join([*lines, "&& return"])
        return f"{_zsh_name(row.path)}() {{\n    _arguments {arguments}\n}}\n"
    arguments = "\n        ".join(
        [*lines, "'1:command:->command' '*::argument:->arguments' && return"]
    )
    described = "\n            ".join(quote(f"{name}:{text}") for name, text in row.subcommands)
    return _ZSH_COMMAND.format(
        name=_zsh_name(row.path or ("",)),
        prefix=_zsh_name((*row.path, "")),
        arguments=arguments,
        described=described,
    )


def _zsh_option(name: str, option: Option) -> str:
    text = option.help.translate({ord("["): "(", ord("]"): ")"})
    if option.value is None:
        return quote(f"{name}[{text}]")
    colon = "::" if option.value.optional else ":"
    return quote(f"{name}[{text}]{colon}value:{_zsh_offer(option.value)}")


def _zsh_offer(value: Value) -> str:
    if value.devices:
        return "_airtap-devices"
    if value.files:
        return "_files"
    return f"({' '.join(value.words)})" if value.words else " "


def fish(table: Sequence[Command]) -> str:
    """Completions for fish."""
    takes = [
        f"{' '.join(row.path)}:{name}"
        for row in table
        for option in row.options
        if option.value and not option.value.optional
        for name in option.names
    ]
    return _FISH.format(
        paths=" ".join(quote(" ".join(row.path)) for row in table if row.path),
        takes=" ".join(map(quote, takes)),
        rows="".join(map(_fish_row, table)),
    )


def _fish_row(row: Command) -> str:
    path = " ".join(row.path)
    lines = [
        f"complete -c airtap -n '_airtap_at \"{path}\" 0' -a {name} -d {quote(text)}"
        for name, text in row.subcommands
    ]
    for number, value in enumerate(row.positionals):
        if offer := _fish_offer(value):
            lines.append(f"complete -c airtap -n '_airtap_at \"{path}\" {number}' {offer}")
    for option in row.options:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
        )
        offer = "" if option.value is None else _fish_offer(option.value, "-x")
        text = f"{names} -d {quote(option.help)} {offer}"
        lines.append(f"complete -c airtap -n '_airtap_at \"{path}\"' {text}")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _fish_offer(value: Value, exclusive: str = "") -> str:
    if value.devices:
        return f"{exclusive} -a '(_airtap_devices)'"
    if value.files:
        return f"{'-r' if exclusive else ''} -F"
    return f"{exclusive} -a {quote(' '.join(value.words))}" if value.words else exclusive


_BASH = """\
# bash completion for airtap                                               -*- shell-script -*-

# Quoted, and never by compgen -W, which expands its words: a device's name may be $(anything).
_airtap_words() {{
    local word
    for word; do
        [[ $word != "$cur"* ]] || COMPREPLY+=("$(printf %q "$word")")
    done
}}

_airtap_devices() {{
    local path
    for path in /sys/class/net/*/ifindex; do
        path=${{path%/ifindex}}
        _airtap_words "${{path##*/}}"
    done
}}

_airtap_files() {{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}}

# Whether an option of a command takes a value; offers its words if asked to.
_airtap_value() {{
    case $1 in
{values}        *) return 1;;
    esac
}}

_airtap() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} path= option= joined= count=0 i word
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        # readline takes --kind=macvtap for three words, and qemu:///system, too.
        [[ $word == [=:]* ]] && joined=yes && continue
        if [[ $option && $word != -* ]]; then
            option=
        elif [ "$joined" ]; then
            :
        elif [[ $word == -* ]]; then
            option=
            _airtap_value "$path:$word" && option=$word
        else
            case ${{path:+$path }}$word in
                {paths}) path=${{path:+$path }}$word;;
                *) count=$((count + 1));;
            esac
        fi
        joined=
    done
    COMPREPLY=()
    [[ $cur == [=:]* ]] && joined=yes cur=
    [[ $joined && ! $option ]] && return
    if [[ $cur == -* ]]; then
        count=-
    elif [ "$option" ]; then
        _airtap_value "$path:$option"
        return
    fi
    case $path:$count in
{rows}    esac
}}

complete -F _airtap airtap
"""

_ZSH_COMMAND = """\
{name}() {{
    local state line
    _arguments -C {arguments}
    case $state in
    command)
        local -a described=(
            {described}
        )
        _describe -t commands command described ;;
    arguments)
        (( $+functions[{prefix}$line[1]] )) && {prefix}$line[1] ;;
    esac
}}
"""

_ZSH = """
_airtap-devices() {
    local -a devices=(/sys/class/net/*/ifindex(N:h:t))
    compadd -a devices
}

_airtap_ "$@"
"""

_FISH = """\
# fish completion for airtap

function _airtap_devices
    for path in /sys/class/net/*/ifindex
        string split -f 5 / $path
    end
end

# Whether the command line is at a command, and if asked for, at which of its arguments.
function _airtap_at
    set -l paths {paths}
    set -l takes {takes}
    set -l path
    set -l count 0
    set -l value no
    for word in (commandline -opc)[2..]
        if test $value = yes
            set value no
        else if string match -q -- '-*' $word
            contains -- "$path:$word" $takes; and set value yes
        else if contains -- (string trim "$path $word") $paths
            set path (string trim "$path $word")
        else
            set count (math $count + 1)
        end
    end
    test "$path" = "$argv[1]"; or return 1
    test (count $argv) -eq 1; or test $count -eq $argv[2]
end

complete -c airtap -f
{rows}"""


def main() -> int:
    """Entry point. Returns the exit status."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    table = list(commands(build()))
    for name, text in (("airtap.bash", bash), ("_airtap", zsh), ("airtap.fish", fish)):
        (directory / name).write_text(text(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
