"""Actions: work such as waiting or running a tool, which a generator leaves to whatever iterates over it.

So one generator serves both `for` and `async for`; `chat.driver` performs the actions. Knows nothing of what the work
is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from mlx_oss.shield import shield

T = TypeVar("T")


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
        shield(self.future.exception, self.cancel)

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
            try:
                raise cancelled
            finally:
                del cancelled  # the exception refers to this frame: without this, only the garbage collector frees both

    def result(self) -> T:
        """The result of the future, or its exception. May be called once: then the future is let go."""
        try:
            return self.future.result()
        finally:
            del self.future  # its exception will refer to the frames that hold this object
