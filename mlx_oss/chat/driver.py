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

    def step(self) -> object:
        """The next item, or _END."""
        with self._running:
            item = self._advance()
        return self._unless_interrupted(item)

    def next(self) -> object:
        """The next item that is not a `Wait`, or _END."""
        with self._running:
            while isinstance(item := self._advance(), Wait):
                self._wait = item
                if self._is_interrupted:
                    item.cancel()
                item.perform()
                self._wait = None
        return self._unless_interrupted(item)

    def _advance(self) -> object:
        return _END if self._is_interrupted else next(self._generator, _END)

    def _unless_interrupted(self, item: object) -> object:
        if not self._is_interrupted:
            return item
        self.close()
        return _END

    def interrupt(self) -> None:
        """Ends what is waited for. If the generator is running, it is closed after that, and _END comes next."""
        self._is_interrupted = True
        if (wait := self._wait) is not None:
            wait.cancel()

    def close(self) -> None:
        """Closes the generator. One that is running was interrupted before, and is closed when it stops."""
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
        self._shielded = _Shielded(generator)
        self._action: Action | None = None  # the one that is being performed
        self._is_closed = False

    async def __anext__(self) -> T:
        if self._action is not None:
            raise SessionError("another task is waiting for the next event: read the events of a turn in one task")
        try:
            while isinstance(item := shield(self._shielded.step, self._shielded.interrupt), Action):
                self._action = item
                try:
                    await item.aperform()
                finally:
                    self._action = None
                if self._is_closed:
                    shield(self._shielded.close)
        except BaseException:
            shield(self._shielded.close)
            raise
        if item is _END:
            raise StopAsyncIteration
        return cast(T, item)

    def __del__(self) -> None:
        if hasattr(self, "_shielded"):  # an interruption may have come before
            shield(self._shielded.close)

    async def aclose(self) -> None:
        """Closes the generator. If a task waits for something, that ends first, within a token or a chunk."""
        self._is_closed = True
        try:
            if isinstance(waiting := self._action, Wait):
                waiting.cancel()
                await waiting.aperform()
        finally:
            shield(self._shielded.close)
