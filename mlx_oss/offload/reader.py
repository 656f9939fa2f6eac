"""Reads parts of files directly into memory, several at a time, and counts what that costs.

Knows nothing of experts and MLX.
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
    """What reading weights from disk cost. All values are 0 if the whole model is in memory.

    Attributes:
        hits: Needed experts that were in memory.
        misses: Needed experts that had to be read.
        nbytes: Bytes read from disk.
        seconds: Time that the model waited for reads.
    """

    hits: int = 0
    misses: int = 0
    nbytes: int = 0
    seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Fraction of the needed experts that were in memory; 1 if none was needed."""
        needed = self.hits + self.misses
        return self.hits / needed if needed else 1.0

    def __add__(self, other: OffloadStats) -> OffloadStats:
        return OffloadStats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: OffloadStats) -> OffloadStats:
        return OffloadStats(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class Origin(Protocol):
    """Something that bytes can be read from."""

    def read(self, start: int, into: memoryview) -> None:
        """Fills `into` with the bytes from `start` on."""


class Memory:
    """An origin whose bytes are already in memory, and are copied."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def read(self, start: int, into: memoryview) -> None:
        into[:] = self._content[start : start + len(into)]


class Reader:
    """Reads with several threads, which end with the reader. Hold `lock` while using it.

    Args:
        readers: Number of threads.

    Attributes:
        lock: Only one call of a layer may use the reader at a time.
        reads: What reads have cost so far.
    """

    def __init__(self, readers: int = READERS) -> None:
        self.reads, self.lock = OffloadStats(), threading.Lock()
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="mlx-oss-read")
        self._started: list[Future[None]] = []

    def start(self, parts: Iterable[tuple[Origin, int, memoryview]]) -> Sequence[Future[None]]:
        """Starts a read for each (origin, first byte, memory to fill). Pass the result to `finish` to wait."""
        futures = []
        for origin, start, into in parts:
            future = Future[None]()
            # Added before the read can start, so that `settle` waits for it even if Ctrl-C comes in between.
            self._started.append(future)
            futures.append(future)
            self._threads.submit(_read, future, origin, start, into)
            if isinstance(origin, OpenFile):
                self.reads += OffloadStats(nbytes=len(into))
        return futures

    def finish(self, futures: Sequence[Future[None]]) -> None:
        """Waits for all reads. Raises the error of the first one that failed, such as CheckpointError."""
        started = time.perf_counter()
        wait(futures)
        self.reads += OffloadStats(seconds=time.perf_counter() - started)
        for future in futures:
            future.result()

    def settle(self) -> None:
        """Cancels all reads that have not started and waits for all others, whether or not `finish` was called."""
        wait([future for future in self._started if not future.cancel()])
        self._started = []

    def count(self, hits: int, misses: int) -> None:
        """Adds to `reads` how many needed experts were in memory, and how many were not."""
        self.reads += OffloadStats(hits, misses)


def _read(future: Future[None], origin: Origin, start: int, into: memoryview) -> None:
    """Reads, and sets the result of the future, unless it was cancelled before the read started."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        origin.read(start, into)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(None)
