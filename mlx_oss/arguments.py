"""Parses the arguments of a command, and tells a mistake in one line, with what was probably meant.

Knows nothing of what the commands do.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mlx_oss.errors import OptionError, quoted, shortened

_KINDS = {int: "a whole number, such as 100", float: "a number, such as 0.7"}
# What argparse says of an argument, and what we say instead.
_SENTENCES = [
    (r"expected (one|at least one|\d+) arguments?", "{name} needs a value"),
    (r"ignored explicit argument .*", "{name} takes no value"),
    (r"not allowed with argument (?P<other>.*)", "{name} and {other} cannot be given together"),
]


def did_you_mean(wrong: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """A question that names what was probably meant, or nothing if no known word is close.

    Args:
        wrong: What was typed.
        known: What could have been.
        cutoff: How alike the two have to be, from 0 to 1; of three letters, two suffice.
    """
    from difflib import get_close_matches

    by_case = {word.lower().lstrip("-"): word for word in known}
    typed = wrong.lower().lstrip("-")[:100]
    close = get_close_matches(typed, list(by_case), n=1, cutoff=cutoff if len(typed) > 3 else 0.65)
    return f"did you mean {by_case[close[0]]}?" if close else ""


def alternatives(words: Iterable[str], last: str = "or") -> str:
    """Words as in a sentence: "bash, zsh or fish"."""
    *before, end = words
    return f"{', '.join(before)} {last} {end}" if before else end


class Help(argparse.HelpFormatter):
    """Formats the help: whole words, and each value of an option once. In a narrow terminal it is indented less."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = shutil.get_terminal_size().columns - 2
        super().__init__(prog, width=width, max_help_position=24 if width > 60 else 6, **options)

    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], *more: Any, **options: Any) -> None:
        if usage is None:  # the options are listed below, each with its value
            actions = list(actions)
            named = [action for action in actions if not action.option_strings]
            values = (self._format_args(action, self._get_default_metavar_for_positional(action)) for action in named)
            shown = [*([] if len(named) == len(actions) else ["[OPTION ...]"]), *values]
            fits = len(" ".join(["usage:", self._prog, *shown])) <= self._width
            usage = (" " if fits else "\n  ").join(["%(prog)s", " ".join(shown)]) if shown else "%(prog)s"
        super().add_usage(usage, actions, *more, **options)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in self._split_lines(text, width - len(indent)))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """A parser of arguments that raises OptionError for a mistake, with a message of one line.

    Attributes:
        given: What was given: the names under which argparse keeps the values.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help} | kwargs)
        self.given: set[str] = set()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        found.given = self.given | getattr(found, "given", set())
        return found, rest

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.refuse(rest)
        return found

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Raises OptionError for words that mean nothing to this parser."""
        option = next((word for word in words if word.startswith("-") and word != "-"), None)
        if option is None:
            raise OptionError(f"there is no place for {quoted(words[0])}: {self._help}")
        name = option.partition("=")[0]
        known = [string for string in self._option_string_actions if string.startswith("--")]
        guess = did_you_mean(name, known) if len(name) > 2 else ""
        raise OptionError(f"there is no option {shortened(name, 100)}: {guess or self._help}")

    def error(self, message: str) -> NoReturn:
        """Raises OptionError with what argparse has found, in our words."""
        if named := re.match(r"argument (?P<names>[^:]+): (?P<problem>.*)", message, re.DOTALL):
            name = named["names"].rpartition("/")[2]
            for pattern, sentence in _SENTENCES:
                if problem := re.fullmatch(pattern, named["problem"], re.DOTALL):
                    message = sentence.format(name=name, **problem.groupdict())
        elif missing := re.match(r"the following arguments are required: (.*)", message, re.DOTALL):
            names = missing[1].split(", ")
            message = f"{alternatives(names, 'and')} {'is' if len(names) == 1 else 'are'} missing"
        elif several := re.match(r"ambiguous option: (\S+) could match (.*)", message, re.DOTALL):
            message = f"{several[1]} may mean {alternatives(several[2].split(', '))}"
        raise OptionError(f"{shortened(message)}: {self._help}")

    @property
    def _help(self) -> str:
        return f"`{self.prog} --help` shows what it takes"

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        values = super()._get_values(action, arg_strings)
        if arg_strings or action.option_strings:
            self.given.add(action.dest)
        return values

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            kind = _KINDS.get(action.type, "another value")  # type: ignore[call-overload]
            raise OptionError(f"{_name(action)} is {quoted(arg_string)}: give {kind}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            guess = did_you_mean(str(value), choices)
            raise OptionError(f"{_name(action)} is {quoted(value)}: {guess or 'give ' + alternatives(choices)}")


def _name(action: argparse.Action) -> str:
    """How a user knows an argument."""
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
