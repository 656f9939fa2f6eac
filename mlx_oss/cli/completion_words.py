"""Completes what is typed in a conversation when Tab is pressed: commands, names of conversations, and files.

Knows nothing of what the commands do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from mlx_oss.cli.kept import all_kept

_WITH_FILE = re.compile(r"/(?:save|load|export) (.*)")
_MENTION = re.compile(r'(?:^|\s)@("?)([^\s"]*)$')


class Words(Completer):
    """Completes commands at the beginning of the input, and paths after an @ and after commands that take a file.

    Args:
        commands: Names of the commands, without the slash.
    """

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands, self._paths = commands, PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        if mention := _MENTION.search(typed):
            yield from self._paths.get_completions(Document(mention[2]), complete_event)
        elif named := _WITH_FILE.fullmatch(typed):
            if typed.startswith("/load "):
                for one in all_kept():
                    if one.name.startswith(named[1]):
                        yield Completion(one.name, start_position=-len(named[1]))
            yield from self._paths.get_completions(Document(named[1]), complete_event)
        elif typed.startswith("/") and " " not in typed:
            for name in self._commands:
                if name.startswith(typed[1:]):
                    yield Completion(f"/{name}", start_position=-len(typed))
