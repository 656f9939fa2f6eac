"""Reads parts of files straight into memory, several at a time, and counts what that costs.

Files stay open, so one that is removed or replaced while a model runs does no harm. Knows nothing of experts and MLX.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from mlx_oss.errors import CheckpointError

# In flight at a time. An SSD needs a few to be busy, and where the file is in the system's cache it is a copy.
READERS = 4


@dataclass(frozen=True, slots=True)
class Reads:
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

    def __add__(self, other: Reads) -> Reads:
        return Reads(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Reads) -> Reads:
        return Reads(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class File:
    """A file that is open for reading as long as someone holds this."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self.path = path
        try:
            # On a Mac F_NOCACHE would keep the bytes out of the system's file cache. It is not set: what memory the
            # system has to spare serves as a second level for experts that have lost their slot.
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened ({error.strerror}): fetch or convert it again") from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, start: int, into: memoryview) -> None:
        """Fills `into` with the bytes from `start` on. Raises CheckpointError if they cannot be had."""
        done = 0
        while done < len(into):
            try:
                count = _pread(self._descriptor, into[done:], start + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be read ({error.strerror}) at byte {start + done:,}: check the disk, then "
                    "load the model again"
                ) from None
            if count == 0:
                raise CheckpointError(
                    f"{self.path} is cut short: there is nothing at byte {start + done:,} any more: fetch or convert "
                    "it again, then load the model again"
                )
            done += count


def _pread(descriptor: int, into: memoryview, start: int) -> int:
    """Reads from `start` on, as much as comes at once; gives the number of bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], start)
    data = os.pread(descriptor, len(into), start)  # before macOS 11
    into[: len(data)] = data
    return len(data)


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
        self.reads, self.lock = Reads(), threading.Lock()
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="mlx-oss-read")
        self._started: list[Future[None]] = []

    def start(self, parts: Iterable[tuple[Origin, int, memoryview]]) -> Sequence[Future[None]]:
        """Begins to read: of each origin, from a byte on, as much as fills the memory. `finish` waits."""
        futures = []
        for origin, start, into in parts:
            futures.append(self._threads.submit(origin.read, start, into))
            self._started.append(futures[-1])
            if isinstance(origin, File):
                self.reads += Reads(nbytes=len(into))
        return futures

    def finish(self, futures: Sequence[Future[None]]) -> None:
        """Waits until all have ended. Raises the first one's error."""
        started = time.perf_counter()
        wait(futures)
        self.reads += Reads(seconds=time.perf_counter() - started)
        for future in futures:
            future.result()

    def settle(self) -> None:
        """Waits for everything that was begun, whether or not somebody waited for it."""
        wait(self._started)
        self._started = []

    def count(self, hits: int, misses: int) -> None:
        self.reads += Reads(hits, misses)
