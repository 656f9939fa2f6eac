"""A lock that allows one turn of a session at a time and carries its cancel flag. Knows nothing of what a turn does."""

from __future__ import annotations

import threading

from mlx_oss.errors import SessionError


class TurnLock:
    """A context manager that a session holds while it runs a turn or changes its conversation.

    Entering it while it is held raises SessionError instead of waiting: a turn may last for minutes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The cancel flag of the running turn. Each turn has its own: a cancel that arrives at the moment a turn ends
        # must not cancel the next one.
        self._cancel: threading.Event | None = None

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise SessionError(
                "the session is in the middle of a turn: read its events to the end, close the iterator, or cancel it"
            )
        self._cancel = threading.Event()

    def __exit__(self, *_: object) -> None:
        self._cancel = None
        self._lock.release()

    @property
    def is_held(self) -> bool:
        """True while a turn or a change is running."""
        return self._lock.locked()

    @property
    def cancelled(self) -> bool:
        """True if the running turn was cancelled and should end."""
        return (flag := self._cancel) is not None and flag.is_set()

    def cancel(self) -> None:
        """Cancels the running turn, from any thread; does nothing if no turn is running."""
        if (flag := self._cancel) is not None:
            flag.set()
