"""Work shared out among a few threads; progress and errors come out in the thread that waits.

Reading, writing, checksums and NumPy's copies do not hold the interpreter, so threads are enough. Knows nothing of what
the work is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

Advance = Callable[[int], None]
Result = TypeVar("Result")

_MOST = 4  # threads: more of them read a disk no faster


class Crew:
    """Use as a context: on leaving it, work that was not begun is dropped and what was begun stops at once."""

    def __init__(self, advance: Advance):
        self._advance = advance
        self._told: SimpleQueue[int | Future] = SimpleQueue()
        self._stopped = Event()
        self._threads = ThreadPoolExecutor(min(_MOST, os.cpu_count() or 1))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)

    def submit(self, work: Callable[[Advance], Result]) -> Future[Result]:
        """Has `work` done by a thread; it is given a function to tell its progress, to be called often."""
        future = self._threads.submit(work, self._tell)
        future.add_done_callback(self._told.put)
        return future

    def results(self, futures: Iterable[Future[Result]]) -> list[Result]:
        """Waits for what was submitted; raises what any work, waited for or not, has raised."""
        futures = list(futures)
        while not all(future.done() for future in futures) or not self._told.empty():
            told = self._told.get()
            if isinstance(told, Future):
                told.result()
            else:
                self._advance(told)
        return [future.result() for future in futures]

    def _tell(self, count: int) -> None:
        if self._stopped.is_set():
            raise _Stopped
        self._told.put(count)


class _Stopped(Exception):
    """Ends work that nobody waits for any more."""
