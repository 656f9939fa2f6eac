"""Completes what is typed in a conversation when Tab is pressed: commands, and files after an @.

Knows nothing of what the commands do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

_MENTION = re.compile(r'(?:^|\s)@("?)([^\s"]*)$')


class Words(Completer):
    """Completes commands at the beginning of the input, and paths after an @.

    Args:
        commands: Names of the commands, without the slash.
    """

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands, self._paths = commands, PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        if mention := _MENTION.search(typed):
            yield from self._paths.get_completions(Document(mention[2]), complete_event)
        elif typed.startswith("/") and " " not in typed:
            for name in self._commands:
                if name.startswith(typed[1:]):
                    yield Completion(f"/{name}", start_position=-len(typed))
