"""Reads parts of files straight into memory, several at a time, and counts what that costs. Knows nothing of experts
and MLX.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Protocol

from mlx_oss.weights.files import READERS, OpenFile


@dataclass(frozen=True, slots=True)
class OffloadStats:
    """What weights on disk cost: experts that were in memory when needed, those that had to be read, bytes read, and
    seconds in which the model waited for them. All 0 where everything is in memory.
    """

    hits: int = 0
    misses: int = 0
    nbytes: int = 0
    seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        needed = self.hits + self.misses
        return self.hits / needed if needed else 1.0

    def __add__(self, other: OffloadStats) -> OffloadStats:
        return OffloadStats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: OffloadStats) -> OffloadStats:
        return OffloadStats(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class Origin(Protocol):
    """What can be read from."""

    def read(self, start: int, into: memoryview) -> None: ...


class Memory:
    """Bytes that are in memory already, to be copied."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def read(self, start: int, into: memoryview) -> None:
        into[:] = self._content[start : start + len(into)]


class Reader:
    """Several threads that read; they end with the reader. Who uses it holds its lock."""

    def __init__(self, readers: int = READERS) -> None:
        self.reads, self.lock = OffloadStats(), threading.Lock()
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="mlx-oss-read")
        self._started: list[Future[None]] = []

    def start(self, parts: Iterable[tuple[Origin, int, memoryview]]) -> Sequence[Future[None]]:
        """Begins to read: of each origin, from a byte on, as much as fills the memory. `finish` waits."""
        futures = []
        for origin, start, into in parts:
            future = Future[None]()
            self._started.append(future)  # before it can begin: an interruption in between must not lose it
            futures.append(future)
            self._threads.submit(_read, future, origin, start, into)
            if isinstance(origin, OpenFile):
                self.reads += OffloadStats(nbytes=len(into))
        return futures

    def finish(self, futures: Sequence[Future[None]]) -> None:
        """Waits until all have ended. Raises the first one's error."""
        started = time.perf_counter()
        wait(futures)
        self.reads += OffloadStats(seconds=time.perf_counter() - started)
        for future in futures:
            future.result()

    def settle(self) -> None:
        """Waits for everything that was begun, whether or not somebody waited for it, and drops what was not."""
        wait([future for future in self._started if not future.cancel()])
        self._started = []

    def count(self, hits: int, misses: int) -> None:
        self.reads += OffloadStats(hits, misses)


def _read(future: Future[None], origin: Origin, start: int, into: memoryview) -> None:
    """Into the future, unless it was cancelled before this thread came to it."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        origin.read(start, into)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
