"""A row: a request that is being computed, and the stream that its reader reads.

Knows nothing of how rows are computed; `scheduler` does that.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from mlx_oss.errors import EngineError
from mlx_oss.generation.engine import Counts, Item, PromptProgress, Request, Step, Stream
from mlx_oss.generation.generate import Continuation
from mlx_oss.generation.lookup import Lookup, Worth
from mlx_oss.generation.prefix_pool import Prefix

PAUSE = 0.2  # seconds after which a reader that does not come is not waited for


class Computes(Protocol):
    """What a stream needs of the scheduler."""

    def ask(self, row: Row) -> Future[Item | None]:
        """Asks for the next item of a row."""

    def look(self) -> None:
        """Looks for rows that are cancelled."""

    def end(self, row: Row) -> None:
        """Ends a row at once."""


class Row:
    """A request that is being computed.

    Args:
        request: The request.
        limit: Maximum number of tokens to generate.

    Attributes:
        request: The request, without its prompt cache: nothing here keeps one that is no longer used.
        cache: The prompt cache, weakly; None if there is none.
        prompt: All ids of the prompt.
        limit: Maximum number of tokens to generate.
        counts: What the request has cost so far.
        prefix: The ids that are held, with their keys and values; None before the row begins and after it has ended.
        ids: All ids that were held when it was suspended; none if it was not.
        reading: Reads the prompt, a chunk each time; None before and after.
        writing: The sequence once the prompt has been read.
        stream: What its reader reads, weakly.
        lookup: Guesses what comes next; None if nothing is guessed.
        worth: Whether that saves time.
        steps: Tokens that have been computed and not been asked for: guesses that were right.
        given_at: When the reader got its last item.
        asked: Futures of the items that the reader waits for.
        error: What the reader gets instead of the next item, if anything.
        is_cancelled: True if the reader wants no more items.
        is_expected: True if its reader is likely to ask for the next token in a moment.
        has_begun: True if it is counted among the requests that have begun.
        has_taken_over: True if it has ended the row that used its prompt cache before.
        has_ended: True if there are no more items.
    """

    def __init__(self, request: Request, limit: int) -> None:
        self.request = replace(request, cache=None)
        self.cache = None if request.cache is None else weakref.ref(request.cache)
        self.prompt, self.limit, self.counts = list(request.prompt), limit, Counts()
        self.prefix: Prefix | None = None
        self.ids: list[int] = []
        self.reading: Iterator[PromptProgress | None] | None = None
        self.writing: Continuation | None = None
        self.lookup: Lookup | None = None
        self.worth = Worth()
        self.steps: deque[Step] = deque()
        self.stream: weakref.ref[RowStream] | None = None
        self.given_at = 0.0
        self.asked: deque[Future[Item | None]] = deque()
        self.error: BaseException | None = None
        self.is_cancelled = self.is_expected = self.has_begun = self.has_taken_over = self.has_ended = False

    @property
    def is_asked(self) -> bool:
        """True if the reader waits for an item. Forgets the futures that it has cancelled."""
        while self.asked and not self.asked[0].running() and not self.asked[0].set_running_or_notify_cancel():
            self.asked.popleft()
        return bool(self.asked)

    @property
    def can_tick(self) -> bool:
        """True if its next token has to be computed."""
        return self.writing is not None and self.reading is None and not self.steps and self.is_asked

    @property
    def is_paused(self) -> bool:
        """True if its reader has not come for a while, so that others may have its memory."""
        return self.prefix is not None and not self.is_asked and time.perf_counter() - self.given_at > PAUSE

    def is_reading(self, ids: list[int]) -> bool:
        """True if it is just reading these ids, and keeps them."""
        is_within = self.reading is not None and self.prefix is not None and len(self.prefix.ids) < len(ids)
        return is_within and self.cache is not None and self.prompt[: len(ids)] == ids

    def give(self, item: Item | None) -> None:
        """Gives an item to the reader that waits for it."""
        self.given_at = time.perf_counter()
        self.asked.popleft().set_result(item)

    def end(self, error: BaseException | None = None) -> None:
        """Gives an error to the reader, if there is one, when it asks for the next item; after that no more items."""
        self.error = error or self.error
        if self.writing is not None:
            self.writing.error = None  # it refers to frames that hold the sequence: a cycle
        self.has_ended, self.reading, self.writing = True, None, None
        while self.is_asked:
            future = self.asked.popleft()
            if (error := self.error) is not None:
                self.error = None
                future.set_exception(error)
            else:
                future.set_result(None)
        if self.is_cancelled:
            self.error = None


class RowStream(Stream):
    """The tokens of a row. It ends the row when it is no longer used.

    Args:
        request: The request.
        row: Its row.
        scheduler: The scheduler, which begins to compute the row when its first item is asked for.
    """

    def __init__(self, request: Request, row: Row, scheduler: Computes) -> None:
        self.counts = row.counts
        self._request, self._row, self._scheduler = request, row, scheduler
        row.stream = weakref.ref(self)

    def read(self) -> Future[Item | None]:
        return self._scheduler.ask(self._row)

    def cancel(self) -> None:
        self._row.is_cancelled = True
        self._row.error = None  # nobody will read it, and it refers to frames that hold the row: a cycle
        with suppress(EngineError):  # the program is exiting: nothing is computed any more
            self._scheduler.look()

    def end(self) -> None:
        self._scheduler.end(self._row)

    def close(self) -> None:
        self.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_scheduler"):
            if self._row.has_ended:
                self._row.error = None
            else:
                self.cancel()
