"""Actions: work such as waiting or running a tool, which a generator leaves to whatever iterates over it.

So one generator serves both `for` and `async for`; `chat.driver` performs the actions. Knows nothing of what the work
is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from mlx_oss.shield import shield

T = TypeVar("T")

_POLL = 0.005  # seconds


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
    done. So nothing works for it any more when the generator is closed. Only a second Ctrl-C does not wait, if there is
    no event loop.

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
        done = done_event(self.future)
        try:
            await done.wait()
        except asyncio.CancelledError:
            self.cancel()
            while not shield(self.future.done):  # not the event: Ctrl-C can make a loop forget to set it
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(_POLL)
            raise

    def result(self) -> T:
        """The result of the future, or its exception. May be called once: then the future is let go."""
        try:
            return self.future.result()
        finally:
            del self.future  # its exception will refer to the frames that hold this object


def done_event(future: Future[Any]) -> asyncio.Event:
    """An event of the running loop that is set when the future is done."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(done.set)

    shield(lambda: future.add_done_callback(tell))
    return done
