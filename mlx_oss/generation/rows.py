"""The rows of an engine: those that have begun, those that wait, and how they end.

Knows nothing of when they are computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy

import mlx.core as mx

from mlx_oss.errors import DeviceError, NumericalError, forget_frames
from mlx_oss.generation.engine import Step
from mlx_oss.generation.prefix_pool import PrefixPool
from mlx_oss.generation.row import Row

_LEAST_CHUNK = 32  # tokens; each time the system stops the GPU because a computation took too long, chunks are halved


class Rows:
    """The rows. Only for the computing thread.

    Args:
        pool: The prefixes of the engine.
        chunk: Number of tokens of a prompt that are read at a time.

    Attributes:
        pool: As above.
        chunk: As above.
        begun: Rows that have begun; the next ones to be computed come first.
        waiting: Rows that wait until there is room for them.
    """

    def __init__(self, pool: PrefixPool, chunk: int) -> None:
        self.pool, self.chunk = pool, chunk
        self.begun: deque[Row] = deque()
        self.waiting: deque[Row] = deque()

    def __iter__(self) -> Iterator[Row]:
        """All rows."""
        return iter((*self.begun, *self.waiting))

    @property
    def are_asked(self) -> bool:
        """Whether any reader waits for an item of a row that has begun."""
        return any(row.is_asked for row in self.begun)

    def put_last(self, row: Row) -> None:
        """Lets all other rows that have begun come before this one."""
        self.begun.remove(row)
        self.begun.append(row)

    def end(self, row: Row, error: BaseException | None = None, *, is_damaged: bool = False) -> None:
        """Ends a row at once.

        What it has read and written stays in the pool, unless it is damaged.
        """
        for rows in (self.begun, self.waiting):
            if row in rows:
                rows.remove(row)
        prefix, row.prefix = row.prefix, None
        if prefix is not None:
            if row.steps and prefix.kv.can_take_back(len(row.steps)):  # nobody has seen them
                prefix.kv.take_back(len(row.steps))
                del prefix.ids[-len(row.steps) :]
            is_damaged = is_damaged or prefix.kv.offset != len(prefix.ids)
            (self.pool.drop if is_damaged or row.cache is None else self.pool.put)(prefix)
        row.end(error)

    def fail(self, rows: Iterable[Row], error: Exception) -> None:
        """Ends rows with an error. After an error of MLX, what they hold may have arrays that were never computed."""
        is_damaged = isinstance(error, DeviceError | NumericalError)
        for number, row in enumerate(rows):
            self.end(row, _copy_of(error) if number else error, is_damaged=is_damaged)
        if isinstance(error, DeviceError):
            forget_frames(error)  # they hold keys and values, and the memory may be used up
            mx.clear_cache()
            if error.took_too_long:
                self.chunk = max(_LEAST_CHUNK, self.chunk // 2)

    def end_if_failed(self, row: Row) -> None:
        """Ends a row that has an error, when its reader has all tokens that came before."""
        if row.writing is not None and row.writing.error is not None and not row.steps:
            self.fail([row], row.writing.error)

    def give(self, row: Row, step: Step) -> None:
        """Gives a step to the reader; the last one when the row has ended."""
        row.is_expected = not step.finish
        if step.finish:
            asked = row.asked.popleft()
            self.end(row)
            asked.set_result(step)
        else:
            row.give(step)

    def suspend(self) -> bool:
        """Gives up the keys and values of a row whose reader pauses. Returns False if there is none.

        When its reader comes back, the row waits for room and reads its ids again.
        """
        paused = [row for row in self.begun if row.is_paused]
        if not paused:
            return False
        row = min(paused, key=lambda row: row.given_at)
        self.begun.remove(row)
        prefix, row.prefix = row.prefix, None
        assert prefix is not None
        if row.writing is not None and row.reading is None:  # otherwise it has not read again what it had
            row.ids = list(prefix.ids)
        row.reading = None
        (self.pool.drop if row.cache is None else self.pool.put)(prefix)
        return True


def _copy_of(error: Exception) -> Exception:
    """The same error for another reader: each that raises it adds to its traceback, and may add notes."""
    try:
        copied = copy(error)
    except Exception:  # its class needs other arguments than those that it keeps
        return error
    copied.__cause__ = error.__cause__
    return copied.with_traceback(error.__traceback__)
