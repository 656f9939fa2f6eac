"""One turn of a session at a time, which can be cancelled from anywhere. Knows nothing of what a turn does."""

from __future__ import annotations

import threading

from mlx_oss.errors import SessionError


class TurnLock:
    """Whose turn it is: one turn, or change, of a session at a time, entered as a context and cancelled from anywhere.

    Raises SessionError on who comes while it is taken, as waiting could last for minutes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancel: threading.Event | None = None  # of the turn that has the floor; each has its own,
        # so that who cancels a turn at the moment it ends does not hit the next

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise SessionError("the session is in the middle of a turn: finish its events, close them, or cancel it")
        self._cancel = threading.Event()

    def __exit__(self, *_: object) -> None:
        self._cancel = None
        self._lock.release()

    @property
    def is_held(self) -> bool:
        return self._lock.locked()

    @property
    def cancelled(self) -> bool:
        """Whether the turn that has the floor is to end."""
        return (turn := self._cancel) is not None and turn.is_set()

    def cancel(self) -> None:
        """Does nothing where no turn runs."""
        if (turn := self._cancel) is not None:
            turn.set()
