"""Actions: work such as waiting or running a tool, which a generator leaves to whatever iterates over it.

So one generator serves both `for` and `async for`: `iterate` performs its actions on the caller's thread,
`AsyncIterate` in the caller's event loop. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar, cast

from mlx_oss.errors import SessionError

T = TypeVar("T")

_END = object()


class Action(ABC):
    """Work that a generator yields to its caller. The generator continues when it is done."""

    @abstractmethod
    def perform(self) -> None:
        """Does the work on the caller's thread. Returns when it is done or cancelled."""

    @abstractmethod
    async def aperform(self) -> None:
        """Does the work in the caller's event loop. Returns when it is done or cancelled."""


class Wait(Action, Generic[T]):
    """Waits until a future is done.

    If Ctrl-C or a task's cancellation interrupts the wait, `cancel` is called and the wait goes on until the future is
    done. So nothing works for it any more when the generator is closed. Only a second Ctrl-C does not wait.

    Args:
        future: The future. Its exception is not raised here, but by its `result`.
        cancel: Called if the wait is interrupted; should let the future be done soon.

    Attributes:
        future: The future.
        cancel: As above.
    """

    def __init__(self, future: Future[T], cancel: Callable[[], None]) -> None:
        self.future, self.cancel = future, cancel

    def perform(self) -> None:
        try:
            self.future.exception()
        except BaseException:
            self.cancel()
            self.future.exception()
            raise

    async def aperform(self) -> None:
        waiting = asyncio.wrap_future(self.future)
        cancelled: asyncio.CancelledError | None = None
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError as error:
                self.cancel()
                cancelled = error
        waiting.exception()  # otherwise asyncio reports that nobody has looked at it
        if cancelled is not None:
            raise cancelled


def iterate(generator: Generator[T | Action, None, None]) -> Iterator[T]:
    """Yields the generator's items, and performs its actions on the caller's thread.

    Closing the iterator, or an exception in an action (Ctrl-C while it waits), closes the generator.
    """
    try:
        for item in generator:
            if isinstance(item, Action):
                item.perform()
            else:
                yield item
    finally:
        generator.close()


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
