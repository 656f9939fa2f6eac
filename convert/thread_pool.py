"""Runs tasks in a few threads; their progress and errors arrive in the thread that waits for them.

Reading, writing, checksums and NumPy's copies release the interpreter lock, so threads are enough. Knows nothing of
what the tasks do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

ReportBytes = Callable[[int], None]  # called with the number of bytes done since the last call
T = TypeVar("T")

_MAX_THREADS = 4  # more do not read a disk faster


class ThreadPool:
    """Runs tasks in threads, as a context manager.

    On exit, tasks that have not started are dropped, and running ones stop when they next report progress.
    """

    def __init__(self, on_bytes: ReportBytes):
        self._on_bytes = on_bytes
        self._events: SimpleQueue[int | Future[Any]] = SimpleQueue()
        self._stopped = Event()
        self._threads = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)

    def as_completed(self, tasks: Mapping[str, Callable[[ReportBytes], T]]) -> Iterator[tuple[str, T]]:
        """Runs tasks concurrently; yields (name, result) as each completes.

        Each task gets a function to report its progress with, which it should call often. `on_bytes` is called with
        each report, in the thread that iterates. An exception in a task is raised here.
        """
        names = {self._threads.submit(task, self._report_bytes): name for name, task in tasks.items()}
        for future in names:
            future.add_done_callback(self._events.put)
        while names:
            event = self._events.get()
            if isinstance(event, Future):
                yield names.pop(event), event.result()
            else:
                self._on_bytes(event)

    def _report_bytes(self, count: int) -> None:
        """Called by tasks, in their threads."""
        if self._stopped.is_set():
            raise _Stopped
        self._events.put(count)


class _Stopped(Exception):
    """Ends a task after the pool was left."""
