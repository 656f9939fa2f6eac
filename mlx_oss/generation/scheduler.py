"""The scheduler: computes all requests of an engine together, a token for each at a time.

A *row* is a request that is being computed. In a tick (`tick`), all rows whose readers wait for a token get one.
Between two ticks a chunk of one prompt is read (`prompt_reading`). Each row keeps its own KV cache, so rows begin
(`admission`) and end (`rows`) between any two ticks, and a row whose reader is slow misses ticks without holding up the
others. Rows are at most one token ahead of their readers. Everything runs on the computing thread, one tick and chunk
at a time, so that other work gets its turn in between. Knows nothing of text and messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue

from mlx_oss.errors import EngineError
from mlx_oss.generation import compute_thread
from mlx_oss.generation.admission import Admission
from mlx_oss.generation.engine import Item
from mlx_oss.generation.prefix_pool import PrefixPool
from mlx_oss.generation.row import Row
from mlx_oss.generation.rows import Rows
from mlx_oss.generation.tick import Ticker
from mlx_oss.model.transformer import Transformer

MOMENT = 0.002  # seconds that a tick waits for readers that took part in the last one
LOOK = 0.01  # seconds until it looks again whether there is room for a row that waits, if nobody reads
MOST_WAITING = 1024  # requests that wait for others to end


class Scheduler:
    """Computes the rows of an engine.

    Args:
        model: The model.
        pool: Its prefixes.
        chunk: Number of tokens of a prompt that are read at a time.
        at_once: Maximum number of rows whose readers wait.
        together: Maximum number of rows in a tick.
        guesses: Whether to check what the text before suggests, several tokens at a time (see `lookup`).
        added_ids: Ids of text that a fine-tune has added.
        prepare: Called on the computing thread before something is computed.

    Attributes:
        rows: The rows.
        admission: What begins them, and counts them.
    """

    def __init__(
        self,
        model: Transformer,
        pool: PrefixPool,
        *,
        chunk: int,
        at_once: int,
        together: int,
        guesses: bool,
        added_ids: Collection[int],
        prepare: Callable[[], None],
    ) -> None:
        self.rows = rows = Rows(pool, chunk)
        self.admission = Admission(model, rows, at_once=at_once, added_ids=added_ids, guesses=guesses)
        self._ticker, self._together = Ticker(model, rows, guesses=guesses), together
        self._prepare = prepare
        self._inbox: SimpleQueue[tuple[Row, Future[Item | None]] | None] = SimpleQueue()
        self._is_awake = False  # True if `_work` will run

    def ask(self, row: Row) -> Future[Item | None]:
        """Asks for the next item of a row. May be called from any thread.

        Raises:
            EngineError: If nothing can be computed any more, or the computing thread would wait for itself.
        """
        compute_thread.check_process()  # what was awake in the process that this one was forked from sleeps here
        if compute_thread.is_current():
            raise EngineError("a constraint runs on the thread of the engine, so it cannot wait for the engine")
        future: Future[Item | None] = Future()
        self._inbox.put((row, future))
        try:
            self.wake()
        except BaseException:
            future.cancel()  # it stays in the inbox
            raise
        return future

    def wake(self) -> None:
        """Lets the computing thread look at what has changed. May be called from any thread."""
        if not self._is_awake:
            self._is_awake = True
            try:
                compute_thread.submit(self._work)
            except BaseException as error:
                self._is_awake = False
                if not isinstance(error, Exception):  # Ctrl-C: other threads have relied on this one meanwhile
                    self.wake()
                raise

    def look(self) -> None:
        """Lets the computing thread look for cancelled rows, even while it waits. May be called from any thread."""
        self._inbox.put(None)
        self.wake()

    def end(self, row: Row) -> None:
        """Ends a row at once; only for the computing thread."""
        self.rows.end(row)
        if self.rows.waiting:
            self.wake()

    def _work(self) -> None:
        """Computes a tick and a chunk, and comes again if there is more to do."""
        self._is_awake, rows = False, self.rows
        try:
            self._prepare()
            self._receive()
            self.admission.begin()
            for row in [row for row in rows.begun if row.steps and row.is_asked]:
                rows.give(row, row.steps.popleft())
                if row.prefix is not None and not row.steps:  # nothing can be taken back any more
                    row.prefix.kv.keep_earlier(False)
                rows.end_if_failed(row)
            if ready := self._ready():
                self._ticker.tick(ready)
            if reading := [row for row in rows.begun if row.reading is not None and row.is_asked]:
                self._read(reading[0])
            if rows.waiting and not rows.are_asked:
                self._receive(LOOK)  # for readers that have paused: there is room when they do so for long
            if rows.waiting or rows.are_asked:
                self.wake()
        except BaseException as error:  # the program is exiting
            for row in rows:
                rows.end(row, error)
            raise

    def _receive(self, timeout: float | None = None) -> None:
        """Takes what readers have asked for, and ends the rows that they have cancelled."""
        with suppress(Empty):
            message = self._inbox.get_nowait() if timeout is None else self._inbox.get(timeout=timeout)
            while True:
                if message is not None:
                    self._take(*message)
                message = self._inbox.get_nowait()
        for row in [row for row in self.rows if row.is_cancelled]:
            self.rows.end(row)

    def _take(self, row: Row, future: Future[Item | None]) -> None:
        row.asked.append(future)
        if row.is_cancelled or row.has_ended:
            row.end()
        elif row not in self.rows:
            if len(self.rows.waiting) >= MOST_WAITING:
                row.end(EngineError(f"{MOST_WAITING:,} requests are waiting already: ask again later"))
                return
            cache = row.cache() if row.cache is not None else None
            stream = row.stream() if row.stream is not None else None
            if cache is not None and stream is not None and not row.has_taken_over:
                row.has_taken_over = True
                cache.take_over(stream)
            self.rows.waiting.append(row)

    def _read(self, row: Row) -> None:
        """Reads a chunk of a prompt."""
        assert row.reading is not None
        self.rows.put_last(row)
        try:
            progress = next(row.reading, None)
        except Exception as error:
            self.rows.fail([row], error)
            return
        if row.writing is not None and progress is not None:
            row.reading = None
        if progress is not None:
            row.give(progress)
        elif row.writing is not None and row.prefix is not None and len(row.prefix.ids) >= len(row.ids):
            row.reading = None  # a suspended row has read its ids again

    def _ready(self) -> list[Row]:
        """The rows of the next tick. Waits a moment for those of the last one."""
        if not any(row.can_tick for row in self.rows.begun):
            return []
        until = time.perf_counter() + MOMENT
        while late := [row for row in self.rows.begun if row.is_expected and not row.is_asked]:
            if (left := until - time.perf_counter()) <= 0:
                for row in late:  # their readers are slow: no tick waits for them again before they have come
                    row.is_expected = False
                break
            self._receive(left)
        return [row for row in self.rows.begun if row.can_tick][: self._together]
