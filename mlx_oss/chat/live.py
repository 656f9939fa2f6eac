"""The conversation of a session: read at any time, changed by one turn at a time.

Knows nothing of what a turn does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mlx_oss.chat.history import Conversation, Entry
from mlx_oss.errors import SessionError


class LiveConversation:
    """A conversation that turns change.

    Only one turn, or one change between turns, can be going on. A second one raises SessionError instead of waiting: a
    turn may last for minutes.

    Args:
        conversation: What it starts with; None is an empty one.

    Attributes:
        current: The conversation as it is now. Only whoever holds it may set it.
    """

    def __init__(self, conversation: Conversation | None = None) -> None:
        self.current = conversation or Conversation()
        self._held = threading.Lock()
        # Tool results that the app adds while the conversation is held: the calls that they answer may not be in it
        # yet. None while it is not held.
        self._late_results: list[Entry] | None = None
        # Guards the two above. Reentrant, because the garbage collector may end an abandoned turn on any thread.
        self._guard = threading.RLock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the conversation for a turn or a change. Raises SessionError if it is held already."""
        if not self._held.acquire(blocking=False):
            raise SessionError(
                "the session is in the middle of a turn: read its events to the end, close the iterator, or cancel it"
            )
        try:
            with self._guard:
                self._late_results = []
            yield
        finally:
            try:
                with self._guard:
                    self.add_written([])
                    self._late_results = None
            finally:
                self._held.release()

    def add_result(self, result: Entry) -> None:
        """Adds a tool's result, from any thread. While the conversation is held, it comes after what is written."""
        with self._guard:
            if self._late_results is None:
                self.current = self.current.with_entries([result])
            else:
                self._late_results.append(result)

    def add_written(self, entries: Iterable[Entry]) -> None:
        """Adds what the model has written in a turn, and then the results that have been added meanwhile."""
        with self._guard:
            late, self._late_results = self._late_results or [], []
            self.current = self.current.with_entries([*entries, *late])
