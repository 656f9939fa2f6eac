"""`mlx-oss completion`: prints what a shell needs to complete the arguments of `mlx-oss` when Tab is pressed.

The shell asks the program itself: `mlx-oss completion --complete WORD ...` prints what the last word may become.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from importlib import import_module

from mlx_oss.arguments import Parser
from mlx_oss.errors import OptionError
from mlx_oss.terminal import one_line, report

_SCRIPTS = {
    "bash": """\
_mlx_oss() {
    local IFS=$'\\n'
    COMPREPLY=($(mlx-oss completion --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _mlx_oss mlx-oss""",
    "zsh": """\
#compdef mlx-oss
_mlx_oss() {
    local -a found
    found=("${(@f)$(mlx-oss completion --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -a found; else _files; fi
}
compdef _mlx_oss mlx-oss""",
    "fish": """\
function __mlx_oss
    set -l words (commandline -opc) (commandline -ct)
    mlx-oss completion --complete $words[2..] 2>/dev/null
end
complete -c mlx-oss -a '(__mlx_oss)'""",
}
_FILES = {  # in which file of the user the line stands that loads it
    "bash": 'eval "$(mlx-oss completion bash)" in ~/.bashrc (on a Mac ~/.bash_profile)',
    "zsh": 'eval "$(mlx-oss completion zsh)" in ~/.zshrc, below compinit',
    "fish": "mlx-oss completion fish | source in ~/.config/fish/config.fish",
}
_MODELS = ("model", "folder", "name", "source")  # arguments that take the name of a model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=tuple(_SCRIPTS), metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("--complete", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.epilog = f"To load it in each new shell, write {'; '.join(_FILES.values())}."


def run(args: argparse.Namespace) -> int:
    if args.complete is not None:
        for word in candidates(args.complete or [""]):
            report(one_line(word))
    elif args.shell is None:
        raise OptionError("name a shell: bash, zsh or fish, such as `mlx-oss completion zsh`")
    else:
        report(_SCRIPTS[args.shell])
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words behind `mlx-oss` may become. Nothing where a file is expected, or a text."""
    from mlx_oss.cli import COMMANDS

    *before, last = words
    if not before:
        known: Iterable[str] = [*COMMANDS, "--help", "--version"]
    elif before[0] in COMMANDS:
        parser = Parser(prog=before[0])
        import_module(COMMANDS[before[0]][0]).add_arguments(parser)
        known = _known(parser, before[1:], last)
    else:
        known = []
    return [word for word in known if word.startswith(last)]


def _known(parser: Parser, before: Sequence[str], last: str) -> Iterable[str]:
    option = parser._option_string_actions.get(before[-1]) if before else None
    if option is not None and option.nargs != 0:
        return _values(option)
    if last.startswith("-"):
        hidden = [action for action in parser._actions if action.help == argparse.SUPPRESS]
        return [name for name, action in parser._option_string_actions.items() if action not in hidden]
    positionals = parser._get_positional_actions()
    return _values(positionals[0]) if positionals else []


def _values(action: argparse.Action) -> Iterable[str]:
    if action.choices is not None:
        return list(map(str, action.choices))
    if action.dest in _MODELS:
        from mlx_oss.cli.model_names import known

        return known()
    return []
