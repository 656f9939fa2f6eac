"""Work shared out among a few threads; progress and errors come out in the thread that waits.

Reading, writing, checksums and NumPy's copies do not hold the interpreter, so threads are enough. Knows nothing of what
the work is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

Advance = Callable[[int], None]
Result = TypeVar("Result")

_MOST = 4  # threads: more of them read a disk no faster


class ThreadPool:
    """Use as a context: on leaving it, work that was not begun is dropped and what was begun stops at once."""

    def __init__(self, advance: Advance):
        self._advance = advance
        self._told: SimpleQueue[int | Future] = SimpleQueue()
        self._stopped = Event()
        self._threads = ThreadPoolExecutor(min(_MOST, os.cpu_count() or 1))

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)

    def as_completed(self, works: Mapping[str, Callable[[Advance], Result]]) -> Iterator[tuple[str, Result]]:
        """Has the works done, each by a thread that is given a function to tell its progress, to be called often; gives
        their names and results in the order in which they end. Raises what any of them raises.
        """
        names = {self._threads.submit(work, self._tell): name for name, work in works.items()}
        for future in names:
            future.add_done_callback(self._told.put)
        while names:
            told = self._told.get()
            if isinstance(told, Future):
                yield names.pop(told), told.result()
            else:
                self._advance(told)

    def _tell(self, count: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        self._told.put(count)


class _Stopped(Exception):
    """Ends work that nobody waits for any more."""
