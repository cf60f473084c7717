"""What real shells offer for a command line that somebody presses Tab on."""

from __future__ import annotations

import os
import pty
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lab.lan import wait_for
from lab.running import Running

_BASH = """
source {directory}/airtap.bash
while read -r line; do
    [ "$line" ] || continue
    line=${{line//=/ = }}
    line=${{line//:/ : }}
    read -ra COMP_WORDS <<<"$line"
    [[ $line == *" TAB" ]] && COMP_WORDS[-1]=
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMPREPLY=()
    _airtap
    printf '%s\\n' "${{COMPREPLY[@]}}" END
done
"""

_FISH = """
source {directory}/airtap.fish
while read -l line
    complete -C (string replace -r 'TAB$' '' -- $line)
    echo END
end
"""

# Every match is written down as it is added, and then the end of it.
_ZSH = """
PROMPT=; unsetopt monitor beep
fpath=({directory} $fpath)
autoload -Uz compinit && compinit -u -D
zle -C offer complete-word offer
offer() {{ _main_complete; print END >>{out} }}
bindkey '^I' offer
bindkey '^U' kill-whole-line
zstyle ':completion:*' verbose no
compadd() {{
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return; fi
    local -a found
    builtin compadd -A found "$@"
    (( $#found )) && print -rl -- $found >>{out}
    builtin compadd "$@"
}}
print END >>{out}
"""


def bash(directory: Path, lines: Sequence[str]) -> list[set[str]]:
    """What bash offers at the end of each line; one that ends with a space: for a new word."""
    return _piped(["bash", "--norc", "-c", _BASH.format(directory=directory)], lines)


def fish(directory: Path, lines: Sequence[str]) -> list[set[str]]:
    """What fish offers."""
    argv = ["fish", "--no-config", "-c", _FISH.format(directory=directory)]
    return [{word.partition("\t")[0] for word in words} for words in _piped(argv, lines)]


def zsh(directory: Path, lines: Sequence[str]) -> list[set[str]]:
    """What zsh offers, which completes on a terminal only."""
    with _Zsh(directory) as shell:
        return [shell.offers(line) for line in lines]


def _piped(argv: Sequence[str], lines: Sequence[str]) -> list[set[str]]:
    marked = "".join(f"{line}TAB\n" if line.endswith(" ") else f"{line}\n" for line in lines)
    with tempfile.TemporaryDirectory(dir="/run") as home:
        done = subprocess.run(
            argv,
            input=marked,
            text=True,
            capture_output=True,
            check=True,
            env={**os.environ, "HOME": home},
            cwd=home,
        )
    assert done.stderr == ""
    *answers, rest = done.stdout.split("END\n")
    assert rest == "" and len(answers) == len(lines)
    return [set(answer.split("\n")) - {""} for answer in answers]


class _Zsh(Running):
    """An interactive zsh with airtap's completion."""

    def __init__(self, directory: Path) -> None:
        self._completions = directory

    def start(self) -> None:
        self._home = tempfile.TemporaryDirectory(dir="/run")
        self._out = Path(self._home.name, "out")
        setup = Path(self._home.name, ".zshrc")
        setup.write_text(_ZSH.format(directory=self._completions, out=self._out))
        self._terminal, other = pty.openpty()
        os.set_blocking(self._terminal, False)
        with open(other, "rb") as tty:
            self._process = subprocess.Popen(
                ["zsh", "-d", "-i"],
                stdin=tty,
                stdout=tty,
                stderr=tty,
                cwd=self._home.name,
                env={**os.environ, "ZDOTDIR": self._home.name, "TERM": "dumb"},
                start_new_session=True,
            )
        self._ended()

    def offers(self, line: str) -> set[str]:
        self._out.write_text("")
        os.write(self._terminal, line.encode() + b"\t")
        found = self._ended()
        os.write(self._terminal, b"\x15")
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)
        self._home.cleanup()

    def _ended(self) -> set[str]:
        def said() -> str:
            with suppress(BlockingIOError):  # what it writes there nobody needs
                os.read(self._terminal, 1 << 16)
            text = self._out.read_text() if self._out.exists() else ""
            return text if text.endswith("END\n") else ""

        return set(wait_for(said, 30, "zsh to answer").splitlines()) - {"END"}
