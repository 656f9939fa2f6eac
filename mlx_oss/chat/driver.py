"""Drives the generator of a turn for its caller: `iterate` on threads, `AsyncIterate` in an event loop.

Both yield the events and perform the actions in between (`mlx_oss.action`). Knows nothing of what a turn does.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Generator
from typing import Any, TypeVar, cast

from mlx_oss.action import Action, Wait
from mlx_oss.errors import SessionError
from mlx_oss.shield import shield

T = TypeVar("T")

_END = object()


def iterate(generator: Generator[T | Action, None, None]) -> Generator[T, None, None]:
    """Yields the generator's items, and performs its actions on the caller's thread.

    The generator itself runs in a `shield`, and waits there. So Ctrl-C interrupts the caller, but never the generator
    in the middle of a change. Closing the iterator, or an exception in an action or while waiting (Ctrl-C), closes the
    generator after what it waits for.
    """
    shielded = _Shielded(generator)
    try:
        while (item := shield(shielded.next, shielded.interrupt)) is not _END:
            if isinstance(item, Action):
                item.perform()
            else:
                yield cast(T, item)
    finally:
        shielded.interrupt()
        shield(shielded.close)


class _Shielded:
    """A generator that a `shield` advances and closes."""

    def __init__(self, generator: Generator[Any, None, None]) -> None:
        self._generator = generator
        self._running = threading.Lock()
        self._wait: Wait[Any] | None = None
        self._is_interrupted = False

    def next(self) -> object:
        """The next item that is not a `Wait`, or _END."""
        item: object = _END
        with self._running:
            while not self._is_interrupted and isinstance(item := next(self._generator, _END), Wait):
                self._wait = item
                if self._is_interrupted:
                    item.cancel()
                item.perform()
                self._wait = None
        if self._is_interrupted:
            self.close()
            return _END
        return item

    def interrupt(self) -> None:
        """Ends what `next` waits for; it then closes the generator and returns _END."""
        self._is_interrupted = True
        if (wait := self._wait) is not None:
            wait.cancel()

    def close(self) -> None:
        """Closes the generator. If `next` is running, it will: it was interrupted, and so was the wait for it."""
        if self._running.acquire(blocking=False):
            try:
                self._generator.close()
            finally:
                self._running.release()


class AsyncIterate(AsyncIterator[T]):
    """Like `iterate`, for `async for`: actions are performed in the caller's event loop.

    The generator is closed if the task is cancelled, and when this object is no longer used, for example because the
    loop was left before its end.
    """

    def __init__(self, generator: Generator[T | Action, None, None]) -> None:
        self._generator = generator
        self._action: Action | None = None  # the one that is being performed
        self._is_closed = False

    async def __anext__(self) -> T:
        if self._action is not None:
            raise SessionError("another task is waiting for the next event: read the events of a turn in one task")
        try:
            while isinstance(item := next(self._generator, _END), Action):
                self._action = item
                try:
                    await item.aperform()
                finally:
                    self._action = None
                if self._is_closed:
                    self._generator.close()
        except BaseException:
            self._generator.close()
            raise
        if item is _END:
            raise StopAsyncIteration
        return cast(T, item)

    async def aclose(self) -> None:
        """Closes the generator. If a task waits for something, that ends first, within a token or a chunk."""
        self._is_closed = True
        try:
            if isinstance(waiting := self._action, Wait):
                waiting.cancel()
                await waiting.aperform()
        finally:
            self._generator.close()
