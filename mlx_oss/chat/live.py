"""The conversation of a session: read at any time, changed by one turn at a time, cancelled from anywhere.

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
        current: The conversation as it is now.
    """

    def __init__(self, conversation: Conversation | None = None) -> None:
        self.current = conversation or Conversation()
        self._busy = threading.Lock()
        # The cancel flag of the running turn. Each turn has its own: a cancel that arrives at the moment a turn ends
        # must not cancel the next one.
        self._cancel: threading.Event | None = None
        # Tool results that the app adds during a turn: the calls that they answer may not be in the conversation yet.
        # None between turns.
        self._late_results: list[Entry] | None = None
        self._adding = threading.Lock()  # guards `_late_results`, and `current` where results may be added to it

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds the conversation for a change. Raises SessionError if it is held already."""
        if not self._busy.acquire(blocking=False):
            raise SessionError(
                "the session is in the middle of a turn: read its events to the end, close the iterator, or cancel it"
            )
        try:
            yield
        finally:
            self._busy.release()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Holds the conversation for a turn, which can be cancelled. Raises SessionError if it is held already."""
        with self.changing():
            self._cancel, self._late_results = threading.Event(), []
            try:
                yield
            finally:
                with self._adding:
                    self.current, self._late_results = self.current.with_entries(self._late_results), None
                self._cancel = None

    @property
    def is_cancelled(self) -> bool:
        """True if the running turn was cancelled and should end."""
        return (flag := self._cancel) is not None and flag.is_set()

    def cancel(self) -> None:
        """Cancels the running turn, from any thread; does nothing if no turn is running."""
        if (flag := self._cancel) is not None:
            flag.set()

    def add_result(self, result: Entry) -> None:
        """Adds a tool's result, from any thread. During a turn it comes after what the model is writing."""
        with self._adding:
            if self._late_results is None:
                self.current = self.current.with_entries([result])
            else:
                self._late_results.append(result)

    def add_written(self, entries: Iterable[Entry]) -> None:
        """Adds what the model has written in a turn, and then the results that have been added meanwhile."""
        with self._adding:
            self.current, self._late_results = self.current.with_entries([*entries, *(self._late_results or ())]), []
